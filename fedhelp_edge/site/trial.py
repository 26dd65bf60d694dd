"""Tries a plan out without a federation: one site alone, whose update is the merged model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedhelp_edge import files, update
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.errors import NotTrainedError
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.methods import first_weights, registry
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import noise
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.report.mask_evaluation import MaskEvaluation
from fedhelp_edge.site import layout, local_training, measuring
from fedhelp_edge.site import start as own_start
from fedhelp_edge.update import Array

SITE_ID = "site-001"
_PACK = "pack.txt"  # where the knowledge pack is


def train(
    home: Path, plan: Plan, tier: str, images: Path | None, watch: local_training.Watch,
    *, rounds: int = 1, knowledge: Path | None = None, encoder: Path | None = None, start: Path | None = None,
    device: str = "cpu", threads: int | None = None,
) -> tuple[Path, dict[str, Any]] | None:  # fmt: skip
    """Trains several rounds, each from the update of the one before. Returns the folder and report of the last.

    `start` gives first weights: of the net that would travel, and of those that a site keeps. Returns None in every
    process but the first.
    """
    with local_training.open_context(
        home, plan, SITE_ID, tier, images, knowledge, encoder, device=device, threads=threads, watch=watch
    ) as context:
        if context.compute.rank:
            local_training.follow(context)
            return None
        first, facts = own_start.read(plan, start) if start else (first_weights.match(plan, []), None)
        context = replace(context, first_weights=first.own, start=facts)
        trial_dir = _trial_dir(home, plan, tier, layout.resolve_images(home, None), knowledge, facts)
        if knowledge:
            files.write_atomic(trial_dir / _PACK, str(knowledge.absolute()).encode())
        model = first.travelling
        received: Mapping[str, Array] = model  # first weights travel whole
        previous_dir: Path | None = None
        for number in range(1, rounds + 1):
            round_dir = trial_dir / f"round-{number:04}"
            merge = LastMerge(1, True) if previous_dir else NO_MERGE
            key = noise.lab_key(plan.seed, SITE_ID, number) if registry.is_noised(plan) else None  # nothing leaves
            round_ = local_training.SiteRound(number, received, round_dir, previous_dir, merge, key)
            report = local_training.train_round(context, round_, watch)
            model |= _merge(plan, model, round_dir, context.pack)
            received = _travelling(plan, model, context.pack)
            previous_dir = round_dir
        return round_dir, report


def evaluate(
    home: Path, plan: Plan, tier: str, images: Path | None, *, errors: int = 0, threads: int | None = None
) -> Evaluation | MaskEvaluation:
    """Measures the nets of the plan's newest round; for a logit-adjusted loss also without the prior."""
    round_dir = newest_round(home, plan, tier)
    encoder = local_training.find_encoder(home, plan)
    pack = needed_pack(home, plan, round_dir, encoder)
    merged = merged_model(plan, round_dir, pack)
    return measuring.measure(
        home, plan, SITE_ID, tier, round_dir, merged, images, pack=pack, encoder=encoder, errors=errors,
        threads=threads,
    )  # fmt: skip


def needed_pack(home: Path, plan: Plan, round_dir: Path, encoder: Encoder | None) -> Pack | None:
    """Loads the trial's knowledge pack, where the plan's learners are not made without one."""
    path = round_dir.parent / _PACK
    noted = Path(path.read_text(encoding="utf-8")) if path.exists() else None
    return local_training.needed_pack(home, plan, noted, encoder)


def merged_model(plan: Plan, round_dir: Path, pack: Pack | None) -> dict[str, Array]:
    """Merges each round's only update, from the first round to this one; returns the tensors that would travel."""
    model = METHODS[plan.method].start(plan)
    for folder in sorted(round_dir.parent.glob("round-*")):
        if folder.name <= round_dir.name:
            model |= _merge(plan, model, folder, pack)
    return _travelling(plan, model, pack)


def _travelling(plan: Plan, model: Mapping[str, Array], pack: Pack | None) -> dict[str, Array]:
    """The tensors of a merged model that would travel; norm layers stay at the site where the plan says so."""
    return {tensor.name: model[tensor.name] for tensor in METHODS[plan.method].down(plan, pack).tensors}


def _merge(plan: Plan, base: Mapping[str, Array], round_dir: Path, pack: Pack | None) -> Mapping[str, Array]:
    """Merges a round's only update, once."""
    if not METHODS[plan.method].exchanges:
        return {}
    path = round_dir / "merged.safetensors"
    if not path.exists():
        arrays, report = update.load(round_dir / "share.safetensors"), local_training.read_report(round_dir)
        updates, examples = {SITE_ID: arrays}, {SITE_ID: report["examples"]}
        merged = registry.merge(plan, report["round"], base, updates, examples, public=pack)
        with files.writing(path) as file:
            update.write(file, merged)
    return update.load(path)


def newest_round(home: Path, plan: Plan, tier: str, round_: int | None = None) -> Path:
    """Returns the folder of the plan's newest round, or of the round with this number."""
    round_pattern = "*" if round_ is None else f"{round_:04}"
    reports = [
        report
        for trial_dir in (home / "trial").glob(f"*-{tier}")
        if (trial_dir / "plan.toml").read_text(encoding="utf-8") == plan.text
        for report in trial_dir.glob(f"round-{round_pattern}/report.json")
    ]
    if not reports:
        which = "no round" if round_ is None else f"no round {round_}"
        raise NotTrainedError(f"{which} of this plan has been trained here")
    return max(reports, key=lambda report: report.stat().st_mtime_ns).parent


def _trial_dir(
    home: Path, plan: Plan, tier: str, source: Path, knowledge: Path | None, start: Mapping[str, Any] | None
) -> Path:
    """Returns the folder for the rounds of this plan, images, knowledge pack and first weights."""
    key = "\n".join((plan.text, str(source.absolute()), str(knowledge.absolute() if knowledge else "")))
    key += f"\n{start['sha256']}" if start else ""
    trial_dir = home / "trial" / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}-{tier}"
    trial_dir.mkdir(parents=True, exist_ok=True)
    if not (trial_dir / "plan.toml").exists():
        with files.writing(trial_dir / "plan.toml") as file:
            file.write(plan.text.encode())
    return trial_dir
