"""Trying a plan out without having joined: one site, a federation of itself alone, in a folder of its own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedhelp_edge import data, files, share
from fedhelp_edge.data import pack as packs
from fedhelp_edge.errors import NoImagesNamed, NotTrained
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.share import Array
from fedhelp_edge.site import learn
from fedhelp_edge.train import parallel, speed

SITE = "site-001"
_IMAGES = "images.txt"


def train(
    home: Path, plan: Plan, tier: str, images: Path | None, watch: learn.Watch,
    *, rounds: int = 1, knowledge: Path | None = None, device: str = "cpu", threads: int | None = None,
) -> tuple[Path, dict[str, Any]] | None:  # fmt: skip
    """Train so many rounds, each from what the one before gave; the folder and the report of the last.

    Of several processes the first does so; to the others, which help it, this is None.
    """
    speed.settle(threads)
    bench = parallel.join(speed.bench(plan.training.precision, device))
    with parallel.first(bench):
        source = _remembered(home, None if bench.rank else images)
        found = data.load(source, plan, kept=home / "images")
    side = plan.tables["fedhelp"].public_size
    pack = packs.load(knowledge).fitted(side, plan.image.channels) if knowledge else None
    place = learn.Place(plan, SITE, tier, found, pack, bench)
    if bench.rank:
        learn.follow(place)
        parallel.leave(bench)
        return None
    root = _root(home, plan, tier, source, knowledge)
    merged: dict[str, Array] = METHODS[plan.method].start(plan)
    before: Path | None = None
    for round_ in range(1, rounds + 1):
        folder = root / f"round-{round_:04}"
        report = learn.learn(place, round_, merged, folder, before, watch)
        with files.reading(folder / "share.safetensors") as file:
            merged |= dict(share.Arrays(file, share.read_header(file)))
        before = folder
    parallel.leave(bench)
    return folder, report


def evaluate(home: Path, plan: Plan, tier: str, images: Path | None, *, threads: int | None = None) -> Evaluation:
    """How good the net that was trained last by this plan is, on the test part or on all of other images; and beside it
    the net trained alone and, where the loss kept the prior apart, the answers without it."""
    rounds = [
        done
        for root in (home / "trial").glob(f"*-{tier}")
        if (root / "plan.toml").read_text(encoding="utf-8") == plan.text
        for done in root.glob("round-*/report.json")
    ]
    if not rounds:
        raise NotTrained("nothing was trained here by this plan")
    last = max(rounds, key=lambda done: done.stat().st_mtime_ns).parent
    speed.settle(threads)
    if images is None:
        found = data.load(_remembered(home, None), plan, kept=home / "images")
    else:
        found = data.load(images, plan, kept=home / "others")
        found = replace(found, splits=("test",) * len(found))
    place = learn.Place(plan, SITE, tier, found, None, speed.bench(plan.training.precision))
    said, labels = learn.answers(place, last, "test"), found.part("test").labels
    told = learn.read(last)
    if prior := told["prior"]:
        said["without_prior"] = metrics.with_prior(said["own"], prior, np.ones(len(prior)))
    nets = {name: metrics.scores(answer, labels) for name, answer in said.items()}
    return Evaluation(plan.name, told["round"], tier, plan.classes, nets)


def _root(home: Path, plan: Plan, tier: str, source: Path, knowledge: Path | None) -> Path:
    """Where the rounds of this plan, on these images, with this knowledge are kept."""
    key = "\n".join((plan.text, str(source.absolute()), str(knowledge.absolute() if knowledge else "")))
    root = home / "trial" / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}-{tier}"
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "plan.toml").exists():
        with files.writing(root / "plan.toml") as file:
            file.write(plan.text.encode())
    return root


def _remembered(home: Path, images: Path | None) -> Path:
    """The images that are named, or those that were named last."""
    note = home / _IMAGES
    if images is not None:
        home.mkdir(parents=True, exist_ok=True)
        note.write_text(str(images.absolute()), encoding="utf-8")
        return images
    if not note.exists():
        raise NoImagesNamed("no images were named yet")
    return Path(note.read_text(encoding="utf-8"))
