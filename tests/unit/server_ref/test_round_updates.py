"""The opened updates of a round: each is read as it was judged, or opened again from its parcel."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import update
from fedhelp_edge.errors import HubDamagedError
from fedhelp_edge.parcel import age
from server_ref.intake import tags
from server_ref.rounds.updates import RoundUpdates

NUMBERS = {"w": np.arange(6, dtype=np.float32)}
IDENTITY, HASH = age.new_identity(), "ab" * 32


def write_opened(path: Path, factor: float = 1) -> str:
    """Writes an opened update; returns the tag of its file."""
    file = io.BytesIO()
    update.write(file, {"w": NUMBERS["w"] * np.float32(factor)})
    path.write_bytes(file.getvalue())
    return tags.tag(IDENTITY, HASH, file.getvalue())


class OpenedSite:
    """One site's opened update; counts how often it is opened again."""

    def __init__(self, path: Path, has_tag: bool = True) -> None:
        self.path, self.opened, self.factor = path, 0, 1.0
        self.tag = write_opened(path)
        header = update.schema_of(NUMBERS).header
        self.verified = 0
        self.updates = RoundUpdates({"site-001": (path, self.tag if has_tag else "")}, header, self._fits, self._open)

    def _fits(self, site: str, tag: str, content: mmap) -> bool:
        assert site == "site-001"
        self.verified += 1
        return tags.fits(tag, IDENTITY, HASH, content)

    def _open(self, site: str) -> str:
        assert site == "site-001"
        self.opened += 1
        return write_opened(self.path, self.factor)

    @property
    def numbers(self) -> list[float]:
        return list(map(float, self.updates["site-001"]["w"]))


@pytest.fixture
def site(tmp_path: Path) -> OpenedSite:
    return OpenedSite(tmp_path / "plain.safetensors")


def change_file(path: Path) -> None:
    write_opened(path, 7)


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_link(path: Path) -> None:
    """Replaces the file by a link to equal content that another user may change at any time."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def test_an_unchanged_update_is_not_opened_again(site: OpenedSite) -> None:
    for updates in (site.updates, site.updates, site.updates.subset(["site-001"])):
        assert list(updates["site-001"]["w"]) == [0, 1, 2, 3, 4, 5]
    assert (site.opened, list(site.updates), len(site.updates)) == (0, ["site-001"], 1)


def test_an_update_is_verified_once_and_again_only_if_its_file_was_touched(site: OpenedSite) -> None:
    for _ in range(3):
        assert site.numbers == [0, 1, 2, 3, 4, 5]
    assert site.verified == 1
    os.utime(site.path, (1, 1))
    assert (site.numbers, site.verified, site.opened) == ([0, 1, 2, 3, 4, 5], 2, 0)


@pytest.mark.parametrize("change", [change_file, empty_file, Path.unlink, replace_by_link])
@pytest.mark.parametrize("read", [True, False])
def test_a_changed_update_is_opened_again(site: OpenedSite, change: Callable[[Path], None], read: bool) -> None:
    """Also after it was read once."""
    assert not read or site.numbers
    change(site.path)
    if change is replace_by_link:
        site.updates._reopen = lambda _: site.path.unlink() or site._open("site-001")  # type: ignore[func-returns-value]
    assert (site.numbers, site.opened) == ([0, 1, 2, 3, 4, 5], 1)
    assert (site.numbers, site.opened) == ([0, 1, 2, 3, 4, 5], 1)


def test_an_update_that_opens_to_other_tensors_than_were_judged_is_damage(site: OpenedSite) -> None:
    site.path.unlink()
    site.factor = 2
    with pytest.raises(HubDamagedError, match="site-001"):
        _ = site.updates["site-001"]


def test_an_update_that_cannot_be_read_after_reopening_is_damage(site: OpenedSite) -> None:
    site.path.unlink()
    site.updates._reopen = lambda _: site.tag  # reopening writes nothing
    with pytest.raises(HubDamagedError, match="site-001"):
        _ = site.updates["site-001"]


def test_an_update_opened_by_an_older_program_without_a_tag_is_opened_again(tmp_path: Path) -> None:
    site = OpenedSite(tmp_path / "plain.safetensors", has_tag=False)
    site.factor = 3
    assert (site.numbers, site.opened) == ([0, 3, 6, 9, 12, 15], 1)
    assert (site.numbers, site.opened) == ([0, 3, 6, 9, 12, 15], 1)


def test_a_tag_fits_one_content_of_one_update_under_one_key() -> None:
    content = b"numbers" * 9
    tag = tags.tag(IDENTITY, HASH, content)
    assert tags.fits(tag, IDENTITY, HASH, content)
    assert not tags.fits(tag, IDENTITY, HASH, content[:-1] + b"x")
    assert not tags.fits(tag, IDENTITY, HASH, content + bytes(1))
    assert not tags.fits(tag, IDENTITY, HASH, b"")
    assert not tags.fits(tag, IDENTITY, "cd" * 32, content), "another site's file lies in its place"
    assert not tags.fits(tag, age.new_identity(), HASH, content)
    assert not tags.fits(tags.tag(IDENTITY, HASH, content)[:24] + tag[24:], IDENTITY, HASH, content)
