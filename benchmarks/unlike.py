"""How often a small site's model answers images of another modality, and how often it says that they are unlike.

A net is trained for each home (chest X-rays, skin lesions, blood cells; 300 images, 100 validation images), exported,
and asked about its own test images and about images of everything else that FEDHELP_DATA holds. Nothing is fitted on
these.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import report

DATA = Path(__file__).parents[1] / os.environ.get("FEDHELP_DATA", "../shared/data")
TRAIN, VAL, TEST = 300, 100, 400
MOST = 60  # images of another modality
_PLAN = """classes = {classes}
method = "local"
rounds = 1
[image]
size = {size}
channels = {channels}
mean = {mean}
std = {std}
[training]
batch = 32
epochs = {epochs}
lr = 0.002
precision = "fp32"
"""

Pixels = list[NDArray[Any]]  # of any size: height x width (x 3)


def xray() -> tuple[tuple[str, ...], Pixels, list[int], list[str]]:
    """Classes, images, labels, and which images belong together."""
    with np.load(DATA / "classification" / "pneumoniamnist.npz") as found:
        images, labels = found["train_images"], found["train_labels"].ravel()
    return ("normal", "pneumonia"), list(images), list(map(int, labels)), [""] * len(labels)


def skin() -> tuple[tuple[str, ...], Pixels, list[int], list[str]]:
    folder = DATA / "classification" / "fedisic_mini"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = [np.asarray(Image.open(folder / "images" / f"{row['image']}.jpg")) for row in rows]
    return (
        ("naevus", "other"),
        images,
        [int(row["class_name"] != "NV") for row in rows],
        [row["lesion_id"] for row in rows],
    )


def cells() -> tuple[tuple[str, ...], Pixels, list[int], list[str]]:
    with np.load(DATA / "classification" / "bccd_cells_32.npz") as found:
        images = np.concatenate([found[f"{part}_images"] for part in ("train", "val", "test")])
        labels = np.concatenate([found[f"{part}_labels"] for part in ("train", "val", "test")]).ravel()
    return ("RBC", "WBC", "Platelets"), list(images), list(map(int, labels)), [""] * len(labels)


def scans() -> tuple[tuple[str, ...], Pixels, list[int], list[str]]:
    with np.load(DATA / "public" / "mednist_3k.npz") as found:
        names = list(found["class_names"])
        kept = [place for place, label in enumerate(found["labels"]) if names[label] in _SCANS]
        images, labels = found["images"][kept], found["labels"][kept]
    return _SCANS, list(images), [_SCANS.index(names[label]) for label in labels], [""] * len(labels)


_SCANS = ("AbdomenCT", "ChestCT")
HOMES = {"chest X-ray": (xray, 28, 1), "skin": (skin, 32, 3), "blood cells": (cells, 32, 3), "CT": (scans, 28, 1)}


def others() -> Iterator[tuple[str, Callable[[Any], Pixels]]]:
    """A name, and what gives the images of it as a model of this image size and these channels wants them."""
    for home, (source, _, _) in HOMES.items():
        yield home, _fitted(lambda source=source: _some(source()[1]))
    for name in ("HeadCT", "BreastMRI", "CXR", "Hand"):
        yield (
            {"CXR": "X-ray, chest, adults", "Hand": "X-ray, hand"}.get(name, name),
            _fitted(lambda name=name: _mednist(name)),
        )
    yield "X-ray, lungs with COVID", _fitted(lambda: _archive("segmentation/lung_cxr_256.npz", "images"))
    yield "white cells, another stain", _fitted(lambda: _archive("segmentation/wbc_jiangxi_120.npz", "images"))
    yield "retina", _fitted(lambda: [np.asarray(Image.open(path)) for path in _found("segmentation/chasedb1", "*.jpg")])
    yield "MR, brain, slices", _fitted(_brain)
    yield "MR, hippocampus, slices", _fitted(_hippocampus)
    for name, file in (
        ("DICOM, CT", "CT_small"),
        ("DICOM, MR", "MR_small"),
        ("DICOM, ultrasound", "examples_rgb_color"),
    ):
        yield name, lambda image, file=file: _dicom(file, image)
    yield "photographs", _fitted(lambda: _archive("public/cifar10_5k.npz", "images"))
    noise = np.random.Generator(np.random.Philox(key=1))
    yield "noise", _fitted(lambda: list(noise.integers(0, 256, (MOST, 64, 64, 3), np.uint8)))
    yield "black, white, grey", _fitted(lambda: [np.full((64, 64, 3), value, np.uint8) for value in (0, 255, 128)])


def _fitted(source: Callable[[], Pixels]) -> Callable[[Any], Pixels]:
    from fedhelp_edge.data import npz

    return lambda image: [npz.decode(one, image).pixels for one in source()]


def _found(folder: str, pattern: str) -> list[Path]:
    paths = sorted((DATA / folder).glob(pattern))
    if not paths:
        raise FileNotFoundError(folder)
    return paths


def _some(images: Pixels) -> Pixels:
    return [images[int(place)] for place in np.linspace(0, len(images) - 1, min(MOST, len(images)))]


def _archive(name: str, key: str) -> Pixels:
    with np.load(DATA / name) as found:
        return _some(list(found[key]))


def _mednist(name: str) -> Pixels:
    with np.load(DATA / "public" / "mednist_3k.npz") as found:
        return _some(list(found["images"][found["labels"] == list(found["class_names"]).index(name)]))


def _brain() -> Pixels:
    import nibabel

    (path,) = _found("nifti", "colin27_t1*.nii.gz")
    volume = np.asarray(nibabel.load(path).dataobj, np.uint8)
    return [np.rot90(volume[:, :, place]) for place in range(20, volume.shape[2] - 20)]


def _hippocampus() -> Pixels:
    import nibabel

    from fedhelp_edge.data import picture

    volumes = (np.asarray(nibabel.load(path).dataobj) for path in _found("volumes/hippocampus/images", "*")[:MOST])
    return [picture.stretch(volume[:, :, volume.shape[2] // 2]) for volume in volumes]


def _dicom(name: str, image: Any) -> Pixels:
    from fedhelp_edge.data import dicom

    with (DATA / "dicom" / f"{name}.dcm").open("rb") as file:
        return [dicom.decode(file, image).pixels]


def site(home: str, epochs: int) -> tuple[Any, Any]:
    """A trained, exported and opened model, and the images of its site."""
    from export import bundle as exporting
    from fedhelp_edge import plan as plans
    from fedhelp_edge.data import npz
    from fedhelp_edge.data.images import Images
    from fedhelp_edge.infer import metadata
    from fedhelp_edge.infer.bundle import Bundle
    from fedhelp_edge.methods.base import Bench
    from fedhelp_edge.methods.registry import TABLES
    from fedhelp_edge.parcel import keys
    from fedhelp_edge.site import local_training
    from fedhelp_edge.train import loop

    source, size, channels = HOMES[home]
    classes, pixels, labels, groups = source()
    names = ", ".join(f'"{name}"' for name in classes)
    scale = {"mean": [0.5] * channels, "std": [0.25] * channels}
    plan = plans.read(_PLAN.format(classes=f"[{names}]", size=size, channels=channels, epochs=epochs, **scale), TABLES)
    parts = _parts(labels, groups)
    chosen = [place for part in parts.values() for place in part]
    splits = tuple(name for name, part in parts.items() for _ in part)
    fitted = np.stack([npz.decode(pixels[place], plan.image).pixels for place in chosen])
    blank = ("",) * len(chosen)
    images = Images(fitted, np.array([labels[place] for place in chosen]), splits, blank, blank, blank)
    learner = local_training.Place(plan, "site-001", "small", images, None, Bench()).learner()
    learner.receive({}, 1)
    loop.train(learner, {"private": images.part("train")}, 1)
    origin = exporting.Origin("", 1, "small", 1, None)
    made = exporting.make({"own": learner.net}, images, plan, origin, keys.new().sign)
    return Bundle(made.model, "", "", "", metadata.notes(made.model), made.facts, 1), images


def _parts(labels: list[int], groups: list[str]) -> Mapping[str, list[int]]:
    """Which images are learned from, chosen by and measured by; what belongs together stays together."""
    order = np.random.Generator(np.random.Philox(key=7)).permutation(len(labels))
    whole: dict[str, list[int]] = {}
    for place in map(int, order):
        whole.setdefault(groups[place] or str(place), []).append(place)
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for members in whole.values():
        for part, count in (("train", TRAIN), ("val", VAL), ("test", TEST)):
            if len(parts[part]) < count:
                parts[part] += members
                break
    return parts


def asked(bundle: Any, pixels: Pixels) -> list[Any]:
    from fedhelp_edge.infer import decide

    batches = (np.stack(pixels[at : at + 64]) for at in range(0, len(pixels), 64))
    return [answer for batch in batches for answer in decide.answers(bundle, batch)]


def main() -> None:
    import torch

    from export import calibrate

    torch.set_num_threads(1)
    for home in HOMES:
        try:
            bundle, images = site(home, 4 if "--short" in sys.argv else 15)
        except FileNotFoundError as absent:
            print(f"{home} is left out: {absent.filename or absent} of FEDHELP_DATA is not here", file=sys.stderr)
            continue
        alone = calibrate.likeness(*(_embedding(bundle, list(images.part(part).pixels)) for part in ("train", "val")))
        shown = {"its own test images": _shares(bundle, list(images.part("test").pixels), alone)}
        for name, source in others():
            if name == home:
                continue
            try:
                shown[name] = _shares(bundle, source(bundle.facts.image), alone)
            except (FileNotFoundError, ModuleNotFoundError) as absent:
                print(f"{name} is left out: {absent}", file=sys.stderr)
        promised = round(bundle.facts.likeness.level, 4)
        report(
            f"images of other modalities, asked of a model of {home} (%)",
            ("torch", "onnxruntime"),
            promised=promised,
            **shown,
        )


def _shares(bundle: Any, pixels: Pixels, alone: Any) -> dict[str, float]:
    """In per cent; `by_the_net` is what would be called unlike by the net's features alone."""
    said = asked(bundle, pixels)
    shares = {
        "answered": [one.verdict == "answered" for one in said], "unlike": [one.verdict == "unlike" for one in said],
        "by_the_net": alone.distance(_embedding(bundle, pixels)) > 1,
    }  # fmt: skip
    return {**{name: round(100 * float(np.mean(part)), 1) for name, part in shares.items()}, "images": len(said)}


def _embedding(bundle: Any, pixels: Pixels) -> NDArray[np.float32]:
    return np.concatenate([bundle.engine(np.stack(pixels[at : at + 64])).embedding for at in range(0, len(pixels), 64)])


if __name__ == "__main__":
    main()
