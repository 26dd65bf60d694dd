"""`predict`: any file gives an answer or a row with a reason; any number of files; four formats."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import numpy as np
import pytest
from PIL import Image

from fedhelp_edge.cli import predict as command
from fedhelp_edge.errors import BusyError, OtherAnswersError
from fedhelp_edge.infer import answer_formats, answering, inputs
from fedhelp_edge.infer.bundle import Bundle
from tests import bundles
from tests.bundles import run_command
from tests.unit.data import samples

ROW = {
    "type": "object",
    "required": ["file", "answer", "verdict", "reason", "probabilities", "set", "error"],
    "properties": {
        "answer": {"type": ["string", "null"]},
        "reason": {"type": "string"},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
        "set": {"type": "array", "items": {"enum": list(bundles.CLASSES)}},
        "error": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["code", "cause", "remedy"]}]},
    },
}
SHAPE = {
    "type": "object",
    "required": ["schema_version", "model", "results"],
    "properties": {
        "model": {"type": "object", "required": ["sha256", "round", "signer", "trusted"]},
        "results": {"type": "array", "items": ROW},
    },
}
Capsys = pytest.CaptureFixture[str]


def predict_rows(capsys: Capsys, home: Path, model: Path, *words: str | Path) -> dict[str, dict[str, Any]]:
    """The rows of `--format json`, by file."""
    _, out, _ = run_command(capsys, "predict", model, *words, "--format", "json", "--home", home)
    assert out.count("\n") == 1
    results = json.loads(out)
    jsonschema.validate(results, SHAPE)
    return {row["file"]: row for row in results["results"]}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_header(path: Path) -> None:
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)))


def bomb(path: Path) -> None:
    """A small file with 400 million pixels."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(b"\0" * 2501) for _ in range(20_000)) + rows.flush()
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def truncated(path: Path) -> None:
    sink = io.BytesIO()
    Image.fromarray(bundles.noise(64, 64, 3)).save(sink, "JPEG")
    path.write_bytes(sink.getvalue()[:400])


BAD = {
    "header.png": (huge_header, "E_IMAGE_SIZE"),
    "bomb.png": (bomb, "E_IMAGE_SIZE"),
    "cut.jpg": (truncated, "E_IMAGE"),
    "empty.png": (lambda path: path.write_bytes(b""), "E_IMAGE"),
    "words.jpg": (lambda path: path.write_text("not an image"), "E_IMAGE"),
    "page.docx": (lambda path: path.write_bytes(b"PK\3\4"), "E_IMAGE_KIND"),
}


def test_each_bad_file_is_a_row_with_its_reason_and_the_others_are_answered(
    model: Path, home: Path, tmp_path: Path, capsys: Capsys
) -> None:
    bundles.write_test_images(tmp_path / "in", 3)
    for name, (write, _) in BAD.items():
        write(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("meant for somebody else")
    code, out, err = run_command(capsys, "predict", model, tmp_path / "in", "--home", home, "--format", "json")
    rows = {row["file"]: row for row in json.loads(out)["results"]}
    assert code == 1
    assert f"{len(BAD)} of {len(BAD) + 3} files could not be used" in err
    assert {name: row["error"]["code"] for name, row in rows.items() if row["error"]} == {
        name: code for name, (_, code) in BAD.items()
    }
    assert all(row["error"]["remedy"] and row["answer"] is None for row in rows.values() if row["error"])
    assert sum(row["error"] is None for row in rows.values()) == 3


def test_the_same_image_in_any_format_gives_the_same_answer(
    model: Path, home: Path, tmp_path: Path, capsys: Capsys
) -> None:
    upright = np.asarray(bundles.site().images.split("test").pixels[0]).repeat(3, 0).repeat(3, 1)
    plain = Image.fromarray(upright)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown rotated clockwise by 90 degrees
    plain.save(tmp_path / "plain.png")
    plain.rotate(90).save(tmp_path / "turned.png", exif=turned)
    plain.convert("RGBA").save(tmp_path / "clear.webp", lossless=True)
    plain.save(tmp_path / "frames.gif", save_all=True, append_images=[Image.new("RGB", plain.size)])
    plain.convert("CMYK").save(tmp_path / "print.tif")
    np.savez(tmp_path / "array.npz", images=upright[None])
    rows = predict_rows(capsys, home, model, *sorted(tmp_path.iterdir()))
    expected = rows["plain.png"]["probabilities"]
    for name, row in rows.items():
        near = 0.2 if name in ("frames.gif",) else 0.02  # 256 colours
        assert row["probabilities"] == pytest.approx(expected, abs=near), name
    assert "2 frames" in rows["frames.gif"]["doubt"]
    assert "array.npz/0" in rows


def test_16_bit_grey_is_answered(model: Path, home: Path, tmp_path: Path, capsys: Capsys) -> None:
    grey = np.asarray(bundles.site().images.split("test").pixels[0]).mean(2).astype(np.uint16)
    Image.fromarray(grey * 200).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "flat.png")
    rows = predict_rows(capsys, home, model, tmp_path)
    assert all(row["error"] is None for row in rows.values())


def dicoms(folder: Path) -> dict[str, str]:
    """DICOM files with each known defect, and the expected code of each, or ""."""
    values = (
        np.asarray(bundles.site().images.split("test").pixels[0]).mean(2).astype(np.uint16).repeat(2, 0).repeat(2, 1)
    )
    many = {"NumberOfFrames": 3, "PixelData": values.tobytes() * 3}
    expected = {
        "plain.dcm": ({}, ""),
        "no-slope.dcm": ({"RescaleSlope": None, "RescaleIntercept": None}, ""),
        "no-width.dcm": ({"WindowCenter": 128, "WindowWidth": 0}, ""),
        "windows.dcm": ({"WindowCenter": [128, 40], "WindowWidth": [256, 80]}, ""),
        "inverse.dcm": ({"PresentationLUTShape": "INVERSE"}, ""),
        "frames.dcm": (many, "E_IMAGE_KIND"),
        "palette.dcm": ({"PhotometricInterpretation": "PALETTE COLOR"}, "E_IMAGE_KIND"),
        "no-pixels.dcm": ({"PixelData": None}, "E_IMAGE_KIND"),
        "large.dcm": ({"Rows": 50_000, "Columns": 50_000}, "E_IMAGE_SIZE"),
        "short.dcm": ({"PixelData": values.tobytes()[:100]}, "E_IMAGE"),
    }
    for name, (tags, _) in expected.items():
        samples.dicom(
            folder / name, values, PatientName="Secretperson^Hildegard", PatientID="patient-number-0815", **tags
        )
    samples.dicom(
        folder / "negative.dcm",
        values.max() - values,
        PhotometricInterpretation="MONOCHROME1",
        PatientID="patient-number-0815",
    )
    return {**{name: code for name, (_, code) in expected.items()}, "negative.dcm": ""}


def test_dicom_with_each_known_defect_is_answered_or_refused_with_a_reason(
    model: Path, home: Path, tmp_path: Path, capsys: Capsys
) -> None:
    pytest.importorskip("pydicom")
    expected = dicoms(tmp_path)
    rows = predict_rows(capsys, home, model, tmp_path)
    assert {name: row["error"]["code"] if row["error"] else "" for name, row in rows.items()} == expected
    assert rows["negative.dcm"]["probabilities"] == pytest.approx(rows["plain.dcm"]["probabilities"], abs=0.02)
    assert rows["negative.dcm"]["distance"] == pytest.approx(rows["plain.dcm"]["distance"], rel=0.02)
    assert rows["inverse.dcm"]["distance"] != pytest.approx(rows["plain.dcm"]["distance"], rel=0.02)


def test_no_patients_name_is_printed(model: Path, home: Path, tmp_path: Path, capsys: Capsys) -> None:
    pytest.importorskip("pydicom")
    dicoms(tmp_path / "in")
    words = ("predict", model, tmp_path / "in", "--home", home, "--out", tmp_path / "out")
    output = "".join(str(run_command(capsys, *words, "--format", kind)) for kind in answer_formats.FORMATS)
    output += "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir())
    assert "frames.dcm" in output
    for secret in ("Secretperson", "Hildegard", "patient-number"):
        assert secret not in output


def test_stderr_names_no_file(model: Path, home: Path, tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "Jane Doe.png").write_bytes(b"")
    _, out, err = run_command(capsys, "predict", model, tmp_path, "--home", home)
    assert "Jane Doe.png" in out
    assert "Doe" not in err


def test_table_and_csv_escape_harmful_file_names(model: Path, home: Path, tmp_path: Path, capsys: Capsys) -> None:
    source = bundles.write_test_images(tmp_path / "one", 1) / "000.png"
    (tmp_path / "in").mkdir()
    for name in ("=1+1.png", "red\x1b[31m.png"):
        (tmp_path / "in" / name).write_bytes(source.read_bytes())
    _, out, _ = run_command(capsys, "predict", model, tmp_path / "in", "--home", home, "--format", "csv")
    assert {row["file"] for row in csv.DictReader(io.StringIO(out))} == {"'=1+1.png", "red\\x1b[31m.png"}
    _, out, _ = run_command(capsys, "predict", model, tmp_path / "in", "--home", home)
    assert "\x1b" not in out


def test_an_untrusted_model_is_marked_in_every_format(model: Path, tmp_path: Path, capsys: Capsys) -> None:
    words = ("predict", model, bundles.write_test_images(tmp_path / "in", 1), "--home", tmp_path / "none", "--format")
    outputs = {kind: run_command(capsys, *words, kind) for kind in answer_formats.FORMATS}
    assert all(code == 0 and "not trusted" in err for code, _, err in outputs.values())
    assert json.loads(outputs["json"][1])["model"]["trusted"] is False
    assert len(json.loads(outputs["json"][1])["model"]["words"].split()) == 8
    assert outputs["csv"][1].splitlines()[1].endswith(",no")
    assert "not trusted" in outputs["html"][1]


def test_pages_have_each_image_with_its_heat_map_and_load_nothing_from_elsewhere(
    model: Path, home: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_formats, "_IMAGES_PER_PAGE", 4)
    bundles.write_test_images(tmp_path / "in", 6)
    run_command(
        capsys, "predict", model, tmp_path / "in", "--home", home, "--format", "html", "--out", tmp_path / "out"
    )
    first, second = ((tmp_path / "out" / name).read_text("utf-8") for name in ("answers.html", "answers-2.html"))
    assert (first.count("<img"), second.count("<img")) == (4, 2)
    assert 'href="answers-2.html"' in first
    assert "<script" not in first
    assert "http" not in first.replace("http-equiv", "")
    assert "Not a medical device" in first


def test_every_format_marks_an_even_probability_as_uncertain_and_hides_probabilities_of_unlike_images(
    opened: Bundle, tmp_path: Path
) -> None:
    flip = {"file": "flip.png", "answer": None, "verdict": "uncertain", "reason": "uncertain between a and b",
            "probabilities": dict.fromkeys(bundles.CLASSES, 0.333), "set": [], "flags": [], "distance": 0.5,
            "doubt": "", "error": None}  # fmt: skip
    unlike = {**flip, "file": "odd.png", "verdict": "unlike", "reason": "unlike the images", "distance": 3.0,
              "set": [bundles.CLASSES[0]], "flags": [bundles.CLASSES[0]]}  # fmt: skip
    text = {kind: "".join(form.text(opened, [flip, unlike])) for kind, form in answer_formats.FORMATS.items()}
    first, second = text["table"].splitlines()[1:]
    assert first.split()[:3] == ["flip.png", "uncertain", "-"]
    assert second.split()[:3] == ["odd.png", "unlike", "-"]
    rows = list(csv.DictReader(io.StringIO(text["csv"])))
    assert [row["verdict"] for row in rows] == ["uncertain", "unlike"]
    assert [row[f"p({bundles.CLASSES[0]})"] for row in rows] == ["0.333", ""]
    assert (rows[1]["set"], rows[1]["flags"]) == ("", "")
    assert [row["answer"] for row in json.loads(text["json"])["results"]] == [None, None]
    sections = text["html"].split("<section>")[1:]
    assert ["<table>" in section for section in sections] == [True, False]
    assert "33.3%" in sections[0]
    assert "%" not in sections[1]


def test_the_overlay_is_orange_for_evidence_of_a_class_and_blue_against_it() -> None:
    heatmaps = np.zeros((2, 2, 2), np.float32)
    heatmaps[0, 0, 0], heatmaps[0, 1, 1] = 4, -4
    overlaid = answer_formats.overlay(np.full((64, 64, 1), 128, np.uint8), heatmaps, 0).astype(int)
    assert overlaid[4, 4, 0] > overlaid[4, 4, 2] + 50
    assert overlaid[60, 60, 2] > overlaid[60, 60, 0] + 50
    assert overlaid[4, 60].tolist() == pytest.approx([128] * 3, abs=30)


def test_only_a_few_of_any_number_of_files_are_in_memory(opened: Bundle, tmp_path: Path) -> None:
    (item,) = inputs.list_items([bundles.write_test_images(tmp_path, 1) / "000.png"])
    drawn = itertools.count(1)
    stream = (item for _ in drawn)  # without end
    count = 0
    for count, _ in enumerate(answering.answer_items(opened, stream), 1):
        if count == 300:
            break
    assert next(drawn) - count <= answering._MAX_PENDING + answering._BATCH


def test_an_interrupted_run_continues_where_it_stopped(
    opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.write_test_images(tmp_path / "in", 7)
    complete, _ = answering.write_answers(tmp_path / "whole", opened, [tmp_path / "in"], "json")
    log = tmp_path / "out" / answering.LOG_FILE
    answering.write_answers(tmp_path / "out", opened, [tmp_path / "in"], "json")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:4]) + lines[4][:30])  # a power cut during the fourth answer
    (tmp_path / "out" / "answers.json").unlink()
    asked_files: list[str] = []
    monkeypatch.setattr(answering, "_answer_batch", _counting(answering._answer_batch, asked_files))
    path, tally = answering.write_answers(tmp_path / "out", opened, [tmp_path / "in"], "json")
    assert asked_files == ["003.png", "004.png", "005.png", "006.png"]
    answered = sum(row["answer"] is not None for row in json.loads(path.read_text())["results"])
    assert tally == answering.Tally(7, answered, 0)
    assert path.read_bytes() == complete.read_bytes()


def _counting(engine: Any, seen: list[str]) -> Any:
    def counting(bundle: Bundle, done: Any, results: Any) -> Any:
        seen.extend(item.name for item, _ in done)
        return engine(bundle, done, results)

    return counting


def test_a_changed_file_is_answered_again_and_a_removed_one_is_left_out(opened: Bundle, tmp_path: Path) -> None:
    folder = bundles.write_test_images(tmp_path / "in", 3)
    answering.write_answers(tmp_path / "out", opened, [folder], "json")
    (folder / "000.png").unlink()
    Image.fromarray(bundles.noise(40, 40, 3)).save(folder / "001.png")
    path, tally = answering.write_answers(tmp_path / "out", opened, [folder], "json")
    rows = {row["file"]: row for row in json.loads(path.read_text())["results"]}
    assert (tally.images, set(rows)) == (2, {"001.png", "002.png"})
    assert rows["001.png"]["answer"] is None


def test_answers_among_the_images_are_not_diagnosed(opened: Bundle, tmp_path: Path) -> None:
    folder = bundles.write_test_images(tmp_path / "in", 2)
    for _ in range(2):
        _, tally = answering.write_answers(folder / "answers", opened, [folder], "html")
        assert (tally.images, tally.bad) == (2, 0)


def test_answers_of_two_models_are_never_mixed(opened: Bundle, tmp_path: Path) -> None:
    folder = bundles.write_test_images(tmp_path / "in", 1)
    answering.write_answers(tmp_path / "out", opened, [folder], "csv")
    other = Bundle(opened.model, "00" * 32, opened.signer, "", opened.notes, opened.facts)
    with pytest.raises(OtherAnswersError):
        answering.write_answers(tmp_path / "out", other, [folder], "csv")


def test_pages_requested_after_a_table_have_their_images(opened: Bundle, tmp_path: Path) -> None:
    folder = bundles.write_test_images(tmp_path / "in", 2)
    answering.write_answers(tmp_path / "out", opened, [folder], "csv")
    path, tally = answering.write_answers(tmp_path / "out", opened, [folder], "html")
    assert (tally.images, path.read_text(encoding="utf-8").count("<img")) == (2, 2)


def test_two_runs_never_write_into_one_folder(opened: Bundle, tmp_path: Path) -> None:
    with answering._exclusive(tmp_path / "out"), pytest.raises(BusyError):
        answering.write_answers(tmp_path / "out", opened, [bundles.write_test_images(tmp_path / "in", 1)], "csv")


def test_a_watched_folder_is_answered_as_files_arrive_and_growing_ones_wait(opened: Bundle, tmp_path: Path) -> None:
    drop, out, looks = bundles.write_test_images(tmp_path / "in", 2), tmp_path / "out", []
    for path in drop.iterdir():
        os.utime(path, (0, 0))
    (drop / "bad.png").write_bytes(b"")
    os.utime(drop / "bad.png", (0, 0))

    def wait() -> bool:
        looks.append(json.loads((out / "answers.json").read_text())["results"])
        if len(looks) == 1:
            (drop / "new.png").write_bytes((drop / "000.png").read_bytes()[:100])  # still being written
        if len(looks) == 2:
            (drop / "new.png").write_bytes((drop / "000.png").read_bytes())
        return len(looks) < 4

    reports: list[str] = []
    answering.watch_folder(out, opened, drop, "json", wait, reports.append)
    assert [len(rows) for rows in looks] == [3, 3, 3, 4]
    assert reports == ["3 new, 1 of them bad", "1 new, 0 of them bad"]


def test_a_file_whose_writer_pauses_is_answered_once_complete(opened: Bundle, tmp_path: Path) -> None:
    """A partial PNG cannot be read; a bitmap of reserved size can, and shows another image."""
    drop, out, looks = bundles.write_test_images(tmp_path / "in", 1), tmp_path / "out", []
    complete = {"cut.png": (drop / "000.png").read_bytes()}
    Image.open(drop / "000.png").save(drop / "room.bmp")
    complete["room.bmp"] = (drop / "room.bmp").read_bytes()
    (drop / "cut.png").write_bytes(complete["cut.png"][:200])
    (drop / "room.bmp").write_bytes(complete["room.bmp"][:100].ljust(len(complete["room.bmp"]), b"\0"))
    for path in drop.iterdir():
        os.utime(path, (1000, 1000))

    def wait() -> bool:
        rows = json.loads((out / "answers.json").read_text())["results"]
        looks.append({row["file"]: (row["error"] or {}).get("code") or row["probabilities"] for row in rows})
        for name, data in complete.items() if len(looks) == 1 else ():
            (drop / name).write_bytes(data)
            os.utime(drop / name, (2000, 2000))
        return len(looks) < 2

    answering.watch_folder(out, opened, drop, "json", wait, lambda line: None)
    first, last = looks
    assert first["cut.png"] == "E_IMAGE"
    assert last["cut.png"] == last["room.bmp"] == last["000.png"] == first["000.png"]
    assert set(last) == set(first) == {"000.png", "cut.png", "room.bmp"}


def test_watching_waits_while_the_folder_is_missing_or_the_disk_is_full(
    opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop, out, looks = bundles.write_test_images(tmp_path / "in", 1), tmp_path / "out", []
    away = tmp_path / "away"
    for path in drop.iterdir():
        os.utime(path, (1000, 1000))
    messages: list[str] = []
    finish = answering.write_file

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "no space", "answers.csv")

    def wait() -> bool:
        looks.append((out / "answers.csv").read_text("utf-8-sig").count("\n") if (out / "answers.csv").exists() else 0)
        match len(looks):
            case 1:
                monkeypatch.setattr(answering, "write_file", finish)
            case 2:
                drop.rename(away)
            case 4:
                shutil.copy(away / "000.png", away / "001.png")
                os.utime(away / "001.png", (1000, 1000))
                away.rename(drop)
        return len(looks) < 5

    monkeypatch.setattr(answering, "write_file", full)
    answering.watch_folder(out, opened, drop, "csv", wait, messages.append)
    assert looks == [0, 2, 2, 2, 3]
    starts = ["waiting", "the command continues", "waiting", "1 new, 0 of them bad", "the command continues"]
    assert [line.split(":")[0] for line in messages] == starts
    assert ["E_STORAGE" in messages[0], "E_FILE_MISSING" in messages[2]] == [True, True]


def test_a_watched_folder_that_never_existed_is_refused(
    model: Path, home: Path, tmp_path: Path, capsys: Capsys
) -> None:
    words = ("predict", model, "--home", home, "--watch", tmp_path / "typo", "--out", tmp_path / "out")
    code, _, err = run_command(capsys, *words)
    assert code == 1
    assert "E_FILE_MISSING: typo is not there" in err


def test_watch_needs_an_output_folder_and_prints_where_the_answers_are(
    model: Path, home: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_wait", lambda: not (tmp_path / "out" / "answers.csv").exists())
    words = (
        "predict",
        model,
        "--home",
        home,
        "--format",
        "csv",
        "--watch",
        bundles.write_test_images(tmp_path / "in", 2),
    )
    assert run_command(capsys, *words)[0] == 2
    code, _, err = run_command(capsys, *words, "--out", tmp_path / "out")
    assert code == 0
    assert "2 new, 0 of them bad" in err
    table = (tmp_path / "out" / "answers.csv").read_bytes()
    assert table.startswith(b"\xef\xbb\xbffile,")  # the byte order mark that Excel needs
    assert table.count(b"\n") == 3


def test_a_file_with_a_future_time_is_answered_once_it_stays_unchanged(opened: Bundle, tmp_path: Path) -> None:
    drop, looks = bundles.write_test_images(tmp_path / "in", 1), []
    os.utime(drop / "000.png", (4e9, 4e9))

    def wait() -> bool:
        looks.append((tmp_path / "out" / "answers.csv").exists())
        return len(looks) < 2

    answering.watch_folder(tmp_path / "out", opened, drop, "csv", wait, lambda line: None)
    assert looks == [False, True]


def test_several_folders_of_one_name_are_distinguished(model: Path, home: Path, tmp_path: Path, capsys: Capsys) -> None:
    folders = [bundles.write_test_images(tmp_path / ward / "images", 1) for ward in ("a", "b")]
    rows = predict_rows(capsys, home, model, *folders, bundles.write_test_images(tmp_path / "other", 1) / "000.png")
    assert len(rows) == 3


def test_missing_images_and_wrong_options_are_errors(model: Path, home: Path, tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "none").mkdir()
    assert "E_NO_IMAGES" in run_command(capsys, "predict", model, tmp_path / "none", "--home", home)[2]
    assert run_command(capsys, "predict", model, "--home", home)[0] == 2
    assert run_command(capsys, "predict", model, tmp_path, "--format", "xml", "--home", home)[0] == 2
    code, out, _ = run_command(capsys, "predict", model, tmp_path / "gone.png", "--home", home)
    assert code == 1
    assert "E_FILE_MISSING" in out
