"""The hub's database: a change is stored whole or not at all, and leftovers of a crash are removed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhelp_edge.errors import NoHubError
from fedhelp_edge.trust.log import Log
from server_ref.hub.database import HubDatabase
from server_ref.hub.tables import log_table
from tests.federation import Federation


@pytest.fixture
def database(tmp_path: Path) -> Iterator[HubDatabase]:
    (tmp_path / "parcels" / "aa").mkdir(parents=True)
    created = HubDatabase(tmp_path, new=True)
    yield created
    created.close()


def test_a_folder_without_a_database_is_not_a_hub_and_does_not_become_one(tmp_path: Path) -> None:
    with pytest.raises(NoHubError):
        HubDatabase(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_transaction_that_fails_changes_nothing(database: HubDatabase) -> None:
    with pytest.raises(ValueError, match="midway"), database.transaction():
        database.set_fact("url", "somewhere")
        log_table.add(database, "2026-03-01T08:00:00Z", "test", "midway", {})
        with database.transaction():  # a part of the same change
            database.set_fact("plan", "text")
        raise ValueError("midway")
    assert (database.fact("url"), database.fact("plan"), log_table.head(database)) == ("", "", Log())


def test_others_see_a_change_once_it_is_committed_and_not_before(database: HubDatabase) -> None:
    other = HubDatabase(database.home)
    with database.transaction():
        database.set_fact("seq site-001", "first")
        assert other.fact("seq site-001", "none yet") == "none yet"
    assert other.fact("seq site-001") == "first"
    with other.transaction():
        other.set_fact("seq site-001", "second")
    assert database.fact("seq site-001") == "second"
    other.close()


def test_each_line_of_the_log_continues_the_last_one(database: HubDatabase) -> None:
    heads = []
    for number in range(1, 4):
        with database.transaction():
            log = log_table.add(database, "2026-03-01T08:00:00Z", "test", f"line {number}", {"number": number})
        assert log.length == number
        heads.append(log.head)
    assert len(set(heads)) == 3
    assert log_table.verify(database) == log_table.head(database) == Log(3, heads[-1])
    assert [line["detail"] for line, _ in log_table.lines(database)] == [{"number": 1}, {"number": 2}, {"number": 3}]


def test_a_second_row_for_one_parcel_is_an_error(database: HubDatabase) -> None:
    row = "INSERT INTO parcels VALUES ('a', 'update', 1, '', '')"
    database.run(row)
    with pytest.raises(sqlite3.IntegrityError):
        database.run(row)


def test_leftovers_of_a_crash_are_removed_after_an_hour(database: HubDatabase) -> None:
    leftovers = [
        database.parcel_path("aa" * 32),
        database.home / ".1234.part",
        database.home / "parcels" / ".5678.part",
    ]
    for path in leftovers:
        path.write_bytes(b"left")
    database.reconcile()
    assert all(path.exists() for path in leftovers)
    for path in leftovers:
        os.utime(path, (0, 0))
    database.reconcile()
    assert not any(path.exists() for path in leftovers)


def test_a_parcel_with_a_row_stays_however_old_it_is(three: Federation) -> None:
    parcel_paths = sorted((three.hub.home / "parcels").glob("*/*"))
    for path in parcel_paths:
        os.utime(path, (0, 0))
    three.hub.database.reconcile()
    assert sorted((three.hub.home / "parcels").glob("*/*")) == parcel_paths
