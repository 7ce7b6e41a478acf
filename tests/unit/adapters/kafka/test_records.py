"""Unpacking record batches, held against kafka-python's writer and a model of read_committed."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.kafka.messages import MemoryRecordsBuilder
from adapters.kafka.records import Record, batches, committed, digest, records
from dcdr.errors import MisconfiguredError

Headers = list[tuple[str, bytes | None]]


class Plain(NamedTuple):
    """What a producer hands in."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def batch(
    content: list[Plain],
    base: int = 0,
    *,
    codec: int = 0,
    producer: int = -1,
    transactional: bool = False,
    skip: int = 0,
) -> bytes:
    """A batch as kafka-python writes it, moved to `base` as a broker does. `skip`: a hole after each record."""
    builder = MemoryRecordsBuilder(
        magic=2,
        compression_type=codec,
        batch_size=1 << 24,
        transactional=transactional,
        producer_id=producer,
        producer_epoch=0 if producer >= 0 else -1,
        base_sequence=0 if producer >= 0 else -1,
    )
    for record in content:
        assert builder.append(record.timestamp, record.key, record.value, record.headers) is not None
        builder.skip(skip)
    builder.close()
    data = bytearray(builder.buffer())
    struct.pack_into(">q", data, 0, base)
    return bytes(data)


def marker(base: int, producer: int, *, commit: bool) -> bytes:
    """A transaction marker: a control batch with one record, whose key says abort (0) or commit (1)."""
    key = struct.pack(">hh", 0, 1 if commit else 0)
    data = bytearray(batch([Plain(1, key, b"\0" * 6, [])], base, producer=producer, transactional=True))
    (attributes,) = struct.unpack_from(">h", data, 21)
    struct.pack_into(">h", data, 21, attributes | 0x20)
    return bytes(data)


some_bytes = st.none() | st.binary(max_size=40)
plain = st.builds(
    Plain,
    st.integers(0, 2**45),
    some_bytes,
    some_bytes,
    st.lists(st.tuples(st.text(max_size=5), some_bytes), max_size=3),
)


@settings(deadline=None)
@given(st.lists(plain, min_size=1, max_size=20), st.integers(0, 2**60), st.sampled_from([0, 1]))
def test_what_was_packed_is_unpacked(content: list[Plain], base: int, codec: int) -> None:
    (only,) = batches(batch(content, base, codec=codec))
    assert only.next_offset == base + len(content)
    expected = [
        Record(base + at, p.timestamp, p.key, p.value, tuple((name.encode(), value) for name, value in p.headers))
        for at, p in enumerate(content)
    ]
    assert list(records(only)) == expected


@settings(deadline=None)
@given(plain, plain)
def test_a_digest_is_equal_just_when_the_records_are(one: Plain, other: Plain) -> None:
    (first,), (second,) = (list(records(next(batches(batch([p]))))) for p in (one, other))
    assert (digest(first) == digest(second)) == (one == other)
    assert digest(first) == digest(first._replace(offset=99))
    assert len(digest(first)) == 16


def test_a_digest_keeps_fields_apart() -> None:
    base = Record(0, 1, b"ab", b"c", ())
    assert digest(base) != digest(base._replace(key=b"a", value=b"bc"))
    assert digest(base._replace(key=None)) != digest(base._replace(key=b""))
    one_header = base._replace(headers=((b"a", b"b"),))
    assert digest(one_header) != digest(base._replace(headers=((b"a", None),)))
    assert digest(base._replace(headers=((b"a", b""), (b"b", b"")))) != digest(base._replace(headers=((b"a", b"b"),)))


def test_a_batch_that_was_cut_off_is_left_out() -> None:
    whole = batch([Plain(1, b"k", b"v" * 100, [])])
    following = batch([Plain(1, None, b"x", [])], 1)
    for cut in (1, 20, 61, len(following) - 1):
        assert [b.base_offset for b in batches(whole + following[:cut])] == [0]
        assert list(batches(following[:cut])) == []
    assert [b.base_offset for b in batches(whole + following)] == [0, 1]
    assert list(batches(None)) == []


def test_the_old_format_is_refused_not_misread() -> None:
    builder = MemoryRecordsBuilder(magic=1, compression_type=0, batch_size=1 << 16)
    # Long enough that the old header is not taken for a cut-off new one.
    builder.append(timestamp=1, key=None, value=b"x" * 100, headers=[])
    builder.close()
    with pytest.raises(MisconfiguredError, match="v1"):
        list(batches(bytes(builder.buffer())))


class Step(NamedTuple):
    """One move of one of three producers: write (in its transaction if it has one), begin, commit or abort."""

    producer: int
    act: str


@settings(deadline=None)
@given(
    st.lists(st.builds(Step, st.integers(0, 2), st.sampled_from(["write", "begin", "commit", "abort"])), max_size=60)
)
def test_read_committed_sees_what_a_model_of_transactions_sees(steps: list[Step]) -> None:
    log: list[bytes] = []
    offset = 0
    began: dict[int, list[int]] = {}
    visible: set[int] = set()
    aborted: list[tuple[int, int]] = []
    for step in steps:
        inside = step.producer in began
        if step.act == "begin":
            began.setdefault(step.producer, [])
        elif step.act == "write":
            log.append(batch([Plain(1, None, b"x", [])], offset, producer=step.producer, transactional=inside))
            if inside:
                began[step.producer].append(offset)
            else:
                visible.add(offset)
            offset += 1
        elif inside:
            written = began.pop(step.producer)
            if written:
                log.append(marker(offset, step.producer, commit=step.act == "commit"))
                offset += 1
                if step.act == "commit":
                    visible |= set(written)
                else:
                    aborted.append((step.producer, written[0]))
    # A broker hands out nothing from the first open transaction on.
    stable = min((written[0] for written in began.values() if written), default=offset)
    seen = {b.base_offset for b, shown in committed(b"".join(log), aborted) if shown and b.base_offset < stable}
    assert seen == {at for at in visible if at < stable}


def test_a_slice_that_begins_within_an_aborted_transaction_hides_its_rest() -> None:
    rest = batch([Plain(1, None, b"a", [])], 7, producer=5, transactional=True)
    log = rest + marker(8, 5, commit=False) + batch([Plain(1, None, b"b", [])], 9, producer=5, transactional=True)
    assert [(b.base_offset, shown) for b, shown in committed(log, [(5, 3)])] == [(7, False), (8, False), (9, True)]
