"""Which of a data center's agents this one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.identity import identity
from dcdr.errors import MisconfiguredError


def test_it_is_made_once_and_is_another_in_another_folder_or_scope(tmp_path: Path) -> None:
    one = identity(tmp_path / "new", "lab")
    assert identity(tmp_path / "new", "lab") == one
    assert len({one, identity(tmp_path / "new", "other"), identity(tmp_path / "second", "lab")}) == 3


def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "lab.agent").write_text("")
    with pytest.raises(MisconfiguredError, match="Remove it"):
        identity(tmp_path, "lab")


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MisconfiguredError, match=r"agent\.state"):
        identity(tmp_path / "file", "lab")
