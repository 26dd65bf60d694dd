"""The power cuts of these tests: what was flushed is there, what was not is as before, and half a cut is an error."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fedhelp_edge import files
from tests.faults import kills

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "folder").mkdir(parents=True)
    (tmp_path / "home" / "folder" / "file").write_text("old")
    return tmp_path / "home"


def cut_after(work: Callable[[Path], None], home: Path, steps: int) -> None:
    """Cuts the power after so many durable steps of the work, which has one more."""
    assert kills.run(then_one_more_step, home, work, dies_before=steps + 1, power_cut=True) == kills.KILLED


def then_one_more_step(home: Path, work: Callable[[Path], None]) -> None:
    work(home)
    files.sync_folder(home.parent)
    pytest.fail("it should be dead")


def remove_the_folder(home: Path) -> None:
    shutil.rmtree(home / "folder")  # two steps


def remove_the_folder_for_good(home: Path) -> None:
    shutil.rmtree(home / "folder")
    files.sync_folder(home)


def move_out_of_a_folder_that_goes(home: Path) -> None:
    (home / "folder" / "file").rename(home.parent / "file")
    (home / "folder").rmdir()
    files.sync_folder(home)


def write_in_new_folders(home: Path) -> None:
    files.make_folder(home / "new" / "below")  # two steps
    files.write_atomic(home / "new" / "below" / "file", b"new")  # a flush, a renaming, and the folder's flush


def lose_the_copies(home: Path) -> None:
    """Removes a file, and then what the cut restores it from, unseen."""
    (home / "folder" / "file").unlink()
    subprocess.run(["sh", "-c", "rm -r ../tmp*"], cwd=home, check=True)


def test_a_removed_folder_is_back_with_its_files(home: Path) -> None:
    cut_after(remove_the_folder, home, 2)
    assert (home / "folder" / "file").read_text() == "old"


def test_a_folder_whose_removal_was_flushed_stays_away(home: Path) -> None:
    cut_after(remove_the_folder_for_good, home, 3)
    assert not list(home.iterdir())


def test_a_file_is_lost_whose_old_name_was_flushed_and_whose_new_name_was_not(home: Path) -> None:
    cut_after(move_out_of_a_folder_that_goes, home, 3)
    assert not list(home.iterdir())
    assert not (home.parent / "file").exists()


def test_a_file_in_new_folders_is_there_with_them(home: Path) -> None:
    cut_after(write_in_new_folders, home, 5)
    assert (home / "new" / "below" / "file").read_bytes() == b"new"


def test_a_cut_that_fails_is_no_death(home: Path) -> None:
    with pytest.raises(AssertionError, match="did not undo"):
        cut_after(lose_the_copies, home, 1)
