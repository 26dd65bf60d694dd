"""The outlining page for volumes in a real browser: slices by wheel and keys, a model, and a CT's windows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("nibabel")

import nibabel

from fedhelp_edge.data.volume_files import VolumeFile
from fedhelp_edge.data.volume_outlining import VolumeOutlining, between
from fedhelp_edge.errors import BadBundleError
from fedhelp_edge.infer import drawing
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
STATUS = "document.querySelector('[role=status]').textContent"
CAPTION = "document.querySelector('.caption').textContent"
SLIDER = "document.querySelector('[name=slice]')"
WHOLE = f"{RECTANGLE}.concat(document.querySelector('canvas').getBoundingClientRect().height)"


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


def saved(outlining: VolumeOutlining, at: int, expected: NDArray[np.uint8], volume: int = 0) -> None:
    """Waits until a slice has this outline."""
    name, size = outlining.names[volume], (ROWS, COLUMNS)
    wait_until(lambda: bool(np.array_equal(outlining.labels(name, size, at - 1), expected)), 20)


def at(tab: Browser, column: float, row: float) -> tuple[int, int]:
    """Where a place of the slice lies in the window: pixels need not be square."""
    left, top, width, height = tab.ask(WHOLE)
    return round(left + width * column / COLUMNS), round(top + height * row / ROWS)


def hold(tab: Browser, *line: tuple[float, float]) -> None:
    """Presses the button, and draws a line without letting it go."""
    places = [at(tab, *each) for each in line]
    tab.mouse([(*places[0], 0), *((*place, 1) for place in places)])


def let_go(tab: Browser, column: float, row: float) -> None:
    """Draws on to a place with the button held down, and lets it go."""
    place = at(tab, column, row)
    tab.mouse([(*place, 1), (*place, 0)], down=1)


def box(top: int, bottom: int, left: int, right: int) -> NDArray[np.uint8]:
    labels = np.zeros((ROWS, COLUMNS), np.uint8)
    labels[top:bottom, left:right] = 1
    return labels


def corners(top: int, bottom: int, left: int, right: int) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def test_a_person_outlines_a_volume_slice_by_slice(
    tab: Browser, truth: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read = [], VolumeFile.read
    monkeypatch.setattr(VolumeFile, "read", lambda volume: (reads.append(volume.name), read(volume))[1])
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
        halfway = between(np.stack([box(3, 9, 2, 8), nothing, box(3, 9, 6, 12)]), 1, 2)
        assert halfway is not None
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
        keys(tab, "w", "b", *"[" * 9)
        hold(tab, (2.5, 2.5), (5.5, 2.5))
        keys(tab, "m")
        tab.wait_for(f"{STATUS}.startsWith('Proposed')")
        let_go(tab, 5.5, 2.5)
        keys(tab, "u")
        saved(outlining, 7, box(2, 3, 2, 6))  # the stroke came before the proposal
        keys(tab, "r")
        wait_until(lambda: outlining.labels("a.nii.gz", (ROWS, COLUMNS), 6).sum() > 4, 20)
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
        tab.wait_for(f"{CAPTION} === 'ct: not begun'")
        before = tab.ask("document.querySelector('.stage img').src")
        keys(tab, "c")
        tab.wait_for(f"{CAPTION} === 'ct: not begun, lung'")
        tab.wait_for(f"document.querySelector('.stage img').src !== {before!r}")
        assert reads == ["a.nii.gz", "a.nii.gz", "ct"]  # to show, to propose, to show
        may_draw, draw = threading.Event(), drawing.outline
        monkeypatch.setattr(drawing, "outline", lambda *asked: (may_draw.wait(60), draw(*asked))[1])
        keys(tab, "m", ".")
        turned(tab, 7)
        keys(tab, "m", "p")
        click(tab, *corners(3, 9, 2, 8))
        wait_until(lambda: outlining.labels("ct", (ROWS, COLUMNS), 6).any(), 20)
        drawn = outlining.labels("ct", (ROWS, COLUMNS), 6).copy()
        assert tab.ask(STATUS) == "The model draws ..."
        may_draw.set()
        tab.wait_for(f"{STATUS} === ''")
        assert np.array_equal(outlining.labels("ct", (ROWS, COLUMNS), 6), drawn)

        def fail(*asked: object) -> None:
            raise BadBundleError("it ended early")

        monkeypatch.setattr(drawing, "outline", fail)
        keys(tab, "PageUp")
        wait(tab, 1)
        keys(tab, "m")
        tab.wait_for(f"{STATUS}.includes('it ended early')")
        tab.open(f"{server.link}all")
        assert tab.barriers() == []
        complaints = tab.complaints
    assert [text for text in complaints if "favicon" not in text] == []
    mask = np.asarray(nibabel.load(tmp_path / "in-masks" / "a.nii.gz").dataobj).transpose(2, 1, 0)[::-1, ::-1, ::-1]
    assert np.array_equal(mask[3], box(3, 9, 2, 8))
    assert np.array_equal(mask[7], box(3, 9, 6, 12))
    assert [at for at in range(SLICES) if mask[at].any()] == [3, 6, 7]


def test_what_is_begun_outlasts_another_window_a_finger_and_a_small_turn_of_the_wheel(
    tab: Browser, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    outlining = VolumeOutlining(tmp_path / "in", mask_bundles.CLASSES)
    with local_server.running(OutlineApp(outlining)) as server:
        tab.open(f"{server.link}2")
        wait(tab, 2)
        turned(tab, 6)
        for place in ((2, 3), (8, 3)):
            hold(tab, place)
            let_go(tab, *place)
        assert tab.ask("!dispatchEvent(new Event('beforeunload', {cancelable: true}))")  # the browser asks first
        tab.ask(f"{SLIDER}.value = 9, {SLIDER}.dispatchEvent(new Event('input'))")
        assert tab.ask(f"[{SLIDER}.value, {STATUS}.slice(0, 17)]") == ["6", "Close the outline"]
        keys(tab, "c")
        tab.wait_for(f"{CAPTION} === 'ct: not begun, lung'")
        for place in ((8, 9), (2, 9), (2, 3)):
            hold(tab, place)
            let_go(tab, *place)
        saved(outlining, 6, box(3, 9, 2, 8), 1)
        keys(tab, "b", *"[" * 9)  # the smallest brush: one pixel
        hold(tab, (2.5, 12.5), (5.5, 12.5))
        keys(tab, "c")
        tab.wheel(*at(tab, 5, 12), 20)
        tab.touch(at(tab, 12, 2), at(tab, 14, 2))
        let_go(tab, 7.5, 12.5)
        stroke = np.maximum(box(3, 9, 2, 8), box(12, 13, 2, 8))
        saved(outlining, 6, stroke, 1)
        keys(tab, "ArrowDown", " ", "ArrowDown", "u")  # the brush is down
        keys(tab, "ArrowRight", " ", "ArrowRight", " ")
        expected = stroke.copy()
        expected[14, 8:10] = 1
        saved(outlining, 6, expected, 1)
        keys(tab, "u", "u")
        saved(outlining, 6, box(3, 9, 2, 8), 1)


def test_what_cannot_be_saved_says_why_waits_and_holds_nothing_else_up(
    tab: Browser, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    outlining = VolumeOutlining(tmp_path / "in", mask_bundles.CLASSES)
    blocked = tmp_path / "in-masks" / ".drafts" / "a.nii.gz.slices"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("no folder")
    with local_server.running(OutlineApp(outlining)) as server:
        tab.open(server.link)
        wait(tab, 1)
        turned(tab, 6)
        click(tab, *corners(3, 9, 2, 8))
        tab.wait_for(f"{STATUS}.startsWith('Not saved yet: a.nii.gz.slices is there already. Keep this page open')")
        keys(tab, ".", "PageDown")  # the slice waits for what is not saved
        wait(tab, 2)
        turned(tab, 6)
        keys(tab, "b", "[", ".")
        turned(tab, 7)
        hold(tab, (2, 12))
        let_go(tab, 2, 12)
        wait_until(lambda: outlining.state("ct") == "draft")
        blocked.unlink()
        saved(outlining, 6, box(3, 9, 2, 8))
        tab.wait_for(f"{STATUS} === ''")
