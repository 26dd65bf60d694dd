"""Folders and tables as clinics have them: readable files are read, unreadable ones named, others ignored."""

from __future__ import annotations

import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge import errors
from fedhelp_edge.data import loading, table
from fedhelp_edge.data.check import check
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.picture import resize
from fedhelp_edge.data.sorting import Sorting
from tests.unit.data import samples

PLAN = ("Nävus", "Melanom")


def load_images(folder: Path, **options: object) -> Images:
    return loading.load(folder, samples.plan(*PLAN), state_dir=folder.parent / "kept", **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- a folder


def test_a_clinics_folder_is_read_and_other_files_are_named_or_ignored(tmp_path: Path) -> None:
    root, mole = tmp_path / "images", unicodedata.normalize("NFD", "nävus ")
    for i, pixels in enumerate(samples.noise(12)):
        samples.save(root / (mole if i % 2 else "MELANOM") / f"patient {i // 2}" / f"{i}.png", pixels)
    first = root / "MELANOM" / "patient 0"
    samples.save(first / "really.png", samples.noise(1, seed=3)[0]).rename(first / "a jpeg.jpg")
    samples.save(first / "no suffix.png", samples.noise(1, seed=4)[0]).rename(first / "IMG_0007")
    samples.save(first / "b.jpg", samples.noise(1, seed=5)[0]).rename(first / "from a browser.jfif")
    samples.save(root / "@eaDir" / "thumb.png", samples.noise(1, 8, 8, 3, seed=6)[0])
    samples.save(root / "__MACOSX" / "x.png", samples.noise(1, seed=7)[0])
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "~$list.docx", "all images.lnk"):
        (first / name).write_bytes(b"\0\5\x16\7 no picture")
    with zipfile.ZipFile(root / "MELANOM" / "more.zip", "w") as archive:
        archive.writestr("x.png", b"x")
    (first / "report.pdf").write_bytes(b"%PDF-1.4")
    (first / "letter.docx").write_bytes(b"PK\3\4")
    (root / "list.xlsx").write_bytes(b"PK\3\4")
    (first / "empty.jpg").write_bytes(b"")
    images = load_images(root)
    assert len(images) == 15
    assert set(images.groups) == {f"patient {i}" for i in range(6)}
    assert samples.codes(images) == [
        ("MELANOM/more.zip", "E_ARCHIVE"),
        ("MELANOM/patient 0/empty.jpg", "E_IMAGE"),
        ("MELANOM/patient 0/letter.docx", "E_IMAGE_KIND"),
        ("MELANOM/patient 0/report.pdf", "E_IMAGE_KIND"),
        ("list.xlsx", "E_IMAGE_KIND"),
    ]
    assert "save it as CSV" in next(problem.cause for problem in images.problems if problem.file == "list.xlsx")


def heic(path: Path, pixels: np.ndarray) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(path, quality=95)
    return path


def test_a_phones_image_is_read_even_if_it_is_named_jpg(tmp_path: Path) -> None:
    root = samples.folder(tmp_path / "images", 6, PLAN)
    pictures = samples.noise(2, 6, 6, 3, seed=8)
    large = [np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)) for image in pictures]
    heic(root / PLAN[0] / "x.heic", large[0])
    heic(tmp_path / "y.heic", large[1]).rename(root / PLAN[1] / "y.jpg")
    images = load_images(root)
    assert samples.codes(images) == []
    for name, pixels in ((f"{PLAN[0]}/x.heic", large[0]), (f"{PLAN[1]}/y.jpg", large[1])):
        seen = images.pixels[images.names.index(name)].astype(int)
        assert np.abs(seen - resize(pixels, 16)).mean() < 6


@pytest.mark.parametrize("name", ["x.heic", "x.jpg"])
def test_an_unreadable_phone_image_is_named_with_the_package_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    root = samples.folder(tmp_path / "images", 6, PLAN)
    (root / PLAN[0] / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    report = check(root, samples.plan(*PLAN), state_dir=tmp_path / "kept")
    assert [(problem.file, problem.code) for problem in report.problems if name in problem.file] == [
        (f"{PLAN[0]}/{name}", "E_HEIC")
    ]
    assert "fedhelp-edge[phone]" in errors.remedy_of("E_HEIC")


def test_black_white_plain_and_tiny_images_are_reported_and_others_are_not(tmp_path: Path) -> None:
    root = samples.folder(tmp_path / "images", 10, PLAN)
    for name, value in (("black", 3), ("white", 253), ("plain", 120)):
        pixels = np.full((40, 40, 3), value, np.uint8)
        pixels[::7, ::9] += 2
        samples.save(root / PLAN[0] / f"{name}.png", pixels)
    samples.save(root / PLAN[0] / "preview.png", samples.noise(1, 24, 15, 3, seed=2)[0])
    dark = np.zeros((40, 40, 3), np.uint8)
    dark[10:20, 10:20] = 90
    samples.save(root / PLAN[1] / "dark.png", dark)
    report = check(root, samples.plan(*PLAN, size=32), state_dir=tmp_path / "kept")
    seen = {
        problem.file.rpartition("/")[2]: (problem.code, problem.cause)
        for problem in report.problems
        if problem.code != "E_NEAR_DUPLICATE"
    }
    assert seen == {
        "black.png": ("E_IMAGE_BLANK", "it is black throughout"),
        "white.png": ("E_IMAGE_BLANK", "it is white throughout"),
        "plain.png": ("E_IMAGE_BLANK", "it is of one colour throughout"),
        "preview.png": ("E_IMAGE_TINY", "it has 15 x 24 pixels; each side needs at least 16"),
    }
    assert report.ready


def test_images_mostly_below_half_the_plans_size_are_reported_once(tmp_path: Path) -> None:
    root = samples.folder(tmp_path / "images", 10, PLAN)
    samples.save(root / PLAN[0] / "speck.png", samples.noise(1, 6, 30, 3, seed=2)[0])
    report = check(root, samples.plan(*PLAN, size=48), state_dir=tmp_path / "kept")
    assert [(problem.file, problem.code) for problem in report.problems] == [(f"{PLAN[0]}/speck.png", "E_IMAGE_TINY")]
    (sentence,) = (problem.sentence for problem in report.findings if problem.kind == "small-images")
    assert sentence == "21 of 21 images have fewer than half of the plan's 48 pixels on a side"


# ----------------------------------------------------------------------------------------------------------- a table


def load_table(folder: Path, text: str, encoding: str) -> Images:
    """The images of a table beside files whose names have accents."""
    for i, pixels in enumerate(samples.noise(6)):
        samples.save(folder / "Bilder" / f"Jürgen {i}.png", pixels)
    (folder / "t.csv").write_bytes(text.encode(encoding))
    return loading.load(folder / "t.csv", samples.plan(*PLAN), state_dir=folder / ".kept")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize(
    "text",
    [
        "Datei;Befund;Patienten-ID;Größe (mm)\nJürgen 0.png;Nävus;Müller;3,5\nJürgen 1.png;Melanom;Weiß;12,25\n",
        "sep=;\r\nBild;Diagnose;Fall\r\nBilder\\Jürgen 0.png;Nävus;Müller\r\nJürgen 1;MELANOM;Weiß\r\n",
        "Fichier\tÉtiquette\tPatient(e)\nJürgen 0.png\tnävus\tMüller\nJürgen 1.png\tMelanom\tWeiß\n",
        '"Archivo, nombre",Diagnóstico,Paciente,Archivo\nx,Nävus,Müller,Jürgen 0.png\ny,Melanom,Weiß,Jürgen 1.png\n',
        "\nimage,label,patient\nJürgen 0.png,Nävus,Müller\nJürgen 1.png,Melanom,Weiß\n",
    ],
    ids=["German", "Excel's own line", "French, tabs", "Spanish", "an empty line first"],
)
def test_tables_as_excel_writes_them_are_read(text: str, encoding: str, tmp_path: Path) -> None:
    images = load_table(tmp_path, text, encoding)
    assert images.problems == ()
    rows = sorted(zip(images.names, images.labels.tolist(), images.groups, strict=True))
    assert rows == [("Bilder/Jürgen 0.png", 0, "Müller"), ("Bilder/Jürgen 1.png", 1, "Weiß")]


def test_bytes_that_are_not_text_are_not_a_table(tmp_path: Path) -> None:
    with pytest.raises(errors.BadTableError, match="UTF-8, UTF-16 or Windows-1252"):
        load_table(tmp_path, "path,label\n\0\xff,a\n", "latin-1")


def test_other_column_names_are_named_once_and_remembered_for_training(tmp_path: Path) -> None:
    text = "Aufnahme;Ergebnis;Akte\n" + "".join(
        f"Jürgen {i}.png;{PLAN[i % 2]};A{i // 2}\n" for i in range(6)
    )  # fmt: skip
    with pytest.raises(
        errors.BadTableError, match=r"no column for the label.*its columns are Aufnahme, Ergebnis, Akte"
    ):
        load_table(tmp_path, text, "cp1252")
    plan, state_dir, source = samples.plan(*PLAN), tmp_path / ".kept", tmp_path / "t.csv"
    columns = {"image": "aufnahme", "label": "Ergebnis", "patient": "AKTE"}
    with pytest.raises(errors.BadTableError, match="no column 'Foto'; it has Aufnahme"):
        check(source, plan, state_dir=state_dir, columns={**columns, "image": "Foto"})
    assert check(source, plan, state_dir=state_dir, columns=columns).images == 6
    assert check(source, plan, state_dir=state_dir).images == 6
    assert sorted(set(loading.load(source, plan, state_dir=state_dir).groups)) == ["A0", "A1", "A2"]


def test_a_path_in_a_table_matches_its_file_in_any_unicode_form(tmp_path: Path) -> None:
    """One file name in two folders; a Mac writes the folder's accent in two parts."""
    for folder, seed in ((unicodedata.normalize("NFD", "Jürgen"), 1), ("b", 2)):
        samples.save(tmp_path / folder / "1.png", samples.noise(1, seed=seed)[0])
    (tmp_path / "t.csv").write_text("path,label\nJürgen/1.png,Nävus\nb/1.png,Melanom\n", encoding="utf-8")
    images = loading.load(tmp_path / "t.csv", samples.plan(*PLAN), state_dir=tmp_path / ".kept")
    assert (images.problems, len(images)) == ((), 2)


def test_sorting_continues_a_table_in_its_own_encoding(tmp_path: Path) -> None:
    for name in ("Jürgen", "Ödem"):
        samples.save(tmp_path / f"{name}.png", samples.noise(1, seed=len(name))[0])
    path = tmp_path / "labels.csv"
    path.write_bytes("Datei;Befund\nJürgen.png;Nävus\n".encode("cp1252"))
    sorting = Sorting(tmp_path, PLAN)
    assert sorting.label("Jürgen.png") == 0
    sorting.assign("Ödem.png", 1)
    assert path.read_bytes().decode("cp1252").splitlines() == ["Datei;Befund", "Jürgen.png;Nävus", "Ödem.png;Melanom"]
    assert table.read_sheet(path).encoding == "cp1252"


def test_patients_named_by_folders_stay_known_after_sorting(tmp_path: Path) -> None:
    for i, pixels in enumerate(samples.noise(12)):
        samples.save(tmp_path / "images" / PLAN[i % 2] / f"P{i // 4}" / f"{i}.png", pixels)
    before = load_images(tmp_path / "images")
    sorting = Sorting(tmp_path / "images", PLAN)
    sorting.assign(sorting.names[0], 1)
    after = loading.load(tmp_path / "images", samples.plan(*PLAN), state_dir=tmp_path / "again")
    assert (tmp_path / "images" / "labels.csv").is_file()
    assert dict(zip(after.names, after.groups, strict=True)) == dict(zip(before.names, before.groups, strict=True))
