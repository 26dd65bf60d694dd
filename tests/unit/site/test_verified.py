"""A site's trusted state is read from its folder and verifies new parcels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.parcel import parcel
from fedhelp_edge.site import verified
from tests.attacks.federation import Federation, SignedParcel
from tests.command import json_output, run_in_process


def keep(path: Path, signed: SignedParcel, *signers: Ed25519PrivateKey) -> Path:
    """Writes a parcel into a site's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parcel.seal(path, signed.statement.context, json.dumps(signed.payload).encode(), signers)
    return path


@pytest.fixture
def federation() -> Federation:
    return Federation()


@pytest.fixture
def home(tmp_path: Path, federation: Federation) -> Path:
    """A site that has joined and downloaded the first roster."""
    home = tmp_path / "home"
    keep(home / "charter" / "0001.fhx", federation.charter(), *federation.roots)
    keep(home / "roster" / "0001-0001.fhx", federation.roster(), federation.coordinator)
    return home


def test_before_joining_there_is_no_trusted_state(tmp_path: Path) -> None:
    assert verified.state(tmp_path) is None


def test_the_newest_roster_under_the_pinned_charter_is_what_counts(home: Path, federation: Federation) -> None:
    keep(home / "roster" / "0001-0002.fhx", federation.roster(2), federation.coordinator)
    trusted = verified.state(home)
    assert trusted is not None
    assert trusted.roster is not None
    assert (trusted.charter.federation, trusted.roster.version) == (federation.id, 2)


def test_every_version_of_the_charter_is_followed(home: Path, federation: Federation) -> None:
    keep(home / "charter" / "0002.fhx", federation.charter(after=federation.pinned), *federation.roots)
    (home / "roster" / "0001-0001.fhx").unlink()
    trusted = verified.state(home)
    assert trusted is not None
    assert trusted.charter.version == 2


def test_foreign_parcels_in_the_home_do_not_count_and_are_moved_aside(home: Path, federation: Federation) -> None:
    keep(home / "roster" / "0001-0002.fhx", federation.roster(2), federation.front)
    trusted = verified.state(home)
    assert trusted is not None
    assert trusted.roster is not None
    assert trusted.roster.version == 1
    (repaired,) = verified.repair(home)
    assert (repaired["file"], repaired["code"]) == ("roster/0001-0002.fhx", "E_SIGNER_UNKNOWN")
    assert not (home / "roster" / "0001-0002.fhx").exists()


def test_inspect_trusts_only_the_coordinator_of_the_federation(
    home: Path, federation: Federation, tmp_path: Path
) -> None:
    keep(tmp_path / "theirs.fhx", federation.roster(3), federation.coordinator)
    keep(tmp_path / "stranger.fhx", federation.roster(3), Ed25519PrivateKey.generate())
    assert (
        json_output(run_in_process("inspect", "theirs.fhx", "--home", home, "--json", home=tmp_path))["trusted"] is True
    )
    report = json_output(run_in_process("inspect", "stranger.fhx", "--home", home, "--json", home=tmp_path))
    assert report["trusted"] is False
    assert report["why"].startswith("E_SIGNER_UNKNOWN: ")


def test_a_damaged_folder_is_an_error_not_a_crash(home: Path) -> None:
    (home / "charter" / "0001.fhx").write_bytes(b"")
    with pytest.raises(FedhelpError):
        verified.state(home)
