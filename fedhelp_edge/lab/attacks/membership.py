"""Was this image in the training? The likelihood ratio attack (Carlini et al. 2022), with few reference nets.

A federation is trained several times, each time on another half of the attacked site's images. Each time in turn is
attacked. The others tell how confident nets are of an image that they saw, and of one that they did not see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_edge.data.images import Images
from fedhelp_edge.lab.attacks import DP, PLAIN, SECURE_SUM, AttackResult
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.run import Progress
from fedhelp_edge.lab.visits import RoundStart, RunContext, SiteState, visit_site
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Batch, Learner, derive_seed
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.net import input_tensor, load_arrays
from fedhelp_edge.train import learners, loop
from fedhelp_edge.update import Array

_FALSE_ALARMS = 0.05


def attack(
    run: RunContext, sites: Sequence[SiteImages], runs: int, progress: Progress | None = None
) -> list[AttackResult]:
    """Attacks the first site by its last update, and by the merged model."""
    attacked, images = sites[0], sites[0].split("train")
    halves = np.random.default_rng(derive_seed(run.plan.seed, "members")).random((runs // 2, len(images))).argsort(1)
    member = halves < len(images) // 2
    member = np.concatenate([member, ~member])  # so each image is as often in as out
    confidence: dict[str, list[NDArray[np.float64]]] = {"update": [], "merged": []}
    for number, members in enumerate(member):
        part = replace(attacked, images=images.only(np.flatnonzero(members)))
        models = federate(run, [part, *sites[1:]], number)
        learner = learners.create(run.plan, attacked.id, attacked.tier, images, run.pack, run.compute)
        for name, model in models.items():
            confidence[name].append(_confidence(learner, model, images.pixels, images.labels))
        if progress:
            progress(f"membership, {run.plan.privacy.mode}: net {number + 1} of {len(member)}")
    if run.plan.privacy.is_dp:
        return list(_results(DP, "a site's update", np.stack(confidence["update"]), member))
    return [
        *_results(PLAIN, "a site's update", np.stack(confidence["update"]), member),
        *_results(SECURE_SUM, f"the sum of {len(sites)} sites", np.stack(confidence["merged"]), member),
    ]


def federate(run: RunContext, sites: Sequence[SiteImages], number: int) -> dict[str, dict[str, Array]]:
    """Trains all rounds; returns the first site's last update, and the merged model. Each number has other noise."""
    plan = replace(run.plan, seed=run.plan.seed + number)
    run = replace(run, plan=plan, id=f"{run.id}/{number}")
    merged, states = METHODS[plan.method].start(run.plan), dict.fromkeys((site.id for site in sites), SiteState())
    examples = {site.id: 1 for site in sites}
    for round_ in range(1, plan.rounds + 1):
        start = RoundStart(round_, merged, frozenset(states) if round_ > 1 else frozenset())
        updates = {}
        for site in sites:
            visit = visit_site(run, start, site, states[site.id])
            updates[site.id], states[site.id] = dict(visit.update), visit.state
        merged = merged | registry.merge(plan, round_, merged, updates, examples, public=run.pack)
    return {"update": updates[sites[0].id], "merged": merged}


def batch_of(learner: Learner, images: Images) -> Batch:
    """All of some images as one batch, without augmentation."""
    pixels = input_tensor(np.array(images.pixels[:]), learner.plan.image)
    return Batch(pixels, torch.from_numpy(np.array(images.labels)), torch.arange(len(images)))


def _confidence(
    learner: Learner, model: Mapping[str, Array], pixels: object, labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The logit of each image's probability for its label."""
    load_arrays(learner.net, model)
    probability = loop.probabilities(learner, learner.net, pixels)[np.arange(len(labels)), labels]
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def scores(confidence: NDArray[np.float64], member: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The logarithm of each image's likelihood ratio in each run, by the other runs: runs x images."""
    result = np.zeros_like(confidence)
    for run in range(len(confidence)):
        others, seen = np.delete(confidence, run, 0), np.delete(member, run, 0)
        means = [np.where(which, others, 0).sum(0) / np.maximum(1, which.sum(0)) for which in (seen, ~seen)]
        variance = np.mean((others - np.where(seen, *means)) ** 2) + 1e-12
        mean_in, mean_out = means
        result[run] = ((confidence[run] - mean_out) ** 2 - (confidence[run] - mean_in) ** 2) / (2 * variance)
    return result


def _results(
    protection: str, sees: str, confidence: NDArray[np.float64], member: NDArray[np.bool_]
) -> list[AttackResult]:
    score = scores(confidence, member)
    inside, outside = score[member], score[~member]
    true_positive_rate = float((inside > np.quantile(outside, 1 - _FALSE_ALARMS)).mean())
    return [
        AttackResult("membership", protection, sees, "area under the ROC curve", area(inside, outside), 0.5),
        AttackResult(
            "membership", protection, sees, "members found at 5 % false alarms", true_positive_rate, _FALSE_ALARMS
        ),
    ]


def area(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """The chance that a member has the higher score; ties count half."""
    sorted_, both = np.sort(outside), []
    for side in ("left", "right"):
        both.append(np.searchsorted(sorted_, inside, side).mean() / len(outside))
    return float(np.mean(both))
