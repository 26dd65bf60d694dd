"""Images with masks: from folders and NPZ, through the cache, the split and augmentation, and what `check` says."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import plan as plans
from fedhelp_edge.data import border, groups, loading, masks, store, volume
from fedhelp_edge.data.augment import Augmentation, augment
from fedhelp_edge.data.check import check
from fedhelp_edge.data.findings import training_overlap
from fedhelp_edge.errors import BadNpzError, FedhelpError, MaskLabelError, MaskPairError, OneClassError
from fedhelp_edge.methods.registry import METHODS
from tests.unit.data import samples

SIDE = 16


def plan(*classes: str, **image: int) -> plans.Plan:
    sides = {"size": SIDE, "channels": 1, **image}
    lines = ['task = "segmentation"', f"classes = {list(classes or ('a', 'b'))}".replace("'", '"'), "[image]"]
    return plans.read("\n".join([*lines, *(f"{key} = {value}" for key, value in sides.items())]), METHODS)


def squares(count: int, *sides: int, classes: int = 2, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noise in which a brighter box of some class lies, and the masks of these boxes."""
    draw = np.random.default_rng(seed)
    shape = sides or (SIDE, SIDE)
    truth = np.zeros((count, *shape), np.uint8)
    for index, mask in enumerate(truth):
        start = [int(draw.integers(1, side // 2)) for side in shape]
        mask[tuple(slice(at, at + side // 3) for at, side in zip(start, shape, strict=True))] = 1 + index % classes
    images = (draw.integers(0, 60, truth.shape) + 90 * truth).astype(np.uint8)
    return images, truth


def npz(path: Path, images: NDArray[Any], truth: NDArray[Any], **more: Any) -> Path:
    np.savez(path, images=images, masks=truth, **more)
    return path


def pairs(root: Path, count: int = 12, values: int = 1) -> Path:
    """A folder of images and a folder of masks."""
    for index, (image, mask) in enumerate(zip(*squares(count), strict=True)):
        samples.save(root / "images" / f"{index:02}.png", image)
        samples.save(root / "masks" / f"{index:02}.png", mask * np.uint8(values))
    return root


def refused(call: Any, *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(FedhelpError) as caught:
        call(*arguments, **keywords)
    return f"{caught.value.code}: {caught.value.cause}"


def test_masks_of_an_npz_stay_with_their_images(tmp_path: Path) -> None:
    images, truth = squares(20)
    loaded = loading.load(npz(tmp_path / "a.npz", images, truth), plan(), state_dir=tmp_path)
    assert len(loaded) == 20
    for index, name in enumerate(loaded.names):
        assert np.array_equal(loaded.pixels[index][..., 0], images[int(name)])
        assert np.array_equal(loaded.masks[index], truth[int(name)])  # type: ignore[index]
        assert loaded.labels[index] == 1 << int(name) % 2
        assert loaded.mask_pixels is not None
        assert loaded.mask_pixels[index].tolist() == np.bincount(truth[int(name)].ravel(), minlength=3).tolist()


def test_an_npz_with_splits_keeps_them(tmp_path: Path) -> None:
    arrays = {}
    for seed, split in enumerate(("train", "val", "test")):
        arrays[f"{split}_images"], arrays[f"{split}_masks"] = squares(6, seed=seed)
    np.savez(tmp_path / "a.npz", **arrays)
    loaded = loading.load(tmp_path / "a.npz", plan(), state_dir=tmp_path)
    assert all(name.startswith(split) for name, split in zip(loaded.names, loaded.splits, strict=True))


def test_a_folder_and_an_npz_of_the_same_pairs_give_the_same_images(tmp_path: Path) -> None:
    folder = loading.load(pairs(tmp_path / "pairs"), plan(), state_dir=tmp_path / "one")
    archive = loading.load(npz(tmp_path / "a.npz", *squares(12)), plan(), state_dir=tmp_path / "two")
    assert folder.hashes == archive.hashes
    assert folder.splits == archive.splits
    assert np.array_equal(folder.masks, archive.masks)  # type: ignore[arg-type]


def test_two_folders_anywhere_are_a_source_and_names_may_end_in_mask(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    (root / "masks").rename(tmp_path / "drawn")
    for path in (tmp_path / "drawn").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    loaded = loading.load(root / "images", plan(), state_dir=tmp_path / "s", masks=tmp_path / "drawn")
    assert (len(loaded), loaded.problems) == (12, ())


def test_folders_above_an_image_name_split_centre_and_patient(tmp_path: Path) -> None:
    for index, (image, mask) in enumerate(zip(*squares(8), strict=True)):
        below = Path("test" if index > 5 else "train") / f"centre{index % 2}" / f"patient{index // 2}"
        samples.save(tmp_path / "images" / below / f"{index}.png", image)
        samples.save(tmp_path / "masks" / below / f"{index}.png", mask)
    loaded = loading.load(tmp_path, plan(), state_dir=tmp_path / "s")
    named = {
        name.split("/")[-1]: place for name, *place in zip(loaded.names, loaded.centres, loaded.patients, strict=True)
    }
    assert named["3.png"] == ["centre1", "patient1"]
    assert loaded.splits.count("test") == 2


def test_a_mask_is_squeezed_as_its_image_and_gets_no_new_class(tmp_path: Path) -> None:
    image, mask = np.zeros((1, 48, 40), np.uint8), np.zeros((1, 48, 40), np.uint8)
    mask[0, 12:36, 20:], image[0, 12:36, 20:] = 2, 255
    mask = np.concatenate([mask, np.fliplr(mask[0])[None]])
    image = np.concatenate([image, np.fliplr(image[0])[None]])
    loaded = loading.load(npz(tmp_path / "a.npz", image, mask), plan(), state_dir=tmp_path)
    assert set(np.unique(loaded.masks)) == {0, 2}  # type: ignore[arg-type]
    for index in range(2):
        bright = loaded.pixels[index][..., 0] > 127
        assert (bright == (loaded.masks[index] > 0)).mean() > 0.95  # type: ignore[index]


@pytest.mark.parametrize("high", [1, 255])
def test_one_class_may_be_255(tmp_path: Path, high: int) -> None:
    images, truth = squares(10, classes=1)
    loaded = loading.load(npz(tmp_path / "a.npz", images, truth * np.uint8(high)), plan("a"), state_dir=tmp_path)
    assert np.unique(loaded.masks).tolist() == [0, 1]  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB", "RGBA", "LA", "I;16"])
def test_a_mask_is_read_whatever_its_mode_as_long_as_it_is_grey(tmp_path: Path, mode: str) -> None:
    mask = squares(1, classes=1)[1][0]
    picture = Image.fromarray(mask * np.uint8(255))
    if mode == "P":
        picture = Image.fromarray(mask)
        picture.putpalette([0, 0, 0, 255, 0, 0])
    elif mode == "I;16":
        picture = Image.fromarray(mask.astype(np.uint16) * 255)
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "m.png")
    values = masks.read_values(tmp_path / "m.png", plan().image)
    assert np.array_equal(masks.to_labels(values, 1), mask)


def test_a_changed_mask_is_read_again_and_its_image_stays_in_its_split(tmp_path: Path) -> None:
    root, state = pairs(tmp_path / "pairs"), tmp_path / "s"
    before = loading.load(root, plan(), state_dir=state)
    name = before.names[3]
    samples.save(root / "masks" / name, np.ones((SIDE, SIDE), np.uint8))
    after = loading.load(root, plan(), state_dir=state)
    assert (after.names, after.splits) == (before.names, before.splits)
    assert (after.masks[3] == 1).all()  # type: ignore[index]
    assert np.array_equal(np.delete(after.masks, 3, 0), np.delete(before.masks, 3, 0))  # type: ignore[arg-type]


def test_the_split_keeps_the_proportions_of_classes_and_whole_patients(tmp_path: Path) -> None:
    images, truth = squares(60)
    loaded = loading.load(npz(tmp_path / "a.npz", images, truth, groups=np.arange(60) // 3), plan(), state_dir=tmp_path)
    for members in groups.members(loaded.groups):
        assert len({loaded.splits[i] for i in members}) == 1
    alone = loading.load(npz(tmp_path / "b.npz", images, truth), plan(), state_dir=tmp_path / "b")
    for split in ("train", "val", "test"):
        assert abs(alone.split(split).shows(2).mean(0) - 0.5).max() < 0.1


def test_augmentation_moves_image_mask_and_border_alike(tmp_path: Path) -> None:
    images, truth = squares(16)
    loaded = loading.load(npz(tmp_path / "a.npz", truth * 90 + images % 2, truth), plan(), state_dir=tmp_path)
    expected = {
        mask.tobytes(): border.border(mask, "cells", 5.0).astype(np.float32) for mask in np.asarray(loaded.masks)
    }
    plain = loaded.take(np.arange(16))
    assert np.array_equal(plain["labels"], loaded.masks)  # type: ignore[arg-type]
    for mask, of in zip(np.asarray(loaded.masks), plain["borders"], strict=True):
        assert np.array_equal(of, expected[mask.tobytes()])
    moved = loaded.take(np.arange(16), np.random.default_rng(1))
    assert not np.array_equal(moved["images"], plain["images"])
    assert np.array_equal(moved["images"][..., 0] // 90, moved["labels"])
    again = loaded.take(np.arange(16), np.random.default_rng(1), slice(4, 9))
    assert all(np.array_equal(again[name], moved[name][4:9]) for name in ("images", "labels", "borders"))


def test_classes_that_name_a_side_are_not_mirrored(tmp_path: Path) -> None:
    truth = np.zeros((20, SIDE, SIDE), np.uint8)
    truth[:, 4:12, 4:7], truth[:, 4:12, 9:12] = 1, 2
    images = truth * 60 + np.random.default_rng(0).integers(0, 40, truth.shape, dtype=np.uint8)
    path = npz(tmp_path / "a.npz", images, truth)
    for mirror in (True, False):
        settings = plans.read(
            'task = "segmentation"\nclasses = ["left", "right"]\n'
            f"[image]\nsize = 16\nchannels = 1\n[masks]\nmirror = {str(mirror).lower()}\n",
            METHODS,
        )
        taken = loading.load(path, settings, state_dir=tmp_path / str(mirror)).take(
            np.arange(20), np.random.default_rng(0)
        )
        columns = [[np.flatnonzero((mask == label).any(0)).mean() for label in (1, 2)] for mask in taken["labels"]]
        assert all(left < right for left, right in columns) is not mirror


def test_bent_images_keep_their_masks_and_varied_ones_change_no_mask(tmp_path: Path) -> None:
    images, truth = squares(16, 32, 32)
    loaded = loading.load(npz(tmp_path / "a.npz", truth * 90 + images % 2, truth), plan(size=32), state_dir=tmp_path)

    def taken(own: slice = slice(None), **settings: float) -> dict[str, NDArray[Any]]:
        augmented = replace(loaded, augmentation=Augmentation(**settings))  # type: ignore[arg-type]
        return augmented.take(np.arange(16), np.random.default_rng(3), own)

    plain, bent, varied = taken(), taken(elastic=0.1), taken(intensity=0.3)
    assert np.array_equal(bent["images"][..., 0] // 90, bent["labels"])
    assert not np.array_equal(bent["labels"], plain["labels"])
    sizes = [(each["labels"] > 0).sum() for each in (plain, bent)]
    assert 0.5 < sizes[1] / sizes[0] < 2
    assert np.array_equal(varied["labels"], plain["labels"])
    assert not np.array_equal(varied["images"], plain["images"])
    part = taken(slice(5, 9), elastic=0.1, intensity=0.3)
    whole = taken(elastic=0.1, intensity=0.3)
    assert all(np.array_equal(part[name], whole[name][5:9]) for name in ("images", "labels", "borders"))


# --- volumes --------------------------------------------------------------------------------------------------------
def test_blocks_cover_a_volume_and_overlap_by_a_quarter() -> None:
    block = (8, 16, 16)
    for sides in [(8, 16, 16), (9, 40, 17), (30, 16, 50), (5, 10, 20)]:
        seen = np.zeros(sides, int)
        places = volume.blocks("v", sides, block)
        for place in places:
            assert all(
                part.stop - part.start == covered.stop
                for part, covered in zip(place.inside(block), place.covered(block), strict=True)
            )
            seen[place.inside(block)] += 1
        assert seen.min() == 1
        starts = [sorted({place.start[axis] for place in places}) for axis in range(3)]
        for whole, side, along in zip(sides, block, starts, strict=True):
            assert all(second - first <= side * 3 // 4 for first, second in pairwise(along))
            assert len(along) == 1 or along[-1] + side == whole


def test_a_volume_is_a_group_of_blocks_and_its_mask_is_whole_again(tmp_path: Path) -> None:
    images, truth = squares(10, 12, 20, 24)
    settings = plan(size=16, depth=8)
    loaded = loading.load(npz(tmp_path / "a.npz", images, truth), settings, state_dir=tmp_path)
    assert loaded.pixels.shape == (10 * 2 * 2 * 2, 8, 16, 16, 1)
    assert len(loaded.cases) == 10
    for case, mask in zip(loaded.cases, loaded.case_masks(), strict=True):
        assert len({loaded.splits[i] for i in case}) == 1
        assert np.array_equal(mask, truth[int(loaded.blocks[case[0]].volume)])
    assert len(set(loaded.case_groups.tolist())) == 10
    taken = loaded.take(np.arange(4), np.random.default_rng(0))
    assert taken["images"].shape == (4, 8, 16, 16, 1)
    assert taken["labels"].shape == taken["borders"].shape == (4, 8, 16, 16)


def test_slices_of_a_volume_are_augmented_alike() -> None:
    slices = samples.noise(3, 4, 16, 16, 2)
    slices[:] = slices[:, :1]
    moved = augment(slices, np.random.default_rng(0))
    assert not np.array_equal(moved, slices)
    assert all(np.array_equal(moved[:, index], moved[:, 0]) for index in range(4))
    assert np.array_equal(moved[:, 0], augment(slices[:, 0], np.random.default_rng(0)))


def test_dark_blocks_of_several_volumes_are_no_copies(tmp_path: Path) -> None:
    images, truth = np.zeros((2, 2, 8, 16, 40), np.uint8)
    images[0, :, :4, :4], images[1, :, :4, 4:8], truth[:, :, :4, :4] = 200, 150, 1
    loaded = loading.load(npz(tmp_path / "a.npz", images, truth), plan(size=16, depth=8), state_dir=tmp_path)
    assert len(loaded) == 6
    assert loaded.problems == ()


def test_a_volume_that_was_trained_on_is_known_again(tmp_path: Path) -> None:
    images, truth = squares(10, 8, 16, 16)
    own = loading.load(npz(tmp_path / "a.npz", images, truth), plan(size=16, depth=8), state_dir=tmp_path / "a")
    for changed, count in ((images, own.splits.count("train")), (255 - images, 0)):
        path = npz(tmp_path / f"{count}.npz", changed, truth, groups=np.arange(100, 110))
        others = loading.load(path, plan(size=16, depth=8), state_dir=tmp_path / str(count))
        found = [*training_overlap(others, own)]
        assert [finding.images for finding in found if finding.part == "test"][:1] == [count][: count > 0]


def test_a_smaller_volume_is_padded_and_judged_at_its_own_size(tmp_path: Path) -> None:
    images, truth = squares(4, 6, 10, 12)
    loaded = loading.load(npz(tmp_path / "a.npz", images, truth), plan(size=16, depth=8), state_dir=tmp_path)
    assert [mask.shape for mask in loaded.case_masks()] == [(6, 10, 12)] * 4
    assert (np.asarray(loaded.pixels)[:, 6:] == 0).all()


# --- caches ---------------------------------------------------------------------------------------------------------
def test_decoded_images_with_masks_are_found_at_their_own_size(tmp_path: Path) -> None:
    """Whoever builds a knowledge pack is warned of private images: of those with masks too."""
    images, truth = squares(6)
    loading.load(npz(tmp_path / "a.npz", images, truth), plan(), state_dir=tmp_path)
    volumes, of_volumes = squares(2, 8, 16, 16)
    loading.load(npz(tmp_path / "b.npz", volumes, of_volumes), plan(size=16, depth=8), state_dir=tmp_path)
    found = sorted((pixels.shape, int(pixels.sum())) for pixels in store.decoded_images(tmp_path))
    assert found == [((6, 16, 16, 1), int(images.sum())), ((16, 16, 16, 1), int(volumes.sum()))]


def test_images_with_masks_go_to_another_process_by_their_path(tmp_path: Path) -> None:
    loaded = loading.load(npz(tmp_path / "a.npz", *squares(40)), plan(), state_dir=tmp_path)
    sent = pickle.dumps(loaded)
    assert len(sent) < 20_000
    assert np.array_equal(pickle.loads(sent).masks, loaded.masks)


def test_borders_are_computed_once_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npz(tmp_path / "a.npz", *squares(10))
    first = loading.load(path, plan(), state_dir=tmp_path)
    monkeypatch.setattr(border, "border", None)
    again = loading.load(path, plan(), state_dir=tmp_path)
    assert np.array_equal(first.borders, again.borders)  # type: ignore[arg-type]


def test_no_border_is_computed_for_a_loss_without_weights(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", *squares(10))
    for settings in ("[training]\nloss = 'dice-ce'", "[masks]\nweights = 'none'"):
        agreed = plans.read(
            f'task = "segmentation"\nclasses = ["a", "b"]\n{settings}\n[image]\nsize = 16\nchannels = 1', METHODS
        )
        loaded = loading.load(path, agreed, state_dir=tmp_path)
        assert loaded.borders is None
        assert loaded.take(np.arange(2)).keys() == {"images", "labels"}


# --- Eq. 10 ---------------------------------------------------------------------------------------------------------
def by_force(mask: NDArray[np.uint8], weights: str, sigma: float) -> NDArray[np.float64]:
    """Each pixel's distance to each pixel of each cell's outline."""
    from scipy import ndimage

    axes = [np.arange(side) for side in mask.shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, mask.ndim)
    outlines = []
    for label in range(1, mask.max() + 1):
        cells, count = ndimage.label(mask == label)
        for cell in range(1, count + 1):
            inside = np.pad(cells == cell, 1, mode="edge")
            at = np.argwhere(cells == cell)
            steps = [step * sign for step in np.eye(mask.ndim, dtype=int) for sign in (1, -1)]
            outlines.append(np.array([p for p in at if not all(inside[tuple(p + 1 + step)] for step in steps)]))
    distances = np.sort([np.sqrt(((places[:, None] - o[None]) ** 2).sum(-1)).min(1) for o in outlines if len(o)], 0)
    none = np.full(len(places), np.inf)
    d1, d2 = (distances[i] if len(distances) > i else none for i in (0, 1))
    total = d1 + (d2 if weights == "cells" else d1)
    return np.exp(-(total**2) / (2 * sigma**2)).reshape(mask.shape)


@pytest.mark.parametrize("weights", ["cells", "outlines"])
@pytest.mark.parametrize("shape", [(24, 20), (8, 10, 9)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_border_is_that_of_exact_distances(weights: str, shape: tuple[int, ...], seed: int) -> None:
    draw = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    for label in (1, 2, 1, 2):
        start = [int(draw.integers(0, side - 3)) for side in shape]
        mask[tuple(slice(at, at + 4) for at in start)] = label
    for sigma in (1.0, 5.0):
        np.testing.assert_allclose(border.border(mask, weights, sigma), by_force(mask, weights, sigma), atol=1e-3)


def test_the_border_peaks_between_cells_that_touch_and_is_0_with_one_cell() -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8, 4:8] = 1
    assert not border.border(mask, "cells", 5.0).any()
    assert border.border(mask, "outlines", 5.0).max() == 1
    mask[4:8, 8:12] = 2
    assert border.border(mask, "cells", 5.0)[5, 7] == pytest.approx(np.exp(-1 / 50), abs=1e-3)
    assert not border.border(np.ones((8, 8), np.uint8), "outlines", 5.0).any()  # a cell without an outline


# --- what is refused ------------------------------------------------------------------------------------------------
def report(source: Path, state: Path, *classes: str) -> dict[str, str]:
    """What `check` says, by file."""
    found = check(source, plan(*classes), state_dir=state)
    return {
        problem.file: f"{problem.code}: {problem.cause}" for problem in found.problems if problem.code[:6] == "E_MASK"
    }


def test_check_names_images_without_a_mask_and_masks_without_an_image(tmp_path: Path) -> None:
    root = pairs(tmp_path / "p")
    (root / "masks/03.png").rename(root / "masks/x.png")
    found = report(root, tmp_path / "s")
    assert found["03.png"] == "E_MASK_PAIR: it has no mask of the same name"
    assert found["masks/x.png"] == "E_MASK_PAIR: this mask has no image"


def test_check_names_masks_that_cannot_be_those_of_their_images(tmp_path: Path) -> None:
    root = pairs(tmp_path / "p")
    mask = squares(1)[1][0]
    samples.save(root / "masks/00.png", np.zeros((SIDE, SIDE + 4), np.uint8))
    samples.save(root / "masks/01.png", mask * np.uint8(7))
    samples.save(root / "masks/02.png", samples.noise(1)[0])
    samples.save(root / "masks/04.png", np.zeros((SIDE, SIDE), np.uint8))
    found = report(root, tmp_path / "s")
    assert found["00.png"] == "E_MASK_SIZE: its mask has 20 x 16 pixels, and its image 16 x 16"
    assert found["01.png"] == "E_MASK_LABEL: its mask has the values 7; the plan's classes are 0 to 2"
    assert found["02.png"] == "E_MASK_KIND: its mask is a picture in colours"
    assert found["04.png"] == "E_MASK_EMPTY: its mask outlines nothing"
    loaded = loading.load(root, plan(), state_dir=tmp_path / "s")
    assert len(loaded) == 9


def numbers(mask: NDArray[np.uint8], *colours: int) -> Image.Image:
    """A mask as a palette's indices, with these colours, given as 0xRRGGBB."""
    image = Image.fromarray(mask)
    image.putpalette(b"".join(colour.to_bytes(3, "big") for colour in colours))
    return image


BLACK, WHITE, RED, GREEN = 0, 0xFFFFFF, 0xFF0000, 0x00FF00
SPOILED: dict[str, tuple[str, Any]] = {
    "a palette whose background is not 0": (
        "E_MASK_KIND: its mask's palette has black, the usual background, as 2; it should be 0",
        lambda mask: numbers(2 - mask, RED, GREEN, BLACK),
    ),
    "transparency": (
        "E_MASK_KIND: its mask is drawn in transparency alone",
        lambda mask: Image.fromarray(np.stack([mask * np.uint8(0)] * 3 + [mask * np.uint8(99)], -1)),
    ),
    "16 bits of black and white": (
        "E_MASK_LABEL: its mask has the values 65535; the plan's classes are 0 to 2",
        lambda mask: Image.fromarray((mask > 0) * np.uint16(65535)),
    ),
    "soft edges": (
        "E_MASK_LABEL: its mask has the values ",
        lambda mask: Image.fromarray((mask > 0) * np.uint8(255)).resize((9, 9)).resize((SIDE, SIDE)),
    ),
    "floats": ("E_MASK_KIND: its mask is a picture of the kind F", lambda mask: Image.fromarray(mask.astype("f4"))),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_mask_in_which_no_class_is_stated_is_named_with_a_reason(what: str, tmp_path: Path) -> None:
    cause, spoil = SPOILED[what]
    root = pairs(tmp_path / "pairs")
    suffix = "tif" if what == "floats" else "png"
    (root / "masks/00.png").unlink()
    spoil(squares(12)[1][0]).save(root / f"masks/00.{suffix}")
    (problem,) = loading.load(root, plan(), state_dir=tmp_path / "s").problems
    assert f"{problem.file} {problem.code}: {problem.cause}".startswith(f"00.png {cause}")


def test_a_mask_is_turned_as_a_viewer_shows_its_image(tmp_path: Path) -> None:
    """A phone writes how it was held into the file (EXIF)."""
    held, root = Image.Exif(), pairs(tmp_path / "pairs")
    held[274] = 6
    shown = Image.fromarray(samples.noise(1, 20, 16)[0])
    (root / "images/00.png").unlink()
    shown.transpose(Image.Transpose.ROTATE_90).save(root / "images/00.jpg", exif=held)
    samples.save(root / "masks/00.png", np.ones((20, 16), np.uint8))
    assert not loading.load(root, plan(), state_dir=tmp_path / "s").problems
    samples.save(root / "masks/00.png", np.ones((16, 20), np.uint8))
    (problem,) = loading.load(root, plan(), state_dir=tmp_path / "s").problems
    assert problem.cause == "its mask has 20 x 16 pixels, and its image 16 x 20: one of them is turned"


def test_where_no_mask_fits_the_remedy_is_about_masks(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs", values=9)
    with pytest.raises(FedhelpError) as caught:
        loading.load(root, plan(), state_dir=tmp_path / "s")
    assert (caught.value.code, caught.value.remedy) == ("E_NO_IMAGES", MaskLabelError.remedy)


def test_a_gif_has_its_greys_as_classes_and_other_files_the_numbers_of_their_palette(tmp_path: Path) -> None:
    """Pillow writes a GIF of 0 and 2 as the numbers 0 and 1."""
    mask = 2 * (squares(1)[1][0] > 0).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "grey.gif")
    numbers(mask, BLACK, GREEN, RED).save(tmp_path / "palette.png")
    numbers(mask, WHITE, GREEN, RED).save(tmp_path / "white.bmp")
    for name in ("grey.gif", "palette.png", "white.bmp"):
        assert np.array_equal(masks.read_values(tmp_path / name, plan().image), mask), name
    numbers(mask, BLACK, GREEN, RED).save(tmp_path / "colours.gif")
    assert "a GIF in colours" in refused(masks.read_values, tmp_path / "colours.gif", plan().image)


def test_check_counts_the_images_that_show_a_class(tmp_path: Path) -> None:
    images, truth = squares(30)
    truth[:, 0, 0] = 1
    found = check(npz(tmp_path / "a.npz", images, truth), plan(), state_dir=tmp_path / "s")
    assert (found.classes, found.images) == ({"a": 30, "b": 15}, 30)
    assert found.ready


def test_one_image_with_two_masks_is_a_conflict(tmp_path: Path) -> None:
    root = pairs(tmp_path / "p")
    samples.save(root / "images/copy.png", squares(12)[0][5])
    samples.save(root / "masks/copy.png", squares(12)[1][4])
    found = check(root, plan(), state_dir=tmp_path / "s")
    assert {p.file for p in found.problems if p.code == "E_CONFLICT"} == {"copy.png", "05.png"}


def test_masks_that_are_all_empty_are_refused(tmp_path: Path) -> None:
    images, truth = squares(10)
    path = npz(tmp_path / "a.npz", images, truth * 0)
    with pytest.raises(OneClassError, match="the masks of all 10 usable images are empty"):
        loading.load(path, plan(), state_dir=tmp_path)
    assert not check(path, plan(), state_dir=tmp_path).ready


def test_arrays_that_are_no_masks_are_refused_with_their_names(tmp_path: Path) -> None:
    images, truth = squares(4)
    for wrong, cause in [
        ({"images": images}, "it has no 'masks'"),
        ({"images": images, "masks": truth[:, :8]}, "'masks' is 4 x 8 x 16 of uint8, and the images are 4 x 16 x 16"),
        ({"images": images, "masks": truth[:3]}, "'masks' is 3 x 16 x 16"),
        ({"images": images, "masks": truth.astype(float)}, "'masks' is 4 x 16 x 16 of float64"),
    ]:
        np.savez(tmp_path / "a.npz", **wrong)
        with pytest.raises(BadNpzError, match=cause):
            loading.load(tmp_path / "a.npz", plan(), state_dir=tmp_path)
    np.savez(tmp_path / "a.npz", images=images, masks=truth)
    assert "of volumes it should be" in refused(
        loading.load, tmp_path / "a.npz", plan(size=16, depth=8), state_dir=tmp_path
    )
    with pytest.raises(MaskLabelError, match=r"the values -1"):
        masks.to_labels(truth.astype(np.int64) - 1, 2)


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    samples.folder(tmp_path / "f")
    with pytest.raises(MaskPairError, match="there is no folder 'images' in f"):
        loading.load(tmp_path / "f", plan(), state_dir=tmp_path)
    assert refused(loading.load, tmp_path / "f", plan(size=16, depth=8), state_dir=tmp_path).startswith("E_MASK_PAIR")


@pytest.mark.parametrize("name", ["lung_cxr_256.npz", "wbc_jiangxi_120.npz"])
def test_real_masks_are_read(tmp_path: Path, name: str) -> None:
    path = samples.GIVEN / "segmentation" / name
    if not path.exists():
        pytest.skip(f"{path.parent.name}/{name} is not beside this checkout")
    channels = 1 if "lung" in name else 3
    loaded = loading.load(path, plan("one", "two", size=32, channels=channels), state_dir=tmp_path)
    assert set(np.unique(loaded.masks)) == {0, 1, 2}  # type: ignore[arg-type]
    assert len(loaded) > 40


# --- doubtful masks ---------------------------------------------------------------------------------------------------
def organs(count: int, *sides: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noise in which two organs lie where they usually do: a large one at the left, a small one at the upper right."""
    draw = np.random.default_rng(3)
    truth = np.zeros((count, *sides), np.uint8)
    for mask in truth:
        for label, at, side in ((1, 0.15, 0.4), (2, 0.7, 0.2)):
            starts = [int(each * at + draw.integers(0, 2)) for each in sides]
            mask[tuple(slice(start, start + int(each * side)) for start, each in zip(starts, sides, strict=True))] = (
                label
            )
    return (draw.integers(0, 60, truth.shape) + 90 * truth).astype(np.uint8), truth


def doubtful(path: Path, change: Any, *sides: int, count: int = 12) -> list[tuple[str, str, str]]:
    """What `check` says of masks after a change of the one numbered 3."""
    images, truth = organs(count, *sides)
    truth[3] = change(truth[3])
    path.mkdir(exist_ok=True)
    settings = plan(size=sides[-1], depth=sides[0] if len(sides) == 3 else 1)
    report = check(npz(path / "a.npz", images, truth), settings, state_dir=path / "state")
    assert not [problem for problem in report.blocking if problem.code.startswith("E_MASK")]
    return [(each.file, each.code, each.cause) for each in report.problems if each.code.startswith("E_MASK")]


@pytest.mark.parametrize("sides", [(32, 32), (8, 16, 16)])
def test_usual_masks_raise_no_doubt(sides: tuple[int, ...], tmp_path: Path) -> None:
    assert doubtful(tmp_path, np.copy, *sides) == []


@pytest.mark.parametrize("sides", [(32, 32), (8, 16, 16)])
def test_an_empty_mask_is_named(sides: tuple[int, ...], tmp_path: Path) -> None:
    assert doubtful(tmp_path, np.zeros_like, *sides) == [("3", "E_MASK_EMPTY", "its mask outlines nothing")]


@pytest.mark.parametrize("sides", [(32, 32), (8, 16, 16)])
def test_a_mask_that_was_turned_over_is_named(sides: tuple[int, ...], tmp_path: Path) -> None:
    turns: list[Any] = [lambda mask: np.flip(mask, -1), lambda mask: np.flip(mask, -2), np.flip]
    turns += [np.rot90] if len(sides) == 2 else [lambda mask: np.flip(mask, 0)]
    for number, turn in enumerate(turns):
        (file, code, cause), *_ = doubtful(tmp_path / str(number), turn, *sides)
        assert (file, code) == ("3", "E_MASK_DOUBT")
        assert "turned or mirrored" in cause


def test_swapped_classes_look_mirrored(tmp_path: Path) -> None:
    images, truth = organs(12, 32, 32)
    left = (truth == 1) & (np.arange(32) < 16)
    sides = left + 2 * np.flip(left, 2)  # two organs of one size, left and right
    sides[5] = np.array([0, 2, 1])[sides[5]]
    report = check(npz(tmp_path / "a.npz", images, sides.astype(np.uint8)), plan(size=32), state_dir=tmp_path)
    assert [each.file for each in report.problems if each.code == "E_MASK_DOUBT"] == ["5"]


def test_an_outline_far_larger_or_smaller_than_usual_is_named(tmp_path: Path) -> None:
    def larger(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        mask[:, 14:] = 2
        return mask

    def smaller(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        mask[mask == 1] = 0
        mask[9, 9:12] = 1
        return mask

    ((file, code, cause),) = doubtful(tmp_path / "one", larger, 32, 32)
    assert (file, code) == ("3", "E_MASK_DOUBT")
    assert cause.startswith("its outline of b is 16.0 times larger")
    ((_, _, cause),) = doubtful(tmp_path / "two", smaller, 32, 32)
    assert cause.startswith("its outline of a is 48.0 times smaller")


def test_masks_in_any_direction_are_no_doubt(tmp_path: Path) -> None:
    """Cells lie anyhow: then a turned mask says nothing."""
    images, truth = organs(16, 32, 32)
    for index, mask in enumerate(truth):
        truth[index] = np.rot90(mask, index)
    report = check(npz(tmp_path / "a.npz", images, truth), plan(size=32), state_dir=tmp_path)
    assert not [each for each in report.problems if each.code == "E_MASK_DOUBT"]


def test_few_masks_do_not_tell_what_is_usual(tmp_path: Path) -> None:
    assert doubtful(tmp_path, np.flip, 32, 32, count=9) == []


def test_a_check_counts_volumes_not_their_blocks(tmp_path: Path) -> None:
    images, truth = organs(12, 20, 40, 40)
    report = check(npz(tmp_path / "a.npz", images, truth), plan(size=16, depth=8), state_dir=tmp_path)
    assert (report.images, report.classes) == (12, {"a": 12, "b": 12})
