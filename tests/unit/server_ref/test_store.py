"""What a hub remembers: all of a change or nothing, and what a crash leaves behind."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhelp_edge.errors import NoHubError
from fedhelp_edge.trust.log import Log
from server_ref.hub.database import HubDatabase
from tests.federation import Federation


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HubDatabase]:
    (tmp_path / "parcels" / "aa").mkdir(parents=True)
    made = HubDatabase(tmp_path, new=True)
    yield made
    made.close()


def test_a_folder_without_a_database_is_no_hub_and_does_not_become_one(tmp_path: Path) -> None:
    with pytest.raises(NoHubError):
        HubDatabase(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_a_change_that_fails_nothing_is_kept(store: HubDatabase) -> None:
    with pytest.raises(ValueError, match="midway"), store.transaction():
        store.set_fact("url", "somewhere")
        store.log("2026-03-01T08:00:00Z", "test", "midway")
        with store.transaction():  # a part of the same change
            store.set_fact("plan", "text")
        raise ValueError("midway")
    assert (store.fact("url"), store.fact("plan"), store.head()) == ("", "", Log())


def test_what_is_kept_is_there_for_whoever_opens_it_next_and_not_before(store: HubDatabase) -> None:
    other = HubDatabase(store.home)
    with store.transaction():
        store.set_fact("seq site-001", "first")
        assert other.fact("seq site-001", "none yet") == "none yet"
    assert other.fact("seq site-001") == "first"
    with other.transaction():
        other.set_fact("seq site-001", "second")
    assert store.fact("seq site-001") == "second"
    other.close()


def test_the_log_goes_on_from_its_last_line(store: HubDatabase) -> None:
    heads = []
    for number in range(1, 4):
        with store.transaction():
            log = store.log("2026-03-01T08:00:00Z", "test", f"line {number}", number=number)
        assert log.length == number
        heads.append(log.head)
    assert len(set(heads)) == 3
    assert store.verify_log() == store.head() == Log(3, heads[-1])
    assert [line["detail"] for line, _ in store.lines()] == [{"number": 1}, {"number": 2}, {"number": 3}]


def test_two_rows_of_one_parcel_are_a_mistake_of_ours_and_not_hidden(store: HubDatabase) -> None:
    row = "INSERT INTO parcels VALUES ('a', 'update', 1, '', '')"
    store.run(row)
    with pytest.raises(sqlite3.IntegrityError):
        store.run(row)


def test_what_a_crash_left_goes_only_once_nobody_can_be_at_work_on_it(store: HubDatabase) -> None:
    left = [store.parcel_path("aa" * 32), store.home / ".1234.part", store.home / "parcels" / ".5678.part"]
    for path in left:
        path.write_bytes(b"left")
    store.reconcile()
    assert all(path.exists() for path in left)
    for path in left:
        os.utime(path, (0, 0))
    store.reconcile()
    assert not any(path.exists() for path in left)


def test_what_a_row_speaks_of_stays_however_old_it_is(three: Federation) -> None:
    kept = sorted((three.hub.home / "parcels").glob("*/*"))
    for path in kept:
        os.utime(path, (0, 0))
    three.hub.database.reconcile()
    assert sorted((three.hub.home / "parcels").glob("*/*")) == kept
