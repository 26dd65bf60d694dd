"""The diagnosis page: any file is answered or refused with an explanation in the person's language."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from fedhelp_edge.data.picture import decode
from fedhelp_edge.infer import answer_formats, decide
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.event_log import EventLog
from fedhelp_edge.infer.metadata import TrainedKinds
from fedhelp_edge.page import local_server, serve, viewer
from fedhelp_edge.page import texts as page_texts
from fedhelp_edge.page.serve import DiagnosisApp
from tests import bundles, studies
from tests.scriptless_browser import ScriptlessBrowser
from tests.unit.data import samples
from tests.unit.infer.test_predict import BAD, dicoms

LINE = "----a-line-that-is-nowhere-else"


class Guest(ScriptlessBrowser):
    def send(self, *files: tuple[str, bytes], **headers: str) -> str:
        """Sends files; returns the page."""
        assert self.ask(self.base, form(*files), **headers).status == 200
        return self.text


def form(*files: tuple[str, bytes]) -> bytes:
    """The form that a browser sends."""
    sink = io.BytesIO()
    for name, data in files:
        header = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: image/png'
        sink.write(f"--{LINE}\r\n{header}\r\n\r\n".encode() + data + b"\r\n")
    return sink.getvalue() + f"--{LINE}--\r\n".encode()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.loaded_bundle(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def visitor(bundle: Bundle) -> Iterator[Guest]:
    with local_server.running(DiagnosisApp(bundle)) as server:
        yield Guest(server)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> bytes:
    """The first image that the model answers: one unlike the training images shows neither bars nor a heat-map."""
    files = sorted(bundles.write_test_images(tmp_path_factory.mktemp("in"), 20).iterdir())
    contents = (path.read_bytes() for path in files)
    return next(content for content in contents if answer_of(bundle, content).answer)


def answer_of(bundle: Bundle, picture: bytes) -> decide.Answer:
    return decide.answer_images(bundle, decode(io.BytesIO(picture), bundle.facts.image).pixels[None])[0]


def test_an_image_gets_the_models_answer(visitor: Guest, bundle: Bundle, picture: bytes) -> None:
    page = visitor.send(("Jane <Doe>.png", picture))
    answer = answer_of(bundle, picture)
    assert re.findall("<h2[^>]*>([^<]*)<", html.unescape(page))[0] == f"Answer: {answer.answer}"
    assert re.findall('src="data:image/(png|jpeg);base64,', page) == ["png", "jpeg"]  # the image is exact
    assert "Jane &lt;Doe&gt;.png" in page
    assert "Doe" not in re.findall("<title>(.*)</title>", page)[0]
    widths = [float(width) for width in re.findall(r'class="bar" style="width:([\d.]+)%', page)]
    assert widths == pytest.approx([100 * p for p in answer.probabilities.values()], abs=0.06)
    assert bundle.sha256[:16] in page


def test_each_of_several_files_is_answered_and_its_bytes_are_unchanged(visitor: Guest, picture: bytes) -> None:
    page = visitor.send(("a.png", picture), ("b.png", b"\r\n--" + picture), ("c.png", picture))
    assert page.count("<figure>") == 2
    assert page.count("E_IMAGE") == 1
    names = [f"{index}.png" for index in range(21)]
    assert "21 files are too many" in visitor.send(*((name, b"") for name in names))
    assert list(local_server.PageRequest("", form(("a", b"\r\n\r\n-\r\n"), ("%22é", b""))).files()) == [
        ("a", b"\r\n\r\n-\r\n"),
        ('"é', b""),
    ]


@pytest.mark.parametrize("name", [name for name in BAD if not name.endswith(".docx")])
def test_a_bad_file_is_refused_with_code_cause_and_remedy(name: str, visitor: Guest, tmp_path: Path) -> None:
    write, code = BAD[name]
    write(tmp_path / name)
    page = visitor.send((name, (tmp_path / name).read_bytes()))
    assert f"This file cannot be used ({code})" in page
    assert re.search(r"Why: <span[^>]*>[^<]+</span>", page)
    assert re.search(r"What to do: <span[^>]*>[^<]+</span>", page)
    assert "<figure>" not in page


def test_a_phones_image_and_no_file_give_different_errors(visitor: ScriptlessBrowser) -> None:
    assert "(E_HEIC)" in visitor.send(("IMG_1.HEIC", b"ftypheic"))
    for empty in (form(("", b"")), b"", b"\r\n", b"x", form(("a.png", b"x"))[:-30]):
        assert visitor.ask(visitor.base, empty).status == 200
        assert "(E_NO_IMAGES)" in visitor.text


def test_dicom_is_answered_or_refused_without_the_patients_name(
    visitor: Guest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pydicom")
    dicoms(tmp_path)
    for name, code in {"plain": "", "frames": "", "large": "E_IMAGE_SIZE", "short": "E_IMAGE"}.items():
        page = visitor.send(("upload", (tmp_path / f"{name}.dcm").read_bytes()))
        assert code in page
        assert ("<figure>" in page) == (not code)
        assert not re.search("Secretperson|Hildegard|patient-number", page)
    assert capfd.readouterr() == ("", "")


def test_the_page_says_which_dicom_image_it_is_and_refuses_other_kinds(
    bundle: Bundle, visitor: Guest, tmp_path: Path
) -> None:
    pytest.importorskip("pydicom")
    (path,) = studies.write(tmp_path, 1, Modality="CT", AccessionNumber="A<1>", BurnedInAnnotation="YES")
    page = visitor.send(("0.dcm", path.read_bytes()))
    named = "CT SKIN, accession number A&lt;1&gt;, study 1.2.3.0, series 1.2.3.0.1, instance 1.2.3.0.1.1"
    assert named in page
    assert "text is burned into the image" in page
    assert "Müller" not in page
    app = DiagnosisApp(replace(bundle, facts=replace(bundle.facts, kinds=TrainedKinds(("XC",)))))
    answer = app.answer(local_server.PageRequest("", form(("0.dcm", path.read_bytes()))))
    assert answer is not None
    assert "(E_OTHER_KIND)" in answer.page
    assert named in answer.page
    assert "<figure>" not in answer.page


def test_a_file_that_is_too_large_is_refused_and_not_stored(
    visitor: Guest, monkeypatch: pytest.MonkeyPatch, picture: bytes
) -> None:
    monkeypatch.setattr(visitor.server.app, "limit", 1000)
    assert visitor.ask(visitor.base, form(("large.png", bytes(3 << 20)))).status == 413
    assert "This file cannot be used (E_IMAGE_SIZE)" in visitor.text
    assert visitor.ask(visitor.base, form(("small.png", b"x"))).status == 200


def test_nothing_is_read_from_a_stranger(visitor: Guest, monkeypatch: pytest.MonkeyPatch, picture: bytes) -> None:
    monkeypatch.setattr(DiagnosisApp, "answer", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(local_server._RequestHandler, "_respond", lambda *_: pytest.fail("read"))
    for path, headers in (
        ("/", {}), ("/" + "x" * 32 + "/", {}), (visitor.base, {"Host": "clinic.example"}),
        (visitor.base, {"Host": visitor.server.host, "Origin": "https://evil.example"}),
    ):  # fmt: skip
        assert visitor.ask(path, form(("a.png", picture)), **headers).status == 404
        assert visitor.text == "404\n"


def test_the_page_forbids_loading_framing_and_caching(visitor: Guest, picture: bytes) -> None:
    for body in (None, form(("a.png", picture))):
        headers = visitor.ask(visitor.base, body).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-")
        assert "form-action 'self'; frame-ancestors 'none'; base-uri 'none'" in policy
        assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
        assert not re.search(r'(src|href)="(?!data:)', visitor.text)


def test_no_other_path_exists_and_the_person_can_stop_the_page(visitor: ScriptlessBrowser) -> None:
    for path in ("2", "end", "../", "favicon.ico"):
        assert visitor.ask(visitor.base + path).status == 404
    assert not visitor.server.done.is_set()
    assert visitor.ask(visitor.base + "end", b"").status == 200
    assert visitor.server.done.wait(10)


def test_an_untrusted_model_is_marked(bundle: Bundle) -> None:
    with local_server.running(DiagnosisApp(replace(bundle, why="a <reason>"))) as server:
        visitor = Guest(server)
        visitor.ask(visitor.base)
    assert "This model is not trusted here" in visitor.text
    assert "a &lt;reason&gt;" in visitor.text


def test_the_card_is_shown_in_headings_tables_and_lists_and_its_text_is_escaped() -> None:
    rendered = viewer._render_card(
        "---\ntags: [x]\n---\n\n# **A** <b>\n\none\ntwo `c`\n- x\n\n| h |\n| --- |\n| 1 |\n### Few\nend"
    )
    assert "<h2>A &lt;b&gt;</h2><p>one two c</p><ul><li>x</li></ul>" in rendered
    assert "<tr><td>h</td></tr><tr><td>1</td></tr></table></div><h4>Few</h4><p>end</p>" in rendered
    assert "tags" not in rendered


@pytest.mark.parametrize("lang", list(page_texts.DIAGNOSIS))
def test_every_language_has_all_texts_and_marks_unreviewed_ones(lang: str, bundle: Bundle, picture: bytes) -> None:
    wording = page_texts.DIAGNOSIS[lang]
    english = page_texts.DIAGNOSIS["en"]
    for field in fields(wording):
        texts = [getattr(language, field.name) for language in (wording, english)]
        if isinstance(texts[1], str) and texts[1]:
            places = [re.findall(r"\{\w+\}", text) for text in texts]
            assert texts[0], field.name
            assert sorted(places[0]) == sorted(places[1]), field.name
    with local_server.running(DiagnosisApp(bundle, lang)) as server:
        page = Guest(server).send(("bad.png", b""), ("good.png", picture), **{"Accept-Language": "de"})
    assert f'<html lang="{lang}"' in page
    assert wording.reviewed == (lang == "en")
    if not wording.reviewed:
        assert wording.unreviewed.split(".")[0] in page.replace("&#x27;", "'")
        assert wording.codes["E_IMAGE"].replace("'", "&#x27;") in page
    assert wording.strength in page


@pytest.mark.parametrize(
    ("accepted", "lang"),
    [
        ("fr-CA,fr;q=0.9,en;q=0.8", "fr"), ("de, es;q=0.5, en;q=0.4", "es"), ("en;q=0.2, sw", "sw"),
        ("pt;q=0, *", "en"), ("", "en"), ("de", "en"), ("fr;q=nan", "en"), ("fr;q=1e9,,;q=", "en"),
        ("PT-br;q=1.000", "pt"),
    ],
)  # fmt: skip
def test_the_browsers_language_counts(accepted: str, lang: str) -> None:
    assert page_texts.choose_language(accepted) == lang


def test_english_reasons_are_those_of_predict(bundle: Bundle) -> None:
    facts, english = bundle.facts, page_texts.DIAGNOSIS["en"]
    cam = np.zeros((3, 2, 2), np.float32)
    seen = set()
    for least in ((0.0, 0.0, 0.0), (0.9, 0.9, 0.9), (0.9, 0.0, 0.9), (0.0, 0.9, 0.9)):
        calibrated = replace(facts, calibration=replace(facts.calibration, least=least))
        for distance in (0.5, 3.0, float("nan")):
            answer = decide.decide(calibrated, np.array([0.6, 0.3, 0.1], np.float32), distance, cam)
            if answer.answer is None:
                assert serve._reason(english, answer) == answer.reason
                seen.add(answer.reason)
    assert len(seen) == 5
    assert english.notice == answer_formats.NOTICE


def test_a_picture_keeps_its_own_proportions(visitor: Guest, tmp_path: Path) -> None:
    samples.save(tmp_path / "wide.png", bundles.noise(20, 80, 3))
    page = visitor.send(("wide.png", (tmp_path / "wide.png").read_bytes()))
    assert page.count('width="480" height="120" style="aspect-ratio:480/120"') == 1


@pytest.mark.parametrize(
    ("kind", "shown_as", "tolerance"), [("JPEG", "jpeg", 4), ("MPO", "jpeg", 4), ("PNG", "png", 0)]
)
def test_a_cameras_image_is_shown_as_a_jpeg_and_another_one_to_the_pixel(
    kind: str, shown_as: str, tolerance: float, visitor: Guest
) -> None:
    pixels = Image.fromarray(bundles.noise(30, 40, 3)).resize((200, 150))
    sink, turned = io.BytesIO(), Image.Exif()
    turned[274] = 6  # orientation: by a quarter
    preview = {"save_all": True, "append_images": [pixels.resize((20, 15))]} if kind == "MPO" else {}
    pixels.save(sink, kind, exif=turned, quality=95, **preview)
    assert Image.open(sink).format == kind
    page = visitor.send((f"a.{shown_as}", sink.getvalue()))
    shown_kind, data = re.findall('src="data:image/(png|jpeg);base64,([^"]*)"', page)[0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), np.int16)
    upright = Image.open(sink).transpose(Image.Transpose.ROTATE_270)
    expected = np.asarray(upright.resize((480, 480), Image.Resampling.BILINEAR), np.int16)
    assert shown_kind == shown_as
    assert abs(shown - expected).mean() <= tolerance


def test_an_image_unlike_the_training_images_shows_no_bars_classes_or_heat_map(visitor: Guest, tmp_path: Path) -> None:
    samples.save(tmp_path / "noise.png", bundles.noise(48, 48, 3))
    page = visitor.send(("noise.png", (tmp_path / "noise.png").read_bytes()))
    assert "unlike the training images" in page
    section = re.findall('<section id="file-0">.*?</section>', page, flags=re.S)[0]
    assert section.count("<img") == 1
    for sign in ('class="bar"', "%", *bundles.CLASSES):
        assert sign not in section.split("</h2>")[1]


def test_an_even_probability_is_no_answer_and_both_classes_are_named_in_each_language(bundle: Bundle) -> None:
    calibrated = replace(bundle.facts, calibration=replace(bundle.facts.calibration, least=(0.5, 0.5, 0.5)))
    answer = decide.decide(calibrated, np.array([0.51, 0.47, 0.02], np.float32), 0.5, np.zeros((3, 2, 2), np.float32))
    for wording in page_texts.DIAGNOSIS.values():
        reason = serve._reason(wording, answer)
        assert f"{bundles.CLASSES[0]} (51.0%)" in reason
        assert f"{bundles.CLASSES[1]} (47.0%)" in reason
    assert serve._reason(page_texts.DIAGNOSIS["en"], answer) == answer.reason


def test_answers_are_logged_where_somebody_asks_for_it_and_the_page_says_so(
    bundle: Bundle, picture: bytes, tmp_path: Path
) -> None:
    log = tmp_path / "events"
    with local_server.running(DiagnosisApp(bundle, events=EventLog(log, bundle))) as server:
        visitor = Guest(server)
        page = visitor.send(("eye.png", picture))
        assert page_texts.DIAGNOSIS["en"].logged in page
        assert page_texts.DIAGNOSIS["en"].private not in page
        (entry,) = map(json.loads, log.read_text().splitlines())
        assert (entry["file"], entry["error"]) == ("eye.png", None)
        visitor.send(("broken.png", picture[:99]))
        _, entry = map(json.loads, log.read_text().splitlines())
        assert (entry["file"], entry["error"], entry["verdict"]) == ("broken.png", "E_IMAGE", None)
        log.unlink()
        log.mkdir()  # nothing is answered that cannot be logged
        refused = visitor.send(("eye.png", picture))
    assert "E_FILE_KIND" in refused
    assert "<img" not in refused
