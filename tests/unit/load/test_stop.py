"""A load that is told to stop stops, wherever the signal meets it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lab.load import runner
from lab.load.config import Kind, LoadConfig
from lab.load.tally import Tally

pytestmark = pytest.mark.timeout(60)  # what it would take for ever otherwise
CALLS = 200
"""More calls and returns than a few rounds of the loop make: a signal comes at each of them."""


class SignalAt:
    """A profiler that raises SIGTERM at the n-th call or return, in the middle of whatever is going on."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        self.left -= 1
        if self.left == 0:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_ends_the_load_wherever_it_meets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LIVE_EVERY_S", 0.0001)
    config = LoadConfig(
        bootstrap="127.0.0.1:1", out=tmp_path, run="r", topics={"orders": Kind.KEYED}, credentials=None, rate=1.0
    )
    for number in range(1, CALLS):
        with runner._stop_signals() as stopped:
            sys.setprofile(SignalAt(number))
            try:
                runner._watch(config, Tally(), stopped, quiet=True)
            finally:
                sys.setprofile(None)
