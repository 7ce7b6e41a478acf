"""The lease record in etcd: one JSON value a scope, changed by compare-and-swap on its modification revision."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import ValidationError

from adapters.etcd.client import EtcdClient
from dcdr.errors import ConflictError, MisconfiguredError
from dcdr.model import LeaseRecord, StoredLease

_SHOWN = 200


class EtcdLeaseStore:
    """`dcdr.ports.LeaseStore`. The record of scope S stands under `<prefix>/S/lease`."""

    def __init__(self, client: EtcdClient, prefix: str = "/dcdr") -> None:
        self._client = client
        self._prefix = prefix.rstrip("/")

    async def warm(self) -> None:
        """Connect to every member."""
        await self._client.warm()

    async def close(self) -> None:
        await self._client.close()

    async def read(self, scope: str) -> StoredLease | None:
        """Linearizable.

        Raises: UnreachableError; MisconfiguredError when something else than our record stands there.
        """
        key = self._key(scope)
        found = await self._client.get(key)
        return None if found is None else StoredLease(parse(key, scope, found.value), found.mod_revision)

    async def swap(self, expected: StoredLease, record: LeaseRecord) -> StoredLease:
        """Raises: ConflictError (also when it cannot be told apart from our own lost answer); UnreachableError."""
        if record.scope != expected.record.scope:
            raise ConflictError(f"a record of {record.scope} cannot follow one of {expected.record.scope}")
        written = await self._client.swap(self._key(record.scope), render(record), mod_revision=expected.revision)
        return StoredLease(record, written.mod_revision)

    async def bootstrap(self, record: LeaseRecord) -> StoredLease:
        """Raises: ConflictError when a record exists; UnreachableError."""
        written = await self._client.swap(self._key(record.scope), render(record), mod_revision=0)
        return StoredLease(record, written.mod_revision)

    async def watch(self, scope: str, after: StoredLease | None = None) -> AsyncIterator[StoredLease | None]:
        """Every change of the record after `after` (None: from now on); None where it was deleted.

        A hint to look, never a proof: only a committed compare-and-swap is one.
        """
        key = self._key(scope)
        async for change in self._client.watch(key, 0 if after is None else after.revision + 1):
            if change.value is None:
                yield None
            else:
                yield StoredLease(parse(key, scope, change.value.value), change.value.mod_revision)

    def _key(self, scope: str) -> str:
        return f"{self._prefix}/{scope}/lease"


def render(record: LeaseRecord) -> bytes:
    """The stored form."""
    return record.model_dump_json().encode()


def parse(key: str, scope: str, body: bytes) -> LeaseRecord:
    """Raises: MisconfiguredError showing what stands there: nobody may act on a record they cannot read wholly."""
    try:
        record = LeaseRecord.model_validate_json(body)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors())
        raise MisconfiguredError(
            f"{key} holds no lease record this version can read ({faults}); it says {_shown(body)}. "
            "A newer version, or a person, wrote it: use that version, or repair the record by hand"
        ) from error
    if record.scope != scope:
        raise MisconfiguredError(
            f"{key} holds the lease of scope {record.scope!r}: {_shown(body)}. Two estates share this prefix"
        )
    return record


def _shown(body: bytes) -> str:
    text = body.decode(errors="replace")
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
