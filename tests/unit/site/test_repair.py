"""F25: a site with damaged or foreign files in its folder is not locked out, and accepts no older parcels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhelp_edge import files
from fedhelp_edge.errors import QuorumError
from fedhelp_edge.parcel import keys, parcel, statement
from fedhelp_edge.site import layout, status, verified
from tests.clinic import Clinic
from tests.federation import Federation


@pytest.fixture(scope="module")
def site_with_a_task(made: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("site")
    with made.temporary_copy(folder / "federation") as three:
        clinic = Clinic(three, folder / "clinic")
        clinic.join_and_fetch_task()
        yield clinic


@pytest.fixture
def site(site_with_a_task: Clinic, tmp_path: Path) -> Iterator[Clinic]:
    """A site with a task."""
    site = site_with_a_task.copy_to(tmp_path)
    yield site
    site.federation.hub.database.close()


def codes(clinic: Clinic) -> set[str]:
    return {refusal["code"] for refusal in clinic.download().refused}


def foreign(home: Path, path: Path) -> None:
    """Writes an intact charter signed by somebody else into the folder."""
    context = statement.new_context("charter", epoch=1, version=2, previous=statement.ZERO_HASH)
    parcel.seal(path, context, b"{}", keys.generate().sign)


def spoil(home: Path, path: Path, how: str) -> None:
    original = path.read_bytes()
    path.unlink()
    match how:
        case "a folder":
            (path / "x").mkdir(parents=True)
        case "a link to nowhere":
            path.symlink_to("nowhere")
        case "another kind":
            other = "roster" if path.parent.name == "task" else "task"
            shutil.copyfile(next((home / other).glob("*.fhx")), path)
        case "another's":
            foreign(home, path)
        case "empty" | "junk" | "cut" | "altered":
            path.write_bytes(
                {"empty": b"", "junk": bytes(99), "cut": original[:-5], "altered": original[:-5] + b"xxxxx"}[how]
            )


BAD = ["empty", "junk", "cut", "altered", "a folder", "a link to nowhere", "another kind", "another's", "gone"]


@pytest.mark.parametrize("kind", ["charter", "roster", "task", "global", "receipt"])
@pytest.mark.parametrize("how", BAD)
def test_f25_damaged_files_are_reported_moved_aside_and_downloaded_again(site: Clinic, kind: str, how: str) -> None:
    path = sorted((site.home / kind).glob("*.fhx"))[-1]
    original, before = path.read_bytes(), status.status(site.home)
    spoil(site.home, path, how)
    status.status(site.home)  # does not read the damaged file
    refused = site.download().refused
    assert [refusal["file"] for refusal in refused] == ([f"{kind}/{path.name}"] if how != "gone" else [])
    assert path.read_bytes() == original
    assert status.status(site.home) == before
    assert site.download().refused == []


@pytest.mark.parametrize(
    "name", ["charter/0002.fhx", "roster/0001-9999.fhx", "task/0001-999999.fhx", "global/0001-x.fhx"]
)
def test_f25_a_foreign_file_locks_no_site_out(site: Clinic, name: str) -> None:
    before = status.status(site.home)
    foreign(site.home, site.home / name)
    assert status.status(site.home) == before
    assert [refusal["file"] for refusal in site.download().refused] == [name]
    assert not (site.home / name).exists()
    assert any((site.home / "aside").iterdir())
    assert status.status(site.home) == before


@pytest.mark.parametrize("kind", ["charter", "roster", "task", "receipt"])
def test_f25_a_file_or_link_in_place_of_a_parcel_folder_is_moved_aside(site: Clinic, kind: str, tmp_path: Path) -> None:
    before = status.status(site.home)
    shutil.move(site.home / kind, tmp_path / "elsewhere")
    (site.home / kind).symlink_to(tmp_path / "elsewhere")
    site.download()
    assert not (site.home / kind).is_symlink()
    assert status.status(site.home) == before


def test_f25_damage_does_not_allow_a_rollback_to_an_older_task(site: Clinic) -> None:
    """The newest task is damaged, and a carrier has only the previous one: refused until the newest arrives."""
    older = {kind: sorted((site.home / kind).glob("*.fhx"))[-1] for kind in ("roster", "task")}
    older_bytes = {path: path.read_bytes() for path in older.values()}
    site.federation.clock.advance(days=8)
    with pytest.raises(QuorumError):  # nobody sent anything
        site.federation.aggregate()
    site.federation.open()
    site.carry_stick()
    site.download()
    task = verified.require_state(site.home).task
    assert task
    assert task.round == 2
    for path in (
        layout.parcel_path(site.home, parcel.inspect(refusal, parcel.any_signer).statement)
        for refusal in older.values()
    ):
        assert path.exists()
    sorted((site.home / "task").glob("*.fhx"))[-1].write_bytes(b"")
    assert verified.require_state(site.home).task is None
    for stale in (site.stick / "from-coordinator").iterdir():
        stale.unlink()
    for path, data in older_bytes.items():
        (site.stick / "from-coordinator" / path.name).write_bytes(data)
        path.unlink()
    assert "E_ROLLBACK" in codes(site)
    assert verified.require_state(site.home).task is None
    site.carry_stick()
    site.download()
    assert verified.require_state(site.home).task == task


@pytest.mark.parametrize("kind", ["charter", "roster", "task"])
def test_f25_a_task_stored_before_a_kill_is_noted_by_the_next_download_and_prevents_a_rollback(
    site: Clinic, kind: str
) -> None:
    noted = verified.newest_verified(site.home)
    rest = {name: entry for name, entry in noted.items() if name != kind}
    files.write_atomic(
        site.home / layout.VERIFIED, json.dumps(rest).encode()
    )  # as after a kill between writing the file and its note
    site.download()
    assert verified.newest_verified(site.home) == noted
