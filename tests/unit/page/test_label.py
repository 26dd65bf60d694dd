"""The labelling page: every button works without script, and nobody without the link has access."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fedhelp_edge.data.sorting import Sorting
from fedhelp_edge.page import label, local_server, texts
from fedhelp_edge.page.label import KEYS, LabelApp
from tests.scriptless_browser import ScriptlessBrowser
from tests.unit.data import samples

CLASSES = ("naevus", "<b>melanoma</b>")


class Labeller(ScriptlessBrowser):
    def go(self, path: str, body: str | None = None) -> str:
        """Follows a step; returns the path that it leads to."""
        response = self.ask(self.base + path, body)
        assert response.status == 303
        return response.headers["Location"].removeprefix(self.base)

    def ask_text(self, path: str) -> str:
        assert self.ask(self.base + path).headers["Content-Type"] == "application/json; charset=utf-8"
        return self.text


@pytest.fixture
def sorting(tmp_path: Path) -> Sorting:
    for index, pixels in enumerate(samples.noise(3)):
        samples.save(tmp_path / f"scan{index}.png", pixels)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "phone.heic").write_bytes(b"no picture")
    return Sorting(tmp_path, CLASSES)


@pytest.fixture
def visitor(sorting: Sorting) -> Iterator[Labeller]:
    with local_server.running(LabelApp(sorting)) as server:
        yield Labeller(server)


def test_a_class_is_chosen_and_the_next_image_is_shown(visitor: Labeller, sorting: Sorting) -> None:
    assert sorting.names[1] == "scan0.png"
    assert visitor.go("2", "class=1") == "3"
    assert sorting.label("scan0.png") == 1
    visitor.ask(visitor.base + "2")
    assert re.search(r'value="1"[^>]*aria-pressed="true"', visitor.text)
    assert visitor.go("2", "class=") == "2"
    assert sorting.label("scan0.png") is None


def test_an_image_is_in_the_page_and_names_are_text(visitor: ScriptlessBrowser) -> None:
    visitor.ask(visitor.base + "2")
    assert 'src="data:image/png;base64,' in visitor.text
    assert "<b>melanoma" not in visitor.text
    assert "&lt;b&gt;melanoma" in visitor.text
    assert [f'data-key="{key}"' in visitor.text for key in KEYS[:3]] == [True, True, False]


def test_an_image_is_put_aside_and_choices_are_undone(visitor: Labeller, sorting: Sorting) -> None:
    visitor.ask(visitor.base + "2")
    assert re.search('data-key="Backspace" hidden', visitor.text)
    assert visitor.go("2", "class=unsure") == "3"
    assert (sorting.label("scan0.png"), sorting.is_unsure("scan0.png")) == (None, True)
    assert visitor.go("3", "class=1") == "4"
    assert sorting.next_unlabelled(3) == 0
    visitor.ask(visitor.base + "end")
    assert "1 of them is put aside: unsure." in visitor.text
    assert [visitor.go("undo", ""), visitor.go("undo", "")] == ["3", "2"]
    assert (sorting.counts(), sorting.is_unsure("scan0.png")) == ([0, 0], False)
    assert visitor.go("undo", "") == "1"


def test_small_images_lead_to_their_pages(visitor: Labeller, sorting: Sorting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label, "_A_PAGE", 3)
    sorting.assign("scan0.png", 1)
    visitor.ask(visitor.base + "all")
    assert re.findall(r'<li><a href="(\w+)">', visitor.text) == ["1", "2", "3"]
    assert "&lt;b&gt;melanoma" in visitor.text
    assert 'href="all/2"' in visitor.text
    visitor.ask(visitor.base + "all/2")
    assert re.findall(r'<li><a href="([./\w]+)">', visitor.text) == ["../4"]
    assert 'href="../all"' in visitor.text
    for path in ("all/1", "all/3", "all/x"):
        assert visitor.ask(visitor.base + path).status == 404


def test_a_script_saves_several_choices_at_once_or_none(visitor: Labeller, sorting: Sorting) -> None:
    assert visitor.ask(visitor.base + "save", "set=2:1&set=3:unsure&set=4:0&set=4:").status == 200
    assert json.loads(visitor.ask_text("state"))["labels"] == ["", "1", "unsure", ""]
    for wrong in ("set=2:0&set=9:1", "set=2:0&set=3:2", "set=2:0&set=x:1", "set=2:0&set=0:1"):
        assert visitor.ask(visitor.base + "save", wrong).status == 404
    assert sorting.label("scan0.png") == 1
    shown = json.loads(visitor.ask_text("picture/2"))
    assert shown["src"].startswith("data:image/png;base64,")
    assert (shown["width"], shown["height"], shown["error"]) == (640, 640, "")
    assert "cannot be read" in json.loads(visitor.ask_text("picture/1"))["error"]


def test_a_second_reader_starts_without_the_firsts_choices_and_sees_the_agreement_at_the_end(
    sorting: Sorting, tmp_path: Path
) -> None:
    for name, choice in (("scan0.png", 0), ("scan1.png", 1), ("scan2.png", 1)):
        sorting.assign(name, choice)
    second = Sorting(tmp_path, CLASSES, "anna")
    assert second.counts() == [0, 0]
    for name, choice in (("scan0.png", 0), ("scan1.png", 1), ("scan2.png", 0)):
        second.assign(name, choice)
    with local_server.running(LabelApp(second, sorting)) as server:
        visitor = Labeller(server)
        visitor.ask(visitor.base + "end")
    assert "2 of 3 pictures have the same class as in labels.csv. Cohen&#x27;s kappa: 0.40." in visitor.text
    assert Sorting(tmp_path, CLASSES).counts() == [1, 2]


@pytest.mark.parametrize("lang", list(texts.LABEL))
def test_the_page_speaks_the_browsers_language_and_marks_unreviewed_ones(lang: str, visitor: Labeller) -> None:
    wording, english = texts.LABEL[lang], texts.LABEL["en"]
    for field in dataclasses.fields(wording):
        both = [getattr(language, field.name) for language in (wording, english)]
        own_fields, english_fields = (sorted(re.findall(r"\{\w+\}", str(text))) for text in both)
        assert own_fields == english_fields, field.name
        assert both[0] or field.name in ("reviewed", "unreviewed")
    visitor.ask(visitor.base + "2", **{"Accept-Language": lang})
    assert f'<html lang="{lang}"' in visitor.text
    assert html.escape(wording.undo) in visitor.text
    assert (wording.unreviewed in html.unescape(visitor.text)) or wording.reviewed


def test_a_file_that_is_not_an_image_shows_a_remedy_and_accepts_no_class(visitor: ScriptlessBrowser) -> None:
    visitor.ask(visitor.base + "1")
    assert "it cannot be read as an image" in visitor.text
    assert "copy the file again" in visitor.text
    assert '<form class="classes" method="post" action="1" hidden>' in visitor.text
    assert "Most Compatible" in visitor.text  # of phone.heic


def test_the_page_ends_when_all_images_have_a_class_or_the_person_stops(visitor: Labeller, sorting: Sorting) -> None:
    for name in sorting.names[:-1]:
        sorting.assign(name, 0)
    assert visitor.go(str(len(sorting.names)), "class=0") == "end"
    visitor.ask(visitor.base + "end")
    assert "Every picture has a class" in visitor.text
    assert not visitor.server.done.is_set()
    assert visitor.ask(visitor.base + "end", "").status == 200
    assert visitor.server.done.wait(10)


def test_without_the_secret_link_nothing_is_shown(visitor: ScriptlessBrowser) -> None:
    host = visitor.server.host
    for path, headers in (
        ("/", {}), ("/2", {}), ("/" + "x" * 32 + "/2", {}), ("/%C3%A9/2", {}),
        (visitor.base + "2", {"Host": "clinic.example"}), (visitor.base + "2", {"Host": host, "Origin": "https://evil"}),
    ):  # fmt: skip
        assert visitor.ask(path, **headers).status == 404
        assert visitor.text == "404\n"


def test_the_link_that_a_browser_is_started_with_works_once(visitor: ScriptlessBrowser) -> None:
    path = urlsplit(visitor.server.one_time_link).path
    response = visitor.ask(path)
    assert (response.status, response.headers["Location"]) == (303, visitor.base)
    for again in (path, "/", "//2"):
        assert visitor.ask(again).status == 404


def test_an_invalid_form_is_refused_and_changes_nothing(visitor: Labeller, sorting: Sorting) -> None:
    for path, body in (("0", None), ("6", None), ("%C2%B2", None), ("../2", None), ("2", "class=2"), ("2", "class=-1")):
        assert visitor.ask(visitor.base + path, body).status == 404, path
    assert visitor.ask(visitor.base + "2", "class=0&" + "x" * 2000).status == 413
    assert sorting.counts() == [0, 0]


def test_every_response_forbids_loading_framing_and_caching(visitor: ScriptlessBrowser) -> None:
    for path in (visitor.base + "2", visitor.base, "/"):
        headers = visitor.ask(path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Server"] == "fedhelp-edge"
