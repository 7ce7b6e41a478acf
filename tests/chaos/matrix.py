"""All rows, in the order in which they are played."""

from __future__ import annotations

from tests.chaos import bad_days, failover, gates, kills
from tests.chaos.row import Row

MATRIX: tuple[Row, ...] = (*bad_days.rows(), *kills.rows(), *gates.rows(), *failover.rows())
