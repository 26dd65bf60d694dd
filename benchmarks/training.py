"""Training speed from a folder of JPEGs: this kit, a bare loop over a tensor in memory, the ordinary PyTorch script.

All three train ResNet20 by Adam in batches of 64, one epoch a turn. This kit starts from its folder each time (what was
decoded is kept); the bare loop only steps; the ordinary script decodes with PIL in a DataLoader, fp32, NCHW.
And what FedHelp costs beside cross-entropy alone, at small and large sites.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import interleaved, peak_mb, report
from fedhelp_edge import data
from fedhelp_edge import plan as plans
from fedhelp_edge.demo import phantoms
from fedhelp_edge.methods.base import Bench, Knowledge, Learner, Site
from fedhelp_edge.methods.fedavg import FedAvg
from fedhelp_edge.methods.fedhelp import learner as fedhelp
from fedhelp_edge.methods.registry import METHODS, TABLES
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.train import loop, machine

CLASSES = 4
BATCH = 64


def plan_of(side: int, **settings: str) -> plans.Plan:
    names = ", ".join(f'"{name}"' for name in phantoms.CLASSES[:CLASSES])
    text = f"classes = [{names}]\n[image]\nsize = {side}\n[training]\nepochs = 1\nbatch = {BATCH}\n"
    return plans.read(text + "[data]\nval = 0.0\ntest = 0.0\n", TABLES, settings)


def folder_of(root: Path, side: int, count: int) -> Path:
    """Phantoms as JPEGs of three times the side, as a camera's are larger than what a net sees."""
    pixels, labels = phantoms.draw(count, CLASSES, size=3 * side, seed=1)
    for place, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (root / phantoms.CLASSES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / phantoms.CLASSES[label] / f"{place}.jpg", quality=90)
    return root


def ours(folder: Path, plan: plans.Plan, kept: Path, bench: Bench) -> None:
    images = data.load(folder, plan, kept=kept)
    site = Site("site-001", "small", (1,) * CLASSES)
    learner = FedAvg(plan, site, METHODS["fedavg"].schema(plan), None, bench)
    learner.receive({}, 1)
    loop.train(learner, {"private": images}, 1)


def bare(images: torch.Tensor, labels: torch.Tensor, bench: Bench) -> None:
    net = ResNet("resnet20", CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps(net, ((images[at : at + BATCH], labels[at : at + BATCH]) for at in range(0, len(images), BATCH)), bench)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, folder: Path, side: int) -> None:
        names = sorted(path.name for path in folder.iterdir())
        self.rows = [(path, place) for place, name in enumerate(names) for path in sorted((folder / name).iterdir())]
        self.side = side

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        path, label = self.rows[place]
        with Image.open(path) as opened:
            small = opened.convert("RGB").resize((self.side, self.side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255, label


def ordinary(folder: Path, side: int) -> None:
    steps(ResNet("resnet20", CLASSES), DataLoader(Pictures(folder, side), batch_size=BATCH, shuffle=True), Bench())


def steps(net: nn.Module, batches: object, bench: Bench) -> None:
    optimiser = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
    for images, labels in batches:  # type: ignore[attr-defined]
        with bench.autocast():
            logits = net(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def speeds(side: int, count: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, kept, plan = folder_of(Path(temporary) / "images", side, count), Path(temporary) / "kept", plan_of(side)
        loaded = data.load(folder, plan, kept=kept)
        tensor = loop.tensor(np.asarray(loaded.pixels), plan.image)
        labels = torch.from_numpy(np.asarray(loaded.labels))
        half = Bench(half=True) if machine.bench("auto").half else None
        contestants: dict[str, Callable[[], object]] = {
            "ours_fp32": lambda: ours(folder, plan, kept, Bench()),
            "bare_fp32": lambda: bare(tensor, labels, Bench()),
            "ordinary_fp32": lambda: ordinary(folder, side),
        }
        if half:
            contestants["ours_bf16"] = lambda: ours(folder, plan, kept, half)
            contestants["bare_bf16"] = lambda: bare(tensor, labels, half)
        seconds = interleaved(contestants, repeats)
        rates = {name: round(len(loaded) / value) for name, value in seconds.items()}
        ratios = {"of_bare_fp32": seconds["bare_fp32"] / seconds["ours_fp32"], "aim_of_bare": 0.9}
        ratios |= {"of_ordinary_fp32": seconds["ordinary_fp32"] / seconds["ours_fp32"], "aim_of_ordinary_fp32": 2}
        if half:
            ratios |= {"of_bare_bf16": seconds["bare_bf16"] / seconds["ours_bf16"]}
            ratios |= {"of_ordinary_bf16": seconds["ordinary_fp32"] / seconds["ours_bf16"], "aim_of_ordinary_bf16": 3}
        rounded = {name: round(value, 2) for name, value in ratios.items()}
        report(f"training at {side} px, images/s", ("torch",), images=len(loaded), **rates, **rounded)


def costs(count: int, repeats: int) -> None:
    """A small site's epoch with public batches, and a large site's, beside cross-entropy alone on the same nets."""
    pixels, labels = phantoms.draw(count, CLASSES, size=64, seed=1)
    small, big = _Set(pixels[:, ::2, ::2], labels), _Set(pixels, labels)
    public, said = _Set(small.pixels, labels), np.full((2, count, CLASSES), 1 / CLASSES, np.float16)
    public64 = _Set(pixels, labels)
    site, bench = ("site-001", (1,) * CLASSES), machine.bench("auto")

    def epoch(tier: str, private: _Set, shown: _Set, alone: bool = False, **settings: str) -> Callable[[], object]:
        changes = {f"fedhelp.{key}": value for key, value in settings.items()}
        plan = plan_of(private.pixels.shape[1], **changes, **{"training.batch": str(count // 8)})  # 8 steps an epoch
        known = Knowledge(said, labels, CLASSES)
        where = Site(site[0], tier, site[1])

        def run() -> None:
            made: Learner
            if alone:
                nets = replace(plan.nets, small=plan.nets.large if tier == "large" else plan.nets.small)
                own = replace(plan, nets=nets)
                made = FedAvg(own, where, METHODS["fedavg"].schema(own), None, bench)
            else:
                made = fedhelp(plan, where, METHODS["fedhelp"].schema(plan), known, bench)
            made.receive({}, 1)
            loop.train(made, {"private": private, "public": shown}, 1)

        return run

    seconds = interleaved(
        {
            "small_alone": epoch("small", small, public, alone=True),
            "small_every_8": epoch("small", small, public, public_every="8"),
            "small_every_4": epoch("small", small, public, public_every="4"),
            "small_64_alone": epoch("small", big, public, alone=True),
            "small_64_public_32": epoch("small", big, public, public_every="4"),
            "small_64_public_64": epoch("small", big, public64, public_every="4"),
            "large_alone": epoch("large", small, public, alone=True),
            "large": epoch("large", small, public),
        },
        repeats,
    )
    base = {"small_every": "small_alone", "small_64_public": "small_64_alone", "large": "large_alone"}
    ratios = {
        name: round(value / seconds[next(base[key] for key in base if name.startswith(key))], 3)
        for name, value in seconds.items()
        if not name.endswith("alone")
    }
    report("FedHelp's cost beside cross-entropy alone", ("torch",), **ratios, aims="1.14, 1.27, 1.07 (64/32), 1.20")


class _Set:
    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:  # type: ignore[type-arg]
        self.pixels, self.labels = np.ascontiguousarray(pixels), labels


def once(who: str, side: int, root: Path) -> None:
    """For the measurement of memory."""
    plan, folder, kept = plan_of(side), root / "images", root / "kept"
    if who == "ours":
        return ours(folder, plan, kept, Bench())
    loaded = data.load(folder, plan, kept=kept)
    return bare(loop.tensor(np.asarray(loaded.pixels), plan.image), torch.from_numpy(loaded.labels), Bench())


def peaks(side: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        data.load(folder_of(root / "images", side, count), plan_of(side), kept=root / "kept")
        most = {who: peak_mb("benchmarks.training", "--once", who, str(side), str(root)) for who in ("bare", "ours")}
    extra = round(most["ours"] - most["bare"], 1)
    report(f"peak memory of training at {side} px, MB", ("torch",), images=count, **most, extra=extra, aim_extra=150)


def main() -> None:
    machine.settle()
    if sys.argv[1:2] == ["--once"]:
        return once(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    short = "--short" in sys.argv
    for side, count in ((32, 512),) if short else ((32, 2048), (64, 1024)):
        speeds(side, count, 3 if short else 7)
        peaks(side, count)
    costs(128 if short else 512, 3 if short else 7)
    return None


if __name__ == "__main__":
    main()
