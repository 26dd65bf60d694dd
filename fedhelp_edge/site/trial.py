"""Trying a plan out without having joined: one site, a federation of itself alone, in a folder of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from fedhelp_edge import files, update
from fedhelp_edge.errors import NotTrainedError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.site import layout, local_training, measuring
from fedhelp_edge.update import Array

SITE = "site-001"


def train(
    home: Path, plan: Plan, tier: str, images: Path | None, watch: local_training.Watch,
    *, rounds: int = 1, knowledge: Path | None = None, device: str = "cpu", threads: int | None = None,
) -> tuple[Path, dict[str, Any]] | None:  # fmt: skip
    """Train so many rounds, each from what the one before gave; the folder and the report of the last.

    Of several processes the first does so; to the others, which help it, this is None.
    """
    with local_training.at_work(home, plan, SITE, tier, images, knowledge, device=device, threads=threads) as place:
        if place.bench.rank:
            local_training.follow(place)
            return None
        root = _root(home, plan, tier, layout.remembered(home, None), knowledge)
        model: dict[str, Array] = METHODS[plan.method].start(plan)
        before: Path | None = None
        for round_ in range(1, rounds + 1):
            at = root / f"round-{round_:04}"
            report = local_training.learn(place, round_, model, at, before, watch)
            model |= merged(at)
            before = at
        return at, report


def evaluate(home: Path, plan: Plan, tier: str, images: Path | None, *, threads: int | None = None) -> Evaluation:
    """How good the nets of the round that was trained last by this plan are; where the loss kept the prior apart, also
    the answers without it."""
    at = newest(home, plan, tier)
    return measuring.measure(home, plan, SITE, tier, at, merged(at), images, threads=threads)


def merged(at: Path) -> dict[str, Array]:
    """What a round of one site alone gave: its own share is the merged model."""
    with files.reading(at / "share.safetensors") as file:
        return dict(update.Arrays(file, update.read_header(file)))


def newest(home: Path, plan: Plan, tier: str, round_: int | None = None) -> Path:
    """The folder of the round that was trained last by this plan, or of the one with this number."""
    number = "*" if round_ is None else f"{round_:04}"
    rounds = [
        done
        for root in (home / "trial").glob(f"*-{tier}")
        if (root / "plan.toml").read_text(encoding="utf-8") == plan.text
        for done in root.glob(f"round-{number}/report.json")
    ]
    if not rounds:
        raise NotTrainedError(
            "nothing was trained here by this plan" if round_ is None else f"no round {round_} by this plan"
        )
    return max(rounds, key=lambda done: done.stat().st_mtime_ns).parent


def _root(home: Path, plan: Plan, tier: str, source: Path, knowledge: Path | None) -> Path:
    """Where the rounds of this plan, on these images, with this knowledge are kept."""
    key = "\n".join((plan.text, str(source.absolute()), str(knowledge.absolute() if knowledge else "")))
    root = home / "trial" / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}-{tier}"
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "plan.toml").exists():
        with files.writing(root / "plan.toml") as file:
            file.write(plan.text.encode())
    return root
