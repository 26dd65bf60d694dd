"""The viewer of outlines in a real browser: slices by wheel, keys and slider, and windows of Hounsfield units."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pydicom")

from fedhelp_edge.page import local_server
from fedhelp_edge.page.serve_masks import MaskApp
from tests import mask_bundles
from tests.browser.chromium import PROGRAM, Browser, browser
from tests.browser.test_dashboard import PICTURES
from tests.browser.test_serve import first_heading
from tests.unit.data import samples, series
from tests.unit.page.test_serve_masks import CT, case

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")

COUNT = 300  # frames of a long file


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[int, local_server.LocalServer], Browser]]:
    """A page for pictures (1) and one for volumes (8), and a browser."""
    folder = tmp_path_factory.mktemp("served")
    models = {depth: mask_bundles.loaded_bundle(tmp_path_factory.mktemp("model"), depth) for depth in (1, 8)}
    with (
        local_server.running(MaskApp(models[1])) as pictures,
        local_server.running(MaskApp(models[8])) as volumes,
        browser(folder / "profile") as tab,
    ):
        yield {1: pictures, 8: volumes}, tab
        loaded, complaints = tab.loaded, tab.complaints
        hosts = {pictures.host, volumes.host}
    assert {urlsplit(url).netloc for url in loaded if not url.startswith("data:")} == hosts
    assert [text for text in complaints if "favicon" not in text and "404" not in text] == []


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A CT series."""
    where = {"PixelSpacing": [1.0, 1.0], "ImagePositionPatient": lambda at: [0.0, 0.0, 2.0 * at]}
    return series.write(tmp_path_factory.mktemp("scan"), case(8).astype(np.uint16) * 8, **where, **CT)


def opened(served: tuple[dict[int, local_server.LocalServer], Browser], *files: Path, depth: int = 1) -> Browser:
    """The browser with the answers for these files."""
    servers, tab = served
    tab.scripts(True)
    tab.open(servers[depth].link)
    tab.drop(*files)
    first_heading(tab)
    return tab


def slice_is(tab: Browser, number: int) -> None:
    """Waits until a slice or frame is on the screen."""
    tab.wait_for(f"/ {number} (of|sur)/.test(document.querySelector('section:not([hidden]) .position').textContent)")


def test_a_volume_is_scrolled_by_wheel_keys_and_slider(
    served: tuple[dict[int, local_server.LocalServer], Browser], scan: list[Path]
) -> None:
    tab = opened(served, scan[0].parent, depth=8)  # a folder
    assert tab.ask("document.querySelector('.links').hidden")
    start = int(tab.ask("document.querySelector('[name=slice]').value"))
    picture = tab.ask("document.images[0].src")
    tab.type("ArrowDown", 40)
    slice_is(tab, start + 1)
    assert tab.ask("document.images[0].src") != picture
    tab.type("ArrowUp", 38)
    slice_is(tab, start)
    assert tab.ask("document.images[0].src") == picture
    tab.type("End", 35)
    slice_is(tab, len(scan))
    tab.type("Home", 36)
    slice_is(tab, 1)
    tab.ask("document.querySelector('.pair').scrollIntoView()")
    for _ in range(3):
        tab.wheel(300, 300, 120)
    slice_is(tab, 4)
    assert tab.ask("document.images[0].style.transform") == "translate(0px, 0px) scale(1)"
    tab.wheel(300, 300, -120, ctrl=True)
    tab.wait_for("document.images[0].style.transform.includes('scale(1.')")
    tab.ask("field = document.querySelector('[name=slice]'), field.value = 7, field.dispatchEvent(new Event('input'))")
    slice_is(tab, 7)
    tab.type("h", 72)
    assert tab.ask("document.images[1].style.opacity") == "0"


def test_presets_of_hounsfield_units_change_the_picture_by_key_and_menu(
    served: tuple[dict[int, local_server.LocalServer], Browser], scan: list[Path]
) -> None:
    tab = opened(served, *scan, depth=8)
    stored = tab.ask("document.images[0].src")
    tab.type("1", 49)
    tab.wait_for(f"document.images[0].src !== {stored!r}")
    lung = tab.ask("document.images[0].src")
    assert tab.ask("document.querySelector('select').value") == "lung"
    tab.ask("field = document.querySelector('select'), field.value = 'bone', field.dispatchEvent(new Event('change'))")
    tab.wait_for(f"document.images[0].src !== {lung!r}")
    assert tab.ask("document.images[0].src") != stored
    tab.type("0", 48)
    tab.wait_for(f"document.images[0].src === {stored!r}")


def test_a_file_of_many_frames_scrolls_with_an_answer_for_each(
    served: tuple[dict[int, local_server.LocalServer], Browser], tmp_path: Path
) -> None:
    frames = np.stack([case(1, number % 3) for number in range(COUNT)])
    frames[-1] = 0
    path = samples.dicom(tmp_path / "a.dcm", frames[0], NumberOfFrames=COUNT, PixelData=frames.tobytes())
    tab = opened(served, path)
    first = tab.ask("document.querySelector('.about').textContent")
    for _ in range(60):
        tab.type("PageDown", 34)
    slice_is(tab, COUNT)
    assert tab.ask("document.querySelector('.about').textContent") != first
    assert tab.ask("document.querySelector('h2').textContent").startswith("Don't know")


def test_the_viewer_fits_every_screen_and_keeps_nobody_out(
    served: tuple[dict[int, local_server.LocalServer], Browser], scan: list[Path], tmp_path: Path
) -> None:
    tab = opened(served, *scan, depth=8)
    for width in (390, 1280):
        assert tab.page_width(width) <= width
        tab.screenshot(PICTURES / f"serve-volume-{width}.png")
    assert tab.barriers() == []
    spoken = tab.screen_reader_nodes()
    assert ("slider", "Slice") in spoken
    assert ("slider", "Strength of the outlines") in spoken
    assert [name for role, name in spoken if role in ("button", "slider", "image", "link") and not name] == []
    samples.save(tmp_path / "a.png", case())
    tab = opened(served, tmp_path / "a.png")
    tab.screenshot(PICTURES / "serve-outline.png")
    assert tab.barriers() == []


def test_a_page_whose_images_are_no_longer_kept_says_so(
    served: tuple[dict[int, local_server.LocalServer], Browser], scan: list[Path]
) -> None:
    servers, _ = served
    tab = opened(served, *scan, depth=8)
    servers[8].app._kept.next_form()  # type: ignore[attr-defined]  # as by another tab
    tab.type("ArrowDown", 40)
    tab.wait_for("document.querySelector('.steps [role=status]').textContent.includes('no longer kept')")


def test_without_script_a_volume_has_its_outlines_and_links_to_other_slices(
    served: tuple[dict[int, local_server.LocalServer], Browser], scan: list[Path]
) -> None:
    servers, tab = served
    tab.scripts(False)
    tab.open(servers[8].link)
    tab.put("[type=file]", *scan)
    tab.click("form button")
    tab.screenshot(PICTURES / "serve-volume-plain.png")
    tab.click(".links a")
    assert f"Slice 1 of {len(scan)}" in tab.html()
    assert tab.html().count("<img") == 2
