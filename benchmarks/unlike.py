"""How often a small site's model answers images of another modality, and how often it says that they are unlike.

Each home (chest X-rays, skin lesions, blood cells) has 300 images and 100 validation images. Its net is trained and
exported. Then it is asked about its own test images, and about all other images that FEDHELP_DATA holds. Nothing is
fitted on these.
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
    with np.load(DATA / "classification" / "pneumoniamnist.npz") as archive:
        images, labels = archive["train_images"], archive["train_labels"].ravel()
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
    with np.load(DATA / "classification" / "bccd_cells_32.npz") as archive:
        images = np.concatenate([archive[f"{part}_images"] for part in ("train", "val", "test")])
        labels = np.concatenate([archive[f"{part}_labels"] for part in ("train", "val", "test")]).ravel()
    return ("RBC", "WBC", "Platelets"), list(images), list(map(int, labels)), [""] * len(labels)


def scans() -> tuple[tuple[str, ...], Pixels, list[int], list[str]]:
    with np.load(DATA / "public" / "mednist_3k.npz") as archive:
        names = list(archive["class_names"])
        indices = [index for index, label in enumerate(archive["labels"]) if names[label] in _SCANS]
        images, labels = archive["images"][indices], archive["labels"][indices]
    return _SCANS, list(images), [_SCANS.index(names[label]) for label in labels], [""] * len(labels)


_SCANS = ("AbdomenCT", "ChestCT")
HOMES = {"chest X-ray": (xray, 28, 1), "skin": (skin, 32, 3), "blood cells": (cells, 32, 3), "CT": (scans, 28, 1)}


def others() -> Iterator[tuple[str, Callable[[Any], Pixels]]]:
    """A name, and what gives the images of it as a model of this image size and these channels wants them."""
    for home, (source, _, _) in HOMES.items():
        yield home, _fit(lambda source=source: _sample(source()[1]))
    for name in ("HeadCT", "BreastMRI", "CXR", "Hand"):
        yield (
            {"CXR": "X-ray, chest, adults", "Hand": "X-ray, hand"}.get(name, name),
            _fit(lambda name=name: _mednist(name)),
        )
    yield "X-ray, lungs with COVID", _fit(lambda: _archive("segmentation/lung_cxr_256.npz", "images"))
    yield "white cells, another stain", _fit(lambda: _archive("segmentation/wbc_jiangxi_120.npz", "images"))
    yield "retina", _fit(lambda: [np.asarray(Image.open(path)) for path in _paths("segmentation/chasedb1", "*.jpg")])
    yield "MR, brain, slices", _fit(_brain)
    yield "MR, hippocampus, slices", _fit(_hippocampus)
    for name, file in (
        ("DICOM, CT", "CT_small"),
        ("DICOM, MR", "MR_small"),
        ("DICOM, ultrasound", "examples_rgb_color"),
    ):
        yield name, lambda image, file=file: _dicom(file, image)
    yield "photographs", _fit(lambda: _archive("public/cifar10_5k.npz", "images"))
    noise = np.random.Generator(np.random.Philox(key=1))
    yield "noise", _fit(lambda: list(noise.integers(0, 256, (MOST, 64, 64, 3), np.uint8)))
    yield "black, white, grey", _fit(lambda: [np.full((64, 64, 3), value, np.uint8) for value in (0, 255, 128)])


def _fit(source: Callable[[], Pixels]) -> Callable[[Any], Pixels]:
    from fedhelp_edge.data import npz

    return lambda image: [npz.decode(pixels, image).pixels for pixels in source()]


def _paths(folder: str, pattern: str) -> list[Path]:
    paths = sorted((DATA / folder).glob(pattern))
    if not paths:
        raise FileNotFoundError(folder)
    return paths


def _sample(images: Pixels) -> Pixels:
    return [images[int(index)] for index in np.linspace(0, len(images) - 1, min(MOST, len(images)))]


def _archive(name: str, key: str) -> Pixels:
    with np.load(DATA / name) as archive:
        return _sample(list(archive[key]))


def _mednist(name: str) -> Pixels:
    with np.load(DATA / "public" / "mednist_3k.npz") as archive:
        return _sample(list(archive["images"][archive["labels"] == list(archive["class_names"]).index(name)]))


def _brain() -> Pixels:
    import nibabel

    (path,) = _paths("nifti", "colin27_t1*.nii.gz")
    volume = np.asarray(nibabel.load(path).dataobj, np.uint8)
    return [np.rot90(volume[:, :, index]) for index in range(20, volume.shape[2] - 20)]


def _hippocampus() -> Pixels:
    import nibabel

    from fedhelp_edge.data import picture

    volumes = (np.asarray(nibabel.load(path).dataobj) for path in _paths("volumes/hippocampus/images", "*")[:MOST])
    return [picture.stretch(volume[:, :, volume.shape[2] // 2]) for volume in volumes]


def _dicom(name: str, image: Any) -> Pixels:
    from fedhelp_edge.data import dicom

    with (DATA / "dicom" / f"{name}.dcm").open("rb") as file:
        return [dicom.decode(file, image).pixels]


def export_site_model(home: str, epochs: int) -> tuple[Any, Any]:
    """A trained, exported and opened model, and the images of its site."""
    from export import bundle as exporting
    from fedhelp_edge import plan as plans
    from fedhelp_edge.data import npz
    from fedhelp_edge.data.images import Images
    from fedhelp_edge.infer import metadata
    from fedhelp_edge.infer.bundle import Bundle
    from fedhelp_edge.methods.base import Compute
    from fedhelp_edge.methods.registry import METHODS
    from fedhelp_edge.parcel import keys
    from fedhelp_edge.site import local_training
    from fedhelp_edge.train import loop

    source, size, channels = HOMES[home]
    classes, pixels, labels, groups = source()
    names = ", ".join(f'"{name}"' for name in classes)
    scale = {"mean": [0.5] * channels, "std": [0.25] * channels}
    plan = plans.read(_PLAN.format(classes=f"[{names}]", size=size, channels=channels, epochs=epochs, **scale), METHODS)
    parts = _parts(labels, groups)
    indices = [index for part in parts.values() for index in part]
    splits = tuple(name for name, part in parts.items() for _ in part)
    pixels_fitted = np.stack([npz.decode(pixels[index], plan.image).pixels for index in indices])
    blank = ("",) * len(indices)
    images = Images(pixels_fitted, np.array([labels[index] for index in indices]), splits, blank, blank, blank)
    learner = local_training.TrainingContext(plan, "site-001", "small", images, None, Compute()).learner()
    learner.receive({}, 1)
    loop.train(learner, {"private": images.split("train")}, 1)
    origin = exporting.Origin("", 1, "small", 1, None)
    result = exporting.create({"own": learner.net}, images, plan, origin, keys.generate().sign)
    return Bundle(result.model, "", "", "", metadata.read_notes(result.model), result.facts, 1), images


def _parts(labels: list[int], groups: list[str]) -> Mapping[str, list[int]]:
    """Which images are learned from, chosen by and measured by; what belongs together stays together."""
    order = np.random.Generator(np.random.Philox(key=7)).permutation(len(labels))
    groups_of: dict[str, list[int]] = {}
    for index in map(int, order):
        groups_of.setdefault(groups[index] or str(index), []).append(index)
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for members in groups_of.values():
        for part, count in (("train", TRAIN), ("val", VAL), ("test", TEST)):
            if len(parts[part]) < count:
                parts[part] += members
                break
    return parts


def answers(bundle: Any, pixels: Pixels) -> list[Any]:
    from fedhelp_edge.infer import decide

    batches = (np.stack(pixels[start : start + 64]) for start in range(0, len(pixels), 64))
    return [answer for batch in batches for answer in decide.answer_images(bundle, batch)]


def main() -> None:
    import torch

    from export import calibrate

    torch.set_num_threads(1)
    short = "--short" in sys.argv
    for home in [*HOMES][-1:] if short else HOMES:
        try:
            bundle, images = export_site_model(home, 1 if short else 15)
        except FileNotFoundError as error:
            print(f"{home} is left out: {error.filename or error} of FEDHELP_DATA is not here", file=sys.stderr)
            continue
        embedding_likeness = calibrate.likeness(
            *(_embedding(bundle, list(images.split(part).pixels)) for part in ("train", "val"))
        )
        rates = {"its own test images": _verdict_rates(bundle, list(images.split("test").pixels), embedding_likeness)}
        for name, source in others():
            if name == home:
                continue
            try:
                rates[name] = _verdict_rates(bundle, source(bundle.facts.image), embedding_likeness)
            except (FileNotFoundError, ModuleNotFoundError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
        promised = round(bundle.facts.likeness.level, 4)
        report(
            f"images of other modalities, asked of a model of {home} (%)",
            ("torch", "onnxruntime"),
            promised=promised,
            **rates,
        )


def _verdict_rates(bundle: Any, pixels: Pixels, embedding_likeness: Any) -> dict[str, float]:
    """In per cent; `by_the_net` is what would be called unlike by the net's features alone."""
    given = answers(bundle, pixels)
    verdicts = {
        "answered": [answer.verdict == "answered" for answer in given],
        "unlike": [answer.verdict == "unlike" for answer in given],
        "by_the_net": embedding_likeness.distance(_embedding(bundle, pixels)) > 1,
    }  # fmt: skip
    return {**{name: round(100 * float(np.mean(part)), 1) for name, part in verdicts.items()}, "images": len(given)}


def _embedding(bundle: Any, pixels: Pixels) -> NDArray[np.float32]:
    return np.concatenate(
        [bundle.engine(np.stack(pixels[start : start + 64])).embedding for start in range(0, len(pixels), 64)]
    )


if __name__ == "__main__":
    main()
