"""Faults C17-C19 of the catalogue: a stranger's files among the coordinator's, on a stick that a site reads."""

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
def stick_folder(clinic: Clinic) -> Path:
    """The folder on the stick for a clinic that has joined; a round is open."""
    clinic.join()
    clinic.carry_stick()
    clinic.federation.open()
    clinic.carry_stick()
    return clinic.stick / FROM_COORDINATOR


def signed_again(path: Path, thief: keys.Keys) -> bytes:
    """The same statement and payload, signed by somebody else."""
    inspected = parcel.inspect(path, parcel.any_signer)
    statement = inspected.statement
    armor = sshsig.sign(statement.line, thief.sign, statement.namespace).encode()
    return parcel.MAGIC + statement.line + b"\n" + armor + path.read_bytes()[inspected.offset :]


def write_foreign_parcel(kind: str, clinic: Clinic, thief: keys.Keys, size: int, path: Path) -> None:
    """Writes a stranger's file with a payload of `size` zeros, which take no space on the disk."""
    context = statement.new_context(kind, federation=clinic.federation.hub.federation)
    claim = statement.create(context, "0" * 64, size)
    with path.open("wb") as file:
        file.write(parcel.MAGIC + claim.line + b"\n" + sshsig.sign(claim.line, thief.sign, claim.namespace).encode())
        file.truncate(file.tell() + size)


def test_c17_a_site_reads_only_the_signatures_of_a_strangers_file(
    clinic: Clinic, stick_folder: Path, thief: keys.Keys
) -> None:
    write_foreign_parcel("knowledge", clinic, thief, 200 << 20, stick_folder / "0")
    assert [refusal["code"] for refusal in clinic.download().refused] == [
        "E_SIGNER_UNKNOWN"
    ]  # its payload was not read
    assert clinic.state == status.READY


def test_c17_an_oversized_receipt_is_refused_whoever_signed_it(clinic: Clinic, stick_folder: Path) -> None:
    hub = clinic.federation.hub
    (request,) = (clinic.home / "request").glob("*.fhx")
    context = statement.new_context("receipt", federation=hub.federation, epoch=1, sender="front", about=request.stem)
    parcel.seal(
        stick_folder / "0", context, b'{"state": "received", "why": "' + b"x" * (1 << 20) + b'"}', hub.front_keys().sign
    )
    assert [refusal["code"] for refusal in clinic.download().refused] == ["E_PAYLOAD_SIZE"]
    assert clinic.state == status.READY


@pytest.mark.parametrize("names", ["0{}", "z{}"], ids=["before it", "behind it"])
def test_c18_a_statement_signed_again_by_another_hides_no_genuine_parcel(
    clinic: Clinic, stick_folder: Path, thief: keys.Keys, names: str
) -> None:
    genuine = sorted(stick_folder.glob("*.fhx"))
    for path in genuine:
        (stick_folder / names.format(path.name)).write_bytes(signed_again(path, thief))
    downloaded = clinic.download()
    assert {refusal["code"] for refusal in downloaded.refused} <= {"E_SIGNER_UNKNOWN", "E_ROLE"}
    assert clinic.state == status.READY
    assert clinic.download().new == []


def test_c18_a_file_with_a_known_name_does_not_hide_a_new_parcel(clinic: Clinic, stick_folder: Path) -> None:
    clinic.download()
    held_hash = min(inbox.held_hashes(clinic.home))
    lifecycle.cancel_round(clinic.federation.hub, lifecycle.open_round(clinic.federation.hub))
    task = clinic.federation.open()
    clinic.carry_stick()
    (stick_folder / f"{task.hash}.fhx").replace(stick_folder / f"{held_hash}.fhx")
    clinic.download()
    assert status.status(clinic.home)["round"] == task.round


def test_c19_a_code_finds_its_charter_among_those_of_others(
    clinic: Clinic, stick_folder: Path, thief: keys.Keys, tmp_path: Path
) -> None:
    hub, other = clinic.federation.hub, Federation(tmp_path / "other", clinics=0)
    code, _ = members.invite(hub, "Clinic 5", "small", 14)
    clinic.carry_stick()
    (charter,) = (
        path
        for path in stick_folder.glob("*.fhx")
        if parcel.inspect(path, parcel.any_signer).statement.kind == "charter"
    )
    (stick_folder / "0").write_bytes(signed_again(charter, thief))
    shutil.copy(other.hub.database.parcel_path(other.hub.newest_parcel("charter")["hash"]), stick_folder / "00")
    write_foreign_parcel("knowledge", clinic, thief, 200 << 20, stick_folder / "000")
    (stick_folder / "0000").mkdir()
    invite = membership.resolve_invite(tmp_path / "new", code, via=clinic.stick)
    assert invite.federation == hub.federation
    assert [len(data) for data in invite.charters] == [charter.stat().st_size]
    other.hub.database.close()
