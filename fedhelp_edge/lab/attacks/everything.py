"""All attacks on one federation, and their table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedhelp_edge import files
from fedhelp_edge.data.features import EncoderFacts
from fedhelp_edge.errors import UsageError
from fedhelp_edge.lab import provenance
from fedhelp_edge.lab.attacks import DP, PLAIN, AttackResult, canary, inversion, markdown, membership, sums
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.run import Progress
from fedhelp_edge.lab.visits import RunContext
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.nets.net import images_at_once, input_tensor
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import accountant
from fedhelp_edge.train import learners, machine

LEAST_IMAGES = 2 * inversion.IMAGES  # of each site


def run(
    plans: Mapping[str, Plan], sites: Sequence[SiteImages], out: Path, *, compute: Compute, runs: int, steps: int,
    trials: int, encoder: EncoderFacts | None = None, about: Mapping[str, Any], progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Attacks the plan's variants (`plans` has "plain" and "dp"); writes attacks.md and attacks.json."""
    few = [site.name for site in sites if len(site.split("train")) < LEAST_IMAGES]
    if few or len(sites) < 2:
        cause = f"{few[0]} has fewer than {LEAST_IMAGES} training images" if few else "there is one site"
        raise UsageError(cause, remedy="attacks need two sites or more with some images each: see --split and --sites")
    contexts = {name: RunContext(plan, None, compute, name, {}, encoder) for name, plan in plans.items()}
    results = [result for context in contexts.values() for result in membership.attack(context, sites, runs, progress)]
    made = {name: _learner(plan, sites[0], compute, encoder) for name, plan in plans.items()}
    train = [site.split("train") for site in sites]
    if not plans[PLAIN].nets.encoder:
        _say(progress, "inversion")
        results += inversion.attack(made[PLAIN], made[DP], train, steps)
    _say(progress, "class means and sums")
    features = np.concatenate([_features(made[PLAIN], images.pixels) for images in train])
    labels = np.concatenate([images.labels for images in train])
    results += sums.class_means(features, labels, plans[PLAIN].seed)
    results += sums.gram(features, plans[PLAIN].seed, len(sites))
    _say(progress, "canary")
    results += canary.audit(made[DP], membership.batch_of(made[DP], train[0].only(np.arange(4))), trials)
    dp = plans[DP]
    epsilon = accountant.epsilon([accountant.round_of(dp, dp.rounds)], dp.privacy.delta)
    record = {
        "epsilon": round(epsilon, 4), "delta": dp.privacy.delta, "rounds": dp.rounds, "runs": runs,
        "results": [result.to_json() for result in results],
        "provenance": {**provenance.of_run(dp, sites, None, (), machine.facts(compute)), **about},
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("attacks.json", json.dumps(record)), ("attacks.md", page(results, epsilon, dp))):
        files.write_atomic(out / name, text.encode(), private=False)
    return record


def page(results: list[AttackResult], epsilon: float, plan: Plan) -> str:
    """The table, and what it is of."""
    privacy = plan.privacy
    return (
        f"{plan.rounds} rounds. With dp, epsilon is {epsilon:.3g} and delta {privacy.delta:g} "
        f"(noise {privacy.noise_multiplier:g}, sampling rate {privacy.sampling_rate:g}).\n\n{markdown(results)}"
    )


def _learner(plan: Plan, site: SiteImages, compute: Compute, encoder: EncoderFacts | None) -> Learner:
    return learners.create(plan, site.id, site.tier, site.split("train"), None, compute, {}, encoder)


@torch.no_grad()
def _features(learner: Learner, pixels: Any) -> sums.Features:
    """What the last layer of the first model sees of each image."""
    learner.net.eval()
    step = images_at_once(learner.net)
    parts = [
        learner.net.features(input_tensor(np.array(pixels[start : start + step]), learner.plan.image))
        for start in range(0, len(pixels), step)
    ]
    return torch.cat(parts).double().numpy()


def _say(progress: Progress | None, text: str) -> None:
    if progress:
        progress(text)
