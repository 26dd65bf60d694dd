"""The outlining page in a real browser: by mouse and by keys alone, with a model that proposes, and after a kill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge.data.outlining import PictureOutlining
from fedhelp_edge.page import local_server
from fedhelp_edge.page.outline import OutlineApp
from tests import mask_bundles
from tests.browser.chromium import PROGRAM, Browser, browser, wait_until
from tests.browser.test_dashboard import PICTURES
from tests.unit.data import samples
from tests.unit.data.test_masks import squares

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")

SIDE = mask_bundles.SIDE
READY = "document.querySelector('.stage:not(.waiting)') && !document.querySelector('.desk').hidden"
RECTANGLE = "(({left, top, width}) => [left, top, width])(document.querySelector('canvas').getBoundingClientRect())"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.scripts(True)
        opened.page_width(1280)
        yield opened


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index, image in enumerate(squares(3, seed=7)[0]):
        samples.save(tmp_path / "images" / f"{index}.png", image)
    return tmp_path


def wait(tab: Browser, number: int) -> None:
    """Waits until the picture with this number can be drawn on."""
    tab.wait_for(f"document.title.includes(' {number} ') && {READY}")


def at(tab: Browser, column: float, row: float) -> tuple[int, int]:
    """Where a pixel of the picture lies in the window."""
    left, top, width = tab.ask(RECTANGLE)
    return round(left + width * column / SIDE), round(top + width * row / SIDE)


def click(tab: Browser, *points: tuple[float, float]) -> None:
    for point in points:
        here = at(tab, *point)
        tab.mouse([(*here, 0), (*here, 1), (*here, 0)])


def drag(tab: Browser, points: Sequence[tuple[float, float]], button: int = 1) -> None:
    places = [at(tab, *point) for point in points]
    tab.mouse([(*places[0], 0), *((*place, button) for place in places), (*places[-1], 0)])


def keys(tab: Browser, *names: str) -> None:
    for name in names:
        tab.type(name, 0)


def saved(outlining: PictureOutlining, name: str, expected: NDArray[np.uint8]) -> None:
    """Waits until a picture has this outline, and no other."""
    wait_until(lambda: bool(np.array_equal(outlining.labels(name, (SIDE, SIDE)), expected)), 20)


def box(*parts: tuple[int, int, int, int, int]) -> NDArray[np.uint8]:
    """A mask with rectangles: class, first and last row, first and last column; the ends are outside."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for label, top, bottom, left, right in parts:
        labels[top:bottom, left:right] = label
    return labels


def test_a_person_outlines_by_mouse_and_corrects_what_a_model_proposes(
    tab: Browser, pictures: Path, tmp_path: Path
) -> None:
    outlining = PictureOutlining(pictures, mask_bundles.CLASSES)
    with local_server.running(OutlineApp(outlining, mask_bundles.loaded_bundle(tmp_path))) as server:
        tab.open(server.link)
        wait(tab, 1)
        click(tab, (2, 3), (10, 3), (10, 8), (2, 8), (2, 3))
        saved(outlining, "0.png", box((1, 3, 8, 2, 10)))
        keys(tab, "2", "b", *"[" * 9)  # the smallest brush: one pixel
        drag(tab, [(5.5, 12.5), (9.5, 12.5)])
        both = box((1, 3, 8, 2, 10), (2, 12, 13, 5, 10))
        saved(outlining, "0.png", both)
        keys(tab, "e")
        drag(tab, [(2.5, 3.5), (2.5, 7.5)])
        erased = box((1, 3, 8, 3, 10), (2, 12, 13, 5, 10))
        saved(outlining, "0.png", erased)
        keys(tab, "u")
        saved(outlining, "0.png", both)
        keys(tab, "r")
        saved(outlining, "0.png", erased)
        for scheme in ("light", "dark"):
            tab.colours(scheme)
            for width in (390, 1280):
                assert tab.page_width(width) <= width
                tab.screenshot(PICTURES / f"outline-{scheme}-{width}.png")
            assert tab.barriers() == []
        keys(tab, "+", "+")
        assert tab.ask(RECTANGLE)[2] > 2 * tab.ask("document.querySelector('.stage').clientWidth")
        click(tab, (8.5, 8.5))
        saved(outlining, "0.png", box((1, 3, 8, 3, 10), (2, 12, 13, 5, 10), (0, 8, 9, 8, 9)))
        before = tab.ask(RECTANGLE)[0]
        keys(tab, "v")
        drag(tab, [(8, 8), (9, 8)])
        assert tab.ask(RECTANGLE)[0] > before
        keys(tab, "w", "d")
        wait(tab, 2)
        wait_until(lambda: outlining.state("0.png") == "done")
        keys(tab, "m")
        tab.wait_for("document.querySelector('[role=status]').textContent.startsWith('Proposed')")
        truth = squares(3, seed=7)[1][1]
        wait_until(lambda: outlining.state("1.png") == "draft")
        proposed = outlining.labels("1.png", (SIDE, SIDE))
        assert np.mean(proposed == truth) > 0.8
        assert proposed.any()
        tab.open(f"{server.link}all")
        tab.screenshot(PICTURES / "outline-all.png")
        assert tab.barriers() == []
        loaded, complaints = tab.loaded, tab.complaints
    assert {urlsplit(url).netloc for url in loaded if not url.startswith("data:")} == {server.host}
    assert [text for text in complaints if "favicon" not in text] == []


def test_keys_alone_draw_and_a_kill_loses_nothing(tab: Browser, pictures: Path) -> None:
    outlining = PictureOutlining(pictures, ("lesion",))
    with local_server.running(OutlineApp(outlining)) as server:
        tab.open(server.link)
        wait(tab, 1)
        keys(tab, " ", "ArrowDown", " ", "Escape", "ArrowUp")
        keys(tab, "ArrowRight", " ", *["ArrowRight"] * 4, " ", *["ArrowDown"] * 3, " ", "Backspace", " ")
        keys(tab, *["ArrowLeft"] * 4, " ", "PageDown")
        assert "Close the outline first" in tab.ask("document.querySelector('[role=status]').textContent")
        keys(tab, "Enter")
        drawn = box((1, 8, 11, 9, 13))
        saved(outlining, "0.png", drawn)
        keys(tab, "PageDown")
        wait(tab, 2)
        keys(tab, "b", *"[" * 9, "ArrowRight", " ", *["ArrowRight"] * 3, " ", "ArrowDown")
        stroke = box((1, 8, 9, 9, 13))
        saved(outlining, "1.png", stroke)
    keys(tab, "ArrowDown", " ", "ArrowRight", " ")  # the program is gone
    tab.wait_for("document.querySelector('[role=status]').textContent.startsWith('Not saved yet')")
    again = PictureOutlining(pictures, ("lesion",))
    assert again.states() == ["draft", "draft", ""]
    with local_server.running(OutlineApp(again)) as server:
        tab.open(server.link)
        wait(tab, 1)
        assert tab.ask("document.querySelector('.caption').textContent") == "0.png: draft"
        keys(tab, "d")
        wait(tab, 2)
        keys(tab, "d")
        wait(tab, 3)
        keys(tab, "d")
        tab.wait_for("document.title === 'Every picture is done'")
    assert np.array_equal(again.labels("0.png", (SIDE, SIDE)), drawn)
    assert np.array_equal(again.labels("1.png", (SIDE, SIDE)), stroke)
    assert not again.labels("2.png", (SIDE, SIDE)).any()
    assert again.states() == ["done"] * 3
