"""Fixtures for all tests: keys, federations, and the statement of an update."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts: nets this small are slower with more threads
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # Each worker and the programs that it starts have one core. Threads that share cores wait for each other by
    # spinning: two workers took ten times the CPU time for a training of two threads.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

from fedhelp_edge import doctor, lock
from fedhelp_edge.parcel import age, keys, parcel, sshsig, statement
from tests.clinic import Clinic
from tests.faults import kills
from tests.federation import Federation

MEMORY = Path("/dev/shm")  # a disk that needs no waiting: tests flush thousands of small files
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # jsonschema would build a grammar of IRIs for 2 s
age.WORK_FACTOR = 2  # in this process a passphrase takes no quarter of a second; nobody guesses those of tests
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that started us in the background has it ignored
settings.register_profile("house", deadline=None)  # a slow machine is not a failure
settings.load_profile("house")

LONG = (
    "tests/journeys/", "tests/proofs/", "tests/remedies/test_a_machine.py", "tests/unit/cli/test_torchrun.py",
    "tests/unit/lab/test_ray.py", "tests/unit/server_ref/test_kit.py",
)  # fmt: skip
TRAINING_PACKAGES = ["-m", "fedhelp_edge.knowledge.torchvision_shim"]


@pytest.hookimpl(optionalhook=True)  # there are runs without xdist
def pytest_xdist_auto_num_workers() -> int:
    """Two more than cores, since many tests wait: for programs, sockets and disks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each worker begins with some files of long tests: at the end one would run while the other workers wait."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    files = list(dict.fromkeys(item.path for item in items if item.nodeid.startswith(LONG)))
    others = [item for item in items if item.path not in files]
    share = -(-len(others) // workers)
    items[:] = [
        item
        for worker in range(workers)
        for item in (
            *(item for item in items if item.path in files[worker::workers]),
            *others[worker * share : (worker + 1) * share],
        )
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", action="store_true", help="run the tests marked 'proof' in their full length")


@pytest.fixture(scope="session")
def filled_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Gives a folder that one worker fills; the others wait for it, and none may change it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if worker else base

    def fill(name: str, work: Callable[[Path], None]) -> Path:
        folder, part = shared / name, shared / f"{name}.part"
        with lock.exclusive(shared / f"{name}.lock", wait=600):
            if not folder.exists():
                part.mkdir()
                work(part)
                part.rename(folder)
        return folder

    return fill


@pytest.fixture
def quick_doctor(filled_once: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A doctor in this process asks only once which training packages there are: they take four seconds to import."""
    run_python = doctor._run_python

    def ask(folder: Path) -> None:
        (folder / "answer.json").write_text(json.dumps(run_python(TRAINING_PACKAGES)))

    def run(arguments: list[str], env: dict[str, str] | None = None) -> tuple[str, str]:
        if arguments != TRAINING_PACKAGES:
            return run_python(arguments, env)
        answer, trouble = json.loads((filled_once("training-packages", ask) / "answer.json").read_text())
        return answer, trouble

    monkeypatch.setattr(doctor, "_run_python", run)


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Gives the second of two amounts with --proofs, the first without."""
    return lambda short, full: full if request.config.getoption("--proofs") else short


@pytest.fixture(scope="session")
def site() -> keys.Keys:
    return keys.generate()


@pytest.fixture(scope="session")
def hub() -> keys.Keys:
    return keys.generate()


@pytest.fixture(scope="session")
def federation_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Federation]]:
    """Gives a federation of so many clinics, created once per session; tests copy it."""
    with ExitStack() as made:

        @cache
        def make(clinics: int) -> Federation:
            new = Federation(tmp_path_factory.mktemp("federation") / "made", clinics=clinics)
            made.callback(lambda: new.hub.database.close())
            return new

        yield make


@pytest.fixture(scope="session")
def made(federation_of: Callable[[int], Federation]) -> Federation:
    return federation_of(3)


@pytest.fixture
def three(made: Federation, tmp_path: Path) -> Iterator[Federation]:
    """Three clinics that have joined a hub."""
    with made.temporary_copy(tmp_path / "federation") as three:
        yield three


@pytest.fixture
def fed(federation_of: Callable[[int], Federation], tmp_path: Path) -> Iterator[Federation]:
    """Two clinics that have joined a hub, for tests over HTTP."""
    with federation_of(2).temporary_copy(tmp_path / "federation") as fed:
        yield fed


@pytest.fixture
def client(fed: Federation) -> Iterator[object]:
    """An HTTP client of the front of the `fed` hub."""
    from tests import http_front  # imports packages that only a hub needs

    with http_front.running(fed.hub.home) as port:
        yield http_front.Client(port, fed.hub.federation)


@pytest.fixture
def open_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens updates in this process, which is faster; tests/unit/server_ref/test_sandbox.py tests the sandbox."""
    kills.open_in_this_process(monkeypatch)


@pytest.fixture
def clinic(three: Federation, tmp_path: Path) -> Clinic:
    """A real site that the hub of `three` has invited."""
    return Clinic(three, tmp_path / "clinic")


@pytest.fixture
def context(site: keys.Keys, hub: keys.Keys) -> dict[str, Any]:
    """The context of an update from `site` that only `hub` can open."""
    return statement.new_context(
        "update",
        federation="fh-" + "3c" * 16,
        round=12,
        task="a1" * 32,
        base="9f" * 32,
        sender="site-017",
        sender_key=sshsig.fingerprint(site.public.sign),
        recipients=[hub.public.recipient],
        seq=31,
    )


@pytest.fixture
def signed(tmp_path: Path, context: dict[str, Any], site: keys.Keys) -> Callable[..., Path]:
    """Seals arbitrary bytes as an update with a valid signature; keyword arguments overwrite fields of its payload."""

    def seal(payload: bytes, **changes: Any) -> Path:
        truth = {"sha256": hashlib.sha256(payload).hexdigest(), "size": len(payload)}
        signed_statement = statement.Statement(context, "age", **{**truth, **changes})
        path = tmp_path / "signed.fhx"
        path.write_bytes(parcel._build_prologue(signed_statement, [site.sign]) + payload)
        return path

    return seal
