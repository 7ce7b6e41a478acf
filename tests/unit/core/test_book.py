"""The ledger as the steps use it: durable where it counts, and believed only by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

import pytest

from dcdr.book import KEPT, LedgerBook
from dcdr.errors import MisconfiguredError, NotYetError, UnreachableError
from dcdr.model import CommittedOffset, Cut, CutRow, EntryRef, GroupPositions
from dcdr.ports import Scope
from tests.unit.activities.worlds import OPERATION


class Topic:
    """One side's ledger topic."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.reads = 0
        self.down = False

    async def put(self, key: str, body: bytes) -> None:
        if self.down:
            raise UnreachableError("no acknowledgement")
        self.kept[key] = body

    async def get(self, key: str) -> bytes | None:
        self.reads += 1
        return self.kept.get(key)

    async def find(self, prefix: str) -> Mapping[str, bytes]:
        return {key: body for key, body in self.kept.items() if key.startswith(prefix)}


class _Side:
    def __init__(self) -> None:
        self.ledger = Topic()


class Sides:
    """A scope's two members, as far as the book looks."""

    def __init__(self) -> None:
        self.sides: Mapping[str, _Side] = {"dc-a": _Side(), "dc-b": _Side()}

    def member(self, name: str) -> _Side:
        return self.sides[name]

    @property
    def port(self) -> Scope:
        return cast(Scope, self)

    def __getitem__(self, name: str) -> Topic:
        return self.sides[name].ledger


def cut(end: int = 5, *, complete: bool = True) -> Cut:
    row = CutRow(topic="orders", partition=0, topic_id="t", start=0, end=end, target_end=7 if complete else None)
    return Cut(operation=OPERATION, taken_at=datetime(2026, 11, 21, tzinfo=UTC), rows=(row,), complete=complete)


async def test_a_complete_entry_is_durable_on_both_sides_a_cut_on_the_target_only() -> None:
    sides = Sides()
    book = LedgerBook()
    first = await book.write(sides.port, cut(complete=False))
    entry = await book.write(sides.port, cut())
    assert set(sides["dc-b"].kept) == {first.key, entry.key}
    assert set(sides["dc-a"].kept) == {entry.key}


async def test_an_entry_that_one_side_did_not_take_is_not_relied_on() -> None:
    sides = Sides()
    sides["dc-a"].down = True
    with pytest.raises(UnreachableError):
        await LedgerBook().write(sides.port, cut())


async def test_another_worker_finds_the_entry_by_its_name_on_either_side() -> None:
    sides = Sides()
    entry = await LedgerBook().write(sides.port, cut())
    assert await LedgerBook().read(sides.port, OPERATION, entry) == cut()
    sides["dc-b"].kept.clear()
    assert await LedgerBook().read(sides.port, OPERATION, entry) == cut()


async def test_the_digest_in_the_lease_is_enough_to_find_the_entry() -> None:
    sides = Sides()
    entry = await LedgerBook().write(sides.port, cut())
    assert LedgerBook.reference(OPERATION, entry.digest) == entry


async def test_an_entry_of_an_earlier_version_is_believed_by_its_bytes() -> None:
    """Written before a field was added, parsed and written again it would have another digest."""
    sides = Sides()
    body = cut().body().replace(b'"mirrored":null,', b"")
    assert body != cut().body()
    entry = LedgerBook.reference(OPERATION, hashlib.sha256(body).hexdigest())
    sides["dc-b"].kept[entry.key] = body
    assert await LedgerBook().read(sides.port, OPERATION, entry) == cut()


async def test_one_altered_copy_does_not_hide_the_good_one_and_two_are_refused() -> None:
    sides = Sides()
    entry = await LedgerBook().write(sides.port, cut())
    sides["dc-b"].kept[entry.key] = cut(end=4).body()
    assert await LedgerBook().read(sides.port, OPERATION, entry) == cut()
    sides["dc-a"].kept[entry.key] = b"{}"
    with pytest.raises(MisconfiguredError, match="on dc-b and dc-a does not match its digest: it was altered"):
        await LedgerBook().read(sides.port, OPERATION, entry)


async def test_an_entry_that_is_nowhere_yet_is_waited_for_and_none_at_all_is_an_error() -> None:
    with pytest.raises(NotYetError, match="is on neither dc-b nor dc-a"):
        await LedgerBook().read(Sides().port, OPERATION, EntryRef(key="k", digest="d"))
    with pytest.raises(MisconfiguredError, match="operation op-1 has no ledger entry"):
        await LedgerBook().read(Sides().port, OPERATION, None)


def positions(offset: int = 3) -> GroupPositions:
    at = {"orders": {0: CommittedOffset(offset, "mine")}}
    return GroupPositions(operation=OPERATION, committed={"billing": at})


async def test_positions_that_were_kept_are_found_by_another_worker_without_the_source() -> None:
    sides = Sides()
    assert await LedgerBook().positions(sides.port, OPERATION) is None
    entry = await LedgerBook().keep(sides.port, positions())
    assert entry.key == f"lab/op-1/groups/{entry.digest}"
    assert not sides["dc-a"].kept, "the source may be gone when they are needed"
    assert await LedgerBook().positions(sides.port, OPERATION) == positions()
    sides["dc-b"].kept[entry.key] = positions(4).body()
    assert await LedgerBook().positions(sides.port, OPERATION) is None, "another content than its key says"


async def test_what_was_just_written_is_not_read_again_and_only_so_much_is_kept() -> None:
    sides, book = Sides(), LedgerBook()
    entries = [await book.write(sides.port, cut(end)) for end in range(KEPT + 1)]
    assert await book.read(sides.port, OPERATION, entries[-1]) == cut(KEPT)
    assert sides["dc-b"].reads == 0
    assert await book.read(sides.port, OPERATION, entries[0]) == cut(0)
    assert sides["dc-b"].reads == 1
