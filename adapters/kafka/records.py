"""Record batches (Kafka's message format v2) as a consumer reads them: what is visible, and what each record holds.

Source: Kafka's documentation, "Record Batch"; the rules of read_committed as in the Java client's `CompletedFetch`.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import cramjam

from dcdr.errors import MisconfiguredError

Buffer = bytes | bytearray | memoryview
Headers = tuple[tuple[bytes, bytes | None], ...]

_BATCH: Final = struct.Struct(">qiibIhiqqqhii")
_OVERHEAD: Final = 12
"""Base offset and length: what the length does not count."""
_CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20
_ABORT: Final = 0
_XERIAL: Final = b"\x82SNAPPY\x00"


class Record(NamedTuple):
    """One record; `timestamp` in ms, of the log where the topic says LogAppendTime."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Batch(NamedTuple):
    """A batch's header, and its records still packed. `next_offset` is right behind the batch, holes included."""

    base_offset: int
    next_offset: int
    attributes: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    size: int
    packed: Buffer

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & _CONTROL)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & _TRANSACTIONAL)


def batches(data: Buffer | None) -> Iterator[Batch]:
    """Cut a fetched slice of a log into batches; a last one that is cut off is left out."""
    view = memoryview(data if data is not None else b"")
    position = 0
    while len(view) - position >= _BATCH.size:
        fields = _BATCH.unpack_from(view, position)
        base, length, magic = fields[0], fields[1], fields[3]
        if magic != 2:
            raise MisconfiguredError(
                f"a record batch at offset {base} is of format v{magic}; only v2 is read here (Kafka 0.11 and later)"
            )
        end = position + _OVERHEAD + length
        if end > len(view):
            return
        _, _, _, _, _, attributes, last_delta, first_ts, max_ts, producer_id, _, _, count = fields
        packed = view[position + _BATCH.size : end]
        yield Batch(base, base + last_delta + 1, attributes, first_ts, max_ts, producer_id, count, packed)
        position = end


def records(batch: Batch) -> Iterator[Record]:
    """Unpack a batch. Raises: MisconfiguredError for a codec that Kafka 4 does not know."""
    data = _unpacked(batch)
    position = 0
    appended = batch.max_timestamp if batch.attributes & _LOG_APPEND_TIME else None
    for _ in range(batch.size):
        length, position = _varint(data, position)
        end = position + length
        position += 1  # the record's attributes, which nobody uses
        delta, position = _varint(data, position)
        offset_delta, position = _varint(data, position)
        key, position = _bytes(data, position)
        value, position = _bytes(data, position)
        count, position = _varint(data, position)
        headers: Headers = ()
        if count:
            pairs = []
            for _ in range(count):
                name, position = _bytes(data, position)
                content, position = _bytes(data, position)
                pairs.append((name or b"", content))
            headers = tuple(pairs)
        timestamp = appended if appended is not None else batch.first_timestamp + delta
        yield Record(batch.base_offset + offset_delta, timestamp, key, value, headers)
        position = end


def committed(data: Buffer | None, aborted: Iterable[tuple[int, int]]) -> Iterator[tuple[Batch, bool]]:
    """Each batch of one fetched slice, and whether a read_committed consumer sees its records.

    `aborted`: producer id and first offset of each aborted transaction that touches the slice, as Fetch tells.
    """
    ahead = sorted(((first, producer) for producer, first in aborted), reverse=True)
    dropped: set[int] = set()
    for batch in batches(data):
        while ahead and ahead[-1][0] < batch.next_offset:
            dropped.add(ahead.pop()[1])
        if batch.is_control:
            if _is_abort(batch):
                dropped.discard(batch.producer_id)
            yield batch, False
        else:
            yield batch, not (batch.is_transactional and batch.producer_id in dropped)


def digest(record: Record) -> bytes:
    """16 bytes over key, value, headers and timestamp. None and empty differ, and so does the order of headers."""
    parts: list[bytes] = [struct.pack(">q", record.timestamp), *_framed(record.key), *_framed(record.value)]
    for name, content in record.headers:
        parts += (*_framed(name), *_framed(content))
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def size(record: Record) -> int:
    """Bytes of key, value and headers as an application sent them."""
    headers = sum(len(name) + len(content or b"") for name, content in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def key_digest(record: Record) -> bytes:
    """16 bytes over the key alone; nothing where the record has none."""
    return b"" if record.key is None else hashlib.blake2b(record.key, digest_size=16).digest()


def _framed(content: bytes | None) -> Sequence[bytes]:
    return (struct.pack(">i", -1),) if content is None else (struct.pack(">i", len(content)), content)


def _is_abort(batch: Batch) -> bool:
    for record in records(batch):
        if record.key is not None and len(record.key) >= 4:
            return bool(struct.unpack_from(">h", record.key, 2)[0] == _ABORT)
    return False


def _unpacked(batch: Batch) -> Buffer:
    codec = batch.attributes & _CODEC
    if codec == 0:
        return batch.packed
    if codec == 1:
        return zlib.decompress(batch.packed, wbits=31)
    if codec == 2:
        return _snappy(bytes(batch.packed))
    if codec == 3:
        return bytes(cramjam.lz4.decompress(batch.packed))
    if codec == 4:
        return bytes(cramjam.zstd.decompress(batch.packed))
    raise MisconfiguredError(f"a record batch is compressed with codec {codec}, which Kafka 4 does not know")


def _snappy(packed: bytes) -> bytes:
    """Plain snappy as librdkafka writes it, or the framing of the Java library: blocks of a size and its bytes."""
    if not packed.startswith(_XERIAL):
        return bytes(cramjam.snappy.decompress_raw(packed))
    position, plain = 16, bytearray()
    while position < len(packed):
        (size,) = struct.unpack_from(">i", packed, position)
        position += 4
        plain += bytes(cramjam.snappy.decompress_raw(packed[position : position + size]))
        position += size
    return bytes(plain)


def _varint(data: Buffer, position: int) -> tuple[int, int]:
    byte = data[position]
    position += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position
    value, shift = byte & 0x7F, 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7


def _bytes(data: Buffer, position: int) -> tuple[bytes | None, int]:
    size, position = _varint(data, position)
    if size < 0:
        return None, position
    return bytes(data[position : position + size]), position + size
