"""A full disk and a read-only folder: a clear error for each, and nothing half-written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge import errors
from fedhelp_edge.parcel import keys, parcel
from tests.command import error_code, run

Disk = Callable[[int], Path]


@pytest.mark.parametrize("kib", [4, 8, 16, 64, 512])
def test_an_update_that_does_not_fit_on_the_stick_leaves_nothing_there(
    kib: int, tiny_disk: Disk, context: dict[str, Any], site: keys.Keys, hub: keys.Keys
) -> None:
    disk = tiny_disk(kib)
    with pytest.raises(OSError) as caught:
        parcel.seal(disk / "update.fhx", context, bytes(1_000_000), site.sign, [hub.public.recipient])
    assert type(errors.from_os(caught.value)) is errors.NoSpaceError
    assert list(disk.iterdir()) == []


def test_an_update_is_written_to_the_stick_once_there_is_room(
    tiny_disk: Disk, context: dict[str, Any], site: keys.Keys, hub: keys.Keys
) -> None:
    disk = tiny_disk(1200)
    (disk / "pictures").write_bytes(bytes(600_000))
    with pytest.raises(OSError):
        parcel.seal(disk / "update.fhx", context, bytes(1_000_000), site.sign, [hub.public.recipient])
    (disk / "pictures").unlink()
    parcel.seal(disk / "update.fhx", context, bytes(1_000_000), site.sign, [hub.public.recipient])
    with parcel.open(disk / "update.fhx", parcel.any_signer, [hub.identity]) as opened:
        assert opened.body.read() == bytes(1_000_000)


def test_on_a_full_disk_no_keys_are_created(tiny_disk: Disk, tmp_path: Path) -> None:
    disk = tiny_disk(8)
    (disk / "full").write_bytes(bytes(8192))
    done = run("keys", "new", "--home", disk, home=tmp_path)
    assert error_code(done) == "E_STORAGE"
    assert "keys made" not in done.stdout  # the passphrase shown before protects nothing
    assert [path.name for path in disk.iterdir()] == ["full"]


def test_after_making_room_the_same_command_makes_the_keys(tiny_disk: Disk, tmp_path: Path) -> None:
    disk = tiny_disk(16)
    (disk / "full").write_bytes(bytes(16384))
    assert error_code(run("keys", "new", "--home", disk, home=tmp_path)) == "E_STORAGE"
    (disk / "full").unlink()
    assert run("keys", "new", "--home", disk, home=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "command", [("keys", "new", "--no-passphrase", "--home", "locked"), ("plan", "new", "locked/plan.toml")]
)
def test_a_read_only_folder_is_an_error_and_stays_unchanged(
    command: tuple[str, ...], without_root: tuple[str, ...], tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert error_code(run(*command, home=tmp_path, before=without_root)) == "E_PERMISSION"
    assert list(locked.iterdir()) == []


def test_an_unreadable_file_is_an_error(without_root: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("")
    (tmp_path / "plan.toml").chmod(0)
    assert error_code(run("plan", "check", "plan.toml", home=tmp_path, before=without_root)) == "E_PERMISSION"


def test_doctor_detects_a_read_only_folder(without_root: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    done = run("doctor", "--home", tmp_path / "locked" / "home", home=tmp_path, before=without_root)
    assert done.returncode == 1
    assert "FAIL  disk" in done.stdout


def test_a_command_killed_while_it_writes_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from fedhelp_edge import files\n"
        "with files.writing(Path('update.fhx')) as f: f.write(b'half'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = run("-c", code, home=tmp_path, program=(sys.executable,))
    assert done.returncode == -9
    assert not (tmp_path / "update.fhx").exists()
