"""`predict` with a model for masks: outlines as files and numbers, and "don't know"."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import fedhelp_edge as fh
from fedhelp_edge.data import grid as grids
from fedhelp_edge.data import nifti, resample, volume
from fedhelp_edge.infer import drawing, mask_files, tiles
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.infer.drawing import Drawn
from fedhelp_edge.infer.engine import MaskOutputs
from fedhelp_edge.parcel import keys
from tests import mask_bundles
from tests.bundles import run_command
from tests.command import check_schema
from tests.unit.data import samples
from tests.unit.data.test_masks import squares

Capsys = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", params=[1, 8], ids=["pictures", "volumes"])
def depth(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def model(depth: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, with the home whose key signed it beside it."""
    folder = tmp_path_factory.mktemp("shelf")
    keys.save(folder / "home", mask_bundles.site(depth).keys, None)
    return mask_bundles.saved_model(folder, depth)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> MaskBundle:
    return mask_bundles.loaded_bundle(tmp_path_factory.mktemp("opened"))


def predict(capsys: Capsys, model: Path, *words: str | Path) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code, rows by file, and what was said."""
    code, out, messages = run_command(
        capsys, "predict", model, *words, "--home", model.parent / "home", "--threads", "1"
    )
    if "--out" in words:
        out = (Path(words[words.index("--out") + 1]) / "answers.json").read_text(encoding="utf-8")
    document = json.loads(out)
    check_schema("fedhelp-edge predict", document)
    return code, {row["file"]: row for row in document["results"]}, messages


def local_mean(part: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A net that sees one voxel around each."""
    mean = ndimage.uniform_filter(part[..., 0].astype(np.float32) / 255, 3, mode="constant")
    return np.stack([1 - mean, mean])


# --- tiles ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sides", [(8, 16, 16), (9, 17, 40), (30, 5, 16), (3, 3, 3), (8, 16, 61)])
def test_tiles_equal_the_whole_away_from_seams(sides: tuple[int, ...]) -> None:
    block = (8, 16, 16)
    pixels = samples.noise(1, *sides, 1)[0]
    blended = np.full((2, *sides), np.nan, np.float32)
    for rows, probabilities in tiles.blended(local_mean, pixels, block, 2):
        assert np.isnan(blended[:, rows]).all()
        blended[:, rows] = probabilities
    whole = local_mean(pixels)
    near = np.zeros(sides, np.bool_)  # the first or last voxel of some block, where it sees less than the volume has
    for place in volume.blocks("", sides, block, 8):
        for axis, (start, side) in enumerate(zip(place.start, block, strict=True)):
            for at, is_seam in ((start, start > 0), (start + side - 1, start + side < sides[axis])):
                if is_seam:
                    near[tuple(at if each == axis else part for each, part in enumerate(place.inside(block)))] = True
    assert not near.all()
    np.testing.assert_allclose(blended[:, ~near], whole[:, ~near], atol=1e-6)
    assert np.isfinite(blended).all()


def test_a_constant_stays_constant_where_tiles_overlap() -> None:
    pixels = np.zeros((20, 30, 40, 1), np.uint8)
    for _, probabilities in tiles.blended(
        lambda part: np.full((3, *part.shape[:3]), 0.3, np.float32), pixels, (8, 16, 16), 3
    ):
        np.testing.assert_allclose(probabilities, 0.3, rtol=1e-6)


def test_only_some_slices_of_a_long_volume_are_in_memory() -> None:
    pixels = np.zeros((400, 32, 32, 1), np.uint8)
    tracemalloc.start()
    finished = [
        rows
        for rows, _ in tiles.blended(lambda part: np.ones((4, *part.shape[:3]), np.float32), pixels, (8, 32, 32), 4)
    ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * pixels.size  # probabilities of all slices are four times as many bytes, and four outputs more
    assert [rows.start for rows in finished[1:]] == [rows.stop for rows in finished[:-1]]
    assert (finished[0].start, finished[-1].stop) == (0, 400)


@pytest.mark.parametrize(("old", "new"), [(16, 40), (40, 16), (7, 7), (1, 5), (5, 1)])
def test_values_are_resized_as_pillow_does(old: int, new: int) -> None:
    pixels = samples.noise(1, old, old)[0].astype(np.float32)
    resized = Image.fromarray(pixels).resize((new, new), Image.Resampling.BILINEAR)
    down = resample.weights(old, new)
    np.testing.assert_allclose(down @ pixels @ down.T, np.asarray(resized), atol=1e-2)


# --- what is drawn ----------------------------------------------------------------------------------------------------
def written(folder: Path, depth: int, count: int = 3) -> tuple[Path, list[NDArray[np.uint8]]]:
    """Validation images of the model's site, and their masks."""
    images = mask_bundles.site(depth).images.split("val")
    pairs = [*zip(images.case_pictures(), images.case_masks(), strict=True)][:count]
    folder.mkdir(exist_ok=True)
    for number, (image, _) in enumerate(pairs):
        if depth > 1:
            grid = grids.plain(image.shape[:3], (2.0, 1.0, 1.0))
            (folder / f"{number}.nii.gz").write_bytes(nifti.encode(image[..., 0], grid))
        else:
            samples.save(folder / f"{number}.png", image)
    return folder, [mask for _, mask in pairs]


def test_each_image_gets_a_mask_its_uncertain_pixels_and_a_picture(
    depth: int, model: Path, tmp_path: Path, capsys: Capsys
) -> None:
    folder, truth = written(tmp_path / "images", depth)
    out = tmp_path / "out"
    code, rows, messages = predict(capsys, model, folder, "--out", out, "--format", "json")
    assert code == 0
    assert "of 3 images answered" in messages
    suffix, measure = (".nii.gz", "volume_mm3") if depth > 1 else (".png", "area_mm2")
    for number, mask in enumerate(truth):
        row = rows[f"{number}{suffix}"]
        assert row["verdict"] in ("answered", "uncertain")
        found = read_mask(out / row["mask"])
        assert np.mean(found == mask) > 0.95
        sizes = {each["name"]: each["pixels"] for each in row["classes"]}
        assert sizes == {name: int((found == label).sum()) for label, name in enumerate(("a", "b"), 1)}
        assert [each[measure] for each in row["classes"]] == [
            2 * size if depth > 1 else None for size in sizes.values()
        ]
        uncertain = read_mask(out / row["uncertain_mask"]) > 0
        assert row["uncertain"] == pytest.approx(uncertain.sum() / max(1, (uncertain | (found > 0)).sum()), abs=1e-4)
        with Image.open(out / row["overlay"]) as overlay:
            assert max(overlay.size) == mask_files.SIDE
    before = {path: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    (out / "masks" / f".0.png.{'0a' * 6}.part").touch()  # of a run that was killed
    predict(capsys, model, folder, "--out", out, "--format", "json")  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in (out / "masks").iterdir()} == before


def read_mask(path: Path) -> NDArray[Any]:
    if path.suffix == ".gz":
        import nibabel

        return np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)
    with Image.open(path) as mask:
        return np.asarray(mask)


def test_a_large_picture_is_outlined_at_its_own_size(opened: MaskBundle) -> None:
    images, truth = squares(1, seed=9)
    answer = drawing.outline(opened, images[0][..., None], (70, 45))
    assert answer.drawn.mask.shape == answer.drawn.uncertain.shape == (70, 45)
    own = drawing.outline(opened, images[0][..., None])
    down, across = resample.nearest(16, 70), resample.nearest(16, 45)
    assert np.mean(answer.drawn.mask == own.drawn.mask[down[:, None], across]) > 0.9
    assert np.mean(own.drawn.mask == truth[0]) > 0.95


def test_a_band_at_a_time_gives_the_same(opened: MaskBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    image = squares(1, seed=9)[0][0][..., None]
    at_once = drawing.outline(opened, image, (64, 48)).drawn
    monkeypatch.setattr(drawing, "_BAND_PIXELS", 5 * 48)
    banded = drawing.outline(opened, image, (64, 48)).drawn
    assert np.array_equal(at_once.mask, banded.mask)
    assert np.array_equal(at_once.uncertain, banded.uncertain)


# --- don't know -------------------------------------------------------------------------------------------------------
def test_an_image_unlike_the_training_images_is_not_outlined(
    opened: MaskBundle, tmp_path: Path, capsys: Capsys
) -> None:
    home, model = tmp_path / "home", mask_bundles.saved_model(tmp_path)
    keys.save(home, mask_bundles.site().keys, None)
    samples.save(tmp_path / "images" / "x.png", np.tile(np.array([0, 255], np.uint8), (40, 20)))
    _, rows, _ = predict(capsys, model, tmp_path / "images", "--out", tmp_path / "out", "--format", "json")
    row = rows["x.png"]
    assert (row["verdict"], row["classes"], row["uncertain"], row["mask"]) == ("unlike", [], None, None)
    assert "unlike the training images" in row["reason"]
    assert not (tmp_path / "out" / "masks").exists()
    for kind in ("csv", "html", "table"):
        _, out, _ = run_command(capsys, "predict", model, tmp_path / "images", "--home", home, "--format", kind)
        assert "unlike the training images" in out
        assert " pixels" not in out


def outputs(*probabilities: float) -> Any:
    """A model that gives all pixels these probabilities, or in the left half the first of two rows."""

    def run(part: NDArray[np.uint8]) -> MaskOutputs:
        values = np.zeros((1, 3, 16, 16), np.float32)
        values[:] = np.array(probabilities, np.float32)[:, None, None]
        values[..., 8:] = np.array([0.0, 1.0, 0.0], np.float32)[:, None, None]
        return MaskOutputs(values, np.zeros((1, 4), np.float32))

    return run


def test_pixels_are_uncertain_where_another_class_is_nearly_as_likely() -> None:
    pixels = np.zeros((16, 16, 1), np.uint8)
    for probabilities, is_uncertain in [((0.6, 0.4, 0), False), ((0.59, 0.41, 0), True), ((0, 0.55, 0.45), True)]:
        drawn = drawing.draw(outputs(*probabilities), pixels, (16, 16), 3)
        assert drawn.uncertain[:, :8].all() == drawn.uncertain[:, :8].any() == is_uncertain
        assert not drawn.uncertain[:, 8:].any()
        assert drawn.uncertainty == (0.5 if is_uncertain else 0)


def test_numbers_that_are_nan_are_never_certain() -> None:
    drawn = drawing.draw(outputs(np.nan, np.nan, np.nan), np.zeros((16, 16, 1), np.uint8), (16, 16), 3)
    assert drawn.uncertain[:, :8].all()


def test_an_outline_with_more_uncertain_pixels_than_usual_is_uncertain(opened: MaskBundle) -> None:
    drawn = drawing.outline(opened, squares(1, seed=9)[0][0][..., None]).drawn
    limit = opened.facts.calibration.most_uncertain
    for uncertainty, verdict in [(limit, "answered"), (limit + 0.01, "uncertain")]:
        answer = drawing.judge(opened.facts, replace(drawn, uncertainty=uncertainty))
        assert answer.verdict == verdict
        assert ("pixels are uncertain" in answer.reason) == (verdict == "uncertain")


# --- formats and files ------------------------------------------------------------------------------------------------
def test_lists_name_classes_and_areas(depth: int, model: Path, tmp_path: Path, capsys: Capsys) -> None:
    folder, _ = written(tmp_path / "images", depth, 1)
    home = model.parent / "home"
    _, table, _ = run_command(capsys, "predict", model, folder, "--home", home)
    assert ("mm3" if depth > 1 else "pixels") in table
    _, text, _ = run_command(capsys, "predict", model, folder, "--home", home, "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(text))
    assert int(row["pixels(a)"]) > 0
    assert bool(row["mm3(a)" if depth > 1 else "mm2(a)"]) == (depth > 1)
    _, page, _ = run_command(capsys, "predict", model, folder, "--home", home, "--format", "html")
    assert "data:image/jpeg;base64" in page
    assert "Outlined" in page


def test_a_model_for_volumes_refuses_pictures_and_one_for_pictures_volumes(
    depth: int, model: Path, tmp_path: Path, capsys: Capsys
) -> None:
    for each in (1, 8):
        written(tmp_path / "images", each, 1)
    code, rows, _ = predict(capsys, model, tmp_path / "images", "--format", "json")
    assert code == 1
    assert {row["error"] and row["error"]["code"] for row in rows.values()} == {
        None,
        "E_VOLUME" if depth > 1 else "E_IMAGE_KIND",
    }


def test_names_of_images_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    drawn = Drawn(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.bool_), np.zeros(1), {}, 0.0)
    out = tmp_path / "out"
    for name in ("../../x.png", "/etc/x.png", "..\\x.png", "c:x.png", "a/b.png"):
        names = mask_files.write(out, name, drawn, None, np.zeros((4, 4, 1), np.uint8))
        assert all((out / each).resolve().is_relative_to(out.resolve() / "masks") for each in names.values())
    assert not (tmp_path / "x.png_mask.png").exists()


def test_images_of_one_name_and_two_kinds_keep_a_mask_each(tmp_path: Path) -> None:
    drawn = Drawn(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.bool_), np.zeros(1), {}, 0.0)
    masks = {
        mask_files.write(tmp_path, name, drawn, None, np.zeros((4, 4, 1), np.uint8))["mask"]
        for name in ("a.png", "a.jpg")
    }
    assert len(masks) == 2


def test_pixel_spacing_of_a_dicom_file_gives_areas(opened: MaskBundle, tmp_path: Path, capsys: Capsys) -> None:
    pytest.importorskip("pydicom")
    home, model = tmp_path / "home", mask_bundles.saved_model(tmp_path)
    keys.save(home, mask_bundles.site().keys, None)
    samples.dicom(
        tmp_path / "x.dcm",
        next(mask_bundles.site().images.split("val").case_pictures())[..., 0],
        PixelSpacing=[0.5, 0.25],
        WindowCenter=128,
        WindowWidth=256,
    )
    _, rows, _ = predict(capsys, model, tmp_path / "x.dcm", "--format", "json")
    sizes = {each["pixels"]: each["area_mm2"] for each in rows["x.dcm"]["classes"]}
    assert sum(sizes) > 0
    assert all(area == pytest.approx(pixels / 8, abs=0.01) for pixels, area in sizes.items())


# --- in Python --------------------------------------------------------------------------------------------------------
def test_in_python_arrays_and_files_are_outlined_alike(depth: int, model: Path, tmp_path: Path) -> None:
    bundle = fh.load_mask_bundle(model, home=model.parent / "home", threads=1)
    images = [*mask_bundles.site(depth).images.split("val").case_pictures()][:2]
    outlines = fh.outline_arrays(bundle, np.stack(images))
    folder, truth = written(tmp_path / "images", depth, 2)
    rows = fh.predict_files(bundle, folder, out=tmp_path / "out")
    for outline, row, mask in zip(outlines, rows, truth, strict=True):
        assert (outline.verdict, outline.reason) == (row["verdict"], row["reason"])
        assert np.array_equal(outline.drawn.mask, read_mask(tmp_path / "out" / row["mask"]))
        assert np.mean(outline.drawn.mask == mask) > 0.95
        assert "stamp" not in row
    assert fh.predict_files(bundle, folder)[0]["mask"] is None
    with pytest.raises(fh.FedhelpError, match="the array is 16 x 16"):
        fh.outline_arrays(bundle, np.zeros((16, 16), np.uint8))
