"""The labelling page in a real browser: keys with its script, buttons without, and nothing loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fedhelp_edge.data.sorting import Sorting
from fedhelp_edge.demo import phantoms
from fedhelp_edge.page import local_server
from fedhelp_edge.page.label import LabelApp
from tests.browser.chromium import PROGRAM, browser
from tests.browser.test_dashboard import PICTURES
from tests.unit.data import samples

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")


def test_a_person_sorts_by_keys_and_by_buttons(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for index, pixels in enumerate(phantoms.draw(4, 2, size=96)[0]):
        samples.save(folder / f"smear{index}.png", pixels)
    (folder / "IMG_0001.HEIC").write_bytes(b"ftypheic")
    sorting = Sorting(folder, ("round", "lobed"))
    with local_server.running(LabelApp(sorting)) as server, browser(tmp_path / "profile") as tab:
        tab.scripts(True)
        tab.open(server.link)
        assert "<h1>Picture 1 of 4</h1>" in tab.html()
        tab.screenshot(PICTURES / "label.png")
        tab.press("2")
        tab.press("ArrowRight")
        tab.press("1")
        assert [sorting.label(name) for name in sorting.names] == [1, None, 0, None]
        assert "<h1>Picture 4 of 4</h1>" in tab.html()
        tab.scripts(False)
        tab.click('button[value="0"]')
        assert "<h1>Picture 2 of 4</h1>" in tab.html()
        tab.click('button[value="1"]')
        assert "Every picture has a class" in tab.html()
        tab.click('form[action="end"] button')
        assert "Everything is saved" in tab.html()
        assert server.done.is_set()
        loaded, complaints = tab.loaded, tab.complaints
    assert {urlsplit(url).netloc for url in loaded if not url.startswith("data:")} == {server.host}
    assert [text for text in complaints if "favicon" not in text] == []
    assert Sorting(folder, ("round", "lobed")).counts() == [2, 2]
