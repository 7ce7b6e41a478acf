"""A record identifies itself, and two copies that differ in anything have different digests."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.load import records


@given(size=st.integers(records.MIN_SIZE, 20_000), seq=st.integers(0, 10**9))
def test_a_value_has_the_size_asked_for_and_checks_itself(size: int, seq: int) -> None:
    value = records.value_of("abcdef.p0.123456", "abcdef-p0-orders-399", seq, size)
    assert len(value) == size
    assert value.startswith(b"abcdef.p0.123456 abcdef-p0-orders-399 %d " % seq)
    assert int(value[-8:], 16) == zlib.crc32(value[:-8])


def test_the_attempt_can_be_read_from_the_headers() -> None:
    assert records.attempt_of(records.headers_of("abc.p0.7")) == "abc.p0.7"
    assert records.attempt_of(None) == ""
    assert records.attempt_of([("other", b"abc.p0.7")]) == ""
    assert records.attempt_of([(records.ATTEMPT_HEADER, None)]) == ""


@pytest.mark.parametrize(
    "other",
    [
        [],
        [("lab-attempt", b"x")],
        [("lab-attempt", b"x"), ("lab-bytes", b"\xff"), ("lab-bytes", b"")],
        [("lab-attempt", b"x"), ("lab-bytes", None), ("lab-bytes", b"\xff")],
        [("lab-attempt", b"x"), ("lab-bytes", b"\xfe"), ("lab-bytes", None)],
        [("lab-attempt", b"x"), ("lab-bytez", b"\xff"), ("lab-bytes", None)],
    ],
)
def test_headers_that_differ_in_anything_have_another_digest(other: list[records.Header]) -> None:
    ours: list[records.Header] = [("lab-attempt", b"x"), ("lab-bytes", b"\xff"), ("lab-bytes", None)]
    assert records.headers_digest(other) != records.headers_digest(ours)


def test_a_tombstone_is_not_an_empty_value() -> None:
    assert records.value_digest(None) != records.value_digest(b"")
