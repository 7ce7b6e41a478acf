"""The epoch on the agent's disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.epoch import EpochFile
from dcdr.errors import MisconfiguredError


def test_it_begins_at_nothing_grows_and_survives(tmp_path: Path) -> None:
    file = EpochFile(tmp_path / "new", "lab")
    assert file.highest == 0
    for epoch in (3, 2, 7):
        file.saw(epoch)
    assert EpochFile(tmp_path / "new", "lab").highest == 7
    assert EpochFile(tmp_path / "new", "other").highest == 0


@pytest.mark.parametrize("text", ["", "seven", "-1", "7\n8"])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab.epoch").write_text(text)
    with pytest.raises(MisconfiguredError, match="dcdr lease show"):
        EpochFile(tmp_path, "lab")


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MisconfiguredError, match=r"agent\.state"):
        EpochFile(tmp_path / "file", "lab")
