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

from fedhelp_edge.data.outlining import PictureOutlining
from fedhelp_edge.data.volume_outlining import VolumeOutlining
from fedhelp_edge.page import local_server, outline, outline_texts
from fedhelp_edge.page.outline import OutlineApp
from tests.scriptless_browser import ScriptlessBrowser
from tests.unit.data import samples, series
from tests.unit.data.test_masks import squares
from tests.unit.data.test_nifti import save
from tests.unit.page.test_serve_masks import CT

CLASSES = ("naevus", "<b>hair</b>")


class Script(ScriptlessBrowser):
    def json(self, path: str, body: bytes | None = None) -> Any:
        assert self.ask(self.base + path, body).status == 200
        return json.loads(self.text)

    def status(self, path: str, body: bytes | None = None) -> int:
        return self.ask(self.base + path, body).status


@pytest.fixture
def outlining(tmp_path: Path) -> PictureOutlining:
    for index, image in enumerate(squares(3)[0]):
        samples.save(tmp_path / "in" / f"{index:02}.png", image[:12])
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "in" / "phone.heic").write_bytes(b"no picture")
    return PictureOutlining(tmp_path / "in", CLASSES)


@pytest.fixture
def script(outlining: PictureOutlining) -> Iterator[Script]:
    with local_server.running(OutlineApp(outlining)) as server:
        yield Script(server)


def drawn(label: int = 2, rows: int = 12) -> NDArray[np.uint8]:
    labels = np.zeros((rows, 16), np.uint8)
    labels[2:6, 3:9] = label
    return labels


def packed(labels: NDArray[np.uint8]) -> bytes:
    return zlib.compress(labels.tobytes())


def test_a_mask_comes_and_goes_with_its_picture(script: Script, outlining: PictureOutlining) -> None:
    shown = script.json("picture/1")
    assert shown["src"].startswith("data:image/png;base64,")
    assert (shown["width"], shown["height"], shown["error"]) == (16, 12, "")
    assert zlib.decompress(base64.b64decode(shown["mask"])) == bytes(12 * 16)
    assert script.json("draft/1", packed(drawn())) == {"state": "draft"}
    assert zlib.decompress(base64.b64decode(script.json("picture/1")["mask"])) == drawn().tobytes()
    assert script.json("done/1", packed(drawn(1))) == {"state": "done"}
    assert script.json("state")["states"] == ["done", "", "", ""]
    assert np.array_equal(outlining.labels("00.png", (12, 16)), drawn(1))


def test_what_does_not_fit_the_picture_is_refused_and_changes_nothing(
    script: Script, outlining: PictureOutlining
) -> None:
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


def test_the_list_and_the_end_need_no_script(script: Script, outlining: PictureOutlining, monkeypatch: Any) -> None:
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


@pytest.mark.parametrize("has_slices", [False, True])
@pytest.mark.parametrize("lang", list(outline_texts.OUTLINE))
def test_the_page_speaks_the_browsers_language_and_marks_unreviewed_ones(
    lang: str, has_slices: bool, script: Script
) -> None:
    wording, english = (outline_texts.of(language, has_slices=has_slices) for language in (lang, "en"))
    for field in dataclasses.fields(wording):
        own, other = (getattr(language, field.name) for language in (wording, english))
        names, english_names = (sorted(re.findall(r"\{\w+\}", str(text))) for text in (own, other))
        assert names == english_names, field.name
        assert isinstance(own, (bool, str)) or len(own) == len(other)
        is_optional = field.name in ("reviewed", "unreviewed") or (field.default == "" and not has_slices)
        assert own or is_optional, field.name
    script.ask(script.base + "1", **{"Accept-Language": lang})
    assert f'<html lang="{lang}"' in script.text
    assert html.escape(wording.undo) in script.text
    assert (wording.unreviewed in html.unescape(script.text)) or wording.reviewed


@pytest.fixture
def volumes(tmp_path: Path) -> VolumeOutlining:
    """A NIfTI file, and a CT of 6 slices, 5 rows and 7 columns."""
    save(tmp_path / "in" / "a.nii.gz", np.zeros((7, 5, 6), np.uint8))
    series.write(tmp_path / "in" / "ct", np.arange(210, dtype=np.uint16).reshape(6, 5, 7) * 15, **CT)
    return VolumeOutlining(tmp_path / "in", CLASSES)


def test_a_volume_comes_slice_by_slice_and_its_mask_as_a_whole(volumes: VolumeOutlining) -> None:
    labels = np.zeros((5, 7), np.uint8)
    labels[1, 2] = 2
    with local_server.running(OutlineApp(volumes)) as server:
        script = Script(server)
        shown = script.json("picture/1")
        assert [shown[name] for name in ("width", "height", "slice", "slices", "windows")] == [7, 5, 2, 6, False]
        assert script.json("between/1/2", b"")["note"] == "No other slice of this volume is drawn yet."
        assert script.json("draft/1/1", packed(labels)) == {"state": "draft"}
        assert zlib.decompress(base64.b64decode(script.json("picture/1/1")["mask"])) == labels.tobytes()
        assert script.json("picture/1")["slice"] == 0  # what shows most
        assert zlib.decompress(base64.b64decode(script.json("between/1/2", b"")["mask"])) == labels.tobytes()
        assert script.json("done/1/6", packed(labels)) == {"state": "done"}
        for path in ("picture/1/0", "picture/1/7", "picture/1/x", "picture/1/1/lung/x"):
            assert script.status(path) == 404
        for path in ("draft/1/7", "draft/1/0", "between/1/7", "propose/1/1", "draft/2/1", "between/2/1"):
            assert script.status(path, packed(labels)) == 404, path
        assert script.status("draft/1/1", packed(labels[:4])) == 404
        plain, lung = script.json("picture/2"), script.json("picture/2/4/lung")
        assert (plain["windows"], lung["windows"], plain["slice"], lung["slice"]) == (True, True, 2, 3)
        assert script.json("picture/2/4")["src"] != lung["src"]
        script.ask(script.base + "all")
        assert (script.text.count("<li>"), "<img" in script.text, "a.nii.gz" in script.text) == (2, False, True)
        script.ask(script.base + "1")
        assert ">Volume 1 of 2</h1>" in script.text
        assert re.findall('class="side [a-z]+">(.)<', script.text) == ["R", "L", "A", "P"]
    assert volumes.states() == ["done", ""]
    assert [volumes.labels("a.nii.gz", (5, 7), at).any() for at in range(6)] == [True, *[False] * 4, True]


def test_what_cannot_be_saved_says_why(volumes: VolumeOutlining, tmp_path: Path) -> None:
    with local_server.running(OutlineApp(volumes)) as server:
        script = Script(server)
        for path in ("picture/1", "picture/2"):
            script.json(path)
        (tmp_path / "in" / "a.nii.gz").unlink()
        for path in ("draft/1/2", "done/1/2", "between/1/2"):
            note = script.json(path, packed(np.ones((5, 7), np.uint8)))["note"]
            assert note.startswith("Not saved yet: it disappeared while the folder was read. Keep this page open")
        (tmp_path / "in-masks").write_text("no folder")
        assert "in-masks" in script.json("draft/2/2", packed(np.ones((5, 7), np.uint8)))["note"]
