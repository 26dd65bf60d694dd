"""What a site has verified is read again from its folder, and judges what it is handed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.parcel import parcel
from fedhelp_edge.site import verified
from tests.attacks.federation import Federation, SignedParcel
from tests.command import answer, here


def keep(path: Path, news: SignedParcel, *signers: Ed25519PrivateKey) -> Path:
    """Put news where a site keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parcel.seal(path, news.statement.context, json.dumps(news.payload).encode(), signers)
    return path


@pytest.fixture
def federation() -> Federation:
    return Federation()


@pytest.fixture
def home(tmp_path: Path, federation: Federation) -> Path:
    """A site that joined and downloaded the first roster."""
    home = tmp_path / "home"
    keep(home / "charter" / "0001.fhx", federation.charter(), *federation.roots)
    keep(home / "roster" / "0001-0001.fhx", federation.roster(), federation.coordinator)
    return home


def test_before_joining_there_is_nothing_to_go_by(tmp_path: Path) -> None:
    assert verified.state(tmp_path) is None


def test_the_newest_roster_under_the_pinned_charter_is_what_counts(home: Path, federation: Federation) -> None:
    keep(home / "roster" / "0001-0002.fhx", federation.roster(2), federation.coordinator)
    known = verified.state(home)
    assert known is not None
    assert known.roster is not None
    assert (known.charter.federation, known.roster.version) == (federation.id, 2)


def test_every_version_of_the_charter_is_followed(home: Path, federation: Federation) -> None:
    keep(home / "charter" / "0002.fhx", federation.charter(after=federation.pinned), *federation.roots)
    (home / "roster" / "0001-0001.fhx").unlink()
    known = verified.state(home)
    assert known is not None
    assert known.charter.version == 2


def test_news_of_another_hand_in_the_folder_count_for_nothing_and_are_put_aside(
    home: Path, federation: Federation
) -> None:
    keep(home / "roster" / "0001-0002.fhx", federation.roster(2), federation.front)
    known = verified.state(home)
    assert known is not None
    assert known.roster is not None
    assert known.roster.version == 1
    (told,) = verified.repair(home)
    assert (told["file"], told["code"]) == ("roster/0001-0002.fhx", "E_SIGNER_UNKNOWN")
    assert not (home / "roster" / "0001-0002.fhx").exists()


def test_inspect_trusts_the_coordinator_of_the_federation_and_nobody_elses(
    home: Path, federation: Federation, tmp_path: Path
) -> None:
    keep(tmp_path / "theirs.fhx", federation.roster(3), federation.coordinator)
    keep(tmp_path / "stranger.fhx", federation.roster(3), Ed25519PrivateKey.generate())
    assert answer(here("inspect", "theirs.fhx", "--home", home, "--json", home=tmp_path))["trusted"] is True
    found = answer(here("inspect", "stranger.fhx", "--home", home, "--json", home=tmp_path))
    assert found["trusted"] is False
    assert found["why"].startswith("E_SIGNER_UNKNOWN: ")


def test_a_damaged_folder_is_an_error_not_a_crash(home: Path) -> None:
    (home / "charter" / "0001.fhx").write_bytes(b"")
    with pytest.raises(FedhelpError):
        verified.state(home)
