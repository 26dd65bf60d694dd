"""The diagnosis page in a real browser: by mouse, by keyboard, without script; nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from fedhelp_edge.page import local_server
from fedhelp_edge.page.serve import DiagnosisApp
from tests import bundles
from tests.browser.chromium import PROGRAM, Browser, browser
from tests.browser.test_dashboard import PICTURES

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[local_server.LocalServer, Browser]]:
    folder = tmp_path_factory.mktemp("served")
    with (
        local_server.running(DiagnosisApp(bundles.loaded_bundle(folder))) as server,
        browser(folder / "profile") as tab,
    ):
        yield server, tab
        loaded, complaints = tab.loaded, tab.complaints
    assert {urlsplit(url).netloc for url in loaded if not url.startswith("data:")} == {server.host}
    assert [text for text in complaints if "favicon" not in text and "404" not in text] == []


@pytest.fixture
def tab(served: tuple[local_server.LocalServer, Browser]) -> Browser:
    """The browser with the start page, which runs its script."""
    server, tab = served
    tab.scripts(True)
    tab.open(server.link)
    return tab


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A wide image, a broken one, and one unlike the training images."""
    folder = bundles.write_test_images(tmp_path / "in", 1)
    with Image.open(folder / "000.png") as opened:
        opened.resize((2 * opened.width, opened.height), Image.Resampling.NEAREST).save(folder / "wide.png")
    (folder / "broken <b>.png").write_bytes(b"no picture")
    Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255).save(folder / "board.png")
    return folder


def first_heading(tab: Browser) -> str:
    """Waits for all images; returns the heading of the answer that is shown."""
    tab.ask("Promise.all([...document.querySelectorAll('section img')].map(image => image.decode()))")
    return str(tab.ask("document.querySelector('section:not([hidden]) h2').textContent"))


def test_a_dropped_image_is_answered_with_a_heat_map_and_a_slider_for_its_strength(tab: Browser, files: Path) -> None:
    tab.screenshot(PICTURES / "serve-start.png")
    tab.drop(files / "wide.png")
    assert re.match("Answer: |Don't know: ", first_heading(tab))
    tab.screenshot(PICTURES / "serve-answer.png")
    boxes = tab.ask("[...document.images].map(image => image.getBoundingClientRect().toJSON())")
    assert boxes[0] == boxes[1]  # one lies over the other
    assert boxes[0]["width"] / boxes[0]["height"] == pytest.approx(2)
    for strength, opacity in ((100, "1"), (0, "0")):
        tab.ask(f"field = document.querySelector('[type=range]'), field.value = {strength}, "
                "field.dispatchEvent(new Event('input'))")  # fmt: skip
        assert tab.ask("document.images[1].style.opacity") == opacity


def test_of_several_files_the_bad_one_is_refused_with_a_remedy(tab: Browser, files: Path) -> None:
    tab.drop(files / "broken <b>.png", files / "board.png")
    assert first_heading(tab) == "This file cannot be used (E_IMAGE)"
    text = tab.ask("document.body.innerText")
    assert "broken <b>.png" in text
    assert "What to do: copy the file again" in text
    tab.screenshot(PICTURES / "serve-refused.png")
    assert tab.barriers() == []
    tab.type("ArrowRight", 39)
    assert "unlike the training images" in first_heading(tab)
    assert focused(tab, "tagName") == "H2"
    tab.ask("document.querySelector('nav a').click()")
    assert first_heading(tab) == "This file cannot be used (E_IMAGE)"


def test_an_image_is_zoomed_moved_brightened_and_shown_beside_its_heat_map(tab: Browser, files: Path) -> None:
    tab.drop(files / "000.png")
    first_heading(tab)

    def images(of: str) -> list[str]:
        return list(tab.ask(f"[...document.querySelectorAll('section img')].map(image => {of})"))

    slope = "document.querySelector('feFuncR').getAttribute('slope')"
    tab.type("+", 187)
    moved = images("image.style.transform")
    assert "scale(1.5)" in moved[0]
    assert moved[0] == moved[1]
    tab.ask("document.querySelector('.pane').scrollIntoView()")
    tab.mouse([(300, 400, 0), (300, 400, 1), (340, 430, 1), (340, 430, 0)])
    assert images("image.style.transform") != moved
    before = tab.ask(slope)
    tab.mouse([(300, 400, 0), (300, 400, 2), (360, 400, 2), (360, 400, 0)])
    assert float(tab.ask(slope)) > float(before)
    tab.type("i", 73)
    assert float(tab.ask(slope)) < 0
    tab.type("0", 48)
    assert (images("image.style.transform")[0], tab.ask(slope)) == ("translate(0px, 0px) scale(1)", "1")
    tab.type("b", 66)
    left, right = images("image.getBoundingClientRect().left")
    assert float(right) > float(left)
    for width in (390, 1280, 2560):
        assert tab.page_width(width) <= width
        tab.screenshot(PICTURES / f"serve-{width}.png")
    assert tab.barriers() == []
    tab.type("h", 72)
    assert images("image.style.opacity")[1] == "0"


def focused(tab: Browser, attribute: str) -> str:
    """An attribute of what has the focus, which a page gives with the first picture that it draws."""
    script = f"new Promise(done => requestAnimationFrame(() => done(document.activeElement.{attribute})))"
    return str(tab.ask(script))


def test_a_file_can_be_diagnosed_by_keyboard_alone(tab: Browser, files: Path) -> None:
    assert focused(tab, "type") == "file"
    tab.put("[type=file]", files / "000.png")  # the system's file dialogue is not part of the page
    tab.type("Tab", 9)
    assert focused(tab, "textContent") == "Diagnose"
    tab.press("Enter", "\r")
    head = first_heading(tab)
    assert focused(tab, "textContent") == head
    tab.type("Tab", 9)
    assert focused(tab, "type") == "range"
    before = float(tab.ask("document.images[1].style.opacity"))
    tab.type("ArrowRight", 39)
    assert float(tab.ask("document.images[1].style.opacity")) == pytest.approx(before + 0.05)
    tools = []
    for _ in range(7):
        tab.type("Tab", 9)
        tools.append(focused(tab, "textContent").strip("+−").strip())
    assert tools[:6] == ["Side by side", "Zoom in", "Zoom out", "Whole image", "Invert", "Print"]
    tab.screenshot(PICTURES / "serve-keys.png")
    spoken = tab.screen_reader_nodes()
    assert ("heading", head) in spoken
    assert ("slider", "Strength of the heat-map") in spoken
    assert {name for role, name in spoken if role == "rowheader"} == set(bundles.CLASSES)
    assert [name for role, name in spoken if role == "image" and "heat-map for" in name]
    assert ("combobox", "Brightness") in [(role.lower(), name.strip()) for role, name in spoken]
    assert [
        name for role, name in spoken if role in ("button", "slider", "image", "DisclosureTriangle") and not name
    ] == []


def test_without_script_the_heat_map_is_beside_the_image(
    served: tuple[local_server.LocalServer, Browser], files: Path
) -> None:
    server, tab = served
    tab.scripts(False)
    tab.open(server.link)
    tab.put("[type=file]", files / "000.png")
    tab.click("form button")
    html = tab.html()
    assert html.count("<img") == 2
    assert '<div class="pair" ' in html
    assert '<div class="tools" hidden' in html
    tab.screenshot(PICTURES / "serve-plain.png")
