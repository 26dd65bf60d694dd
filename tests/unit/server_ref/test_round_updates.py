"""The opened updates of a round: each is read only as it was judged, or opened anew from what its site sent."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import update
from fedhelp_edge.errors import HubDamagedError
from server_ref.rounds.updates import RoundUpdates

NUMBERS = {"w": np.arange(6, dtype=np.float32)}


def written(path: Path, factor: float = 1) -> str:
    """An opened update, and the hash of its file."""
    file = io.BytesIO()
    update.write(file, {"w": NUMBERS["w"] * np.float32(factor)})
    path.write_bytes(file.getvalue())
    return hashlib.sha256(file.getvalue()).hexdigest()


class Site:
    """One site's opened update, and how often it was opened anew."""

    def __init__(self, path: Path, known: bool = True) -> None:
        self.path, self.opened, self.factor = path, 0, 1.0
        self.hash = written(path)
        header = update.Update(NUMBERS).schema().header
        self.shares = RoundUpdates({"site-001": (path, self.hash if known else "")}, header, self._open)

    def _open(self, site: str) -> str:
        assert site == "site-001"
        self.opened += 1
        return written(self.path, self.factor)

    @property
    def numbers(self) -> list[float]:
        return list(map(float, self.shares["site-001"]["w"]))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "plain.safetensors")


def changed(path: Path) -> None:
    written(path, 7)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def linked(path: Path) -> None:
    """To a file with the same numbers, which another may change whenever it likes."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def test_an_unchanged_update_is_not_opened_again(site: Site) -> None:
    for updates in (site.shares, site.shares, site.shares.subset(["site-001"])):
        assert list(updates["site-001"]["w"]) == [0, 1, 2, 3, 4, 5]
    assert (site.opened, list(site.shares), len(site.shares)) == (0, ["site-001"], 1)


def test_an_update_is_hashed_once_and_again_only_if_its_file_was_touched(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, sha256 = [], hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda data: hashed.append(None) or sha256(data))
    for _ in range(3):
        assert site.numbers == [0, 1, 2, 3, 4, 5]
    assert len(hashed) == 1
    os.utime(site.path, (1, 1))
    assert (site.numbers, len(hashed), site.opened) == ([0, 1, 2, 3, 4, 5], 2, 0)


@pytest.mark.parametrize("change", [changed, emptied, Path.unlink, linked])
@pytest.mark.parametrize("read", [True, False])
def test_a_changed_update_is_opened_again(site: Site, change: Callable[[Path], None], read: bool) -> None:
    """Also after it was read once."""
    assert not read or site.numbers
    change(site.path)
    if change is linked:
        site.shares._reopen = lambda _: site.path.unlink() or site._open("site-001")  # type: ignore[func-returns-value]
    assert (site.numbers, site.opened) == ([0, 1, 2, 3, 4, 5], 1)
    assert (site.numbers, site.opened) == ([0, 1, 2, 3, 4, 5], 1)


def test_an_update_that_opens_to_other_tensors_than_were_judged_is_damage(site: Site) -> None:
    site.path.unlink()
    site.factor = 2
    with pytest.raises(HubDamagedError, match="site-001"):
        _ = site.shares["site-001"]


def test_an_update_that_cannot_be_read_after_it_was_opened_again_is_damage(site: Site) -> None:
    site.path.unlink()
    site.shares._reopen = lambda _: site.hash  # and writes nothing
    with pytest.raises(HubDamagedError, match="site-001"):
        _ = site.shares["site-001"]


def test_an_update_opened_by_an_older_program_without_a_hash_is_opened_again(tmp_path: Path) -> None:
    site = Site(tmp_path / "plain.safetensors", known=False)
    site.factor = 3
    assert (site.numbers, site.opened) == ([0, 3, 6, 9, 12, 15], 1)
    assert (site.numbers, site.opened) == ([0, 3, 6, 9, 12, 15], 1)
