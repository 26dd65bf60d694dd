"""Masks: training beside a plain PyTorch loop in time and memory, and a volume of 512 x 512 x 300 voxels from the disk.

Both loops train the same U-Net on one thread by Adam. Batches, precision and the weight of each pixel are the same.
This kit's also draws, augments and normalises each batch from its cache. The plain loop has tensors in memory, and
steps. Rates are of processor time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks import interleaved, peak_mb, report
from benchmarks.inference import COMMAND, peak_memory_of
from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading, volume
from fedhelp_edge.data.images import Images
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import net as nets
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.train import learners, loop, machine

VOLUME, SHORT_VOLUME = (300, 512, 512), (24, 48, 40)  # slices, rows and columns
SPACING = (1.0, 0.7, 0.7)  # mm


class Shape(NamedTuple):
    """What a net sees of images."""

    net: str
    sides: tuple[int, ...]
    batch: int

    def plan(self, **settings: str) -> plans.Plan:
        depth = self.sides[0] if len(self.sides) == 3 else 1
        text = (
            'task = "segmentation"\nclasses = ["a", "b"]\nmethod = "fedavg"\n[image]\nchannels = 1\n'
            f"size = {self.sides[-1]}\ndepth = {depth}\nspacing = {list(SPACING)}\n"
            f'[nets]\nsmall = "{self.net}"\n[training]\nepochs = 1\nbatch = {self.batch}\n'
        )
        return plans.read(text + "[data]\nval = 0.0\ntest = 0.0\n", METHODS, settings)

    def __str__(self) -> str:
        return f"{self.net}, {self.batch} of {' x '.join(map(str, self.sides))}"


SHAPES = (Shape("unet8", (128, 128), 8), Shape("unet32", (128, 128), 8), Shape("unet8", (16, 32, 32), 4))
SHORT_SHAPES = (Shape("unet8", (32, 32), 4), Shape("unet8", (16, 16, 16), 4))


def outlined(count: int, *sides: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noise in which brighter balls of two classes lie, and their masks."""
    draw, places = np.random.default_rng(1), np.indices(sides)
    masks = np.zeros((count, *sides), np.uint8)
    for mask in masks:
        for label in (1, 2):
            middle = draw.uniform(0.2, 0.8, len(sides))
            distances = [place / side - at for place, side, at in zip(places, sides, middle, strict=True)]
            mask[sum(distance**2 for distance in distances) < 0.03] = label
    return (draw.integers(0, 60, masks.shape) + 90 * masks.astype(np.int64)).astype(np.uint8), masks


def write(shape: Shape, folder: Path, count: int) -> Images:
    """Writes a site's images as an NPZ, and fills the cache; tensors as a plain script would have them."""
    images, masks = outlined(count, *shape.sides)
    np.savez(folder / "site.npz", images=images, masks=masks)
    loaded = load(shape, folder)
    plain = {"images": np.asarray(loaded.pixels), "masks": np.asarray(loaded.masks)}
    taken = loaded.take(np.arange(count))
    frequency = taken["class_pixels"] / taken["class_pixels"].sum()
    weights = (1 / frequency / len(frequency))[plain["masks"]] + shape.plan().masks.beta_0 * taken["borders"]
    np.savez(folder / "plain.npz", **plain, weights=weights.astype(np.float32))
    return loaded


def load(shape: Shape, folder: Path) -> Images:
    return loading.load(folder / "site.npz", shape.plan(), state_dir=folder)


def train_ours(shape: Shape, images: Images, compute: Compute) -> None:
    learner = learners.create(shape.plan(), "site-001", "small", images, None, compute)
    learner.receive({}, 1)
    loop.train(learner, {"private": images}, 1)


def tensors(folder: Path) -> tuple[torch.Tensor, ...]:
    with np.load(folder / "plain.npz") as arrays:
        images = torch.from_numpy(arrays["images"]).movedim(-1, 1).float().div_(255)
        return images, torch.from_numpy(arrays["masks"].astype(np.int64)), torch.from_numpy(arrays["weights"])


def train_plain(shape: Shape, parts: tuple[torch.Tensor, ...], compute: Compute, channels_last: bool) -> None:
    net = nets.create(shape.net, Form.of(shape.plan()))
    if channels_last:
        order = torch.channels_last_3d if len(shape.sides) == 3 else torch.channels_last
        net.to(memory_format=order)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
    for images, masks, weights in zip(*(part.split(shape.batch) for part in parts), strict=True):
        with compute.autocast():
            logits = net(images)
        loss = (weights * F.cross_entropy(logits.float(), masks, reduction="none")).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def speeds(shape: Shape, steps: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        images = write(shape, Path(temporary), steps * shape.batch)
        parts = tensors(Path(temporary))
    for compute in dict.fromkeys((Compute(), machine.compute())):
        contestants: dict[str, Callable[[], object]] = {
            "ours": partial(train_ours, shape, images, compute),
            "plain": partial(train_plain, shape, parts, compute, False),
            "plain_channels_last": partial(train_plain, shape, parts, compute, True),
        }
        seconds = interleaved(contestants, repeats, time.process_time)
        pixels = len(images) * np.prod(shape.sides)
        rates = {name: round(float(pixels / spent)) for name, spent in seconds.items()}
        share = rates["ours"] / max(rates["plain"], rates["plain_channels_last"])
        report(
            f"training on masks, {shape}, pixels a second of a core", ("torch",),
            precision="bf16" if compute.bf16 else "fp32", **rates, of_the_better=round(share, 2), aim=0.9,
        )  # fmt: skip


def once(who: str, shape: Shape, folder: Path) -> None:
    """For the measurement of memory."""
    if who == "ours":
        machine.configure(1)
        return train_ours(shape, load(shape, folder), Compute())
    torch.set_num_threads(1)
    return train_plain(shape, tensors(folder), Compute(), True)


def peaks(shape: Shape, count: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        write(shape, Path(temporary), count)
        numbers = shape.net, str(shape.batch), *map(str, shape.sides)
        peak = {who: peak_mb("benchmarks.masks", "--once", who, temporary, *numbers) for who in ("plain", "ours")}
    extra = round(peak["ours"] - peak["plain"], 1)
    rounded = {name: round(value) for name, value in peak.items()}
    report(f"peak memory of training on masks, {shape}, MB", ("torch",), **rounded, extra=extra, aim_extra=150)


def put_together(blocks: NDArray[np.uint8], sides: tuple[int, ...]) -> NDArray[np.uint8]:
    """A volume of blocks side by side."""
    whole, draw = np.zeros(sides, np.uint8), np.random.default_rng(2)
    for place in volume.blocks("", sides, blocks.shape[1:]):
        whole[place.inside(blocks.shape[1:])] = blocks[draw.integers(len(blocks))]
    return whole


def save_volume(path: Path, voxels: NDArray[Any]) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(), np.diag([*SPACING[::-1], 1.0])), path)


def large_volume(shape: Shape, sides: tuple[int, ...]) -> None:
    """The command line outlines one volume and writes its mask."""
    from export import bundle, mask_bundle
    from fedhelp_edge.parcel import keys

    plan = shape.plan(**{"data.val": "0.5", "training.lr": "0.01", "training.epochs": "3"})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, masks = outlined(24, *shape.sides)
        for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
            save_volume(folder / "site" / "images" / f"{number}.nii.gz", image.astype(np.int16))
            save_volume(folder / "site" / "masks" / f"{number}.nii.gz", mask)
        save_volume(folder / "volume.nii.gz", put_together(images, sides).astype(np.int16))
        loaded = loading.load(folder / "site", plan, state_dir=folder)
        learner = learners.create(plan, "site-001", "small", loaded.split("train"), None, machine.compute())
        learner.receive(METHODS["fedavg"].start(plan), 1)
        loop.train(learner, {"private": loaded.split("train")}, 1)
        origin = bundle.Origin("", 1, "small", 1, None)
        mask_bundle.create({"own": learner.net}, loaded, plan, origin, keys.generate().sign).write(folder / "m.onnx")
        words = "predict", folder / "m.onnx", folder / "volume.nii.gz", "--home", folder / "none", "--threads", "1"
        begin = time.perf_counter()
        peak = peak_memory_of(COMMAND, *words, "--format", "json", "--out", folder / "out")
        seconds = time.perf_counter() - begin
        (row,) = json.loads((folder / "out" / "answers.json").read_text())["results"]
        mask_bytes = (folder / "out" / row["mask"]).stat().st_size if row["mask"] else 0
    report(
        f"outlining a volume of {' x '.join(map(str, sides[::-1]))} voxels of 16 bits by {shape.net}",
        ("onnxruntime", "nibabel"), block=" x ".join(map(str, shape.sides)), verdict=row["verdict"],
        mask_bytes=mask_bytes, seconds=round(seconds), peak_mb=round(peak), aim_mb=1500,
    )  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--once"]:
        who, folder, name, batch, *sides = sys.argv[2:]
        return once(who, Shape(name, tuple(map(int, sides)), int(batch)), Path(folder))
    machine.configure(1)
    short = "--short" in sys.argv
    for shape in SHORT_SHAPES if short else SHAPES:
        speeds(shape, 1 if short else 16, 1 if short else 5)
        peaks(shape, shape.batch if short else 64)
    if short:
        large_volume(SHORT_SHAPES[1], SHORT_VOLUME)
    else:
        for net in ("unet8", "unet16"):
            large_volume(Shape(net, (32, 128, 128), 2), VOLUME)
    return None


if __name__ == "__main__":
    main()
