"""Where the endpoint leads: one look, shared by all clients of a run, as in an application that has many."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from lab.load.clients import LOOK_TIMEOUT_S, quick

LOOK_AGAIN_NS = 20_000_000
"""A look is a new connection, because the old one stays where it was. Seven clients that each looked every 20 ms took
half of a two-core machine from the brokers and the worker that were to switch over."""


class Lookout:
    """The id of the cluster behind the endpoint, at most 20 ms old. Thread-safe; whoever needs a new look takes it."""

    def __init__(self, settings: Mapping[str, Any], topic: str) -> None:
        self._settings = quick(settings)
        self._topic = topic
        self._lock = threading.Lock()
        self._cluster = ""
        self._taken_ns = -LOOK_AGAIN_NS

    def leads_to(self, cluster: str) -> bool:
        """Whether new connections still go to `cluster`. True as well when nobody answers within 0.3 s: look again."""
        with self._lock, contextlib.suppress(KafkaException):
            if time.monotonic_ns() - self._taken_ns >= LOOK_AGAIN_NS:
                metadata = AdminClient(self._settings).list_topics(self._topic, timeout=LOOK_TIMEOUT_S)
                self._cluster, self._taken_ns = str(metadata.cluster_id), time.monotonic_ns()
            return self._cluster == cluster
        return True
