"""What `lab status` says of the lease and of the journal."""

from __future__ import annotations

from lab.status import lag_of, lease_line

FIRST = {"scope": "lab", "holder": "dc-a", "epoch": 1, "seq": 0, "phase": "OPEN"}
METRICS = """\
# HELP dcdr_mirror_lag_records offsets of the source that the last look did not find copied
# TYPE dcdr_mirror_lag_records gauge
dcdr_mirror_lag_records{dc="dc-b",scope="lab"} 42.0
# TYPE dcdr_journal_written_timestamp_seconds gauge
dcdr_journal_written_timestamp_seconds{dc="dc-b",scope="lab"} 1.7e+09
"""


def test_the_first_lease_of_an_estate_fits_in_a_few_words() -> None:
    assert lease_line(FIRST) == "dc-a, epoch 1, OPEN"


def test_a_lease_that_was_taken_over_tells_when_why_and_what_was_left_behind() -> None:
    record = FIRST | {
        "holder": "dc-b",
        "epoch": 2,
        "phase": "ACQUIRED",
        "op_id": "7f",
        "op_kind": "failover",
        "behind": "dc-a",
        "acquired_at": "2026-11-30T18:00:00Z",
        "acquired_after_s": 14.25,
        "pause": {"until": "2026-11-30T19:00:00Z"},
    }
    assert lease_line(record) == (
        "dc-b, epoch 2, ACQUIRED, failover 7f, dc-a left behind, taken over at 2026-11-30T18:00:00Z after 14.2 s "
        "without a sign of life, takeovers paused until 2026-11-30T19:00:00Z"
    )


def test_the_journals_lag_is_read_from_the_agents_metrics_and_what_it_does_not_know_is_left_out() -> None:
    assert lag_of(METRICS) == {"records": 42.0}
    assert lag_of(METRICS.replace("journal_written_timestamp", "mirror_lag"))["seconds"] > 0
    assert lag_of("dcdr_agent_epoch 3.0\n") == {}
