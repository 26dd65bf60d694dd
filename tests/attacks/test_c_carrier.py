"""Faults C17 to C19 of the catalogue: a stranger's files among the coordinator's, on a stick that a site takes in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedhelp_edge.exchange.folder import FROM_COORDINATOR
from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from fedhelp_edge.site import inbox, membership, status
from server_ref.hub import members
from server_ref.rounds import lifecycle
from tests.clinic import Clinic
from tests.federation import Federation


@pytest.fixture
def thief() -> keys.Keys:
    return keys.generate()


@pytest.fixture
def sent(clinic: Clinic) -> Path:
    """What a stick brings to a clinic that joined: a round is open."""
    clinic.join()
    clinic.carry_stick()
    clinic.federation.open()
    clinic.carry_stick()
    return clinic.stick / FROM_COORDINATOR


def signed_again(path: Path, thief: keys.Keys) -> bytes:
    """The same statement and payload, signed by another."""
    seen = parcel.inspect(path, parcel.any_signer)
    statement = seen.statement
    armor = sshsig.sign(statement.line, thief.sign, statement.namespace).encode()
    return parcel.MAGIC + statement.line + b"\n" + armor + path.read_bytes()[seen.offset :]


def claimed(kind: str, clinic: Clinic, thief: keys.Keys, size: int, path: Path) -> None:
    """A stranger's file that says it has `size` bytes of payload, and has: they are zeros that take no room."""
    context = statement.new_context(kind, federation=clinic.federation.hub.federation)
    said = statement.create(context, "0" * 64, size)
    with path.open("wb") as file:
        file.write(parcel.MAGIC + said.line + b"\n" + sshsig.sign(said.line, thief.sign, said.namespace).encode())
        file.truncate(file.tell() + size)


def test_c17_a_site_reads_only_the_signatures_of_a_strangers_file(clinic: Clinic, sent: Path, thief: keys.Keys) -> None:
    claimed("knowledge", clinic, thief, 200 << 20, sent / "0")
    assert [one["code"] for one in clinic.download().refused] == ["E_SIGNER_UNKNOWN"]  # its payload was not looked at
    assert clinic.state == status.READY


def test_c17_a_receipt_is_small_whoever_signed_it(clinic: Clinic, sent: Path) -> None:
    hub = clinic.federation.hub
    (request,) = (clinic.home / "request").glob("*.fhx")
    context = statement.new_context("receipt", federation=hub.federation, epoch=1, sender="front", about=request.stem)
    parcel.seal(
        sent / "0", context, b'{"state": "received", "why": "' + b"x" * (1 << 20) + b'"}', hub.front_keys().sign
    )
    assert [one["code"] for one in clinic.download().refused] == ["E_PAYLOAD_SIZE"]
    assert clinic.state == status.READY


@pytest.mark.parametrize("names", ["0{}", "z{}"], ids=["before it", "behind it"])
def test_c18_a_statement_that_another_signed_again_hides_no_genuine_parcel(
    clinic: Clinic, sent: Path, thief: keys.Keys, names: str
) -> None:
    genuine = sorted(sent.glob("*.fhx"))
    for path in genuine:
        (sent / names.format(path.name)).write_bytes(signed_again(path, thief))
    taken = clinic.download()
    assert {one["code"] for one in taken.refused} <= {"E_SIGNER_UNKNOWN", "E_ROLE"}
    assert clinic.state == status.READY
    assert clinic.download().new == []


def test_c18_a_file_with_a_known_name_does_not_hide_a_new_parcel(clinic: Clinic, sent: Path) -> None:
    clinic.download()
    known = min(inbox.held_hashes(clinic.home))
    lifecycle.cancel_round(clinic.federation.hub, lifecycle.open_round(clinic.federation.hub))
    task = clinic.federation.open()
    clinic.carry_stick()
    (sent / f"{task.hash}.fhx").replace(sent / f"{known}.fhx")
    clinic.download()
    assert status.status(clinic.home)["round"] == task.round


def test_c19_a_code_finds_its_charter_among_those_of_others(
    clinic: Clinic, sent: Path, thief: keys.Keys, tmp_path: Path
) -> None:
    hub, other = clinic.federation.hub, Federation(tmp_path / "other", clinics=0)
    code, _ = members.invite(hub, "Clinic 5", "small", 14)
    clinic.carry_stick()
    (charter,) = (
        path for path in sent.glob("*.fhx") if parcel.inspect(path, parcel.any_signer).statement.kind == "charter"
    )
    (sent / "0").write_bytes(signed_again(charter, thief))
    shutil.copy(other.hub.database.parcel_path(other.hub.newest_parcel("charter")["hash"]), sent / "00")
    claimed("knowledge", clinic, thief, 200 << 20, sent / "000")
    (sent / "0000").mkdir()
    found = membership.resolve_invite(tmp_path / "new", code, via=clinic.stick)
    assert found.federation == hub.federation
    assert [len(data) for data in found.charters] == [charter.stat().st_size]
    other.hub.database.close()
