"""What an earlier version had written is opened, verified and gone on with.

The archive's federation lives on an hour after it was packed: an expired roster is no matter of formats.
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
from tests.golden.written import EXTRA, Desk, predictions, told

RECORDED: dict[str, Any] = api.read("written")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.unpacked(tmp_path_factory.mktemp("written"))


@pytest.fixture
def desk(archive: Path, tmp_path: Path) -> Iterator[Desk]:
    folder = shutil.copytree(archive, tmp_path / "written", symlinks=True)
    later = datetime.fromisoformat((folder / "moment").read_text()) + timedelta(hours=1)
    with api.narrow_nets(), api.clock(later):
        yield Desk(folder)


def test_everything_is_read_as_what_it_was(desk: Desk) -> None:
    """Parcels of every kind, the hub, the site, the audit, the pack, the plan and the model."""
    now = told(desk)
    assert {one["kind"] for one in now["parcels"].values()} == {
        "charter", "roster", "task", "update", "global", "receipt", "enrol", "knowledge",
    }  # fmt: skip
    differing = [at for at in found(RECORDED) if not same(found(now).get(at), found(RECORDED)[at])]
    assert not differing


def found(record: Any, at: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Every value in a record, by its path; sentences for people may be worded anew."""
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
    return {path: value for key, below in rows for path, value in found(below, (*at, key)).items()}


def same(now: Any, then: Any) -> bool:
    """Probabilities were computed by a net, and on another machine may differ in their last digits."""
    return bool(np.isclose(now, then, atol=1e-4)) if isinstance(then, float) and now is not None else bool(now == then)


def test_the_open_round_is_trained_on_sent_and_merged(desk: Desk) -> None:
    before = desk.site("status", "--json")
    assert (before["state"], before["round"]) == ("training", 2)
    trained = desk.site("train", desk.folder / "images.npz", "--threads", "1", "--json")
    assert trained["images"] == EXTRA + 24  # two passes over twelve images, of which the first step was taken before
    desk.site("upload", "--via", desk.carrier)
    assert [one["state"] for one in desk.exchange()["decided"]] == ["accepted"]
    merged = desk.hub("aggregate", "--now", "--json")
    assert (merged["round"], merged["accepted"]) == (2, ["site-001"])
    desk.exchange()
    assert "model after round 2" in desk.download()["new"]
    desk.hub("audit", "export", "2", desk.folder / "audit-2")
    assert desk.site("audit", desk.folder / "audit-2", "--json")["merged_sha256"] == merged["merged_sha256"]
    desk.hub("open")
    desk.exchange()
    assert desk.site("sync", "--via", desk.carrier, "--threads", "1", "--json")["trained"] == 3


def test_an_invite_of_that_day_lets_a_site_in(desk: Desk) -> None:
    other = desk.folder / "other"
    desk.site("join", desk.folder / "b.invite", "--no-passphrase", "--via", desk.carrier, home=other)
    desk.exchange()
    desk.site("download", "--via", desk.carrier, home=other)
    assert desk.site("status", "--json", home=other)["site"] == "site-002"
    assert {one["id"] for one in desk.hub("roster", "--json")["sites"]} == {"site-001", "site-002"}


def test_a_backup_of_the_hub_comes_back_and_its_site_follows(desk: Desk) -> None:
    again = Desk(desk.folder)
    again.hub_home = desk.folder / "again"
    again.hub("restore", desk.folder / "hub.tar", "--root-key", desk.hub_home / "root")
    again.hub("open")
    again.exchange()
    again.download()
    assert again.site("status", "--json")["state"] == "ready"


def test_a_backup_of_the_keys_comes_back(desk: Desk) -> None:
    home = desk.folder / "back"
    (desk.folder / "pass").chmod(0o600)
    desk.site("keys", "restore", desk.folder / "keys-backup.txt", "--passphrase-file", desk.folder / "pass", home=home)
    assert {**desk.site("keys", "show", "--json", home=home), "locked": False} == RECORDED["keys"]


def test_the_model_answers_as_it_did(desk: Desk) -> None:
    for now, then in zip(predictions(desk), RECORDED["predictions"], strict=True):
        assert (now["file"], now["answer"], now["verdict"]) == (then["file"], then["answer"], then["verdict"])
