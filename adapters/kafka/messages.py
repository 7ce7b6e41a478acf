"""Kafka's own request and response messages, each at one pinned version that every Kafka 4.x speaks.

The classes come from kafka-python 3, which generates them from Kafka's schema files; this is the only place that
imports them. Topics are named, not identified by id, wherever the version allows both; where many partitions are
named, the version is one without tagged fields, which cost half of the time.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

with warnings.catch_warnings():
    # kafka-python reads its schema files by an importlib call that Python 3.11 calls deprecated (3.13 no longer does).
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.errors import for_code
    from kafka.protocol import admin, consumer, metadata, producer, sasl
    from kafka.protocol.api_message import ApiMessage
    from kafka.record import MemoryRecordsBuilder as MemoryRecordsBuilder

    class ConsumerGroupDescribeRequest(ApiMessage, load_json=__package__):  # type: ignore[misc, call-arg, unused-ignore]
        """KIP-848's describe, which kafka-python does not bring along."""

    class ConsumerGroupDescribeResponse(ApiMessage, load_json=__package__):  # type: ignore[misc, call-arg, unused-ignore]
        """See the request."""


Message = Any
"""An instance of one of kafka-python's generated classes (they carry no types)."""

_PAIRS: Final[tuple[tuple[Any, Any, int], ...]] = (
    (metadata.ApiVersionsRequest, metadata.ApiVersionsResponse, 3),
    (metadata.FindCoordinatorRequest, metadata.FindCoordinatorResponse, 4),
    (metadata.MetadataRequest, metadata.MetadataResponse, 12),
    (sasl.SaslHandshakeRequest, sasl.SaslHandshakeResponse, 1),
    (sasl.SaslAuthenticateRequest, sasl.SaslAuthenticateResponse, 2),
    (producer.ProduceRequest, producer.ProduceResponse, 11),
    (producer.InitProducerIdRequest, producer.InitProducerIdResponse, 4),
    (consumer.FetchRequest, consumer.FetchResponse, 11),
    (consumer.LeaveGroupRequest, consumer.LeaveGroupResponse, 5),
    (consumer.ListOffsetsRequest, consumer.ListOffsetsResponse, 5),
    (consumer.OffsetCommitRequest, consumer.OffsetCommitResponse, 7),
    (consumer.OffsetFetchRequest, consumer.OffsetFetchResponse, 9),
    (admin.CreateAclsRequest, admin.CreateAclsResponse, 3),
    (admin.DeleteAclsRequest, admin.DeleteAclsResponse, 3),
    (admin.DescribeAclsRequest, admin.DescribeAclsResponse, 3),
    (admin.DescribeClusterRequest, admin.DescribeClusterResponse, 2),
    (admin.DescribeConfigsRequest, admin.DescribeConfigsResponse, 4),
    (admin.DescribeGroupsRequest, admin.DescribeGroupsResponse, 5),
    (admin.DescribeQuorumRequest, admin.DescribeQuorumResponse, 0),
    (admin.DescribeProducersRequest, admin.DescribeProducersResponse, 0),
    (admin.DescribeTransactionsRequest, admin.DescribeTransactionsResponse, 0),
    (admin.ListGroupsRequest, admin.ListGroupsResponse, 5),
    (admin.ListTransactionsRequest, admin.ListTransactionsResponse, 1),
    (ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, 0),
)
_BY_REQUEST: Final = {request: (response, version) for request, response, version in _PAIRS}
_PINNED: Final = {
    request.API_KEY: (request.__name__.removesuffix("Request"), version) for request, _, version in _PAIRS
}

API_VERSIONS: Final = metadata.ApiVersionsRequest
FIND_COORDINATOR: Final = metadata.FindCoordinatorRequest
METADATA: Final = metadata.MetadataRequest
SASL_HANDSHAKE: Final = sasl.SaslHandshakeRequest
SASL_AUTHENTICATE: Final = sasl.SaslAuthenticateRequest
PRODUCE: Final = producer.ProduceRequest
INIT_PRODUCER_ID: Final = producer.InitProducerIdRequest
FETCH: Final = consumer.FetchRequest
LEAVE_GROUP: Final = consumer.LeaveGroupRequest
LIST_OFFSETS: Final = consumer.ListOffsetsRequest
OFFSET_COMMIT: Final = consumer.OffsetCommitRequest
OFFSET_FETCH: Final = consumer.OffsetFetchRequest
CREATE_ACLS: Final = admin.CreateAclsRequest
DELETE_ACLS: Final = admin.DeleteAclsRequest
DESCRIBE_ACLS: Final = admin.DescribeAclsRequest
DESCRIBE_CLUSTER: Final = admin.DescribeClusterRequest
DESCRIBE_CONFIGS: Final = admin.DescribeConfigsRequest
DESCRIBE_GROUPS: Final = admin.DescribeGroupsRequest
DESCRIBE_PRODUCERS: Final = admin.DescribeProducersRequest
DESCRIBE_QUORUM: Final = admin.DescribeQuorumRequest
DESCRIBE_TRANSACTIONS: Final = admin.DescribeTransactionsRequest
LIST_GROUPS: Final = admin.ListGroupsRequest
LIST_TRANSACTIONS: Final = admin.ListTransactionsRequest
CONSUMER_GROUP_DESCRIBE: Final = ConsumerGroupDescribeRequest


def frame(request: Message, correlation_id: int, client_id: str) -> bytes:
    """The bytes of a request as they go over the wire, size first."""
    _, version = _BY_REQUEST[type(request)]
    request.API_VERSION = version
    request.with_header(correlation_id, client_id)
    encoded: bytes = request.encode(version=version, header=True, framed=True)
    return encoded


def name(request: Message) -> str:
    """`ListOffsets` of a ListOffsetsRequest: what an error message calls it."""
    return type(request).__name__.removesuffix("Request")


def correlation(payload: bytes) -> int:
    """Which request a response answers."""
    return int.from_bytes(payload[:4], "big", signed=True)


def response_to(request_class: Any, payload: bytes) -> Message:
    """Decode a response, its frame's size already taken off.

    kafka-python's own way copies the whole payload to read the header, which is felt with a fetch of many megabytes.
    """
    response, version = _BY_REQUEST[request_class]
    position = 4
    if response.flexible_version_q(version) and request_class is not API_VERSIONS:
        position = _after_tags(payload, position)
    return response.decode(memoryview(payload)[position:], version=version)


def unsupported(api_versions: Message) -> list[str]:
    """What this broker does not speak of what we need: sentences, empty when all is well."""
    offered = {api.api_key: (api.min_version, api.max_version) for api in api_versions.api_keys}
    missing = []
    for key, (api, version) in _PINNED.items():
        low, high = offered.get(key, (0, -1))
        if not low <= version <= high:
            missing.append(f"{api} v{version} (offers {f'v{low} to v{high}' if high >= 0 else 'none'})")
    return missing


def error_name(code: int) -> str:
    """`TOPIC_AUTHORIZATION_FAILED` for 29; the number itself where kafka-python does not know it."""
    known = for_code(code)
    text = str(known.message) if known.message else "UNKNOWN"
    return text if text != "UNKNOWN" or code == -1 else f"error {code}"


def is_retriable(code: int) -> bool:
    """Kafka's own opinion whether the same request may succeed later."""
    return bool(for_code(code).retriable)


def small_batch(timestamp_ms: int, key: bytes | None, value: bytes | None) -> bytes:
    """One uncompressed record batch with one record, as Produce wants it."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=1 << 16)
    builder.append(timestamp=timestamp_ms, key=key, value=value, headers=[])
    builder.close()
    return bytes(builder.buffer())


def _after_tags(payload: bytes, position: int) -> int:
    count, position = _unsigned_varint(payload, position)
    for _ in range(count):
        _, position = _unsigned_varint(payload, position)
        size, position = _unsigned_varint(payload, position)
        position += size
    return position


def _unsigned_varint(payload: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = payload[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
