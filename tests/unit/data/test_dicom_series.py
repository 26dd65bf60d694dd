"""DICOM series as volumes, and DICOM segmentations as masks: the same as NIfTI, or refused for a reason."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("nibabel")
pytest.importorskip("highdicom")

import pydicom
from pydicom.encaps import encapsulate

from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading, masked_volumes, nifti, volume_files
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.labels import ClassNames
from fedhelp_edge.data.volume_files import VolumeFile
from fedhelp_edge.errors import FedhelpError, NoImagesError
from tests.unit.data import samples, series
from tests.unit.data.test_masks import plan, squares
from tests.unit.data.test_nifti import save

IMAGE = plans.ImageSettings(16, 1, (0.5,), (0.5,), 8, (2.0, 2.0, 2.0))
TILTED = (0.6, 0.8, 0.0, -0.48, 0.36, 0.8)  # oblique, at right angles


def noise(*shape: int, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-100, 200, shape or (6, 7, 9)).astype(np.int16)


def only(folder: Path) -> VolumeFile:
    (found,) = volume_files.list_volumes(folder)
    assert isinstance(found, VolumeFile), found
    return found


# --- a series ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("directions", [series.AXIAL, series.CORONAL, series.SAGITTAL, TILTED])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_series_is_the_volume_that_its_nifti_is(directions: Any, is_reversed: bool, tmp_path: Path) -> None:
    voxels = noise()
    series.write(tmp_path / "s", voxels, directions, names="{:03}.dcm" if not is_reversed else "x{}.IMA")
    if is_reversed:  # names in another order than places
        for number, path in enumerate(sorted((tmp_path / "s").iterdir(), reverse=True)):
            path.rename(path.with_name(f"{number}.dcm"))
    found = only(tmp_path / "s").decode(IMAGE)
    whole = save(tmp_path / "v.nii", voxels.transpose(2, 1, 0), series.affine(directions, len(voxels)))
    expected = nifti.decode(whole, IMAGE)
    assert found.grid is not None
    assert expected.grid is not None
    assert found.pixels.shape == expected.pixels.shape
    assert np.array_equal(found.pixels, expected.pixels)
    assert np.allclose(found.grid.corners(), expected.grid.corners())
    assert found.grid.spacing == pytest.approx(expected.grid.spacing)


def test_numbers_are_rescaled_padding_is_black_and_monochrome1_is_inverted(tmp_path: Path) -> None:
    voxels = noise()
    slopes: dict[str, Any] = {"RescaleSlope": lambda number: 1 + number, "RescaleIntercept": -5}
    scaled = voxels * np.arange(1, 7)[:, None, None] - 5
    series.write(tmp_path / "a", voxels, **slopes)
    series.write(tmp_path / "b", scaled.astype(np.int16))
    plain = only(tmp_path / "b").decode(IMAGE).pixels
    assert np.array_equal(only(tmp_path / "a").decode(IMAGE).pixels, plain)
    series.write(tmp_path / "c", scaled.astype(np.int16), PhotometricInterpretation="MONOCHROME1")
    inverted = only(tmp_path / "c").decode(IMAGE).pixels
    assert np.abs(inverted.astype(int) + plain - 255).max() <= 1
    padded = noise()
    padded[:, :2] = -2000
    series.write(tmp_path / "d", padded, PixelPaddingValue=-2000)
    shown = only(tmp_path / "d").decode(plans.ImageSettings(16, 1, (0.5,), (0.5,), 8, (3.0, 1.5, 2.0))).pixels
    assert not shown[:, -2:].any()  # rows of the file go back, and ours forward
    assert np.median(shown[:, :-2]) > 100


def test_a_copy_of_a_slice_is_the_same_slice_and_reports_are_no_slices(tmp_path: Path) -> None:
    paths = series.write(tmp_path / "s", noise())
    before = only(tmp_path / "s").decode(IMAGE).pixels
    (tmp_path / "s" / "copy.dcm").write_bytes(paths[2].read_bytes())
    series.segmentation(tmp_path / "s" / "seg.dcm", paths, np.ones((6, 7, 9), np.uint8))
    (tmp_path / "s" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert np.array_equal(only(tmp_path / "s").decode(IMAGE).pixels, before)


def test_two_series_in_a_folder_are_two_volumes(tmp_path: Path) -> None:
    series.write(tmp_path / "p", noise(), names="a{}")
    series.write(tmp_path / "p", noise(seed=1), names="b{}", uid="1.2.3.5")
    series.write(tmp_path / "q" / "r", noise(seed=2), uid="1.2.3.6")
    assert {found.name for found in volume_files.list_volumes(tmp_path) if isinstance(found, VolumeFile)} == {
        "p/1.2.3.4",
        "p/1.2.3.5",
        "q/r",
    }


def position(of: Callable[[int], tuple[float, float, float]]) -> dict[str, Any]:
    return {"ImagePositionPatient": lambda number: list(of(number))}


UNUSABLE = {
    "a missing slice": ("E_VOLUME", "it lacks 1 slice, most of them between 002.dcm and 003.dcm",
                        position(lambda i: (0, 0, 3.0 * (i + (i > 2))))),
    "every other place twice as far": ("E_VOLUME", "it lacks 2 slices", position(lambda i: (0, 0, 3.0 * (i + i // 2)))),
    "mixed distances": ("E_VOLUME", "its slices lie 2.00 to 5.00 mm apart",
                        position(lambda i: (0, 0, 2.0 * i + 3.0 * (i > 3)))),
    "two times": ("E_VOLUME", "3 of its 6 slices lie where another one does: it has several times or echoes",
                  position(lambda i: (0, 0, 3.0 * (i % 3)))),
    "gantry tilt": ("E_VOLUME", "its axes are not at right angles (gantry tilt)",
                    position(lambda i: (0, 0.6 * i, 3.0 * i))),
    "slices beside each other": ("E_VOLUME", "its slices do not lie on a line",
                                 position(lambda i: (0, 9.0 * (i == 3), 3.0 * i))),
    "no place": ("E_VOLUME", "its slices do not say where they lie", {"ImagePositionPatient": None}),
    "a place far away": ("E_VOLUME", "its slices do not say where they lie", position(lambda i: (0, 0, 1e300 * i))),
    "no distance": ("E_VOLUME", "its slices do not say where they lie", {"PixelSpacing": [0.0, 1.0]}),
    "a huge distance": ("E_VOLUME", "how far its voxels lie apart", {"PixelSpacing": [1e200, 1.0]}),
    "directions that are none": ("E_VOLUME", "do not say where", {"ImageOrientationPatient": [0.0] * 6}),
    "directions that differ": ("E_VOLUME", "its slices differ in direction",
                               {"ImageOrientationPatient": lambda i: list(series.AXIAL if i else series.CORONAL)}),
    "several frames": ("E_VOLUME", "one of its files has 9 frames", {"NumberOfFrames": 9}),
    "a palette": ("E_VOLUME", "its slices are in colour", {"PhotometricInterpretation": "PALETTE COLOR"}),
    "a size of gigabytes": ("E_IMAGE_SIZE", "it has 6 x 60000 x 60000 voxels", {"Rows": 60000, "Columns": 60000}),
    "fewer pixels than stated": ("E_IMAGE", "", {"Rows": 300, "Columns": 300}),
}  # fmt: skip


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_series_that_is_no_volume_is_refused_with_a_reason_and_a_remedy(what: str, tmp_path: Path) -> None:
    code, cause, tags = UNUSABLE[what]
    series.write(tmp_path / "s", noise(), **tags)
    with pytest.raises(FedhelpError) as caught:
        only(tmp_path / "s").decode(IMAGE)
    assert caught.value.code == code
    assert cause in caught.value.cause
    assert caught.value.remedy


def test_colour_overviews_and_single_slices_are_no_volume(tmp_path: Path) -> None:
    series.write(tmp_path / "colour", samples.noise(4, 7, 9, 3))
    series.write(tmp_path / "one", noise(1, 7, 9))
    series.write(tmp_path / "scout", noise(4, 7, 9))
    series.write(tmp_path / "scout", noise(1, 20, 20), names="z{}", SOPInstanceUID="1.9")
    for name, cause in (
        ("colour", "in colour"),
        ("one", "single slice"),
        ("scout", "differ in size: 7 x 9 and 20 x 20"),
    ):
        with pytest.raises(FedhelpError, match=cause):
            only(tmp_path / name).decode(IMAGE)


def test_whatever_a_damaged_slice_holds_the_error_has_a_code(tmp_path: Path) -> None:
    paths = series.write(tmp_path / "s", noise(2, 7, 9))
    whole, draw = paths[1].read_bytes(), np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(whole)
        for at in draw.integers(132, len(whole), 8):
            damaged[at] = draw.integers(0, 256)
        paths[1].write_bytes(bytes(damaged))
        for found in volume_files.list_volumes(tmp_path):
            try:
                assert not isinstance(found, VolumeFile) or found.decode(IMAGE)
            except FedhelpError as error:
                assert error.code


# --- with masks -------------------------------------------------------------------------------------------------------
COUNT = 6
SPACED = plans.ImageSettings(16, 1, (0.5,), (0.5,), 8, (series.STEP, *series.SPACING))
NAMES = ClassNames(("a", "b"), {})


def folders(root: Path, count: int = COUNT, place: str = "masks/{}.dcm", **options: Any) -> None:
    """Series with a segmentation each."""
    for number, (image, mask) in enumerate(zip(*squares(count, 6, 20, 16), strict=True)):
        paths = series.write(root / "images" / f"{number}", image, uid=f"1.2.{number}")
        series.segmentation(root / place.format(number), paths, mask, **options)


def load(root: Path, **options: Any) -> Images:
    agreed = plans.Plan(task="segmentation", classes=("a", "b"), image=SPACED)
    return loading.load(root, agreed, state_dir=root / "state", **options)


def test_series_with_segmentations_are_the_images_that_their_niftis_are(tmp_path: Path) -> None:
    folders(tmp_path / "dicom")
    where = series.affine(series.AXIAL, 6)
    for number, pair in enumerate(zip(*squares(COUNT, 6, 20, 16), strict=True)):
        for part, values in zip(("images", "masks"), pair, strict=True):
            save(tmp_path / "nifti" / part / f"{number}.nii.gz", values.transpose(2, 1, 0), where)
    one, other = load(tmp_path / "dicom"), load(tmp_path / "nifti")
    assert one.problems == other.problems == ()
    assert (one.hashes, one.splits) == (other.hashes, other.splits)
    for part in ("pixels", "masks", "labels"):
        assert np.array_equal(getattr(one, part), getattr(other, part)), part
    assert {kind.modality for kind in one.kinds if kind} == {"MR"}


def test_a_label_map_is_the_same_mask(tmp_path: Path) -> None:
    folders(tmp_path / "a", 1)
    folders(tmp_path / "b", 1, kind="LABELMAP")
    one, other = (pairs_of(tmp_path / each)["0"].decode(SPACED, NAMES) for each in "ab")
    assert np.array_equal(one.mask, other.mask)
    assert set(np.unique(one.mask)) == {0, 1}


@pytest.mark.parametrize("place", ["masks/from the archive/{}.9.9", "images/{}/seg.dcm"])
def test_segmentations_are_found_by_the_series_that_they_outline(place: str, tmp_path: Path) -> None:
    """As an archive gives them: under any name, beside the slices or elsewhere."""
    folders(tmp_path, 2, place)
    masks_dir = tmp_path / place.partition("/")[0]
    source = masked_volumes.read_folder(tmp_path / "images", masks_dir, SPACED, NAMES)
    assert source.problems == []
    assert {name: pair.mask for name, pair in source.pairs.items()} == {
        name: tmp_path / place.format(name) for name in ("0", "1")
    }


def test_segments_may_have_other_names_when_they_are_told(tmp_path: Path) -> None:
    folders(tmp_path, names=("Left thing", "b"))
    with pytest.raises(NoImagesError, match="'Left thing' is not a class of the plan"):
        load(tmp_path)
    assert len(load(tmp_path, mapping={"left thing": "a"}).cases) == COUNT  # what was refused before is read again


def pairs_of(root: Path) -> Any:
    return masked_volumes.read_folder(root, None, SPACED, NAMES).pairs


@functools.cache
def written() -> Path:
    """A series with its segmentation, written once."""
    root = Path(tempfile.mkdtemp())
    folders(root, 1)
    return root


def change(root: Path, edit: Callable[[Any], None]) -> None:
    """Changes the file of a mask."""
    dataset = pydicom.dcmread(root / "masks" / "0.dcm")
    edit(dataset)
    dataset.save_as(root / "masks" / "0.dcm")


def moved(by: float) -> Callable[[Any], None]:
    def move(dataset: Any) -> None:
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.PlanePositionSequence[0].ImagePositionPatient[2] += by

    return move


def turned(dataset: Any) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(series.CORONAL)


def twice(dataset: Any) -> None:
    """The first frame once more, as another segment."""
    first = dataset.PerFrameFunctionalGroupsSequence[0]
    for group in dataset.PerFrameFunctionalGroupsSequence[1:]:
        group.PlanePositionSequence = first.PlanePositionSequence
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2
    dataset.PixelData = np.full(len(dataset.PixelData), 255, np.uint8).tobytes()


def set_to(**tags: Any) -> Callable[[Any], None]:
    def edit(dataset: Any) -> None:
        for name, value in tags.items():
            setattr(dataset, name, value)

    return edit


def compressed(dataset: Any) -> None:
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    dataset.PixelData = encapsulate([bytes(64)] * int(dataset.NumberOfFrames))
    dataset["PixelData"].is_undefined_length = True


SPOILED: dict[str, tuple[str, str, Callable[[Any], None]]] = {
    "another scan's": ("E_MASK_GRID", "belongs to another scan", set_to(FrameOfReferenceUID="1.9")),
    "a third of a slice away": ("E_MASK_GRID", "where its image has none", moved(1)),
    "far away": ("E_MASK_GRID", "where its image has none", moved(3e5)),
    "in other directions": ("E_MASK_GRID", "in other directions", turned),
    "degrees": ("E_MASK_KIND", "degrees in place of classes", set_to(SegmentationType="FRACTIONAL")),
    "compressed": ("E_MASK_KIND", "its mask is compressed (RLE Lossless)", compressed),
    "our own": ("E_MASK_KIND", "this program drew its mask", set_to(Manufacturer="fedhelp-edge")),
    "overlapping": ("E_MASK_KIND", "its segments overlap", twice),
    "a million frames": ("E_IMAGE_SIZE", "has 9999999 frames of 20 x 16 pixels", set_to(NumberOfFrames=9_999_999)),
    "fewer frames than it describes": ("E_IMAGE", "does not say what its frames are", set_to(NumberOfFrames=1)),
    "other sides": ("E_MASK_SIZE", "slices of 10 x 32 pixels, and its image 20 x 16", set_to(Rows=10, Columns=32)),
    "unknown segments": ("E_IMAGE", "segments that it does not describe", set_to(SegmentSequence=[])),
    "a report": ("E_MASK_PAIR", "no mask of the same name", set_to(SOPClassUID=series.MR_IMAGE)),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_a_segmentation_that_cannot_be_a_mask_is_named_with_a_reason(what: str, tmp_path: Path) -> None:
    code, cause, edit = SPOILED[what]
    shutil.copytree(written(), tmp_path / "x")
    change(tmp_path / "x", edit)
    source = masked_volumes.read_folder(tmp_path / "x", None, SPACED, NAMES)
    problems = {problem.file: f"{problem.code}: {problem.cause}" for problem in source.problems}
    if not source.problems:
        with pytest.raises(FedhelpError) as caught:
            source.pairs["0"].decode(SPACED, NAMES)
        assert caught.value.remedy
        problems["0"] = f"{caught.value.code}: {caught.value.cause}"
    assert problems["0"].startswith(f"{code}: ")
    assert cause in problems["0"]


# --- pictures ---------------------------------------------------------------------------------------------------------
def test_segmentations_are_masks_of_dicom_pictures(tmp_path: Path) -> None:
    images, truth = squares(8)
    for number, (image, mask) in enumerate(zip(images, truth, strict=True)):
        uids = {"SOPInstanceUID": f"1.3.{number}", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1"}
        tags = {"PatientID": "", "PatientName": "", "WindowCenter": 128, "WindowWidth": 256, "Modality": "DX"}
        path = samples.dicom(tmp_path / "images" / f"{number}.dcm", image, **tags, **uids)
        name = f"{number}.dcm" if number < 4 else f"from the archive {number}"
        series.segmentation(tmp_path / "masks" / name, [path], mask[None])
    loaded = loading.load(tmp_path, plan(), state_dir=tmp_path / "state")
    assert loaded.problems == ()
    for name, mask in zip(loaded.names, np.asarray(loaded.masks), strict=True):
        assert np.array_equal(mask, truth[int(name[0])])
    (tmp_path / "masks" / "0.dcm").write_bytes((tmp_path / "masks" / "1.dcm").read_bytes())
    again = loading.load(tmp_path, plan(), state_dir=tmp_path / "state")
    assert [(each.file, each.code, each.cause) for each in again.problems] == [
        ("0.dcm", "E_MASK_GRID", "its mask says that it outlines another image")
    ]
