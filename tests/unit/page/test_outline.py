"""The outlining page as its script asks it: what it shows, saves, proposes and refuses."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge.data.outlining import Outlining
from fedhelp_edge.page import local_server, outline, outline_texts
from fedhelp_edge.page.outline import OutlineApp
from tests.scriptless_browser import ScriptlessBrowser
from tests.unit.data import samples
from tests.unit.data.test_masks import squares

CLASSES = ("naevus", "<b>hair</b>")


class Script(ScriptlessBrowser):
    def json(self, path: str, body: bytes | None = None) -> Any:
        assert self.ask(self.base + path, body).status == 200
        return json.loads(self.text)

    def status(self, path: str, body: bytes | None = None) -> int:
        return self.ask(self.base + path, body).status


@pytest.fixture
def outlining(tmp_path: Path) -> Outlining:
    for index, image in enumerate(squares(3)[0]):
        samples.save(tmp_path / "in" / f"{index:02}.png", image[:12])
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "in" / "phone.heic").write_bytes(b"no picture")
    return Outlining(tmp_path / "in", CLASSES)


@pytest.fixture
def script(outlining: Outlining) -> Iterator[Script]:
    with local_server.running(OutlineApp(outlining)) as server:
        yield Script(server)


def drawn(label: int = 2, rows: int = 12) -> NDArray[np.uint8]:
    labels = np.zeros((rows, 16), np.uint8)
    labels[2:6, 3:9] = label
    return labels


def packed(labels: NDArray[np.uint8]) -> bytes:
    return zlib.compress(labels.tobytes())


def test_a_mask_comes_and_goes_with_its_picture(script: Script, outlining: Outlining) -> None:
    shown = script.json("picture/1")
    assert shown["src"].startswith("data:image/png;base64,")
    assert (shown["width"], shown["height"], shown["error"]) == (16, 12, "")
    assert zlib.decompress(base64.b64decode(shown["mask"])) == bytes(12 * 16)
    assert script.json("draft/1", packed(drawn())) == {"state": "draft"}
    assert zlib.decompress(base64.b64decode(script.json("picture/1")["mask"])) == drawn().tobytes()
    assert script.json("done/1", packed(drawn(1))) == {"state": "done"}
    assert script.json("state")["states"] == ["done", "", "", ""]
    assert np.array_equal(outlining.labels("00.png", (12, 16)), drawn(1))


def test_what_does_not_fit_the_picture_is_refused_and_changes_nothing(script: Script, outlining: Outlining) -> None:
    assert script.status("draft/2", packed(drawn())) == 404  # it was never shown, so its size is not known
    script.json("picture/2")
    for body in (b"", b"x", packed(drawn(rows=11)), packed(drawn(rows=13)), packed(drawn(3)), packed(drawn())[:-4]):
        assert script.status("draft/2", body) == 404
    bomb = zlib.compress(bytes(20 << 20))
    assert (len(bomb) < OutlineApp.limit, script.status("draft/2", bomb)) == (True, 404)
    for path in ("0", "9", "draft/9", "draft/x", "other/2", "../2", "propose/2", "all/2", "picture/2/3"):
        assert script.status(path, packed(drawn())) == 404, path
    for path in ("draft/2", "done/2", "propose/2"):
        assert script.status(path) == 404
    assert outlining.states() == ["", "", "", ""]


def test_a_picture_that_cannot_be_read_shows_a_remedy_and_takes_no_mask(script: Script) -> None:
    assert "it cannot be read as an image" in script.json("picture/4")["error"]
    assert script.status("done/4", packed(drawn())) == 404


def test_the_list_and_the_end_need_no_script(script: Script, outlining: Outlining, monkeypatch: Any) -> None:
    monkeypatch.setattr(outline, "_A_PAGE", 3)
    outlining.finish("00.png", drawn())
    outlining.save_draft("01.png", drawn())
    assert script.ask(script.base).headers["Location"] == f"{script.base}2"
    script.ask(script.base + "all")
    assert re.findall(r'<li><a href="(\w+)">', script.text) == ["1", "2", "3"]
    assert [state in script.text for state in ("done</span>", "draft</span>", "not begun")] == [True] * 3
    assert 'href="all/2"' in script.text
    script.ask(script.base + "all/2")
    assert re.findall(r'<li><a href="([./\w]+)">', script.text) == ["../4"]
    script.ask(script.base + "1")
    assert "<noscript>" in script.text
    assert "&lt;b&gt;hair" in script.text
    assert "phone.heic" in script.text
    script.ask(script.base + "end")
    assert "3 pictures are not done yet" in script.text
    assert not script.server.done.is_set()
    script.ask(script.base + "end", "")
    assert script.server.done.wait(10)


def test_only_the_secret_link_opens_the_page(script: Script) -> None:
    for path, headers in (
        ("/", {}), ("/" + "x" * 32 + "/1", {}), (script.base + "1", {"Host": "clinic.example"}),
        (script.base + "draft/1", {"Origin": "https://evil"}),
    ):  # fmt: skip
        assert script.ask(path, packed(drawn()) if "draft" in path else None, **headers).status == 404
        assert script.text == "404\n"
    assert script.ask(script.base + "draft/1", bytes(OutlineApp.limit + 1)).status == 413
    policy = script.ask(script.base + "1").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "connect-src 'self'" in policy


@pytest.mark.parametrize("lang", list(outline_texts.OUTLINE))
def test_the_page_speaks_the_browsers_language_and_marks_unreviewed_ones(lang: str, script: Script) -> None:
    wording, english = outline_texts.OUTLINE[lang], outline_texts.OUTLINE["en"]
    for field in dataclasses.fields(wording):
        own, other = (getattr(language, field.name) for language in (wording, english))
        names, english_names = (sorted(re.findall(r"\{\w+\}", str(text))) for text in (own, other))
        assert names == english_names, field.name
        assert isinstance(own, (bool, str)) or len(own) == len(other)
        assert own or field.name in ("reviewed", "unreviewed")
    script.ask(script.base + "1", **{"Accept-Language": lang})
    assert f'<html lang="{lang}"' in script.text
    assert html.escape(wording.undo) in script.text
    assert (wording.unreviewed in html.unescape(script.text)) or wording.reviewed
