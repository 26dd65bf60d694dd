"""Attacks find what is there, and no more than epsilon allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedhelp_edge.demo import phantoms
from fedhelp_edge.lab.attacks import canary, inversion, membership, sums
from fedhelp_edge.lab.attacks.membership import Scores
from fedhelp_edge.methods.base import Learner
from fedhelp_edge.methods.private_gradients import PrivateGradients
from fedhelp_edge.plan import Plan
from tests import command
from tests.unit.methods import small
from tests.unit.methods.tiny import tiny_nets as tiny_nets

DP = {
    "nets": {"norm": "group"}, "merge": {"weight": "uniform"}, "round": {"patience": 0},
    "privacy": {"mode": "dp", "noise_multiplier": 4.0},
}  # fmt: skip
TRIALS = 200


@pytest.fixture
def learner() -> Learner:
    """A learner with noise whose net is a linear layer."""
    return small.learner(small.feature_plan("fedavg", **DP))


def bounds(learner: Learner, trials: int) -> tuple[list[float], float]:
    """What a canary finds of epsilon, of any noise and of normal noise; and what is claimed."""
    results = canary.audit(learner, small.batch(width=small.WIDTH), trials)
    (claimed,) = {float(result.measure.split("of ")[1].split(" ")[0]) for result in results}
    return [result.value for result in results], claimed


def test_a_canary_finds_less_than_the_claimed_epsilon_and_more_of_normal_noise(learner: Learner) -> None:
    (any_noise, normal), claimed = bounds(learner, 4000)
    assert 0 <= any_noise < normal < claimed
    assert normal > claimed / 2


def test_a_canary_finds_noise_that_is_too_small(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the noise that is claimed."""
    noisy = PrivateGradients.noisy

    def too_little(noise: PrivateGradients, plan: Plan, sums: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        privacy = replace(plan.privacy, noise_multiplier=plan.privacy.noise_multiplier / 10)
        return noisy(noise, replace(plan, privacy=privacy), sums)

    monkeypatch.setattr(PrivateGradients, "noisy", too_little)
    found, claimed = bounds(learner, TRIALS)
    assert min(found) > claimed


def test_normal_noise_has_the_epsilon_of_its_errors() -> None:
    """Two normal numbers one standard deviation apart: the exact epsilon, by dp-accounting, is 4.38."""
    errors = float(torch.special.ndtr(torch.tensor(-0.5)))
    assert canary._normal_bound(errors, errors, 1e-5) == pytest.approx(4.377, abs=0.001)


@pytest.mark.parametrize(("difference", "low", "high"), [(0.0, 0.4, 0.6), (6.0, 0.99, 1.0)])
def test_members_are_told_apart_as_far_as_nets_are_more_confident_of_them(
    difference: float, low: float, high: float
) -> None:
    score, member = guesses(difference, 8, 60)
    assert low <= membership.area(score[member], score[~member]) <= high
    assert membership.area(np.ones(3), np.ones(4)) == 0.5


def guesses(difference: float, runs: int, images: int, seed: int = 0) -> tuple[Scores, NDArray[np.bool_]]:
    """Scores where nets are by this much more confident of members."""
    draw = np.random.default_rng(seed)
    half = draw.random((runs // 2, images)) < 0.5
    member = np.concatenate([half, ~half])
    hardness = draw.normal(0, 10, images)  # of an image: confidence alone tells little
    return membership.scores(hardness + difference * member + draw.standard_normal(member.shape), member), member


def test_nets_that_are_alike_give_an_area_of_one_half() -> None:
    """With few runs too: how many others saw an image must not tell whether this one did."""
    score, member = guesses(0.0, 6, 5000)
    assert membership.area(score[member], score[~member]) == pytest.approx(0.5, abs=0.01)


def test_the_interval_holds_the_true_area_nearly_always_and_narrows_with_more_runs() -> None:
    truth, widths = membership.area(*split(guesses(1.0, 8, 20000))), {}
    for images in (30, 120):
        bounds = [membership.interval(*guesses(1.0, 8, images, seed), membership.area) for seed in range(20)]
        assert sum(low <= truth <= high for low, high in bounds) >= 17
        widths[images] = np.mean([high - low for low, high in bounds])
    assert widths[120] < widths[30]


def split(guesses: tuple[Scores, NDArray[np.bool_]]) -> tuple[Scores, Scores]:
    score, member = guesses
    return score[member], score[~member]


def test_an_image_is_recognised_by_what_resembles_it_most() -> None:
    images = torch.randn(20, 48, generator=torch.Generator().manual_seed(0))
    assert inversion.recognised(3 * images[:10] + 5, images, range(10)) == 1.0  # contrast and brightness differ
    assert inversion.recognised(images[10:], images, range(10)) == 0.0


def test_the_search_finds_the_image_of_a_gradient_and_noise_hides_it() -> None:
    """Of a net without pooling, which tells most."""
    learner = small.learner(small.plan(nets={"norm": "group"}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner.net = torch.nn.Sequential(  # type: ignore[assignment]
            torch.nn.Flatten(), torch.nn.Linear(3 * small.SIDE**2, 32), torch.nn.Sigmoid(), torch.nn.Linear(32, 4)
        )
    truth = small.batch(count=1)
    gradient = torch.autograd.grad(
        learner.criterion(learner.net(truth.images), truth.labels), list(learner.net.parameters())
    )
    noisy = [torch.randn(g.shape, generator=torch.Generator().manual_seed(1)) for g in gradient]
    likeness = [
        float(torch.corrcoef(torch.stack([found.flatten(), truth.images.flatten()]))[0, 1])
        for target in (gradient, noisy)
        for found in [inversion.invert(learner, target, truth.labels, truth.images.shape, 200)]
    ]
    assert likeness[0] > 0.9
    assert abs(likeness[1]) < 0.3


def test_a_class_mean_of_one_image_is_that_image_and_of_more_a_member_more_often_than_by_chance() -> None:
    draw = np.random.default_rng(0)
    results = list(sums.class_means(draw.standard_normal((80, 16)), np.arange(80) % 2, 0))
    assert [result.sees for result in results] == [f"the mean of {count}" for count in (1, 2, 5, 10)]
    assert results[0].value == 1.0
    assert all(result.chance is not None and result.value > result.chance for result in results)


def test_sums_of_few_images_show_who_is_in_them_and_sums_of_many_sites_less() -> None:
    draw = np.random.default_rng(0)
    areas = {(f.protection, f.sees.split(" ")[3]): f.value for f in sums.gram(draw.standard_normal((200, 30)), 0, 3)}
    assert areas["plain", "0.5"] > 0.99
    assert areas["plain", "0.5"] > areas["plain", "4"] > 0.5
    assert areas["secure-sum", "0.5"] < areas["plain", "0.5"]


PLAN = """
name = "cells"
classes = ["round", "lobed"]
rounds = 1
[image]
size = 8
[training]
epochs = 1
batch = 8
[privacy]
sampling_rate = 0.5
"""


@pytest.mark.usefixtures("tiny_nets")
def test_the_command_leaves_the_same_table_for_people_and_for_programs(tmp_path: Path) -> None:
    pixels, labels = phantoms.draw(60, 2, size=8)
    np.savez(tmp_path / "all.npz", train_images=pixels, train_labels=labels, train_centers=np.arange(60) % 2)
    (tmp_path / "plan.toml").write_text(PLAN)
    words = ("plan.toml", "--data", "all.npz", "--out", "out", "--runs", "4", "--steps", "2", "--trials", "40")
    record = command.json_output(
        command.run_in_process("lab", "attack", *words, "--threads", "1", "--json", home=tmp_path)
    )
    kinds = {(result["attack"], result["protection"]) for result in record["results"]}
    everywhere = {(attack, at) for attack in ("membership", "inversion") for at in ("plain", "secure-sum", "dp")}
    assert kinds == {*everywhere, ("class means", "plain"), ("ridge sums", "plain"), ("ridge sums", "secure-sum"),
                     ("canary", "dp")}  # fmt: skip
    assert json.loads((tmp_path / "out" / "attacks.json").read_text()).items() <= record.items()
    rows = (tmp_path / "out" / "attacks.md").read_text().splitlines()
    assert len([row for row in rows if row.startswith("| ")]) == len(record["results"]) + 2
    few = command.run_in_process("lab", "attack", *words, "--split", "dirichlet:1", "--sites", "4", home=tmp_path)
    assert command.error_code(few) == "E_USAGE"
