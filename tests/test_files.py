"""Files on disk: replaced whole and durably or not at all, and read without waiting."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from granet.errors import CheckpointError, FileError, UsageError
from granet.files import atomic, mapped
from granet.runs.folder import RunFolder
from tests.checkpoints import RECIPE


def test_the_content_and_the_name_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, synced = os.fsync, []

    def note(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    RunFolder(tmp_path / "run").create(RECIPE)
    assert synced == ["file", "folder"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.toml"]


def test_a_file_that_cannot_be_written_is_not_called_a_bad_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"page\.html: the file could not be written.*Make the folder") as failure:
        atomic.write(tmp_path / "nowhere" / "page.html", b"<html>")
    assert not isinstance(failure.value, CheckpointError)
    assert failure.value.exit_code == 1


def test_a_run_folder_that_cannot_be_written_is_an_error_of_usage(tmp_path: Path) -> None:
    (tmp_path / "run" / "recipe.toml").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot write a run here"):
        RunFolder(tmp_path / "run").create(RECIPE)


def test_errors_for_the_user_are_not_reworded(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"^mine$"),
        atomic.file_errors(tmp_path, "the file could not be written"),
    ):
        raise UsageError("mine")


def test_an_empty_file_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert mapped.read(tmp_path / "empty").size == 0


def test_a_file_is_not_copied_and_cannot_be_changed(tmp_path: Path) -> None:
    atomic.write(tmp_path / "a", b"abc")
    content = mapped.read(tmp_path / "a")
    assert content.tobytes() == b"abc"
    assert not content.flags.writeable
    assert not content.flags.owndata
