"""What fails on a machine, its disk and its command line: the hint is followed, and the same command works."""

from __future__ import annotations

import _thread
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import lock
from fedhelp_edge.site import layout
from tests import command
from tests.desk import Desk, fails, works
from tests.faults.conftest import humble as humble
from tests.faults.conftest import tiny_disk as tiny_disk
from tests.federation import PLAN
from tests.unit.data import samples


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, PLAN)


@pytest.mark.parametrize(
    ("wrong", "shown", "right"),
    [
        ("kyes show", "  keys ", "keys show"),
        ("keys shwo", "  show ", "keys show"),
        ("plan check", "  file <path>  The plan.", "plan check plan.toml"),
        ("plan check plan.toml --jsno", "  --json ", "plan check plan.toml --json"),
    ],
)
def test_the_help_that_a_wrong_command_points_to_shows_the_right_one(
    desk: Desk, wrong: str, shown: str, right: str
) -> None:
    works(desk.site("keys", "new"))
    done = desk.site(*wrong.split())
    fails(done, "E_USAGE", "--help")
    (hint,) = re.findall("hint: see 'fedhelp-edge (.*)'", done.stderr)
    assert shown in works(command.run(*hint.split(), home=desk.folder)).stdout
    works(desk.site(*right.split()))


def test_what_a_command_says_of_itself_helps_where_its_words_do_not_fit(desk: Desk) -> None:
    fails(desk.site("predict", "model.onnx"), "E_USAGE", "add --help to the command")
    shown = works(command.run("predict", "model.onnx", "--help", home=desk.folder)).stdout
    assert "fedhelp-edge predict model.onnx images" in shown


def test_a_folder_is_named_where_a_file_is_wanted_then_the_file(desk: Desk) -> None:
    fails(desk.site("plan", "check", "stick"), "E_FILE_KIND", "name an ordinary file, not a folder")
    works(desk.site("plan", "check", "plan.toml"))


def test_a_carrier_in_a_home_is_put_elsewhere(desk: Desk) -> None:
    works(desk.hub("init", "--plan", "plan.toml"))
    fails(desk.hub("exchange", desk.folder / "hub" / "stick"), "E_CARRIER_HOME", "neither inside --home nor around it")
    fails(desk.hub("exchange", desk.folder), "E_CARRIER_HOME", "a separate carrier folder")
    works(desk.hub("exchange", desk.stick))


def test_a_folder_that_may_not_be_written_is_opened_or_another_one_is_named(
    desk: Desk, humble: tuple[str, ...]
) -> None:
    locked = desk.folder / "locked"
    locked.mkdir(mode=0o555)
    done = command.run("plan", "new", "locked/plan.toml", home=desk.folder, before=humble)
    fails(done, "E_PERMISSION", "ask for the right to read and write there, or name another folder")
    works(command.run("plan", "new", "stick/plan.toml", home=desk.folder, before=humble))
    locked.chmod(0o755)
    works(command.run("plan", "new", "locked/plan.toml", home=desk.folder, before=humble))


def test_a_full_disk_gets_room(desk: Desk, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(32)
    (disk / "pictures").write_bytes(bytes(32 << 10))
    fails(desk.site("keys", "new", "--home", disk), "E_STORAGE", "free some space")
    assert [path.name for path in disk.iterdir()] == ["pictures"]
    (disk / "pictures").unlink()
    works(desk.site("keys", "new", "--home", disk))


def test_of_two_commands_the_second_is_run_again_once_the_first_has_ended(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.join()
    monkeypatch.setattr(lock, "WAIT", 0.1)
    with lock.exclusive(desk.folder / "site" / layout.LOCK):
        fails(desk.site("download"), "E_BUSY", "wait until the other command has ended")
    works(desk.site("download"))
    samples.folder(desk.folder / "images", 4, ("a", "b"))
    pytest.importorskip("torch")
    train = ("train", "images", "--plan", "plan.toml", "--threads", "1")
    with lock.exclusive(desk.folder / "site" / "train.lock"):
        fails(desk.site(*train), "E_BUSY", "then run this one again")
    works(desk.site(*train))


def test_a_part_that_is_missing_is_installed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pydicom")
    images = samples.folder(desk.folder / "images", 12, ("a", "b", "c"))
    samples.dicom(images / "a" / "scan.dcm", samples.noise(1, 64, 64, 1)[0, :, :, 0])
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pydicom", None)
        shown = works(desk.site("check", "images", "--plan", "plan.toml")).stdout
        assert "E_EXTRA (1): install the missing package: for DICOM pip install 'fedhelp-edge[medical]'" in shown
    assert "E_EXTRA" not in works(desk.site("check", "images", "--plan", "plan.toml")).stdout
    train = ("train", "images", "--plan", "plan.toml", "--threads", "1")
    with monkeypatch.context() as without:
        for module in [name for name in sys.modules if name.startswith("fedhelp_edge.site.")]:
            without.delitem(sys.modules, module)
        without.setitem(sys.modules, "torch", None)
        fails(desk.site(*train), "E_EXTRA", "pip install 'fedhelp-edge[train]'")
    works(desk.site(*train))


def test_a_mistake_of_the_program_is_told_with_debug(desk: Desk) -> None:
    broken = "from fedhelp_edge import plan; plan.load = None; from fedhelp_edge.__main__ import main; main()"
    given = {"home": desk.folder, "program": (sys.executable, "-c", broken)}
    fails(command.run("plan", "check", "plan.toml", **given), "E_INTERNAL", "run the command again with --debug")
    assert "TypeError: 'NoneType' object is not callable" in command.run(
        "plan", "check", "plan.toml", "--debug", **given
    ).stderr  # fmt: skip


@contextmanager
def pressed_once(there: Path, pattern: str) -> Iterator[None]:
    """Ctrl-C, as soon as a file is there."""
    ended = threading.Event()

    def wait() -> None:
        while not ended.is_set() and not list(there.glob(pattern)):
            time.sleep(0.001)
        if not ended.is_set():
            _thread.interrupt_main()

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield
    finally:
        ended.set()
        waiting.join()


def test_after_ctrl_c_the_same_command_goes_on_where_it_stopped(desk: Desk) -> None:
    pytest.importorskip("torch")
    images = samples.noise(12, 8, 8, 3)
    np.savez(desk.folder / "images.npz", images=images, labels=np.arange(12) % 3)
    train = ("train", "images.npz", "--plan", "plan.toml", "--threads", "1", "--rounds", "5")
    with pressed_once(desk.folder, "site/trial/*/round-0001/report.json"):
        fails(desk.site(*train), "E_INTERRUPTED", "run the same command again")
    (first,) = desk.folder.glob("site/trial/*/round-0001")
    assert not (first.parent / "round-0005").exists()
    before = (first / "share.safetensors").stat().st_mtime_ns
    works(desk.site(*train))
    assert (first.parent / "round-0005" / "report.json").exists()
    assert (first / "share.safetensors").stat().st_mtime_ns == before
