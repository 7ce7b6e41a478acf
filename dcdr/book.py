"""The ledger as steps and agents use it: entries by content, kept warm, durable before anybody relies on them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict

from dcdr.errors import MisconfiguredError, NotYetError
from dcdr.model import Cut, EntryRef, Fork, GroupPositions, Operation
from dcdr.ports import Scope

KEPT = 16
log = logging.getLogger("dcdr.book")


class LedgerBook:
    """Reads and writes cuts. A cut lives on the target until it is complete; the complete entry on both sides.

    The groups' positions lie beside them, on the target alone: they are for the time when the source may be gone.
    """

    def __init__(self) -> None:
        self._recent: OrderedDict[str, Cut] = OrderedDict()

    @staticmethod
    def reference(operation: Operation, digest: str) -> EntryRef:
        """The complete entry a handover named by `digest`."""
        return EntryRef(key=f"{operation.scope}/{operation.id}/ledger/{digest}", digest=digest)

    async def write(self, scope: Scope, cut: Cut) -> EntryRef:
        """Durable (acks=all) on return: on the target, and if complete on the source too."""
        entry, body = cut.reference(), cut.body()
        names = [cut.operation.target, cut.operation.source] if cut.complete else [cut.operation.target]
        await asyncio.gather(*(scope.member(name).ledger.put(entry.key, body) for name in names))
        self._remember(entry, cut)
        return entry

    async def read(self, scope: Scope, operation: Operation, entry: EntryRef | None) -> Cut:
        """The cut `entry` names, checked against its digest; from the target, else from the source.

        Raises: NotYetError when neither side has it, MisconfiguredError when no side has the content that was named.
        """
        if entry is None:
            raise MisconfiguredError(f"operation {operation.id} has no ledger entry to act on")
        if (known := self._recent.get(entry.key)) is not None:
            return known
        altered = []
        for name in (operation.target, operation.source):
            body = await scope.member(name).ledger.get(entry.key)
            if body is None:
                continue
            # The bytes as stored: a later version of the model may write the same content differently.
            if hashlib.sha256(body).hexdigest() != entry.digest:
                altered.append(name)
                continue
            cut = Cut.from_body(body)
            self._remember(entry, cut)
            return cut
        if altered:
            raise MisconfiguredError(
                f"ledger entry {entry.key} on {' and '.join(altered)} does not match its digest: it was altered"
            )
        raise NotYetError(f"ledger entry {entry.key} is on neither {operation.target} nor {operation.source}")

    async def keep(self, scope: Scope, positions: GroupPositions) -> EntryRef:
        """Durable (acks=all) on the target on return."""
        entry = positions.reference()
        await scope.member(positions.operation.target).ledger.put(entry.key, positions.body())
        return entry

    async def positions(self, scope: Scope, operation: Operation) -> GroupPositions | None:
        """What `keep` wrote for this operation; None where that is not to be found.

        Found by the key, so that a run that finishes another one's operation needs nothing of its history. A step that
        was repeated may have written twice; the groups were frozen, so either will do.
        """
        prefix = f"{operation.scope}/{operation.id}/groups/"
        for key, body in (await scope.member(operation.target).ledger.find(prefix)).items():
            if hashlib.sha256(body).hexdigest() == key.removeprefix(prefix):
                return GroupPositions.from_body(body)
            log.warning("%s on %s does not match its digest and is not believed", key, operation.target)
        return None

    async def write_fork(self, scope: Scope, fork: Fork) -> EntryRef:
        """Durable (acks=all) on the target on return; the source may be gone."""
        entry = fork.reference()
        await scope.member(fork.operation.target).ledger.put(entry.key, fork.body())
        return entry

    async def read_fork(self, scope: Scope, operation: Operation, digest: str) -> Fork:
        """Where both sides parted in `operation`, a failover that opened with the entry `digest`; from its target.

        Raises: NotYetError when the target does not have it, MisconfiguredError when it does not match its digest.
        """
        key = f"{operation.scope}/{operation.id}/fork/{digest}"
        body = await scope.member(operation.target).ledger.get(key)
        if body is None:
            raise NotYetError(f"ledger entry {key} is not on {operation.target}")
        if hashlib.sha256(body).hexdigest() != digest:
            raise MisconfiguredError(
                f"ledger entry {key} on {operation.target} does not match its digest: it was altered"
            )
        return Fork.from_body(body)

    async def mark_seeded(self, scope: Scope, operation: Operation) -> None:
        """Note on the target, durably, that the reverse direction's seeds were read back: from now on it may run."""
        await scope.member(operation.target).ledger.put(_seeded(operation), b"read back")

    async def seeded(self, scope: Scope, operation: Operation) -> bool:
        """Whether `mark_seeded` was called for this operation, by whichever run."""
        return await scope.member(operation.target).ledger.get(_seeded(operation)) is not None

    def _remember(self, entry: EntryRef, cut: Cut) -> None:
        self._recent[entry.key] = cut
        while len(self._recent) > KEPT:
            self._recent.popitem(last=False)


def _seeded(operation: Operation) -> str:
    return f"{operation.scope}/{operation.id}/seeded"
