"""Faults G01 and G04 for what a coordinator does around rounds: `encoder publish`, `kit`, `roster`, `unlock`, `lock`.

Each is killed, or its power cut, before durable steps, and typed again. Then everything is as if undisturbed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("packaging")

from fedhelp_edge import files
from fedhelp_edge.parcel import keys, parcel
from server_ref.admin import agent
from server_ref.hub.hub import Hub
from server_ref.kit import build
from tests import command
from tests.faults import kills
from tests.faults.test_encoders import ENCODER, SHA256, WIDTH
from tests.federation import PLAN, Federation

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX"),
    pytest.mark.usefixtures("open_in_process"),
]

POWER_CUT = pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
WHEEL = b"a wheel" * 999
AFTERWARDS = 500  # more steps than any of these commands has
PASSPHRASE = "of the coordinator"
Effort = Callable[[int, int], int]


def skip_without_proofs(power_cut: bool, effort: Effort) -> None:
    """A power cut loses all that a kill loses, and more: a kill alone is tried with --proofs."""
    if not power_cut and effort(1, 0):
        pytest.skip("with --proofs")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation with two clinics, whose encoder is not published yet."""
    nets = f'[nets]\nencoder = "tiny.onnx"\nencoder_sha256 = "{SHA256}"\nencoder_width = {WIDTH}\n'
    folder = tmp_path_factory.mktemp("around") / "federation"
    fed = Federation(folder, f'{PLAN}{nets}small = "linear"\nlarge = "linear"\n', clinics=2)
    (folder / "tiny.onnx").write_bytes(ENCODER)
    fed.hub.database.close()
    return folder


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    shutil.copytree(base, tmp_path / "federation")
    return tmp_path / "federation"


def typed(folder: Path, words: str, **kill: Any) -> str:
    """Types a command of the coordinator; returns "", its error, or "killed"."""
    code = kills.run(type_then_flush, folder, words.format(folder=folder), kill.get("dies_before", 0), **kill)
    output = (folder / "output").read_text() if (folder / "output").exists() else ""
    assert "Traceback" not in output
    return "killed" if code == kills.KILLED else output if code else ""


def type_then_flush(folder: Path, words: str, flushes: int) -> None:
    """Types a command. After it come more durable steps, so that the power can be cut once it has said that it is done.

    The kit has a wheel that nobody need download, and this program need not be installed."""
    build.metadata.metadata = lambda _: {"Requires-Python": ">=3.10"}  # type: ignore[assignment, return-value]
    build.build_own_wheel = lambda wheels: (wheels / "own-1.0-py3-none-any.whl").write_bytes(WHEEL)  # type: ignore[assignment, return-value]
    build.fetch_wheels = lambda *_: None  # type: ignore[assignment]
    try:
        kills.type_in(folder, "server_ref.cli", words.split(), str(folder / "hub"))
    except SystemExit as ended:
        if ended.code:
            raise
    for _ in range(flushes if flushes == AFTERWARDS else 0):
        files.sync_folder(folder.parent)


def interrupted(folder: Path, words: str, stride: int, **kill: Any) -> Iterator[tuple[Path, int]]:
    """A copy of the folder for each step before which the command was killed, the first one after it was done."""
    copy = folder.with_name(f"{folder.name}-cut")
    for step in (AFTERWARDS, *range(1, AFTERWARDS, stride)):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        if typed(copy, words, dies_before=step, **kill) != "killed":
            break
        yield copy, step


@POWER_CUT
def test_g01_an_encoder_is_published_once(folder: Path, power_cut: bool, effort: Effort) -> None:
    skip_without_proofs(power_cut, effort)
    words = "encoder publish {folder}/tiny.onnx"
    for copy, step in interrupted(folder, words, effort(15, 1), power_cut=power_cut):
        assert typed(copy, words) == "", step
        verify = ("audit", "verify", "--home", copy / "hub")
        verified = command.run_in_process(*verify, home=copy, program=command.COORDINATOR)
        assert verified.returncode == 0, (step, verified.stderr)
        with closing(Hub(copy / "hub").database) as database:
            (row,) = database.rows("SELECT hash FROM parcels WHERE kind = 'encoder'")
            with parcel.open(database.parcel_path(row["hash"]), parcel.any_signer) as opened:
                assert opened.body.read() == ENCODER
            logged = [line["type"] for line in database.rows("SELECT type FROM log")]
            assert (database.fact("encoder"), logged.count("encoder")) == (SHA256, 1), step


@POWER_CUT
def test_g01_a_kit_is_whole_or_made_anew(folder: Path, power_cut: bool, effort: Effort) -> None:
    """Also where a second attempt is interrupted while it removes what the first one left."""
    skip_without_proofs(power_cut, effort)
    words = "kit --platform win_amd64 --out {folder}/kit"
    assert typed(folder, words) == ""
    whole = contents(folder)
    shutil.rmtree(folder / "kit")
    for copy, step in interrupted(folder, words, effort(17, 1), power_cut=power_cut):
        for again, second in interrupted(copy, words, 4, power_cut=power_cut) if effort(0, 1) else ():
            check_whole(again, words, whole, f"{step} and {second}")
        check_whole(copy, words, whole, str(step))


def contents(folder: Path) -> dict[str, bytes]:
    kit = folder / "kit"
    return {str(path.relative_to(kit)): path.read_bytes() for path in kit.rglob("*") if path.is_file()}


def check_whole(folder: Path, words: str, whole: dict[str, bytes], steps: str) -> None:
    """The kit is whole as soon as the command finds it so, or makes it."""
    error = typed(folder, words)
    assert not error or "E_FILE_EXISTS" in error, (steps, error)
    made = contents(folder)
    assert [name for name in made.keys() | whole.keys() if made.get(name) != whole.get(name)] == [], steps


@POWER_CUT
def test_g01_the_keys_of_a_roster_are_written_whole_or_not_at_all(
    folder: Path, power_cut: bool, effort: Effort
) -> None:
    skip_without_proofs(power_cut, effort)
    words = "roster --allowed-signers {folder}/signers"
    assert typed(folder, words) == ""
    whole = (folder / "signers").read_bytes()
    (folder / "signers").unlink()
    for copy, step in interrupted(folder, words, effort(3, 1), power_cut=power_cut):
        error = typed(copy, words)
        assert not error or "E_FILE_EXISTS" in error, (step, error)
        assert (copy / "signers").read_bytes() == whole
        assert not list(copy.glob(".signers*")), step


@pytest.fixture
def locked(folder: Path) -> Iterator[Path]:
    """A hub whose coordinator's keys have a passphrase, in a file."""
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("nothing can be unlocked here")
    home = folder / "hub" / "coordinator"
    own = keys.load(home, lambda: "")
    (home / "keys.txt").unlink()
    (home / "keys.pub").unlink()
    keys.save(home, own, PASSPHRASE)
    (folder / "passphrase").write_text(PASSPHRASE)
    (folder / "passphrase").chmod(0o600)
    yield folder
    agent.stop(home)


def test_g01_an_interrupted_unlock_or_lock_leaves_the_keys_held_or_not(locked: Path, effort: Effort) -> None:
    unlock, home = "unlock --passphrase-file {folder}/passphrase", locked / "hub" / "coordinator"
    for step in (1, AFTERWARDS)[effort(1, 0) :]:  # its socket's name is removed, and it is done
        assert typed(locked, unlock, dies_before=step) == "killed"
        assert typed(locked, unlock) == ""
        assert agent.held_keys(home)
        assert typed(locked, "lock", dies_before=1) == "killed"
        assert typed(locked, "lock") == ""
        assert agent.held_keys(home) is None


def test_g04_after_a_power_cut_nothing_is_unlocked_and_no_key_is_on_the_disk(locked: Path) -> None:
    """A cut ends the process that holds the keys, and leaves the name of its socket."""
    unlock, home = "unlock --passphrase-file {folder}/passphrase", locked / "hub" / "coordinator"
    assert typed(locked, unlock) == ""
    before = agent._socket_path(home)
    with socket.socket(socket.AF_UNIX) as left_behind:
        agent.stop(home)
        left_behind.bind(str(before))
    assert agent.held_keys(home) is None
    held = keys.load(home, lambda: PASSPHRASE)
    secrets = (held.identity.encode(), held.sign.private_bytes_raw(), held.sign.private_bytes_raw().hex().encode())
    files_here = [path for path in (*locked.rglob("*"), *before.parent.iterdir()) if path.is_file()]
    assert not [path for path in files_here if any(secret in path.read_bytes() for secret in secrets)]
    assert typed(locked, unlock) == ""
    assert agent.held_keys(home)


def test_g01_a_holder_of_keys_that_never_got_them_gives_none(locked: Path) -> None:
    """`unlock` was killed after it had started the process, and before it gave the keys."""
    home = locked / "hub" / "coordinator"
    path = agent._socket_path(home)
    started = subprocess.run(
        [sys.executable, "-m", agent.__name__, path, "60"], stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    assert started.stdout == b"ready\n"
    assert agent.held_keys(home) is None
    assert typed(locked, "unlock --passphrase-file {folder}/passphrase") == ""
    assert agent.held_keys(home)
