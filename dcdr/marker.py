"""What the brokers of a data center are told: which of their two gates may be open, for how long, in which epoch.

A cluster has two gates, one for its users' writes and one for the mirror's, never both open: the marker is one role.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dcdr import lease
from dcdr.model import LeaseRecord


class Role(StrEnum):
    """ACTIVE: users write. STANDBY: the mirror writes. NONE: neither."""

    ACTIVE = "ACTIVE"
    STANDBY = "STANDBY"
    NONE = "NONE"


@dataclass(frozen=True)
class Marker:
    """What an agent tells a broker. `valid_s`: how long from now it may be believed; 0 where nothing is proven."""

    epoch: int
    role: Role
    valid_s: float


def role_of(record: LeaseRecord, dc: str) -> Role:
    """The role of `dc` while `record` is known to stand."""
    if lease.users_may_write(record, dc):
        return Role.ACTIVE
    if record.holder != dc and record.mirrored:
        return Role.STANDBY
    return Role.NONE
