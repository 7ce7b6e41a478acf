"""Fixtures of the contract tests: one suite per port, run against the stand-in and against the real server."""

from __future__ import annotations

from tests.contract.control_fixtures import *  # noqa: F403
from tests.contract.kafka_fixtures import *  # noqa: F403
