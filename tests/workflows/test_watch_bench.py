"""The bench of the watch measures what it says, on a few watches."""

from __future__ import annotations

from pathlib import Path

from temporalio.client import Client

from bench.watch import measure


async def test_the_bench_of_the_watch_counts_every_takeover_once(client: Client, tmp_path: Path) -> None:
    cost = await measure(client, tmp_path, watches=2, sites=1, seconds=0.5, changes=8, say=print)
    assert (cost.changes, cost.twice) == (8, 0)
    assert 0 < cost.p50_ms <= cost.worst_ms
    assert 5 < cost.events_per_change < 60
