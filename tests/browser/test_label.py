"""The labelling page in a real browser: keys with its script, buttons without, and nothing loaded from elsewhere."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from fedhelp_edge.data.sorting import Sorting
from fedhelp_edge.demo import phantoms
from fedhelp_edge.page import local_server
from fedhelp_edge.page.label import LabelApp
from tests.browser.chromium import PROGRAM, Browser, browser, wait_until
from tests.browser.test_dashboard import PICTURES
from tests.unit.data import samples

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for index, pixels in enumerate(phantoms.draw(4, 2, size=96)[0]):
        samples.save(folder / f"smear{index}.png", pixels)
    (folder / "IMG_0001.HEIC").write_bytes(b"ftypheic")
    return folder


def type_key(tab: Browser, key: str) -> None:
    """Presses a key and waits for its picture."""
    tab.type(key, 0)
    tab.wait_for("!document.querySelector('.stage.waiting')")


def test_a_person_sorts_by_keys_without_a_reload_and_by_buttons_without_script(pictures: Path, tmp_path: Path) -> None:
    sorting = Sorting(pictures, ("round", "lobed"))
    with local_server.running(LabelApp(sorting)) as server, browser(tmp_path / "profile") as tab:
        tab.scripts(True)
        tab.open(server.link)
        tab.wait_for("!document.querySelector('[data-key=ArrowRight]').disabled")
        assert "<h1>Picture 1 of 4</h1>" in tab.html()
        tab.ask("window.same = true")
        type_key(tab, "2")
        type_key(tab, "ArrowRight")
        type_key(tab, "0")
        type_key(tab, "1")
        tab.wait_for("document.querySelector('h1').textContent === 'Picture 2 of 4'")
        tab.wait_for("document.querySelector('.stage img').complete")
        for width in (390, 1280, 2560):
            assert tab.page_width(width) <= width
            tab.screenshot(PICTURES / f"label-{width}.png")
        assert tab.barriers() == []
        type_key(tab, "Backspace")
        assert tab.ask("document.querySelector('h1').textContent") == "Picture 4 of 4"
        type_key(tab, "1")
        type_key(tab, "+")
        assert "scale(1.5)" in tab.ask("document.querySelector('.stage img').style.transform")
        assert tab.ask("window.same")
        wait_until(lambda: [sorting.label(name) for name in sorting.names] == [1, None, None, 0])
        assert sorting.is_unsure(sorting.names[2])
        tab.open(f"{server.link}all")
        tab.screenshot(PICTURES / "label-all.png")
        assert tab.barriers() == []
        tab.scripts(False)
        tab.open(f"{server.link}2")
        tab.click('button[value="1"]')
        assert "1 picture has no class yet" in tab.html()
        tab.click('form[action="end"] button')
        assert "Everything is saved" in tab.html()
        assert server.done.is_set()
        loaded, complaints = tab.loaded, tab.complaints
    assert {urlsplit(url).netloc for url in loaded if not url.startswith("data:")} == {server.host}
    assert [text for text in complaints if "favicon" not in text] == []
    assert Sorting(pictures, ("round", "lobed")).counts() == [1, 2]


@pytest.mark.proof
def test_no_key_is_lost_at_ten_a_second(tmp_path: Path, effort: Callable[[int, int], int]) -> None:
    """Real keys of the browser at ten a second; in full, two processes beside take what the machine has."""
    count = effort(20, 200)
    for index, pixels in enumerate(samples.noise(count, 32, 32, 1)):
        samples.save(tmp_path / "in" / f"{index:03}.png", pixels)
    sorting = Sorting(tmp_path / "in", ("a", "b", "c"))
    keys = np.random.default_rng(5).integers(0, 3, count).tolist()
    with (
        busy_processes(effort(0, 2)),
        local_server.running(LabelApp(sorting)) as server,
        browser(tmp_path / "profile") as tab,
    ):
        tab.scripts(True)
        tab.open(server.link)
        start = time.monotonic()
        for number, key in enumerate(keys):
            time.sleep(max(0.0, start + number / 10 - time.monotonic()))
            tab.type(str(key + 1), 0)
        wait_until(lambda: sum(sorting.counts()) == count, effort(60, 300))  # a busy machine saves few a second
    assert [sorting.label(name) for name in sorting.names] == keys


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keeps that many processors busy."""
    with ExitStack() as ended:
        for _ in range(count):
            ended.callback(ended.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"])).kill)
        yield
