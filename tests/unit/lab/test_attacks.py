"""Attacks find what is there, and no more than epsilon allows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedhelp_edge.demo import phantoms
from fedhelp_edge.lab.attacks import canary, inversion, membership, sums
from fedhelp_edge.methods.base import Learner
from fedhelp_edge.methods.private_gradients import PrivateGradients
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


def bounds(learner: Learner) -> tuple[float, float]:
    """What a canary finds of epsilon, and what is claimed."""
    result = canary.audit(learner, small.batch(width=small.WIDTH), TRIALS)
    return result.value, float(result.measure.split("of ")[1].split(" ")[0])


def test_a_canary_finds_less_than_the_claimed_epsilon(learner: Learner) -> None:
    found, claimed = bounds(learner)
    assert 0 <= found < claimed


def test_a_canary_finds_noise_that_is_too_small(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the noise that is claimed."""
    add = PrivateGradients.add

    def add_too_little(noise: PrivateGradients, own: Learner, batch: small.Batch) -> dict[str, float]:
        privacy = replace(own.plan.privacy, noise_multiplier=own.plan.privacy.noise_multiplier / 10)
        plan, own.plan = own.plan, replace(own.plan, privacy=privacy)
        parts = add(noise, own, batch)
        own.plan = plan
        return parts

    monkeypatch.setattr(PrivateGradients, "add", add_too_little)
    found, claimed = bounds(learner)
    assert found > claimed


@pytest.mark.parametrize(("difference", "low", "high"), [(0.0, 0.4, 0.6), (6.0, 0.99, 1.0)])
def test_members_are_told_apart_as_far_as_nets_are_more_confident_of_them(
    difference: float, low: float, high: float
) -> None:
    draw = np.random.default_rng(0)
    member = draw.random((8, 60)).argsort(0) < 4
    hardness = draw.normal(0, 10, 60)  # of an image: confidence alone tells little
    score = membership.scores(hardness + difference * member + draw.standard_normal(member.shape), member)
    assert low <= membership.area(score[member], score[~member]) <= high
    assert membership.area(np.ones(3), np.ones(4)) == 0.5


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
