"""What a loss report claims, and whether both logs bear it out. Knows the report's JSON, nothing of who wrote it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lab.check.model import Attempt, Evidence, Outcome, TopicPartition

Place = tuple[TopicPartition, int]


class Claim(NamedTuple):
    """One partition's tail: `records` visible ones of the old side, the first at offset `first`, the last at `last`."""

    first: int
    last: int
    records: int


@dataclass(frozen=True)
class Loss:
    """A loss report: what `source` took and `target` never had.

    `unsettled` are partitions for which it claims nothing (behind, diverged, or a tail whose records are gone), each
    with its case. `bound` is what was said to be lost at most before the target opened; None: nobody knew.
    """

    source: str
    target: str
    tails: Mapping[TopicPartition, Claim]
    unsettled: Mapping[TopicPartition, str] = field(default_factory=dict)
    bound: int | None = None

    @classmethod
    def read(cls, path: Path) -> Loss:
        """From JSON as `dcdr loss -o json` prints it, or as it stands in the ledger.

        Raises: ValueError, telling what is wrong with the file.
        """
        try:
            return cls.from_json(json.loads(path.read_text()))
        except OSError as error:
            raise ValueError(f"the loss report cannot be read: {error}") from None
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no loss report ({error!r}); expected the output of `dcdr loss -o json`"
            ) from None

    @classmethod
    def from_json(cls, report: Mapping[str, Any]) -> Loss:
        """Raises: ValueError when it lists less than it counts; KeyError, TypeError when it is no loss report."""
        whose = report.get("operation") or report
        tails: dict[TopicPartition, Claim] = {}
        unsettled: dict[TopicPartition, str] = {}
        for row in report["rows"]:
            place = (str(row["topic"]), int(row["partition"]))
            if row["case"] == "tail" and row["first"] is not None:
                tails[place] = Claim(int(row["first"]), int(row["last"]), int(row["records"]))
            elif row["case"] != "none":
                unsettled[place] = str(row["case"])
        listed = sum(claim.records for claim in tails.values())
        if listed != report["records"]:
            raise ValueError(
                f"the loss report counts {report['records']} records and lists {listed}: it is cut short. Take the "
                "whole entry from the ledger"
            )
        bound = report["bound"]["records"]
        return cls(str(whose["source"]), str(whose["target"]), tails, unsettled, None if bound is None else int(bound))


class Orphans:
    """The old side's records that the active side never got, by both logs; and those that the report names."""

    def __init__(self, evidence: Evidence, loss: Loss, places: Mapping[str, Mapping[int, Place]]) -> None:
        self.loss = loss
        self._on_active = places[loss.target]
        self._common: defaultdict[TopicPartition, int] = defaultdict(lambda: -1)
        """The old side's last offset that the active side has too."""
        for number, (tp, offset) in places[loss.source].items():
            if number in self._on_active:
                self._common[tp] = max(self._common[tp], offset)
        self.named = {number for number, place in places[loss.source].items() if self._in_a_tail(place)}
        for number, attempt in evidence.attempts.items():
            if self._replaced(evidence, attempt):
                self.named.add(number)

    def lost(self, number: int) -> bool:
        """Named by the report, and indeed not on the active side."""
        return number in self.named and number not in self._on_active

    def before_a_common_one(self, place: Place) -> bool:
        """Whether a later record of the partition is on the active side: then this one is a hole, no tail."""
        tp, offset = place
        return offset < self._common[tp]

    def _in_a_tail(self, place: Place) -> bool:
        claim = self.loss.tails.get(place[0])
        return claim is not None and claim.first <= place[1] <= claim.last

    def _replaced(self, evidence: Evidence, attempt: Attempt) -> bool:
        """A lost record of a compacted topic that a later lost one has replaced: it is on neither side any more."""
        tp = (attempt.topic, attempt.partition)
        claim = self.loss.tails.get(tp)
        return (
            claim is not None
            and attempt.topic in evidence.compacted
            and attempt.outcome is Outcome.OK
            and attempt.dc == self.loss.source
            and self._common[tp] < attempt.offset <= claim.last
        )
