"""From Kafka's error codes to our exceptions: one table, one place."""

from __future__ import annotations

from typing import Final

from adapters.kafka.messages import error_name, is_retriable
from dcdr.errors import DcdrError, InvalidRequestError, MisconfiguredError, UnreachableError

UNKNOWN_SERVER_ERROR: Final = -1
OFFSET_OUT_OF_RANGE: Final = 1
UNKNOWN_TOPIC_OR_PARTITION: Final = 3
LEADER_NOT_AVAILABLE: Final = 5
NOT_LEADER_OR_FOLLOWER: Final = 6
COORDINATOR_LOAD_IN_PROGRESS: Final = 14
COORDINATOR_NOT_AVAILABLE: Final = 15
NOT_COORDINATOR: Final = 16
ILLEGAL_GENERATION: Final = 22
UNKNOWN_MEMBER_ID: Final = 25
REBALANCE_IN_PROGRESS: Final = 27
TOPIC_AUTHORIZATION_FAILED: Final = 29
GROUP_AUTHORIZATION_FAILED: Final = 30
CLUSTER_AUTHORIZATION_FAILED: Final = 31
UNSUPPORTED_VERSION: Final = 35
CONCURRENT_TRANSACTIONS: Final = 51
TRANSACTIONAL_ID_AUTHORIZATION_FAILED: Final = 53
SECURITY_DISABLED: Final = 54
KAFKA_STORAGE_ERROR: Final = 56
SASL_AUTHENTICATION_FAILED: Final = 58
NON_EMPTY_GROUP: Final = 68
GROUP_ID_NOT_FOUND: Final = 69
FENCED_LEADER_EPOCH: Final = 74
UNKNOWN_LEADER_EPOCH: Final = 75
OFFSET_NOT_AVAILABLE: Final = 78
FENCED_INSTANCE_ID: Final = 82
UNSTABLE_OFFSET_COMMIT: Final = 88
TRANSACTIONAL_ID_NOT_FOUND: Final = 105
FENCED_MEMBER_EPOCH: Final = 110
STALE_MEMBER_EPOCH: Final = 113

STALE_LEADER: Final = frozenset({UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER,
                                 KAFKA_STORAGE_ERROR, FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH,
                                 OFFSET_NOT_AVAILABLE})  # fmt: skip
"""Ask for metadata again and repeat: no or another leader, an unknown topic, a leader that has just been elected."""
STALE_COORDINATOR: Final = frozenset({COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR})
"""Ask for the coordinator again and repeat."""
_AUTHORIZATION: Final = frozenset({TOPIC_AUTHORIZATION_FAILED, GROUP_AUTHORIZATION_FAILED,
                                   CLUSTER_AUTHORIZATION_FAILED, TRANSACTIONAL_ID_AUTHORIZATION_FAILED})  # fmt: skip


def refusal(dc: str, code: int, tried: str) -> DcdrError:
    """The exception for an error code that a broker of `dc` answered; `tried` says what we asked for, of whom."""
    said = f"{dc}: {tried}: Kafka answered {error_name(code)}"
    if code in _AUTHORIZATION:
        return MisconfiguredError(f"{said}; the admin user must be one of the brokers' super.users")
    if code == UNKNOWN_TOPIC_OR_PARTITION:
        return InvalidRequestError(f"{said}; there is no such topic or partition in this cluster")
    if code == UNKNOWN_SERVER_ERROR or is_retriable(code):
        return UnreachableError(f"{said}; this may heal: try again, then look at the broker's log")
    return InvalidRequestError(f"{said}; look at the broker's log for the reason")
