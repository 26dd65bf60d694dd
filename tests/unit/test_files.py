"""Files appear whole or not at all, and only ordinary files are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fedhelp_edge import files
from fedhelp_edge.errors import FileKindError, TargetExistsError
from fedhelp_edge.infer import answer_formats


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with files.writing(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"


def test_a_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.writing(tmp_path / "a") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(TargetExistsError), files.writing(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_private_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    with files.writing(tmp_path / "a") as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs")
def test_folders_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(FileKindError), files.reading(path):
            pass


def test_a_link_is_followed_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with files.reading(tmp_path / "link") as file:
        assert file.read() == b"x"
    with pytest.raises(FileKindError, match="link"), files.reading(tmp_path / "link", follow=False):
        pass


def test_a_file_that_replaces_another_is_flushed_and_so_is_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[bool] = []  # whether each is a folder
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    for _ in range(2):
        flushed.clear()
        answer_formats._write_file(tmp_path / "answers.txt", ["a", "b"])
        assert flushed == ([False] if os.name == "nt" else [False, True])
    assert (tmp_path / "answers.txt").read_text() == "ab"
    assert [path.name for path in tmp_path.iterdir()] == ["answers.txt"]
