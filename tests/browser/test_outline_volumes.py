"""The outlining page for volumes in a real browser: slices by wheel and keys, a model, and a CT's windows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("nibabel")

import nibabel

from fedhelp_edge.data.volume_outlining import VolumeOutlining, between
from fedhelp_edge.page import local_server
from fedhelp_edge.page.outline import OutlineApp
from tests import mask_bundles
from tests.browser.chromium import PROGRAM, Browser, browser, wait_until
from tests.browser.test_dashboard import PICTURES
from tests.browser.test_outline import RECTANGLE, click, keys, wait
from tests.unit.data import series
from tests.unit.data.test_masks import squares
from tests.unit.data.test_nifti import save
from tests.unit.page.test_serve_masks import CT

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")

SLICES, ROWS, COLUMNS = mask_bundles.VOLUME
POSITION = "document.querySelector('.position').textContent"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.scripts(True)
        opened.page_width(1280)
        yield opened


@pytest.fixture
def truth(tmp_path: Path) -> NDArray[np.uint8]:
    """Writes a NIfTI file and a CT, and returns the mask of the first: slices from the head, as they are viewed."""
    images, masks = squares(2, *mask_bundles.VOLUME, seed=7)
    save(tmp_path / "in" / "a.nii.gz", images[0].transpose(2, 1, 0), np.diag([1.0, 1, 2, 1]))
    series.write(tmp_path / "in" / "ct", images[1].astype(np.uint16) * 10, **CT)
    return masks[0][::-1, ::-1, ::-1]


def turned(tab: Browser, number: int) -> None:
    """Waits until a slice is there to draw on."""
    ready = "document.querySelector('.stage').getAttribute('aria-busy') === 'false'"
    tab.wait_for(f"{POSITION} === 'Slice {number} of {SLICES}' && {ready}")


def saved(outlining: VolumeOutlining, at: int, expected: NDArray[np.uint8]) -> None:
    """Waits until a slice of the first volume has this outline."""
    size = (ROWS, COLUMNS)
    wait_until(lambda: bool(np.array_equal(outlining.labels(outlining.names[0], size, at - 1), expected)), 20)


def box(top: int, bottom: int, left: int, right: int) -> NDArray[np.uint8]:
    labels = np.zeros((ROWS, COLUMNS), np.uint8)
    labels[top:bottom, left:right] = 1
    return labels


def corners(top: int, bottom: int, left: int, right: int) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def test_a_person_outlines_a_volume_slice_by_slice(tab: Browser, truth: NDArray[np.uint8], tmp_path: Path) -> None:
    outlining = VolumeOutlining(tmp_path / "in", mask_bundles.CLASSES)
    nothing = np.zeros((ROWS, COLUMNS), np.uint8)
    with local_server.running(OutlineApp(outlining, mask_bundles.loaded_bundle(tmp_path, 8))) as server:
        tab.open(server.link)
        wait(tab, 1)
        turned(tab, 6)
        keys(tab, ",", ",")
        turned(tab, 4)
        click(tab, *corners(3, 9, 2, 8))
        saved(outlining, 4, box(3, 9, 2, 8))
        keys(tab, *"....")
        turned(tab, 8)
        click(tab, *corners(3, 9, 6, 12))
        saved(outlining, 8, box(3, 9, 6, 12))
        keys(tab, ",", ",")
        turned(tab, 6)
        keys(tab, "n")
        halfway = between(box(3, 9, 2, 8), box(3, 9, 6, 12), 0.5, 2)
        assert halfway[4:8, 6:8].all()
        saved(outlining, 6, halfway)
        keys(tab, "u")
        saved(outlining, 6, nothing)
        keys(tab, ",", ",")
        turned(tab, 4)
        keys(tab, "u")  # each slice has its own steps
        saved(outlining, 4, nothing)
        keys(tab, "r")
        saved(outlining, 4, box(3, 9, 2, 8))
        left, top, width = tab.ask(RECTANGLE)
        tab.wheel(round(left + width / 2), round(top + 40), 300)
        turned(tab, 7)
        tab.wheel(round(left + width / 2), round(top + 40), -300, ctrl=True)
        tab.wait_for(f"{RECTANGLE}[2] > {1.5 * width}")
        keys(tab, "w", "m")
        tab.wait_for("document.querySelector('[role=status]').textContent.startsWith('Proposed')")
        wait_until(lambda: bool(outlining.labels("a.nii.gz", (ROWS, COLUMNS), 6).any()), 20)
        assert np.mean(outlining.labels("a.nii.gz", (ROWS, COLUMNS), 6) == truth[6]) > 0.8
        for scheme in ("light", "dark"):
            tab.colours(scheme)
            for width in (390, 1280):
                assert tab.page_width(width) <= width
                tab.screenshot(PICTURES / f"outline-volume-{scheme}-{width}.png")
            assert tab.barriers() == []
        keys(tab, "d")
        wait(tab, 2)
        wait_until(lambda: outlining.state("a.nii.gz") == "done")
        tab.wait_for("document.querySelector('.caption').textContent === 'ct: not begun'")
        before = tab.ask("document.querySelector('.stage img').src")
        keys(tab, "c")
        tab.wait_for("document.querySelector('.caption').textContent === 'ct: not begun, lung'")
        tab.wait_for(f"document.querySelector('.stage img').src !== {before!r}")
        tab.open(f"{server.link}all")
        assert tab.barriers() == []
        complaints = tab.complaints
    assert [text for text in complaints if "favicon" not in text] == []
    mask = np.asarray(nibabel.load(tmp_path / "in-masks" / "a.nii.gz").dataobj).transpose(2, 1, 0)[::-1, ::-1, ::-1]
    assert np.array_equal(mask[3], box(3, 9, 2, 8))
    assert np.array_equal(mask[7], box(3, 9, 6, 12))
    assert [at for at in range(SLICES) if mask[at].any()] == [3, 6, 7]
