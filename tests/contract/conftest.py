"""Fixtures of the contract tests: one suite per port, run against the stand-in and against the real server."""

from __future__ import annotations

import pytest

from tests.contract.control_fixtures import *  # noqa: F403
from tests.contract.kafka_fixtures import *  # noqa: F403


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real: starts a real server (JVM, etcd, ...); left out by -m 'not real'")
