"""Joining by a typed code, and leaving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhelp_edge.errors import (
    BadInviteError,
    InviteCodeError,
    InviteProofError,
    NoCarrierError,
    NotJoinedError,
    NotYetError,
)
from fedhelp_edge.exchange.folder import CHARTER_PROOFS, FROM_COORDINATOR
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import connection, inbox, layout, membership, outbox, status, verified
from server_ref.admin import exchange
from server_ref.hub import members
from server_ref.intake import judge
from tests import http_front
from tests.federation import Federation, nobody


@pytest.fixture
def federation(made: Federation, tmp_path: Path) -> Iterator[Federation]:
    copy = made.copy_to(tmp_path / "coordinator")
    yield copy
    copy.hub.database.close()


@pytest.fixture
def stick(federation: Federation, tmp_path: Path) -> Path:
    return tmp_path / "stick"


def code_of(federation: Federation, stick: Path, tier: str = "small") -> str:
    code, _ = members.invite(federation.hub, "Typed", tier, 14)
    exchange.exchange(federation.hub, stick)
    return code


def join(home: Path, invite: membership.InviteFile) -> Path:
    return membership.join(home, invite, "Typed", lambda: None)


def test_a_spoken_code_joins_with_the_charter_on_a_stick(federation: Federation, stick: Path, tmp_path: Path) -> None:
    spoken = code_of(federation, stick).lower().replace("-", " ")
    home = tmp_path / "clinic"
    join(home, membership.resolve_invite(home, spoken, via=stick))
    outbox.upload(home, connection.carriers(home, nobody, via=stick))
    exchange.exchange(federation.hub, stick)
    judge.judge_waiting(federation.hub, federation.coordinator_keys)
    exchange.exchange(federation.hub, stick)
    inbox.download(home, connection.carriers(home, nobody), nobody)
    assert status.status(home)["site"] == "site-004"


def test_a_code_joins_over_the_network_and_gets_its_receipt_and_roster(
    federation: Federation, stick: Path, tmp_path: Path
) -> None:
    code, home = code_of(federation, stick), tmp_path / "clinic"
    with http_front.running(federation.folder / "hub") as port:
        url = f"http://127.0.0.1:{port}"
        join(home, membership.resolve_invite(home, code, url=url))
        assert len(outbox.upload(home, connection.carriers(home, nobody))) == 1
        assert len(outbox.pending(home)) == 1
        assert [decision["state"] for decision in judge.judge_waiting(federation.hub, federation.coordinator_keys)] == [
            "approved"
        ]
        inbox.download(home, connection.carriers(home, nobody), nobody)
    assert outbox.pending(home) == []
    assert status.status(home)["site"] == "site-004"


def test_a_charter_from_somebody_without_the_code_is_refused(
    federation: Federation, stick: Path, tmp_path: Path
) -> None:
    code = code_of(federation, stick)
    (stick / FROM_COORDINATOR / CHARTER_PROOFS).write_text("{}")
    with pytest.raises(InviteProofError):
        membership.resolve_invite(tmp_path / "clinic", code, via=stick)
    (stick / FROM_COORDINATOR / CHARTER_PROOFS).write_text("[]")
    with pytest.raises(InviteProofError):
        membership.resolve_invite(tmp_path / "clinic", code, via=stick)


def test_the_front_gives_no_charter_proof_for_a_used_invite(
    federation: Federation, stick: Path, tmp_path: Path
) -> None:
    code, home = code_of(federation, stick), tmp_path / "clinic"
    join(home, membership.resolve_invite(home, code, via=stick))
    outbox.upload(home, connection.carriers(home, nobody, via=stick))
    exchange.exchange(federation.hub, stick)
    judge.judge_waiting(federation.hub, federation.coordinator_keys)
    exchange.exchange(federation.hub, stick)
    with pytest.raises(InviteProofError):
        membership.resolve_invite(tmp_path / "other", code, via=stick)


def test_a_code_with_a_wrong_letter_or_without_a_carrier_is_refused(
    federation: Federation, stick: Path, tmp_path: Path
) -> None:
    code = code_of(federation, stick)
    with pytest.raises(NoCarrierError):
        membership.resolve_invite(tmp_path, code)
    with pytest.raises(InviteCodeError):
        membership.resolve_invite(tmp_path, code[:-1] + ("A" if code[-1] != "A" else "B"), via=stick)
    (stick / FROM_COORDINATOR).rename(stick / "elsewhere")
    with pytest.raises(NotYetError):
        membership.resolve_invite(tmp_path, code, via=stick)


def test_a_site_that_leaves_keeps_its_files_and_may_join_again(
    federation: Federation, stick: Path, tmp_path: Path
) -> None:
    home = tmp_path / "clinic"
    sealed = join(home, membership.resolve_invite(home, code_of(federation, stick), via=stick))
    aside = membership.leave(home)
    assert (aside / "request" / sealed.name).exists()
    assert (aside / "keys.txt").exists()
    with pytest.raises(NotJoinedError):
        membership.leave(home)
    join(home, membership.resolve_invite(home, code_of(federation, stick), via=stick))
    assert membership.leave(home) != aside
    assert verified.state(home) is None


def test_an_interrupted_leave_continues(federation: Federation, stick: Path, tmp_path: Path) -> None:
    home = tmp_path / "clinic"
    join(home, membership.resolve_invite(home, code_of(federation, stick), via=stick))
    (home / "left" / "001").mkdir(parents=True)
    (home / "keys.pub").rename(home / "left" / "001" / "keys.pub")
    assert membership.leave(home) == home / "left" / "001"
    assert (home / "left" / "001" / "charter").is_dir()
    assert {path.name for path in home.iterdir()} <= {"left", layout.LOCK}


def test_the_network_is_used_again_once_an_address_is_named(
    federation: Federation, stick: Path, tmp_path: Path
) -> None:
    home = tmp_path / "clinic"
    join(home, membership.resolve_invite(home, code_of(federation, stick), via=stick))
    connection.save(home, via=stick)
    connection.save(home, url="https://hub.example.org")
    assert connection.read(home)["url"] == "https://hub.example.org"
    assert "via" not in connection.read(home)
    assert isinstance(connection.carriers(home, nobody)[0], HttpCarrier)


def test_an_invalid_invite_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "FH1.invite").write_text("{}")
    with pytest.raises(BadInviteError):
        membership.resolve_invite(tmp_path, str(tmp_path / "FH1.invite"))


def test_new_keys_also_work_over_the_network(federation: Federation, stick: Path, tmp_path: Path) -> None:
    code, home = code_of(federation, stick), tmp_path / "clinic"
    with http_front.running(federation.folder / "hub") as port:
        join(home, membership.resolve_invite(home, code, url=f"http://127.0.0.1:{port}"))
        old = keys.load_public(home)
        for step in ("join", "change"):
            if step == "change":
                membership.request_new_keys(home, nobody)
            outbox.upload(home, connection.carriers(home, nobody))
            judge.judge_waiting(federation.hub, federation.coordinator_keys)
            inbox.download(home, connection.carriers(home, nobody), nobody)
        assert keys.load_public(home) != old
        assert inbox.download(home, connection.carriers(home, nobody), nobody).refused == []
    assert status.status(home)["site"] == "site-004"
    assert outbox.pending(home) == []
