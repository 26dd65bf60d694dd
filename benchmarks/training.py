"""Training speed from a folder of JPEGs: this kit, a bare loop over a tensor in memory, the ordinary PyTorch script.

All three train ResNet20 by Adam in batches of 64, one epoch a turn. This kit starts from its folder each time, with
cached decoded images. The bare loop only steps. The ordinary script decodes with PIL in a DataLoader, fp32, NCHW. And
what FedHelp costs beside cross-entropy alone, at small and large sites.
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
from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.data.images import ImageSet
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.demo import phantoms
from fedhelp_edge.methods.base import Compute, Learner, LearnerContext, SiteFacts
from fedhelp_edge.methods.fedavg import FedAvg
from fedhelp_edge.methods.fedhelp import learner as fedhelp
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.net import input_tensor
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.train import loop, machine

CLASSES = 4
BATCH = 64


def plan_of(side: int, **settings: str) -> plans.Plan:
    names = ", ".join(f'"{name}"' for name in phantoms.CLASSES[:CLASSES])
    text = f"classes = [{names}]\n[image]\nsize = {side}\n[training]\nepochs = 1\nbatch = {BATCH}\n"
    return plans.read(text + "[data]\nval = 0.0\ntest = 0.0\n", METHODS, settings)


def folder_of(root: Path, side: int, count: int) -> Path:
    """Phantoms as JPEGs of three times the side, as a camera's are larger than what a net sees."""
    pixels, labels = phantoms.draw(count, CLASSES, size=3 * side, seed=1)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (root / phantoms.CLASSES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / phantoms.CLASSES[label] / f"{index}.jpg", quality=90)
    return root


def train_ours(folder: Path, plan: plans.Plan, cache: Path, compute: Compute) -> None:
    images = loading.load(folder, plan, state_dir=cache)
    site = SiteFacts("site-001", "small", (1,) * CLASSES)
    learner = FedAvg(LearnerContext(plan, site, None, compute))
    learner.receive({}, 1)
    loop.train(learner, {"private": images}, 1)


def train_bare(images: torch.Tensor, labels: torch.Tensor, compute: Compute) -> None:
    net = ResNet("resnet20", Form(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run_epoch(
        net,
        ((images[start : start + BATCH], labels[start : start + BATCH]) for start in range(0, len(images), BATCH)),
        compute,
    )


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, folder: Path, side: int) -> None:
        names = sorted(path.name for path in folder.iterdir())
        self.rows = [(path, index) for index, name in enumerate(names) for path in sorted((folder / name).iterdir())]
        self.side = side

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.rows[index]
        with Image.open(path) as opened:
            small = opened.convert("RGB").resize((self.side, self.side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255, label


def train_ordinary(folder: Path, side: int) -> None:
    run_epoch(
        ResNet("resnet20", Form(CLASSES)), DataLoader(Pictures(folder, side), batch_size=BATCH, shuffle=True), Compute()
    )


def run_epoch(net: nn.Module, batches: object, compute: Compute) -> None:
    optimiser = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
    for images, labels in batches:  # type: ignore[attr-defined]
        with compute.autocast():
            logits = net(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def speeds(side: int, count: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache, plan = (
            folder_of(Path(temporary) / "images", side, count),
            Path(temporary) / "kept",
            plan_of(side),
        )
        loaded = loading.load(folder, plan, state_dir=cache)
        tensor = input_tensor(np.asarray(loaded.pixels), plan.image)
        labels = torch.from_numpy(np.asarray(loaded.labels))
        half = Compute(bf16=True) if machine.compute("auto").bf16 else None
        contestants: dict[str, Callable[[], object]] = {
            "ours_fp32": lambda: train_ours(folder, plan, cache, Compute()),
            "bare_fp32": lambda: train_bare(tensor, labels, Compute()),
            "ordinary_fp32": lambda: train_ordinary(folder, side),
        }
        if half:
            contestants["ours_bf16"] = lambda: train_ours(folder, plan, cache, half)
            contestants["bare_bf16"] = lambda: train_bare(tensor, labels, half)
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
    small, large = _ImageSet(pixels[:, ::2, ::2], labels), _ImageSet(pixels, labels)
    public, answers = _ImageSet(small.pixels, labels), np.full((2, count, CLASSES), 1 / CLASSES, np.float16)
    public64 = _ImageSet(pixels, labels)
    site, compute = ("site-001", (1,) * CLASSES), machine.compute("auto")

    def epoch(
        tier: str, private: _ImageSet, public: _ImageSet, baseline: bool = False, **settings: str
    ) -> Callable[[], object]:
        changes = {f"fedhelp.{key}": value for key, value in settings.items()}
        plan = plan_of(private.pixels.shape[1], **changes, **{"training.batch": str(count // 8)})  # 8 steps an epoch
        pack = Pack(public.pixels, labels, tuple(map(str, range(CLASSES))), ("source",) * len(answers), answers)
        facts = SiteFacts(site[0], tier, site[1])

        def run() -> None:
            learner: Learner
            if baseline:
                nets = replace(plan.nets, small=plan.nets.large if tier == "large" else plan.nets.small)
                baseline_plan = replace(plan, nets=nets)
                learner = FedAvg(LearnerContext(baseline_plan, facts, None, compute))
            else:
                learner = fedhelp(LearnerContext(plan, facts, pack, compute))
            learner.receive({}, 1)
            loop.train(learner, {"private": private, "public": public}, 1)

        return run

    seconds = interleaved(
        {
            "small_alone": epoch("small", small, public, baseline=True),
            "small_every_8": epoch("small", small, public, public_every="8"),
            "small_every_4": epoch("small", small, public, public_every="4"),
            "small_64_alone": epoch("small", large, public, baseline=True),
            "small_64_public_32": epoch("small", large, public, public_every="4"),
            "small_64_public_64": epoch("small", large, public64, public_every="4"),
            "large_alone": epoch("large", small, public, baseline=True),
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


class _ImageSet(ImageSet):
    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:  # type: ignore[type-arg]
        self.pixels, self.labels = np.ascontiguousarray(pixels), labels


def once(who: str, side: int, root: Path) -> None:
    """For the measurement of memory."""
    plan, folder, cache = plan_of(side), root / "images", root / "kept"
    if who == "ours":
        return train_ours(folder, plan, cache, Compute())
    loaded = loading.load(folder, plan, state_dir=cache)
    return train_bare(input_tensor(np.asarray(loaded.pixels), plan.image), torch.from_numpy(loaded.labels), Compute())


def peaks(side: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        loading.load(folder_of(root / "images", side, count), plan_of(side), state_dir=root / "kept")
        peak = {who: peak_mb("benchmarks.training", "--once", who, str(side), str(root)) for who in ("bare", "ours")}
    extra = round(peak["ours"] - peak["bare"], 1)
    report(f"peak memory of training at {side} px, MB", ("torch",), images=count, **peak, extra=extra, aim_extra=150)


def main() -> None:
    machine.configure()
    if sys.argv[1:2] == ["--once"]:
        return once(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    short = "--short" in sys.argv
    for side, count in ((32, 64),) if short else ((32, 2048), (64, 1024)):
        speeds(side, count, 1 if short else 7)
        peaks(side, count)
    costs(32 if short else 512, 1 if short else 7)
    return None


if __name__ == "__main__":
    main()
