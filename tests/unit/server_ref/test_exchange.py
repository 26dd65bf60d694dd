"""The parcels that a coordinator delivers to sites in a carrier folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fedhelp_edge.exchange.folder import FROM_COORDINATOR
from fedhelp_edge.parcel import parcel
from server_ref.admin import exchange
from server_ref.rounds import lifecycle
from tests.federation import Federation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "stick" / FROM_COORDINATOR


def kinds(folder: Path) -> Counter[str]:
    return Counter(parcel.inspect(path, parcel.any_signer).statement.kind for path in folder.glob("*.fhx"))


def test_the_newest_parcel_of_each_kind_and_every_charter_are_delivered(three: Federation, folder: Path) -> None:
    three.send_updates(three.open())
    three.aggregate()
    task = three.open()
    count = exchange.deliver(three.hub, folder)
    counts = kinds(folder)
    receipts = counts.pop("receipt")
    assert counts == {"charter": 1, "roster": 1, "task": 1, "global": 1}
    assert receipts == 12  # of three requests and three updates, each received and judged
    assert count == 16
    assert (folder / f"{task.hash}.fhx").read_bytes() == three.hub.database.parcel_path(task.hash).read_bytes()


def test_a_second_exchange_rewrites_no_file(three: Federation, folder: Path) -> None:
    exchange.deliver(three.hub, folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.fhx")}
    exchange.deliver(three.hub, folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.fhx")} == before


def test_obsolete_parcels_are_removed_and_foreign_files_stay(three: Federation, folder: Path) -> None:
    first = three.open()
    exchange.deliver(three.hub, folder)
    foreign = [folder / "holiday.jpg", folder / f"{'0' * 64}.fhx", folder / "notes.fhx"]
    for path in foreign:
        path.write_bytes(b"somebody's")
    lifecycle.cancel_round(three.hub, lifecycle.open_round(three.hub))
    second = three.open()
    exchange.deliver(three.hub, folder)
    assert not (folder / f"{first.hash}.fhx").exists()
    assert (folder / f"{second.hash}.fhx").exists()
    assert [path.read_bytes() for path in foreign] == [b"somebody's"] * 3


def test_receipts_of_old_rounds_are_no_longer_delivered(three: Federation, folder: Path) -> None:
    first = three.open()
    three.send_updates(first)
    three.aggregate()
    for _ in range(3):
        lifecycle.cancel_round(
            three.hub, three.hub.database.rows("SELECT * FROM rounds WHERE round = ?", three.open().round)[0]
        )
    exchange.deliver(three.hub, folder)
    subjects = {
        parcel.inspect(path, parcel.any_signer).statement.context["about"]
        for path in folder.glob("*.fhx")
        if parcel.inspect(path, parcel.any_signer).statement.kind == "receipt"
    }
    updates = {row["hash"] for row in three.hub.database.rows("SELECT hash FROM shares")}
    assert subjects & updates == set()
    assert len(subjects) == 3  # of the requests
