"""The page to diagnose on in a real browser: by mouse, by keys alone, without script; and nothing from elsewhere."""

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
def files(tmp_path: Path) -> Path:
    """A picture that is wider than high, a broken one, and one that is unlike all."""
    folder = bundles.write_test_images(tmp_path / "in", 1)
    with Image.open(folder / "000.png") as opened:
        opened.resize((2 * opened.width, opened.height), Image.Resampling.NEAREST).save(folder / "wide.png")
    (folder / "broken <b>.png").write_bytes(b"no picture")
    Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255).save(folder / "board.png")
    return folder


def ready(tab: Browser) -> str:
    """The heading that an answer begins with, once all pictures can be seen."""
    tab.ask("Promise.all([...document.images].map(image => image.decode()))")
    return str(tab.ask("document.querySelector('h2').textContent"))


def test_a_dropped_image_is_answered_with_a_heat_map_whose_strength_a_slider_moves(
    served: tuple[local_server.LocalServer, Browser], files: Path
) -> None:
    server, tab = served
    tab.scripts(True)
    tab.open(server.link)
    tab.screenshot(PICTURES / "serve-start.png")
    tab.drop(files / "wide.png")
    assert re.match("Answer: |Don't know: ", ready(tab))
    tab.screenshot(PICTURES / "serve-answer.png")
    boxes = tab.ask("[...document.images].map(one => one.getBoundingClientRect().toJSON())")
    assert boxes[0] == boxes[1]
    assert boxes[0]["width"] / boxes[0]["height"] == pytest.approx(2)
    for strength, opacity in ((100, "1"), (0, "0")):
        tab.ask(f"field = document.querySelector('[type=range]'), field.value = {strength}, "
                "field.dispatchEvent(new Event('input'))")  # fmt: skip
        assert tab.ask("document.images[1].style.opacity") == opacity


def test_of_several_files_the_bad_one_is_refused_with_what_to_do(
    served: tuple[local_server.LocalServer, Browser], files: Path
) -> None:
    server, tab = served
    tab.scripts(True)
    tab.open(server.link)
    tab.drop(files / "broken <b>.png", files / "board.png")
    assert ready(tab) == "This file cannot be used (E_IMAGE)"
    text = tab.ask("document.body.innerText")
    assert "broken <b>.png" in text
    assert "What to do: copy the file again" in text
    assert "unlike the training images" in text
    tab.screenshot(PICTURES / "serve-refused.png")


def test_by_keys_alone_a_file_is_sent_read_and_looked_at(
    served: tuple[local_server.LocalServer, Browser], files: Path
) -> None:
    server, tab = served
    tab.scripts(True)
    tab.open(server.link)
    assert tab.ask("document.activeElement.type") == "file"
    tab.put("[type=file]", files / "000.png")  # the system's own dialogue is no part of the page
    tab.type("Tab", 9)
    assert tab.ask("document.activeElement.textContent") == "Diagnose"
    tab.press("Enter", "\r")
    head = ready(tab)
    assert tab.ask("document.activeElement.textContent") == head
    tab.type("Tab", 9)
    assert tab.ask("document.activeElement.type") == "range"
    before = float(tab.ask("document.images[1].style.opacity"))
    tab.type("ArrowRight", 39)
    assert float(tab.ask("document.images[1].style.opacity")) == pytest.approx(before + 0.05)
    tab.type("Tab", 9)
    assert tab.ask("document.activeElement.type") == "file"
    tab.screenshot(PICTURES / "serve-keys.png")
    spoken = tab.said()
    assert ("heading", head) in spoken
    assert ("slider", "Strength of the heat-map") in spoken
    assert {name for role, name in spoken if role == "rowheader"} == set(bundles.CLASSES)
    assert [name for role, name in spoken if role == "image" and "heat-map for" in name]
    assert [
        name for role, name in spoken if role in ("button", "slider", "image", "DisclosureTriangle") and not name
    ] == []


def test_without_script_the_heat_map_stands_beside_the_image(
    served: tuple[local_server.LocalServer, Browser], files: Path
) -> None:
    server, tab = served
    tab.scripts(False)
    tab.open(server.link)
    tab.put("[type=file]", files / "000.png")
    tab.click("form button")
    html = tab.html()
    assert html.count("<img") == 2
    assert '<div class="pair">' in html
    assert "<p hidden" in html
    tab.screenshot(PICTURES / "serve-plain.png")
