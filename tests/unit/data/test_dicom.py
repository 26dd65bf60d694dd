"""DICOM is decoded as a viewer shows it: rescaled, windowed, then inverted; other objects are refused with a reason."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge import errors
from fedhelp_edge.data import budget, folder, loading, picture
from fedhelp_edge.plan import ImageSettings
from tests.unit.data import samples

pytest.importorskip("pydicom", reason="pydicom is not installed (extra: medical)")

RAMP = np.arange(256, dtype=np.int16).reshape(16, 16)
GREY = ImageSettings(16, 1)


@pytest.fixture
def decode_with_tags(tmp_path: Path) -> Any:
    """Decodes an image with these tags."""

    def show(pixels: NDArray[Any] = RAMP, image: ImageSettings = GREY, **tags: Any) -> NDArray[np.uint8]:
        with picture.without_warnings():
            pixels_shown = folder.decode(samples.dicom(tmp_path / "x.dcm", pixels, **tags), image).pixels
        return pixels_shown[..., 0] if image.channels == 1 else pixels_shown

    return show


def test_without_rescale_and_window_the_images_own_range_is_shown(decode_with_tags: Any) -> None:
    assert np.array_equal(decode_with_tags(RAMP + 1000), RAMP)


def test_the_window_is_that_of_rescaled_values(decode_with_tags: Any) -> None:
    pixels_shown = decode_with_tags(RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=-1024 + 256, WindowWidth=257)
    centre = -1024 + 256 - 0.5  # PS3.3 C.11.2.1.2.1
    expected = np.clip((RAMP * 2.0 - 1024 - centre) / 256 + 0.5, 0, 1) * 255
    assert np.abs(pixels_shown - expected).max() <= 0.51


def test_the_first_of_several_windows_counts(decode_with_tags: Any) -> None:
    first_window = decode_with_tags(WindowCenter=100, WindowWidth=50)
    assert np.array_equal(decode_with_tags(WindowCenter=[100, 200], WindowWidth=[50, 500]), first_window)


@pytest.mark.parametrize("tags", [{"WindowWidth": 0}, {"WindowWidth": -5}, {"WindowWidth": ""}, {"WindowCenter": None}])
def test_an_invalid_window_is_ignored(decode_with_tags: Any, tags: dict[str, Any]) -> None:
    assert np.array_equal(decode_with_tags(**{"WindowCenter": 100, "WindowWidth": 50, **tags}), RAMP)


def test_a_window_of_width_one_is_a_threshold(decode_with_tags: Any) -> None:
    assert np.array_equal(decode_with_tags(WindowCenter=100, WindowWidth=1), np.where(RAMP >= 100, 255, 0))


def test_the_other_two_window_functions_are_correct(decode_with_tags: Any) -> None:
    exact = decode_with_tags(WindowCenter=128, WindowWidth=128, VOILUTFunction="LINEAR_EXACT")
    assert np.abs(exact - np.clip((RAMP - 128) / 128 + 0.5, 0, 1) * 255).max() <= 0.51
    sigmoid = decode_with_tags(WindowCenter=128, WindowWidth=128, VOILUTFunction="SIGMOID")
    assert np.abs(sigmoid - 255 / (1 + np.exp(-4 * (RAMP - 128) / 128))).max() <= 0.51


def test_monochrome1_is_inverted_after_the_window_and_not_before(decode_with_tags: Any) -> None:
    tags = {"WindowCenter": 60, "WindowWidth": 40}
    assert np.array_equal(
        decode_with_tags(PhotometricInterpretation="MONOCHROME1", **tags), 255 - decode_with_tags(**tags)
    )


@pytest.mark.parametrize(
    ("polarity", "shape", "inverted"),
    [
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", None, True),
    ],
)
def test_an_image_is_inverted_only_once(decode_with_tags: Any, polarity: str, shape: str, inverted: bool) -> None:
    pixels_shown = decode_with_tags(PhotometricInterpretation=polarity, PresentationLUTShape=shape)
    assert np.array_equal(pixels_shown, 255 - RAMP if inverted else RAMP)


def test_padding_values_do_not_stretch_the_range(decode_with_tags: Any) -> None:
    pixels = RAMP.copy()
    pixels[0, 0] = -2000
    pixels_shown = decode_with_tags(pixels, PixelPaddingValue=-2000, RescaleIntercept=-1024, RescaleSlope=1)
    assert pixels_shown[0, 0] == 0
    assert np.abs(pixels_shown[1:].astype(int) - RAMP[1:]).max() <= 1


def test_a_lookup_table_is_used_if_there_is_no_window(decode_with_tags: Any) -> None:
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], (np.arange(256, dtype="<u2")[::-1] * 3).tobytes()
    assert np.array_equal(decode_with_tags(RAMP.astype(np.uint16), VOILUTSequence=[table]), 255 - RAMP)


def test_raw_detector_data_are_used_with_a_warning(tmp_path: Path) -> None:
    path = samples.dicom(tmp_path / "x.dcm", RAMP, PresentationIntentType="FOR PROCESSING")
    assert "FOR PROCESSING" in folder.decode(path, GREY).doubt
    path = samples.dicom(tmp_path / "y.dcm", RAMP, PresentationIntentType="FOR PRESENTATION")
    assert folder.decode(path, GREY).doubt == ""


@pytest.mark.parametrize("planes", [0, 1])
def test_colour_comes_as_rgb_however_it_is_stored(decode_with_tags: Any, planes: int) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[...] = 200, 100, 50
    stored = pixels if planes == 0 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    pixels_shown = decode_with_tags(
        pixels, ImageSettings(16, 3), PlanarConfiguration=planes, PixelData=stored.tobytes()
    )
    assert np.array_equal(pixels_shown, pixels)


def test_luminance_and_chrominance_become_rgb(decode_with_tags: Any) -> None:
    pixels = np.full((16, 16, 3), 128, np.uint8)
    pixels[..., 0] = 90
    pixels_shown = decode_with_tags(pixels, ImageSettings(16, 3), PhotometricInterpretation="YBR_FULL")
    assert np.abs(pixels_shown.astype(int) - 90).max() <= 1


@pytest.mark.parametrize(
    ("tags", "code", "word"),
    [
        ({"PixelData": None}, "E_IMAGE_KIND", "no pixels"),
        ({"NumberOfFrames": 12}, "E_IMAGE_KIND", "12 frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "E_IMAGE_KIND", "palette"),
        ({"Rows": 60000, "Columns": 60000}, "E_IMAGE_SIZE", "pixels"),
        ({"Rows": 32}, "E_IMAGE", "decoded"),
    ],
)
def test_an_object_that_is_not_a_single_image_is_refused_with_a_reason(
    decode_with_tags: Any, tags: dict[str, Any], code: str, word: str
) -> None:
    with pytest.raises(errors.FedhelpError) as caught:
        decode_with_tags(**tags)
    assert caught.value.code == code
    assert word in caught.value.cause


def test_an_unsupported_compression_is_named_with_the_package_to_install(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import JPEGLSLossless

    if get_decoder(JPEGLSLossless).is_available:
        pytest.skip("a decoder for JPEG-LS is installed")
    path = samples.dicom(tmp_path / "a" / "x.dcm", RAMP, PixelData=encapsulate([b"\xff\xd8"]), syntax=JPEGLSLossless)
    with pytest.raises(errors.MissingPackageError, match="JPEG-LS") as caught:
        folder.decode(path, GREY)
    assert "pylibjpeg" in caught.value.remedy


def test_without_pydicom_each_dicom_file_has_a_reason_until_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = samples.folder(tmp_path / "images")
    samples.dicom(source / "a" / "scan.dcm", RAMP)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (problem,) = loading.load(source, samples.plan(), state_dir=tmp_path / "kept").problems
    assert (problem.file, problem.code) == ("a/scan.dcm", "E_EXTRA")
    monkeypatch.undo()
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept")
    assert (len(images), images.problems) == (21, ())


def test_deflated_dicom_is_opened_unless_it_is_a_bomb(decode_with_tags: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    assert np.array_equal(decode_with_tags(RAMP, syntax=DeflatedExplicitVRLittleEndian), RAMP)
    monkeypatch.setattr(budget, "DICOM_INFLATED", 2 << 20)
    with pytest.raises(errors.ImageSizeError, match="larger than 2 MiB"):
        decode_with_tags(np.zeros((1500, 1500), np.int16), syntax=DeflatedExplicitVRLittleEndian)


def test_a_file_that_is_dicom_by_name_only_is_broken(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(errors.ImageBrokenError):
        folder.decode(tmp_path / "x.dcm", GREY)


def test_the_images_of_a_patient_stay_together_without_named_groups(tmp_path: Path) -> None:
    for i, pixels in enumerate(samples.noise(40, 16, 16)):
        samples.dicom(tmp_path / "images" / "ab"[i % 2] / f"{i}", pixels, PatientID=f"patient {i // 4}")
    images = loading.load(tmp_path / "images", samples.plan(channels=1), state_dir=tmp_path / "kept")
    assert len(set(images.groups)) == 10
    assert all(
        len({s for g, s in zip(images.groups, images.splits, strict=True) if g == group}) == 1
        for group in images.groups
    )
    written = b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert b"patient" not in written


def test_a_patient_id_that_all_files_share_is_not_a_group(tmp_path: Path) -> None:
    for i, pixels in enumerate(samples.noise(20, 16, 16)):
        samples.dicom(tmp_path / "images" / "ab"[i % 2] / f"{i}.dcm", pixels, PatientID="ANONYMOUS")
    images = loading.load(tmp_path / "images", samples.plan(channels=1), state_dir=tmp_path / "kept")
    assert set(images.groups) == {""}
    assert set(images.splits) == {"train", "val", "test"}


@pytest.mark.parametrize("column", ["SOPInstanceUID", "PatientID"])
def test_a_table_finds_dicom_by_its_identifiers(tmp_path: Path, column: str) -> None:
    from pydicom.uid import generate_uid

    lines = [f"{column},label"]
    for i, pixels in enumerate(samples.noise(20, 16, 16)):
        tags = {"SOPInstanceUID": generate_uid(), "PatientID": f"p{i}"}
        samples.dicom(tmp_path / "pacs" / f"IM{i:04}", pixels, **tags)
        lines.append(f"{tags[column]},{'ab'[i % 2]}")
    lines.append("1.2.3.999,a")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    images = loading.load(tmp_path / "labels.csv", samples.plan(channels=1), state_dir=tmp_path / "kept")
    assert len(images) == 20
    assert images.labels.sum() == 10
    assert [(p.file, p.code) for p in images.problems] == [("line 22 of labels.csv", "E_FILE_MISSING")]


@pytest.mark.skipif(not (samples.GIVEN / "dicom").is_dir(), reason="the folder 'dicom' of FEDHELP_DATA is not here")
@pytest.mark.parametrize("name", ["CT_small", "MR_small", "examples_rgb_color", "J2K_pixelrep_mismatch"])
def test_real_files_are_shown_with_their_full_contrast(name: str) -> None:
    (path,) = (samples.GIVEN / "dicom").glob(f"{name}*")
    with picture.without_warnings():
        decoded = folder.decode(path, ImageSettings(64, 3))
    assert decoded.pixels.shape == (64, 64, 3)
    assert int(decoded.pixels.max()) - int(decoded.pixels.min()) > 150


@pytest.mark.parametrize("kind", [b"ZZ", b"FD"])  # of no standard, and of another length: pydicom's errors differ
def test_a_value_that_cannot_be_read_is_not_stated_and_the_image_is_used(kind: bytes, tmp_path: Path) -> None:
    path = samples.dicom(tmp_path / "x.dcm", RAMP, Modality="CT", BodyPartExamined="CHEST")
    data = path.read_bytes()
    assert data.count(b"\x08\0\x60\0CS") == 1
    path.write_bytes(data.replace(b"\x08\0\x60\0CS", b"\x08\0\x60\0" + kind))
    decoded = folder.decode(path, GREY)
    assert (decoded.identity.modality, decoded.identity.body_part) == ("", "CHEST")


def test_an_image_that_memory_does_not_suffice_for_is_not_called_broken(
    decode_with_tags: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydicom.pixels import utils

    def fail(dataset: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(utils, "pixel_array", fail)
    with pytest.raises(errors.FedhelpError) as caught:
        decode_with_tags()
    assert caught.value.code == "E_IMAGE_COST"
