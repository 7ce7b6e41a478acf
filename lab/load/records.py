"""What one test record looks like, and how two copies of it are compared.

A record carries its attempt id (`<run>.<producer>.<number>`, new for every send) in a header, because a tombstone has
no value to carry it, and once more at the front of the value. Two more headers share one name, a binary one and one
without a value: a copy that is not byte exact has to trip over something.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

ATTEMPT_HEADER = "lab-attempt"
FIDELITY_HEADER = "lab-bytes"
MIN_SIZE = 96
"""Smallest value in bytes: room for the attempt id, key, sequence number and checksum."""
MAX_SIZE = 900_000
"""Largest value in bytes: below the brokers' and the mirror's default of 1 MiB a request."""

Header = tuple[str, bytes | None]

_PAD = bytes(random.Random(20).choices(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=4096))


def value_of(attempt: str, key: str, seq: int, size: int) -> bytes:
    """A value of exactly `size` bytes: attempt, key, seq, a pad and a CRC-32 of all that precedes it (8 hex digits)."""
    head = f"{attempt} {key} {seq} ".encode()
    room = size - len(head) - 8
    start = seq % 1024
    pad = (_PAD[start:] + _PAD * (room // len(_PAD) + 1))[:room]
    body = head + pad
    return b"%b%08x" % (body, zlib.crc32(body))


def headers_of(attempt: str) -> list[Header]:
    """The headers of an attempt; see the module's text for why these."""
    name = attempt.encode()
    return [
        (ATTEMPT_HEADER, name),
        (FIDELITY_HEADER, b"\x00\xff\xfe" + zlib.crc32(name).to_bytes(4, "big")),
        (FIDELITY_HEADER, None),
    ]


def attempt_of(headers: Sequence[Header] | None) -> str:
    """The attempt id a record carries; empty when it does not begin with our header."""
    if not headers or headers[0][0] != ATTEMPT_HEADER:
        return ""
    return (headers[0][1] or b"").decode("ascii", "replace")


def value_digest(value: bytes | None) -> int:
    """A number equal for equal values; -1 for a tombstone, which is not the same as an empty value."""
    return -1 if value is None else zlib.crc32(value)


def headers_digest(headers: Sequence[Header] | None) -> int:
    """A number equal for equal headers: same names, same bytes, same order, null and empty told apart."""
    return zlib.crc32(repr(list(headers)).encode()) if headers else 0
