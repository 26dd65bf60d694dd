"""Failures of a machine, its disk and its command line: the test follows the hint, and the same command works."""

from __future__ import annotations

import _thread
import os
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
from fedhelp_edge.demo import phantoms
from fedhelp_edge.site import layout
from tests import command
from tests.faults.conftest import tiny_disk as tiny_disk
from tests.faults.conftest import without_root as without_root
from tests.federation import PLAN
from tests.ray_cluster import cluster as cluster
from tests.site_and_hub import SiteAndHub, fails_with, succeeds
from tests.unit.data import samples
from tests.unit.methods import toy


@pytest.fixture
def people(tmp_path: Path) -> SiteAndHub:
    return SiteAndHub(tmp_path, PLAN)


@pytest.mark.parametrize(
    ("wrong", "shown", "right"),
    [
        ("kyes show", "  keys ", "keys show"),
        ("keys shwo", "  show ", "keys show"),
        ("plan check", "  file  The plan.", "plan check plan.toml"),
        ("plan check plan.toml --jsno", "  --json ", "plan check plan.toml --json"),
    ],
)
def test_the_help_that_a_wrong_command_points_to_shows_the_right_one(
    people: SiteAndHub, wrong: str, shown: str, right: str
) -> None:
    succeeds(people.site("keys", "new"))
    done = people.site(*wrong.split())
    fails_with(done, "E_USAGE", "--help")
    (hint,) = re.findall("hint: see 'fedhelp-edge (.*)'", done.stderr)
    assert shown in succeeds(command.run(*hint.split(), home=people.folder)).stdout
    succeeds(people.site(*right.split()))


def test_a_commands_help_shows_its_missing_arguments(people: SiteAndHub) -> None:
    fails_with(people.site("predict", "model.onnx"), "E_USAGE", "add --help to the command")
    shown = succeeds(command.run("predict", "model.onnx", "--help", home=people.folder)).stdout
    assert "fedhelp-edge predict model.onnx images" in shown


def test_a_folder_in_place_of_a_file_is_replaced_by_the_file(people: SiteAndHub) -> None:
    fails_with(people.site("plan", "check", "stick"), "E_FILE_KIND", "name an ordinary file, not a folder")
    succeeds(people.site("plan", "check", "plan.toml"))


def test_a_carrier_folder_inside_a_home_is_moved_elsewhere(people: SiteAndHub) -> None:
    succeeds(people.hub("init", "--plan", "plan.toml"))
    fails_with(
        people.hub("exchange", people.folder / "hub" / "stick"), "E_CARRIER_HOME", "neither inside --home nor around it"
    )
    fails_with(people.hub("exchange", people.folder), "E_CARRIER_HOME", "a separate carrier folder")
    succeeds(people.hub("exchange", people.stick))


def test_a_read_only_folder_is_made_writable_or_another_is_named(
    people: SiteAndHub, without_root: tuple[str, ...]
) -> None:
    locked = people.folder / "locked"
    locked.mkdir(mode=0o555)
    done = command.run("plan", "new", "locked/plan.toml", home=people.folder, before=without_root)
    fails_with(done, "E_PERMISSION", "ask for the right to read and write there, or name another folder")
    succeeds(command.run("plan", "new", "stick/plan.toml", home=people.folder, before=without_root))
    locked.chmod(0o755)
    succeeds(command.run("plan", "new", "locked/plan.toml", home=people.folder, before=without_root))


def test_a_full_disk_gets_free_space(people: SiteAndHub, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(32)
    (disk / "pictures").write_bytes(bytes(32 << 10))
    fails_with(people.site("keys", "new", "--home", disk), "E_STORAGE", "free some space")
    assert [path.name for path in disk.iterdir()] == ["pictures"]
    (disk / "pictures").unlink()
    succeeds(people.site("keys", "new", "--home", disk))


def test_a_second_command_is_run_again_once_the_first_has_ended(
    people: SiteAndHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.join()
    monkeypatch.setattr(lock, "WAIT", 0.1)
    with lock.exclusive(people.folder / "site" / layout.LOCK):
        fails_with(people.site("download"), "E_BUSY", "wait until the other command has ended")
    succeeds(people.site("download"))
    samples.folder(people.folder / "images", 4, ("a", "b"))
    pytest.importorskip("torch")
    train = ("train", "images", "--plan", "plan.toml", "--threads", "1")
    with lock.exclusive(people.folder / "site" / "train.lock"):
        fails_with(people.site(*train), "E_BUSY", "then run this one again")
    succeeds(people.site(*train))


def test_a_missing_package_is_installed(people: SiteAndHub, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pydicom")
    images = samples.folder(people.folder / "images", 12, ("a", "b", "c"))
    samples.dicom(images / "a" / "scan.dcm", samples.noise(1, 64, 64, 1)[0, :, :, 0])
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pydicom", None)
        shown = succeeds(people.site("check", "images", "--plan", "plan.toml")).stdout
        assert "E_EXTRA (1): install the missing package: for DICOM pip install 'fedhelp-edge[medical]'" in shown
    assert "E_EXTRA" not in succeeds(people.site("check", "images", "--plan", "plan.toml")).stdout
    train = ("train", "images", "--plan", "plan.toml", "--threads", "1")
    without_torch = "import sys; sys.modules['torch'] = None; from fedhelp_edge.__main__ import main; main()"
    done = command.run(*train, home=people.folder, program=(sys.executable, "-c", without_torch))
    fails_with(done, "E_EXTRA", "pip install 'fedhelp-edge[train]'")
    succeeds(people.site(*train))


def test_a_package_with_a_broken_method_is_repaired(people: SiteAndHub) -> None:
    plan = people.folder / "plan.toml"
    plan.write_text(plan.read_text().replace('"fedavg"', '"toy"'))
    with toy.installed(people.folder) as method:
        source = method.read_text()
        method.write_text("import no_such_package\n" + source)
        fails_with(people.site("plan", "check", "plan.toml"), "E_PLUGIN", "repair or uninstall the package")
        method.write_text(source)
        succeeds(people.site("plan", "check", "plan.toml"))


def test_a_lab_run_continues_once_ray_runs(people: SiteAndHub, cluster: str) -> None:
    pixels, labels = phantoms.draw(24, 3, size=8)
    arrays = {f"{part}_{name}": values[n::3] for n, part in enumerate(("train", "val", "test"))
              for name, values in (("images", pixels), ("labels", labels.astype(np.uint8)))}  # fmt: skip
    np.savez(people.folder / "images.npz", class_names=np.array(phantoms.CLASSES[:3]), **arrays)
    classes = ", ".join(f'"{name}"' for name in phantoms.CLASSES[:3])
    (people.folder / "lab.toml").write_text(
        f'classes = [{classes}]\nmethod = "fedavg"\nrounds = 1\n[image]\nsize = 8\n[training]\nepochs = 1\n'
    )
    line = "lab run lab.toml --data images.npz --split dirichlet:9 --out out --engine ray --address"
    reaches = {name: os.environ[name] for name in ("RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")}
    env = {**reaches, "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"}
    nobody = command.run(*line.split(), "127.0.0.1:1", home=people.folder, env=env)
    fails_with(nobody, "E_CLUSTER", "start Ray there")
    succeeds(command.run(*line.split(), cluster, home=people.folder, env=env))


def test_debug_shows_the_traceback_of_an_internal_error(people: SiteAndHub) -> None:
    broken = "from fedhelp_edge import plan; plan.load = None; from fedhelp_edge.__main__ import main; main()"
    invocation = {"home": people.folder, "program": (sys.executable, "-c", broken)}
    fails_with(
        command.run("plan", "check", "plan.toml", **invocation), "E_INTERNAL", "run the command again with --debug"
    )
    assert "TypeError: 'NoneType' object is not callable" in command.run(
        "plan", "check", "plan.toml", "--debug", **invocation
    ).stderr  # fmt: skip


@contextmanager
def pressed_once(folder: Path, pattern: str) -> Iterator[None]:
    """Presses Ctrl-C as soon as a file exists."""
    ended = threading.Event()

    def wait() -> None:
        while not ended.is_set() and not list(folder.glob(pattern)):
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


def test_after_ctrl_c_the_same_command_continues_where_it_stopped(people: SiteAndHub) -> None:
    pytest.importorskip("torch")
    images = samples.noise(12, 8, 8, 3)
    np.savez(people.folder / "images.npz", images=images, labels=np.arange(12) % 3)
    train = ("train", "images.npz", "--plan", "plan.toml", "--threads", "1", "--rounds", "5")
    with pressed_once(people.folder, "site/trial/*/round-0001/report.json"):
        fails_with(people.site(*train), "E_INTERRUPTED", "run the same command again")
    (first,) = people.folder.glob("site/trial/*/round-0001")
    assert not (first.parent / "round-0005").exists()
    before = (first / "share.safetensors").stat().st_mtime_ns
    succeeds(people.site(*train))
    assert (first.parent / "round-0005" / "report.json").exists()
    assert (first / "share.safetensors").stat().st_mtime_ns == before
