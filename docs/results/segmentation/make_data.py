"""Writes the images and masks of five tasks as NPZ, each with sites and with training, validation and test images.

`FEDHELP_DATA=data python make_data.py FOLDER`. Sites and parts are drawn once, from one seed, by whole patients.
"""

import csv
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

DATA = Path(os.environ["FEDHELP_DATA"])
PARTS = ("train", "val", "test")
# images of each site: training, validation, test; of vessels children, who have two images each
SIZES = {
    "lungs": [(11, 2, 6), (11, 2, 6), (3, 1, 2)],  # as 285, 285 and 65, the paper's sites
    "cells": [(96, 12, 30), (48, 8, 15), (24, 4, 10), (20, 3, 7), (12, 3, 8)],
    "vessels": [(3, 1, 2), (2, 1, 1), (2, 1, 1)],
    "hippocampus": [(60, 8, 20), (30, 4, 10), (18, 3, 8), (10, 2, 6), (8, 2, 5), (3, 1, 2)],
}


def draw(sizes: list[tuple[int, int, int]], count: int, generator: np.random.Generator) -> tuple[list[str], list[str]]:
    """A part and a site for each of so many patients."""
    part_and_site = [
        (part, f"site {site + 1}")
        for site, counts in enumerate(sizes)
        for part, size in zip(PARTS, counts, strict=True)
        for _ in range(size)
    ]
    dealt = [part_and_site[i] for i in generator.permutation(count)]
    return [part for part, _ in dealt], [site for _, site in dealt]


def write(
    path: Path, images: np.ndarray, masks: np.ndarray, parts: list[str], sites: list[str], groups: list[str]
) -> None:
    arrays = {}
    for part in PARTS:
        of = np.flatnonzero(np.array(parts) == part)
        names = zip(
            ("images", "masks", "centers", "groups"), (images, masks, np.array(sites), np.array(groups)), strict=True
        )
        arrays |= {f"{part}_{name}": array[of] for name, array in names}
    np.savez_compressed(path, **arrays)
    print(
        path.name,
        {
            site: [sum(a == part and b == site for a, b in zip(parts, sites, strict=True)) for part in PARTS]
            for site in sorted(set(sites))
        },
    )


def write_public(folder: Path, name: str, images: np.ndarray, masks: np.ndarray, classes: list[str]) -> None:
    """Public images in two halves: a net learns from one, and answers about the other."""
    for index, half in enumerate(("teacher", "public")):
        np.savez_compressed(
            folder / f"{name}-{half}.npz", images=images[index::2], masks=masks[index::2], class_names=classes
        )


def resized(array: np.ndarray, side: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize((side, side), how))


def lungs(folder: Path, generator: np.random.Generator) -> None:
    with np.load(DATA / "segmentation" / "lung_cxr_256.npz") as archive:
        images, masks = archive["images"], archive["masks"]
    groups = [f"image {i}" for i in range(len(images))]
    write(folder / "lungs.npz", images, masks, *draw(SIZES["lungs"], len(images), generator), groups)


def cells(folder: Path, generator: np.random.Generator) -> None:
    with np.load(DATA / "segmentation" / "wbc_jiangxi_120.npz") as archive:
        images, masks = archive["images"], archive["masks"]
    groups = [f"image {i}" for i in range(len(images))]
    small = [
        np.stack([resized(one, 64, how) for one in many])
        for many, how in ((images, Image.Resampling.BILINEAR), (masks, Image.Resampling.NEAREST))
    ]
    write_public(folder, "cells", *small, ["cytoplasm", "nucleus"])
    write(folder / "cells.npz", images, masks, *draw(SIZES["cells"], len(images), generator), groups)


def square(path: Path, side: int, how: Image.Resampling) -> np.ndarray:
    """The largest square in the middle, at this side."""
    with Image.open(path) as image:
        shortest = min(image.size)
        left, top = (image.width - shortest) // 2, (image.height - shortest) // 2
        return np.asarray(image.crop((left, top, left + shortest, top + shortest)).resize((side, side), how))


def skin(folder: Path, generator: np.random.Generator) -> None:
    """The four real centres, with the table's own test images; an eighth of the other lesions is for validation.

    Five of seven training lesions of the first centre are left out: they are public images of the other tasks.
    """
    source = DATA / "classification" / "fedisic_mini"
    rows = list(csv.DictReader((source / "labels.csv").open()))
    of_training = sorted({row["lesion_id"] for row in rows if row["fold"] == "train"})
    validating = {of_training[i] for i in generator.permutation(len(of_training))[: len(of_training) // 8]}
    for row in rows:
        row["part"] = "test" if row["fold"] == "test" else "val" if row["lesion_id"] in validating else "train"
    pictures, masks = [], []
    for row in rows:
        name = Path(row["image"]).stem
        pictures.append(square(source / "images" / f"{name}.jpg", 64, Image.Resampling.BILINEAR))
        masks.append(
            (square(source / "masks" / f"{name}_segmentation.png", 64, Image.Resampling.NEAREST) > 127).astype(np.uint8)
        )
    images, drawn = np.stack(pictures), np.stack(masks)
    first = sorted({row["lesion_id"] for row in rows if row["part"] == "train" and row["center"] == "1"})
    given_away = {first[i] for i in generator.permutation(len(first))[: len(first) * 5 // 7]}
    public = [i for i, row in enumerate(rows) if row["lesion_id"] in given_away]
    write_public(folder, "skin", images[public], drawn[public], ["lesion"])
    kept = [i for i, row in enumerate(rows) if row["lesion_id"] not in given_away]
    of = [rows[i] for i in kept]
    write(
        folder / "skin.npz",
        images[kept],
        drawn[kept],
        [r["part"] for r in of],
        [r["center_name"] for r in of],
        [r["lesion_id"] for r in of],
    )


def vessels(folder: Path, generator: np.random.Generator) -> None:
    """Two images of each child, the first person's outlines."""
    source = DATA / "segmentation" / "chasedb1"
    paths = sorted(source.glob("Image_*.jpg"))
    images = np.stack([square(path, 320, Image.Resampling.BILINEAR) for path in paths])
    masks = np.stack([thin(source / f"{path.stem}_1stHO.png") for path in paths])
    children = [path.stem[6:8] for path in paths]
    names = sorted(set(children))
    parts, sites = draw(SIZES["vessels"], len(names), generator)
    part_of, site_of = dict(zip(names, parts, strict=True)), dict(zip(names, sites, strict=True))
    write(
        folder / "vessels.npz", images, masks, [part_of[c] for c in children], [site_of[c] for c in children], children
    )


def thin(path: Path) -> np.ndarray:
    """A vessel is where it covers half of a pixel: the nearest pixel alone would break thin ones."""
    with Image.open(path) as image:
        grey = image.convert("L")
        shortest = min(grey.size)
        left, top = (grey.width - shortest) // 2, (grey.height - shortest) // 2
        covered = grey.crop((left, top, left + shortest, top + shortest)).resize((320, 320), Image.Resampling.BOX)
    return (np.asarray(covered) > 127).astype(np.uint8)


def hippocampus(folder: Path, generator: np.random.Generator) -> None:
    """Volumes of 1 mm in a frame of 64 x 48 x 48, from back to front, grey from the 0.5 % to the 99.5 % quantile."""
    source = DATA / "volumes" / "hippocampus"
    names = sorted(path.name for path in (source / "images").glob("*.nii.gz"))
    images, masks = [], []
    for name in names:
        volume = np.asarray(nibabel.load(source / "images" / name).dataobj, np.float32).transpose(1, 2, 0)
        mask = np.asarray(nibabel.load(source / "labels" / name).dataobj).astype(np.uint8).transpose(1, 2, 0)
        low, high = np.quantile(volume, (0.005, 0.995))
        images.append(framed(np.clip((volume - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)))
        masks.append(framed(mask))
    parts, sites = draw(SIZES["hippocampus"], len(names), generator)
    write(folder / "hippocampus.npz", np.stack(images), np.stack(masks), parts, sites, names)


def framed(volume: np.ndarray, sides: tuple[int, ...] = (64, 48, 48)) -> np.ndarray:
    """The middle of a volume in a frame of zeros."""
    result = np.zeros(sides, volume.dtype)
    target, source = [], []
    for have, want in zip(volume.shape, sides, strict=True):
        size = min(have, want)
        target.append(slice((want - size) // 2, (want - size) // 2 + size))
        source.append(slice((have - size) // 2, (have - size) // 2 + size))
    result[tuple(target)] = volume[tuple(source)]
    return result


if __name__ == "__main__":
    for index, task in enumerate((lungs, cells, skin, vessels, hippocampus)):
        task(Path(sys.argv[1]), np.random.Generator(np.random.Philox(index)))
