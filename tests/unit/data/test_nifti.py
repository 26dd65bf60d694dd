"""NIfTI volumes: turned to the patient's directions, at the plan's distances, and refused for a reason."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("nibabel")

import nibabel

from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading, nifti, resample
from fedhelp_edge.errors import FedhelpError, OneClassError
from tests.unit.data import samples
from tests.unit.data.test_masks import plan, refused, squares

IMAGE = plans.ImageSettings(16, 1, (0.5,), (0.5,), 8, (3.0, 1.5, 2.0))
AFFINE = np.array([[2.0, 0, 0, -3], [0, 1.5, 0, 4], [0, 0, 3, 1], [0, 0, 0, 1]])  # columns, rows, slices


def save(path: Path, values: NDArray[Any], affine: NDArray[Any] = AFFINE, **header: Any) -> Path:
    """Writes a volume, given as columns x rows x slices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def noise(*shape: int) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(0, 200, shape).astype(np.int16)


def reoriented(values: NDArray[Any], codes: str) -> Any:
    steps = (nibabel.orientations.axcodes2ornt(each) for each in ("RAS", codes))
    return nibabel.Nifti1Image(values, AFFINE).as_reoriented(nibabel.orientations.ornt_transform(*steps))


# --- orientation and distances ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA", "PIR", "ILA"])
def test_the_order_of_a_files_axes_does_not_count(codes: str, tmp_path: Path) -> None:
    values = noise(5, 7, 9)
    plain = nifti.decode(save(tmp_path / "plain.nii.gz", values), IMAGE)
    nibabel.save(reoriented(values, codes), tmp_path / "x.nii")
    turned = nifti.decode(tmp_path / "x.nii", IMAGE)
    assert turned.pixels.shape == (9, 7, 5, 1)
    assert np.array_equal(turned.pixels, plain.pixels)
    assert turned.grid is not None
    assert turned.grid.spacing == pytest.approx((3.0, 1.5, 2.0))
    mask = (plain.pixels[..., 0] > 100).astype(np.uint8)
    (tmp_path / "mask.nii.gz").write_bytes(nifti.encode(mask, turned.grid))
    written, image = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(tmp_path / "x.nii")
    assert np.allclose(written.affine, image.affine)
    assert written.shape == image.shape
    assert np.array_equal(nibabel.as_closest_canonical(written).get_fdata().transpose(2, 1, 0), mask)
    assert np.array_equal(nifti.read_labels(tmp_path / "mask.nii.gz", turned.grid, turned.grid.sides), mask)


def test_a_volume_is_brought_to_the_plans_distances(tmp_path: Path) -> None:
    blob = np.zeros((12, 12, 12), np.uint8)
    blob[3:9, 3:9, 3:9] = 200
    path = save(tmp_path / "x.nii.gz", blob, np.diag([2.0, 2, 2, 1]))
    finer = plans.ImageSettings(16, 1, (0.5,), (0.5,), 8, (1.0, 2.0, 4.0))
    decoded = nifti.decode(path, finer)
    assert decoded.pixels.shape == (24, 12, 6, 1)
    assert decoded.pixels.mean() == pytest.approx(blob.mean(), rel=0.02)
    assert decoded.grid is not None
    labels = nifti.read_labels(
        save(tmp_path / "m.nii.gz", (blob > 0).astype(np.uint8), np.diag([2.0, 2, 2, 1])), decoded.grid, (24, 12, 6)
    )
    assert np.mean((labels > 0) == (decoded.pixels[..., 0] >= 100)) > 0.9
    assert set(np.unique(labels)) == {0, 1}


def test_to_other_sides_and_back_a_smooth_volume_stays() -> None:
    ramps = np.add.outer(np.add.outer(np.arange(20), np.arange(18)), np.arange(16)).astype(np.uint8)
    there = resample.to_sides(ramps, (40, 36, 32))
    back = resample.to_sides(there, ramps.shape).astype(int)
    assert np.abs(back - ramps)[1:-1, 1:-1, 1:-1].max() <= 1


@pytest.mark.parametrize("kind", ["u1", "<i2", ">i2", "<f4", "<f8", "<u2", "<i4"])
def test_every_kind_of_number_gives_grey(kind: str, tmp_path: Path) -> None:
    values = noise(6, 6, 6).astype(kind)
    decoded = nifti.decode(save(tmp_path / "x.nii", values), IMAGE)
    darkest, brightest = (np.argwhere(values == edge)[0][::-1] for edge in (values.min(), values.max()))
    low, high = (int(decoded.pixels[(*at, 0)]) for at in (darkest, brightest))
    assert (low, high) == ((int(values.min()), int(values.max())) if kind == "u1" else (0, 255))


def test_outliers_and_nan_do_not_darken_the_others(tmp_path: Path) -> None:
    values = noise(10, 10, 10).astype(np.float32)
    plain = nifti.decode(save(tmp_path / "a.nii", values), IMAGE).pixels
    values[0, 0, 0], values[0, 0, 1] = 1e6, np.nan
    with_outliers = nifti.decode(save(tmp_path / "b.nii", values), IMAGE).pixels
    assert np.abs(plain.astype(int) - with_outliers)[:, 1:].max() <= 4
    flat = nifti.decode(save(tmp_path / "c.nii", np.full((4, 4, 4), 7, np.float32)), IMAGE).pixels
    assert not flat.any()


def test_colour_plans_get_three_channels(tmp_path: Path) -> None:
    colour = plans.ImageSettings(16, 3, (0.5,) * 3, (0.5,) * 3, 8)
    assert nifti.decode(save(tmp_path / "x.nii", noise(4, 4, 4)), colour).pixels.shape[3] == 3


# --- a folder of volumes ----------------------------------------------------------------------------------------------
def volumes(root: Path, count: int = 8) -> Path:
    for number, (image, mask) in enumerate(zip(*squares(count, 9, 20, 16), strict=True)):
        save(root / "images" / f"{number}.nii.gz", image.transpose(2, 1, 0), np.eye(4))
        save(root / "masks" / f"{number}.nii.gz", mask.transpose(2, 1, 0), np.eye(4))
    return root


def test_a_folder_and_an_npz_of_the_same_volumes_are_the_same_images(tmp_path: Path) -> None:
    images, truth = squares(8, 9, 20, 16)
    np.savez(tmp_path / "a.npz", images=images, masks=truth)
    agreed = plan(size=16, depth=8)
    from_npz = loading.load(tmp_path / "a.npz", agreed, state_dir=tmp_path / "one")
    from_folder = loading.load(volumes(tmp_path / "f"), agreed, state_dir=tmp_path / "two")
    for part in ("pixels", "masks", "labels", "borders"):
        assert np.array_equal(getattr(from_npz, part), getattr(from_folder, part)), part
    assert (from_npz.hashes, from_npz.splits) == (from_folder.hashes, from_folder.splits)
    assert len(from_folder.cases) == 8


def spoiled(root: Path, change: Any) -> list[tuple[str, str]]:
    """The problems of a folder after a change of volume 3."""
    volumes(root)
    change(root / "images" / "3.nii.gz", root / "masks" / "3.nii.gz")
    loaded = loading.load(root, plan(size=16, depth=8), state_dir=root / "state")
    assert len(loaded.cases) == 7
    return [(problem.file, problem.code) for problem in loaded.problems]


def cube(*sides: int) -> NDArray[np.uint8]:
    return np.zeros(sides or (16, 20, 9), np.uint8)


def header(path: Path, **fields: Any) -> None:
    """Changes fields of a header, whatever follows it."""
    whole = bytearray(gzip.decompress(path.read_bytes()))
    place = {
        "dim": (40, "<8h"),
        "datatype": (70, "<h"),
        "bitpix": (72, "<h"),
        "vox_offset": (108, "<f"),
        "magic": (344, "4s"),
    }
    for name, value in fields.items():
        offset, form = place[name]
        struct.pack_into(form, whole, offset, *(value if isinstance(value, tuple) else (value,)))
    path.write_bytes(gzip.compress(bytes(whole)))


TWO_GIGABYTES = {"dim": (3, 1024, 1024, 1024, 1, 1, 1, 1), "datatype": 4, "bitpix": 16}
TILTED = np.array([[1.0, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
SPOILED = {
    "several times": ("E_VOLUME", lambda image, mask: save(image, cube(16, 20, 9, 4))),
    "a claim of 2 GB": ("E_IMAGE_SIZE", lambda image, mask: header(image, **TWO_GIGABYTES)),
    "fewer voxels than claimed": ("E_IMAGE", lambda image, mask: header(image, dim=(3, 60, 60, 60, 1, 1, 1, 1))),
    "a negative side": ("E_IMAGE", lambda image, mask: header(image, dim=(3, -5, 20, 9, 1, 1, 1, 1))),
    "voxels in another file": ("E_IMAGE", lambda image, mask: header(image, magic=b"ni1\0")),
    "voxels far behind": ("E_IMAGE", lambda image, mask: header(image, vox_offset=1e9)),
    "an unknown kind of numbers": ("E_IMAGE", lambda image, mask: header(image, datatype=77)),
    "complex numbers": ("E_VOLUME", lambda image, mask: save(image, cube().astype(np.complex64))),
    "gantry tilt": ("E_VOLUME", lambda image, mask: save(image, cube(), TILTED)),
    "no NIfTI": ("E_IMAGE", lambda image, mask: image.write_bytes(b"hello")),
    "an empty file": ("E_IMAGE", lambda image, mask: image.write_bytes(b"")),
    "a single slice": ("E_VOLUME", lambda image, mask: save(image, cube(16, 20, 1))),
    "micrometres": ("E_VOLUME", lambda image, mask: save(image, cube(), xyzt_units=3)),
    "no numbers": ("E_IMAGE", lambda image, mask: save(image, cube() + np.float32(np.nan))),
    "a wrong checksum": ("E_IMAGE", lambda image, mask: image.write_bytes(image.read_bytes()[:-8] + bytes(8))),
    "a huge class": ("E_MASK_LABEL", lambda image, mask: save(mask, cube() + np.float64(1e30), np.eye(4))),
    "a broken archive": ("E_IMAGE", lambda image, mask: image.write_bytes(image.read_bytes()[:200])),
    "a mask of another size": ("E_MASK_SIZE", lambda image, mask: save(mask, cube(16, 20, 8), np.eye(4))),
    "a mask at other distances": ("E_MASK_GRID", lambda image, mask: save(mask, cube(), np.diag([1.0, 1, 2, 1]))),
    "a mask elsewhere": ("E_MASK_GRID", lambda image, mask: save(mask, cube(), np.eye(4) + 5 * np.eye(4, k=3))),
    "a mask turned over": ("E_MASK_GRID", lambda image, mask: save(mask, cube(), np.diag([1.0, -1, 1, 1]))),
    "an unknown class": ("E_MASK_LABEL", lambda image, mask: save(mask, cube() + np.uint8(7), np.eye(4))),
    "half a class": ("E_MASK_LABEL", lambda image, mask: save(mask, cube() + np.float32(0.5), np.eye(4))),
    "a mask in colours": (
        "E_MASK_KIND",
        lambda image, mask: save(mask, np.zeros((16, 20, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)),
    ),
    "a mask of several times": ("E_VOLUME", lambda image, mask: save(mask, cube(16, 20, 9, 2), np.eye(4))),
    "no mask": ("E_MASK_PAIR", lambda image, mask: mask.unlink()),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_a_volume_that_cannot_be_used_is_named_once_with_a_reason(what: str, tmp_path: Path) -> None:
    code, change = SPOILED[what]
    assert spoiled(tmp_path, change) == [("3.nii.gz", code)]


def test_a_mask_saved_in_another_order_of_axes_fits(tmp_path: Path) -> None:
    volumes(tmp_path)
    before = loading.load(tmp_path, plan(size=16, depth=8), state_dir=tmp_path / "one")
    path = tmp_path / "masks" / "3.nii.gz"
    mask = nibabel.load(path)
    steps = nibabel.orientations.ornt_transform(*(nibabel.orientations.axcodes2ornt(each) for each in ("RAS", "PSL")))
    turned = nibabel.Nifti1Image(np.asarray(mask.dataobj), mask.affine).as_reoriented(steps)
    nibabel.save(turned, path)
    after = loading.load(tmp_path, plan(size=16, depth=8), state_dir=tmp_path / "two")
    assert np.array_equal(before.masks, after.masks)


def test_a_header_that_claims_two_gigabytes_is_refused_before_memory_is_spent(tmp_path: Path) -> None:
    import tracemalloc

    path = save(tmp_path / "x.nii.gz", cube())
    header(path, **TWO_GIGABYTES)
    tracemalloc.start()
    assert refused(nifti.decode, path, IMAGE).startswith("E_IMAGE_SIZE")
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_distances_that_would_make_a_volume_huge_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", noise(6, 6, 6), np.diag([5000.0, 5000, 5000, 1]))
    assert refused(nifti.decode, path, IMAGE).startswith("E_IMAGE_SIZE")


def test_pictures_among_volumes_are_named(tmp_path: Path) -> None:
    samples.save(volumes(tmp_path) / "images" / "x.png", samples.noise(1)[0])
    loaded = loading.load(tmp_path, plan(size=16, depth=8), state_dir=tmp_path / "state")
    assert [(problem.file, problem.code) for problem in loaded.problems] == [("x.png", "E_VOLUME")]


def test_volumes_in_which_nothing_is_outlined_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "images" / f"{number}.nii", np.roll(noise(8, 8, 8), number), np.eye(4))
        save(tmp_path / "masks" / f"{number}.nii", cube(8, 8, 8), np.eye(4))
    with pytest.raises(OneClassError, match="the masks of all 3"):
        loading.load(tmp_path, plan(size=8, depth=8), state_dir=tmp_path / "state")


def test_a_header_without_directions_is_a_doubt(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", noise(4, 4, 4), None, qform_code=0, sform_code=0)  # type: ignore[arg-type]
    assert nifti.decode(path, IMAGE).doubt == "its header does not say which side is which"


def test_a_header_that_states_two_places_is_a_doubt_and_the_sform_counts(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(noise(4, 5, 6), AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    nibabel.save(image, tmp_path / "one.nii")
    image.set_qform(np.diag([2.0, 1.5, 4, 1]), 1)
    nibabel.save(image, tmp_path / "two.nii")
    one, two = (nifti.decode(tmp_path / name, IMAGE) for name in ("one.nii", "two.nii"))
    assert (one.doubt, one.pixels.tobytes()) == ("", two.pixels.tobytes())
    assert two.doubt == "its header states two places, up to 4.0 mm apart (sform and qform); the first one is used"


def test_what_nibabel_corrects_in_a_header_is_not_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "x.nii", noise(4, 4, 4))
    whole = bytearray(path.read_bytes())
    struct.pack_into("<3f", whole, 80, -2, -1.5, -3)  # the distances, which nibabel calls to be positive
    path.write_bytes(whole)
    assert nifti.read_header(path).grid.spacing == (3, 1.5, 2)
    assert not caplog.records


def test_real_volumes_are_read() -> None:
    path = samples.GIVEN / "nifti" / "colin27_t1_2mm.nii.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside this checkout")
    head = nifti.decode(path, plans.ImageSettings(16, 1, (0.5,), (0.5,), 8, (2.0, 2.0, 2.0)))
    assert head.pixels.shape[:3] == (90, 108, 90)
    mask = nifti.read_labels(path.with_name("colin27_brainmask_2mm.nii.gz"), head.grid, head.grid.sides_at(IMAGE))  # type: ignore[union-attr, arg-type]
    assert (mask > 0).mean() == pytest.approx(0.25, abs=0.02)
    hippocampus = samples.GIVEN / "volumes" / "hippocampus"
    name = sorted(path.name for path in (hippocampus / "images").iterdir())[0]
    image = nifti.decode(hippocampus / "images" / name, IMAGE)
    labels = nifti.read_labels(hippocampus / "labels" / name, image.grid, image.grid.sides_at(IMAGE))  # type: ignore[union-attr, arg-type]
    assert set(np.unique(labels)) == {0, 1, 2}


def test_whatever_a_damaged_file_holds_the_error_has_a_code(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", noise(6, 6, 6))
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for at in draw.integers(0, 352, 6):
            damaged[at] = draw.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            nifti.decode(path, IMAGE)
        except FedhelpError as error:
            assert error.code
