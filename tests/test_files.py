"""Files that are written whole: what lies there before, after, after an error, and when two write at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nmt.errors import NmtError
from nmt.files import written_whole


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    with written_whole(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["scores.json"]


@pytest.mark.parametrize("before", [None, "old"])
def test_after_an_error_nothing_has_changed(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "scores.json"
    if before is not None:
        path.write_text(before)
    with pytest.raises(KeyboardInterrupt), written_whole(path) as part:
        part.write_text("half of")
        raise KeyboardInterrupt
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == ([("scores.json", before)] if before else [])


def test_two_processes_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.json"
    with written_whole(path) as first:
        first.write_text("the first to begin")
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: 1)
            with written_whole(path) as second:
                second.write_text("the second")
        assert path.read_text() == "the second"
    assert path.read_text() == "the first to begin"
    assert os.listdir(tmp_path) == ["scores.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    with written_whole(tmp_path / "link") as part:
        part.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "there") == ["file"]
    assert (tmp_path / "link").read_text() == "new"


def test_a_pipe_and_a_device_are_written_as_they_are(tmp_path: Path) -> None:
    with written_whole(Path("/dev/null")) as part:
        assert part == Path("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    with written_whole(tmp_path / "pipe") as part:
        assert part == tmp_path / "pipe"
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_folder_is_no_file_and_a_link_to_itself_neither(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "link", "the link leads to itself")):
        with pytest.raises(NmtError, match=f"{path.name}: cannot be written: {why}$"), written_whole(path):
            raise AssertionError("was opened")
