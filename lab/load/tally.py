"""Counters of a running load, shared by its threads."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any

from lab.load.clients import REFUSALS


class Tally:
    """What happened so far. Cheap enough to be told of every record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.acked: Counter[str] = Counter()
        self.refused = 0
        self.unknown = 0
        self.aborted = 0
        self.received: Counter[str] = Counter()
        self.commits: Counter[str] = Counter()
        self.commits_on: dict[str, Counter[str]] = {}
        """By cluster, then by group."""
        self.held_back = 0
        self.ready_ns: deque[int] = deque(maxlen=1000)
        self.last_cluster = ""
        self.last_ack_ns = 0

    def acknowledged(self, cluster: str, at_ns: int, records: int = 1) -> None:
        with self._lock:
            self.acked[cluster] += records
            self.last_cluster, self.last_ack_ns = cluster, at_ns

    def failed(self, fate: str, code: int) -> None:
        with self._lock:
            self.refused += code in REFUSALS
            self.unknown += fate == "U"

    def saw(self, group: str, records: int) -> None:
        with self._lock:
            self.received[group] += records

    def committed(self, group: str, cluster: str) -> None:
        with self._lock:
            self.commits[group] += 1
            self.commits_on.setdefault(cluster, Counter())[group] += 1

    def gave_back(self, records: int) -> None:
        """Records of a transaction that was aborted."""
        with self._lock:
            self.aborted += records

    def client_ready(self, took_ns: int) -> None:
        with self._lock:
            self.ready_ns.append(took_ns)

    def snapshot(self) -> dict[str, Any]:
        with self._lock:
            return {
                "acked": dict(self.acked),
                "refused": self.refused,
                "unknown": self.unknown,
                "aborted": self.aborted,
                "received": dict(self.received),
                "commits": dict(self.commits),
                "commits_on": {cluster: dict(groups) for cluster, groups in self.commits_on.items()},
                "held_back": self.held_back,
                "cluster": self.last_cluster,
                "last_ack_mono_ns": self.last_ack_ns,
            }
