"""The pages of `predict` in a real browser without script: images show, and nothing is loaded from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from fedhelp_edge.infer import answer_formats, answering
from tests import bundles
from tests.browser.chromium import PROGRAM, browser

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")
PICTURES = Path(os.environ.get("FEDHELP_PICTURES", Path(__file__).parents[2] / "build" / "pictures"))


def test_answers_show_their_images_and_link_to_the_next_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_formats, "_IMAGES_PER_PAGE", 4)
    (tmp_path / "model").mkdir()
    folder = bundles.write_test_images(tmp_path / "in", 6)
    (folder / "bad.png").write_bytes(b"")
    page, _ = answering.write_answers(tmp_path / "out", bundles.loaded_bundle(tmp_path / "model"), [folder], "html")
    with browser(tmp_path / "profile") as tab:
        tab.open(page.as_uri())
        assert tab.html().count("<img") == 4
        tab.screenshot(PICTURES / "answers.png")
        assert tab.page_width(390) <= 390
        tab.scripts(True)  # of the devtools; the page brings none
        assert tab.barriers() == []
        tab.scripts(False)
        tab.click("a")
        assert "E_IMAGE" in tab.html()
        loaded, complaints = tab.loaded, tab.complaints
    assert {url.partition(":")[0] for url in loaded} <= {"file", "data"}
    assert complaints == []
