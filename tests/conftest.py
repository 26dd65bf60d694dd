"""What tests of every room share: a site's and a hub's keys, and the outside of an update from one to the other."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from tests.clinic import Clinic
from tests.faults import kills
from tests.federation import Federation

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that started us in the background has it ignored
settings.register_profile("house", deadline=None)  # a slow machine is no mistake
settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", action="store_true", help="run the tests marked 'proof' in their full length")


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How much a proof does: little by default, all of it with --proofs."""
    return lambda short, full: full if request.config.getoption("--proofs") else short


@pytest.fixture(scope="session")
def site() -> keys.Keys:
    return keys.generate()


@pytest.fixture(scope="session")
def hub() -> keys.Keys:
    return keys.generate()


@pytest.fixture(scope="session")
def made_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Federation]]:
    """Federations of so many clinics, made once for those who only need a copy."""
    with ExitStack() as made:

        @cache
        def make(clinics: int) -> Federation:
            new = Federation(tmp_path_factory.mktemp("federation") / "made", clinics=clinics)
            made.callback(lambda: new.hub.database.close())
            return new

        yield make


@pytest.fixture(scope="session")
def made(made_of: Callable[[int], Federation]) -> Federation:
    return made_of(3)


@pytest.fixture
def three(made: Federation, tmp_path: Path) -> Iterator[Federation]:
    """Three clinics that joined a hub."""
    with made.lent(tmp_path / "federation") as three:
        yield three


@pytest.fixture
def fed(made_of: Callable[[int], Federation], tmp_path: Path) -> Iterator[Federation]:
    """Two clinics that joined a hub, for tests over its front."""
    with made_of(2).lent(tmp_path / "federation") as fed:
        yield fed


@pytest.fixture
def client(fed: Federation) -> Iterator[object]:
    """A program that speaks with the front of those two's hub."""
    from tests import net  # which needs what only a hub needs

    with net.running(fed.hub.home) as port:
        yield net.Client(port, fed.hub.federation)


@pytest.fixture
def opens_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates are opened in this process, which is quicker; tests/unit/server_ref/test_sandbox.py has the other one."""
    kills.open_here(monkeypatch)


@pytest.fixture
def clinic(three: Federation, tmp_path: Path) -> Clinic:
    """A real site, which those three's hub has invited."""
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
    """Puts any bytes whatever into an update whose outside is right; `said` changes what the statement says of them."""

    def put(payload: bytes, **said: Any) -> Path:
        truth = {"sha256": hashlib.sha256(payload).hexdigest(), "size": len(payload)}
        outside = statement.Statement(context, "age", **{**truth, **said})
        path = tmp_path / "signed.fhx"
        path.write_bytes(parcel._build_prologue(outside, [site.sign]) + payload)
        return path

    return put
