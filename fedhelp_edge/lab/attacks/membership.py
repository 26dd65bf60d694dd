"""Was this image in the training? The likelihood ratio attack (Carlini et al. 2022), with few reference nets.

A federation is trained several times, each time on another half of each site's images. Each time in turn is attacked,
at every site. The others tell how confident nets are of an image that they saw, and of one that they did not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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

FALSE_ALARMS = 0.05
_RESAMPLES = 500

Arrays = Mapping[str, Array]
Scores = NDArray[np.float64]


def attack(
    run: RunContext, sites: Sequence[SiteImages], runs: int, progress: Progress | None = None
) -> list[AttackResult]:
    """Attacks each site by its last update, and all sites by the merged model. `runs` is rounded to an even number."""
    draw = np.random.default_rng(derive_seed(run.plan.seed, "members"))
    images = [site.split("train") for site in sites]
    members = [_halves(draw, runs // 2, len(own)) for own in images]
    first = sites[0]
    learner = learners.create(
        run.plan, first.id, first.tier, images[0], run.pack, run.compute, run.first_weights, run.encoder
    )
    confidence: dict[str, list[NDArray[np.float64]]] = {"update": [], "merged": []}
    for number in range(len(members[0])):
        parts = [
            replace(site, images=own.only(np.flatnonzero(member[number])))
            for site, own, member in zip(sites, images, members, strict=True)
        ]
        updates, merged = federate(run, parts, number)
        for name, models in (("update", updates), ("merged", [merged] * len(sites))):
            each = [_confidence(learner, *pair) for pair in zip(models, images, strict=True)]
            confidence[name].append(np.concatenate(each))
        if progress:
            progress(f"membership, {run.plan.privacy.mode}: federation {number + 1} of {len(members[0])}")
    cases = [(DP, "a site's update", "update"), (DP, f"the sum of {len(sites)} sites", "merged")]
    if not run.plan.privacy.is_dp:
        cases = [(PLAIN, *cases[0][1:]), (SECURE_SUM, *cases[1][1:])]
    member = np.concatenate(members, axis=1)
    return [
        result
        for protection, sees, name in cases
        for result in _results(protection, sees, np.stack(confidence[name]), member)
    ]


def _halves(draw: np.random.Generator, pairs: int, images: int) -> NDArray[np.bool_]:
    """Random halves of a site's images and then the other halves, in the same order: runs x images."""
    half = draw.random((pairs, images)).argsort(1) < images // 2
    return np.concatenate([half, ~half])


def federate(run: RunContext, sites: Sequence[SiteImages], number: int) -> tuple[list[Arrays], Arrays]:
    """Trains all rounds; returns each site's last update, and the merged model. Each number has other noise."""
    plan = replace(run.plan, seed=run.plan.seed + number)
    run = replace(run, plan=plan, id=f"{run.id}/{number}")
    merged, states = METHODS[plan.method].start(run.plan), dict.fromkeys((site.id for site in sites), SiteState())
    examples = {site.id: 1 for site in sites}
    updates: dict[str, Arrays] = {}
    for round_ in range(1, plan.rounds + 1):
        start = RoundStart(round_, merged, frozenset(states) if round_ > 1 else frozenset())
        for site in sites:
            visit = visit_site(run, start, site, states[site.id])
            updates[site.id], states[site.id] = dict(visit.update), visit.state
        merged = merged | registry.merge(plan, round_, merged, updates, examples, public=run.pack)
    return [updates[site.id] for site in sites], merged


def batch_of(learner: Learner, images: Images) -> Batch:
    """All of some images as one batch, without augmentation."""
    pixels = input_tensor(np.array(images.pixels[:]), learner.plan.image)
    return Batch(pixels, torch.from_numpy(np.array(images.labels)), torch.arange(len(images)))


def _confidence(learner: Learner, model: Arrays, images: Images) -> NDArray[np.float64]:
    """The logit of each image's probability for its label."""
    load_arrays(learner.net, model)
    probability = loop.probabilities(learner, learner.net, images.pixels)[np.arange(len(images)), images.labels]
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def scores(confidence: NDArray[np.float64], member: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The logarithm of each image's likelihood ratio in each run, by the other pairs of runs: runs x images.

    Of a pair one run has the image and one has not. Without both, as many others saw the image as did not see it.
    Otherwise the score of a mere guess would depend on whether it is right.
    """
    result = np.zeros_like(confidence)
    pairs = len(confidence) // 2
    for run in range(len(confidence)):
        other = np.arange(len(confidence)) % pairs != run % pairs
        others, seen = confidence[other], member[other]
        mean_in, mean_out = (np.where(which, others, 0).sum(0) / which.sum(0) for which in (seen, ~seen))
        variance = np.mean((others - np.where(seen, mean_in, mean_out)) ** 2) + 1e-12
        result[run] = ((confidence[run] - mean_out) ** 2 - (confidence[run] - mean_in) ** 2) / (2 * variance)
    return result


def _results(
    protection: str, sees: str, confidence: NDArray[np.float64], member: NDArray[np.bool_]
) -> Iterator[AttackResult]:
    score = scores(confidence, member)
    for measure, statistic, chance in (
        ("area under the ROC curve", area, 0.5),
        ("members found at 5 % false alarms", found, FALSE_ALARMS),
    ):
        value = statistic(score[member], score[~member])
        bounds = interval(score, member, statistic)
        yield AttackResult("membership", protection, sees, measure, value, chance, bounds)


def interval(
    score: NDArray[np.float64], member: NDArray[np.bool_], statistic: Callable[[Scores, Scores], float]
) -> tuple[float, float]:
    """The 95 % interval of a statistic for other runs and other images: both are drawn anew (Owen 2007)."""
    draw = np.random.default_rng(0)
    pairs, images = len(score) // 2, score.shape[1]
    values = []
    for _ in range(_RESAMPLES):
        pair = draw.integers(0, pairs, pairs)
        chosen = np.ix_(np.concatenate([pair, pair + pairs]), draw.integers(0, images, images))
        values.append(statistic(score[chosen][member[chosen]], score[chosen][~member[chosen]]))
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def found(inside: Scores, outside: Scores) -> float:
    """The part of the members above all but a few of the others."""
    return float((inside > np.quantile(outside, 1 - FALSE_ALARMS)).mean())


def area(inside: Scores, outside: Scores) -> float:
    """The chance that a member has the higher score; ties count half."""
    sorted_, both = np.sort(outside), []
    for side in ("left", "right"):
        both.append(np.searchsorted(sorted_, inside, side).mean() / len(outside))
    return float(np.mean(both))
