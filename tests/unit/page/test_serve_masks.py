"""The diagnosis page of a model for masks: outlines of pictures, and of volumes slice by slice."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("torch")

from fedhelp_edge.data import grid as grids
from fedhelp_edge.data import nifti
from fedhelp_edge.infer import drawing, mask_files
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.infer.event_log import EventLog
from fedhelp_edge.page import local_server
from fedhelp_edge.page import texts as page_texts
from fedhelp_edge.page.serve_masks import MaskApp, MaskView
from fedhelp_edge.page.viewer import LastAnswers
from tests import mask_bundles
from tests.unit.data import samples, series
from tests.unit.page.test_serve import Guest

PLAIN: dict[str, Any] = {"WindowCenter": 128, "WindowWidth": 256}  # shows bytes as they are
CT: dict[str, Any] = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> MaskBundle:
    return mask_bundles.loaded_bundle(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> MaskBundle:
    return mask_bundles.loaded_bundle(tmp_path_factory.mktemp("volumes"), 8)


@pytest.fixture
def visitor(pictures: MaskBundle) -> Iterator[Guest]:
    with local_server.running(MaskApp(pictures)) as server:
        yield Guest(server)


@pytest.fixture
def reader(volumes: MaskBundle) -> Iterator[Guest]:
    """Who looks at volumes."""
    with local_server.running(MaskApp(volumes)) as server:
        yield Guest(server)


def case(depth: int = 1, number: int = 0) -> NDArray[np.uint8]:
    """A validation image of the model's site, without its channel."""
    return np.asarray([*mask_bundles.site(depth).images.split("val").case_pictures()][number][..., 0])


def png(pixels: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def slices(folder: Path, values: NDArray[Any], **tags: Any) -> list[tuple[str, bytes]]:
    """The files of a series at the plan's distances; slices go from the feet to the head."""
    where = {"PixelSpacing": [1.0, 1.0], "ImagePositionPatient": lambda at: [0.0, 0.0, 2.0 * at], **tags}
    return [(path.name, path.read_bytes()) for path in series.write(folder, values, **where)]


def linked(text: str, number: int = 0) -> Image.Image:
    """A picture that a page or an answer holds."""
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    return Image.open(io.BytesIO(base64.b64decode(found[number])))


def asked(visitor: Guest, path: str) -> dict[str, Any]:
    assert visitor.ask(f"{visitor.base}{path}").status == 200
    return dict(json.loads(visitor.text))


def test_a_picture_is_shown_with_its_outlines_areas_and_uncertain_pixels(visitor: Guest, pictures: MaskBundle) -> None:
    pixels = case()
    answer = drawing.outline(pictures, pixels[..., None], pixels.shape)
    counts = np.bincount(answer.drawn.mask.ravel(), minlength=3)[1:]
    page = visitor.send(("a <b>.png", png(pixels)))
    names = [name for name, count in zip(mask_bundles.CLASSES, counts, strict=True) if count]
    assert f"Outlined: {', '.join(names)}" in page or "Outlined, but uncertain" in page
    for count in counts:
        assert f"<td>{count} pixels</td>" in page
    assert f"<td>{answer.drawn.uncertainty:.1%}</td>" in page
    over = linked(page[page.index("<figure>") :], 1)
    assert (over.mode, max(over.size)) == ("RGBA", 960)
    expected = mask_files.outlines(answer.drawn.mask, answer.drawn.uncertain, over.size[::-1])
    assert np.array_equal(np.asarray(over), expected)
    assert '<div class="pair laid"' in page  # one lies over the other without script too


def test_the_mask_can_be_saved_and_is_what_was_drawn(
    visitor: Guest, reader: Guest, pictures: MaskBundle, tmp_path: Path
) -> None:
    pixels = case()
    page = visitor.send(("a.png", png(pixels)))
    saved = re.findall(r'download="mask\.png" href="data:image/png;base64,([^"]+)"', page)
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(saved[0]))))
    assert np.array_equal(mask, drawing.outline(pictures, pixels[..., None], pixels.shape).drawn.mask)
    page = reader.send(*slices(tmp_path, case(8)))
    saved = re.findall(r'download="mask\.nii\.gz" href="data:application/gzip;base64,([^"]+)"', page)
    assert len(gzip.decompress(base64.b64decode(saved[0]))) >= case(8).size


def test_an_unlike_picture_gets_no_outline_no_area_and_no_mask(visitor: Guest) -> None:
    page = visitor.send(("a.png", png(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255)))
    section = re.findall("<section.*?</section>", page, flags=re.S)[0]
    assert "Don&#x27;t know: unlike the training images" in section
    assert section.count("<img") == 1
    for sign in ("download=", "<table", "swatch"):
        assert sign not in section


def test_a_doubtful_outline_is_marked_with_the_reason_of_predict(pictures: MaskBundle) -> None:
    facts = replace(pictures.facts, calibration=replace(pictures.facts.calibration, most_uncertain=-1.0))
    app = MaskApp(replace(pictures, facts=facts))
    with local_server.running(app) as server:
        page = Guest(server).send(("a.png", png(case())))
    answer = drawing.outline(app.bundle, case()[..., None], case().shape)
    assert answer.verdict == "uncertain"
    assert f"Outlined, but uncertain: {answer.reason}<" in page
    assert MaskView(app.bundle, "en", None, LastAnswers()).reason(answer) == answer.reason


@pytest.mark.parametrize("kind", ["series", "nifti"])
def test_a_volume_is_shown_slice_by_slice_from_the_head_as_radiologists_look_at_it(
    reader: Guest, volumes: MaskBundle, kind: str, tmp_path: Path
) -> None:
    values = case(8)
    if kind == "series":
        files = slices(tmp_path, values)
    else:
        pytest.importorskip("nibabel")
        where = grids.of_affine(values.shape[::-1], np.diag([-1.0, -1.0, 2.0, 1.0]))  # as DICOM counts
        files = [("a.nii.gz", nifti.encode(where.turned(values.transpose()), where))]
    page = reader.send(*files)
    count = len(values)
    answer = drawing.outline(volumes, values[:, ::-1, ::-1, None])
    assert answer.verdict != "unlike"
    fullest = mask_files.fullest(answer.drawn)
    assert f"Slice {count - fullest} of {count}" in page
    for number in (0, 3, count - 1):
        drawn = asked(reader, f"draw-1-0-{number}-stored")
        assert drawn["position"] == f"Slice {number + 1} of {count}"
        stored = count - 1 - number
        assert np.array_equal(np.asarray(linked(drawn["image"])), values[stored])  # the right side is on the left
        mask, uncertain = (part[stored, ::-1, ::-1] for part in (answer.drawn.mask, answer.drawn.uncertain))
        over = np.asarray(linked(drawn["over"]))
        assert np.array_equal(over, mask_files.outlines(mask, uncertain, over.shape[:2]))
    volume = np.bincount(answer.drawn.mask.ravel(), minlength=3)[1] * 2.0
    assert f"<td>{volume:,.0f} mm³</td>" in page or f"<td>{volume / 1000:,.1f} ml</td>" in page
    for side in "RLAP":
        assert f">{side}</span>" in page


def test_without_script_links_lead_to_other_slices(reader: Guest, tmp_path: Path) -> None:
    page = reader.send(*slices(tmp_path, case(8)))
    links = re.findall(r'href="(slice-\d+-\d+-\d+)"', page)
    assert links[0] == "slice-1-0-0"
    assert links[-1] == f"slice-1-0-{len(case(8)) - 1}"
    assert reader.ask(reader.base + links[0]).status == 200
    assert f"Slice 1 of {len(case(8))}" in reader.text
    assert np.array_equal(np.asarray(linked(reader.text[reader.text.index("<figure>") :])), case(8)[-1])


def test_a_later_form_forgets_what_an_earlier_one_showed(reader: Guest, tmp_path: Path) -> None:
    reader.send(*slices(tmp_path, case(8)))
    asked(reader, "draw-1-0-0-stored")
    reader.send(("a.png", b""))
    for path in ("draw-1-0-0-stored", "draw-2-0-0-stored", "draw-1-0-99-stored", "draw-1-1-0-stored", "slice-1-0-0"):
        assert reader.ask(reader.base + path).status == 404


def test_files_that_are_no_volume_or_too_many_are_refused_each_with_its_reason(reader: Guest, tmp_path: Path) -> None:
    files = slices(tmp_path, case(8))
    page = reader.send(("a.png", png(case())), *files[:4], *files[5:])
    assert "(E_VOLUME)" in page
    assert "it is not a volume" in page
    assert "it lacks 1 slice, most of them between" in page
    assert "5 volumes are too many at once" in reader.send(*((f"{number}.nii", b"") for number in range(5)))
    report = samples.dicom(tmp_path / "report.dcm", case(), Rows=0)
    assert "(E_NO_IMAGES)" in reader.send(("report.dcm", report.read_bytes()))


def test_a_volume_of_a_ct_is_shown_in_windows_of_hounsfield_units(reader: Guest, tmp_path: Path) -> None:
    values = case(8).astype(np.uint16) * 8
    page = reader.send(*slices(tmp_path, values, **CT))
    assert '<option value="lung">lung</option>' in page
    hounsfield = values[-1].astype(float) - 1024
    for window, low, high in (("lung", -1350, 150), ("brain", 0, 80)):
        shown = np.asarray(linked(asked(reader, f"draw-1-0-0-{window}")["image"]))
        assert np.array_equal(shown, (np.clip((hounsfield - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8))
    assert "lung</option>" not in reader.send(*slices(tmp_path / "mr", case(8)))


def test_each_frame_of_a_file_is_outlined_when_it_is_shown(
    visitor: Guest, pictures: MaskBundle, tmp_path: Path
) -> None:
    frames = np.stack([case(1, number) for number in range(3)])
    path = samples.dicom(tmp_path / "a.dcm", frames[0], NumberOfFrames=3, PixelData=frames.tobytes(), **PLAIN)
    page = visitor.send(("a.dcm", path.read_bytes()))
    assert "Frame 1 of 3" in page
    for number, frame in enumerate(frames):
        drawn = asked(visitor, f"draw-1-0-{number}-stored")
        counts = np.bincount(drawing.outline(pictures, frame[..., None], frame.shape).drawn.mask.ravel(), minlength=3)
        assert f"<td>{counts[1]} pixels</td>" in drawn["about"]
    assert visitor.ask(visitor.base + "draw-1-0-3-stored").status == 404


def test_answers_are_logged_once_where_somebody_asks_for_it(volumes: MaskBundle, tmp_path: Path) -> None:
    log = tmp_path / "events"
    with local_server.running(MaskApp(volumes, events=EventLog(log, volumes))) as server:
        reader = Guest(server)
        page = reader.send(*slices(tmp_path / "in", case(8)))
        asked(reader, "draw-1-0-0-stored")
    assert page_texts.DIAGNOSIS["en"].logged in page
    (entry,) = map(json.loads, log.read_text().splitlines())
    assert entry["verdict"] in ("answered", "uncertain")


def test_every_language_has_all_texts_of_the_viewer() -> None:
    english = page_texts.VIEWER["en"]
    assert page_texts.VIEWER.keys() == page_texts.DIAGNOSIS.keys()
    for wording in page_texts.VIEWER.values():
        for field in fields(wording):
            ours, theirs = (json.dumps(getattr(each, field.name)) for each in (wording, english))
            assert min(map(len, getattr(wording, field.name))), field.name
            assert sorted(re.findall(r"\{\w+\}", ours)) == sorted(re.findall(r"\{\w+\}", theirs)), field.name


def test_the_viewer_speaks_the_persons_language(volumes: MaskBundle, tmp_path: Path) -> None:
    wording = page_texts.VIEWER["fr"]
    with local_server.running(MaskApp(volumes, "fr")) as server:
        page = Guest(server).send(*slices(tmp_path, case(8)))
    for text in (wording.strength, wording.columns[2], wording.others, wording.volume_file):
        assert text.replace("'", "&#x27;") in page
