"""Files written by an earlier version are opened, verified and continued.

The clock is set to an hour after the archive was packed: an expired roster is no matter of formats.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.golden import api
from tests.golden.written import EXTRA, WrittenFederation, predictions, summary

RECORDED: dict[str, Any] = api.read("written")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.unpacked(tmp_path_factory.mktemp("written"))


@pytest.fixture
def written(archive: Path, tmp_path: Path) -> Iterator[WrittenFederation]:
    folder = shutil.copytree(archive, tmp_path / "written", symlinks=True)
    later = datetime.fromisoformat((folder / "moment").read_text()) + timedelta(hours=1)
    with api.narrow_nets(), api.clock(later):
        yield WrittenFederation(folder)


def test_everything_is_read_as_recorded(written: WrittenFederation) -> None:
    """Parcels of every kind, the hub, the site, the audit, the pack, the plan and the model."""
    now = summary(written)
    assert {parcel["kind"] for parcel in now["parcels"].values()} == {
        "charter", "roster", "task", "update", "global", "receipt", "enrol", "knowledge",
    }  # fmt: skip
    differing = [
        path
        for path in values_by_path(RECORDED)
        if not same(values_by_path(now).get(path), values_by_path(RECORDED)[path])
    ]
    assert not differing


def values_by_path(record: Any, at: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Every value of a record by its path, except sentences for people."""
    if isinstance(record, dict):
        rows = [
            (key, value)
            for key, value in record.items()
            if key not in ("means", "sentence", "why", "next", "cause", "reason")
        ]
    elif isinstance(record, list):
        rows = list(enumerate(record))
    else:
        return {at: record}
    return {inner_path: value for key, below in rows for inner_path, value in values_by_path(below, (*at, key)).items()}


def same(now: Any, then: Any) -> bool:
    """Compares values; a net's probabilities may differ in the last digits on another machine."""
    return bool(np.isclose(now, then, atol=1e-4)) if isinstance(then, float) and now is not None else bool(now == then)


def test_training_of_the_open_round_continues_and_its_update_is_sent_and_merged(written: WrittenFederation) -> None:
    before = written.site("status", "--json")
    assert (before["state"], before["round"]) == ("training", 2)
    trained = written.site("train", written.folder / "images.npz", "--threads", "1", "--json")
    assert trained["images"] == EXTRA + 24  # two passes over twelve images, of which the first step was done before
    written.site("upload", "--via", written.carrier)
    assert [row["state"] for row in written.exchange()["decided"]] == ["accepted"]
    merged = written.hub("aggregate", "--now", "--json")
    assert (merged["round"], merged["accepted"]) == (2, ["site-001"])
    written.exchange()
    assert "model after round 2" in written.download()["new"]
    written.hub("audit", "export", "2", written.folder / "audit-2")
    assert written.site("audit", written.folder / "audit-2", "--json")["merged_sha256"] == merged["merged_sha256"]
    written.hub("open")
    written.exchange()
    assert written.site("sync", "--via", written.carrier, "--threads", "1", "--json")["trained"] == 3


def test_a_recorded_invite_admits_a_site(written: WrittenFederation) -> None:
    other = written.folder / "other"
    written.site("join", written.folder / "b.invite", "--no-passphrase", "--via", written.carrier, home=other)
    written.exchange()
    written.site("download", "--via", written.carrier, home=other)
    assert written.site("status", "--json", home=other)["site"] == "site-002"
    assert {row["id"] for row in written.hub("roster", "--json")["sites"]} == {"site-001", "site-002"}


def test_a_recorded_backup_of_the_hub_is_restored_and_its_site_continues(written: WrittenFederation) -> None:
    again = WrittenFederation(written.folder)
    again.hub_home = written.folder / "again"
    again.hub("restore", written.folder / "hub.tar", "--root-key", written.hub_home / "root")
    again.hub("open")
    again.exchange()
    again.download()
    assert again.site("status", "--json")["state"] == "ready"


def test_a_recorded_backup_of_keys_is_restored(written: WrittenFederation) -> None:
    home = written.folder / "back"
    (written.folder / "pass").chmod(0o600)
    written.site(
        "keys", "restore", written.folder / "keys-backup.txt", "--passphrase-file", written.folder / "pass", home=home
    )
    assert {**written.site("keys", "show", "--json", home=home), "locked": False} == RECORDED["keys"]


def test_the_recorded_model_gives_its_recorded_answers(written: WrittenFederation) -> None:
    for now, then in zip(predictions(written), RECORDED["predictions"], strict=True):
        assert (now["file"], now["answer"], now["verdict"]) == (then["file"], then["answer"], then["verdict"])
