"""First weights reach every net that is judged: by one law, or from a file for each net."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import api
from fedhelp_edge.errors import SchemaShapeError, TargetExistsError
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods import first_weights
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec, timm
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import learners
from tests.unit.nets.test_timm import theirs

PlanOf = Callable[..., Plan]
DEEP = {"nets.large": "resnet20"}
HEAD = ("linear.weight", "linear.bias")


def weights_of(name: str, classes: int = 3, seed: int = 9) -> dict[str, Any]:
    return spec.initial_weights(spec.schema(name, spec.Form(classes)), seed)


def large_learner(plan: Plan, part: SiteImages, own: dict[str, Any] | None = None) -> Learner:
    return learners.create(plan, "site-001", "large", part.split("train"), None, Compute(), own or {})


@pytest.mark.parametrize("method", ["local", "fedhelp"])
def test_the_own_net_of_a_large_site_starts_by_the_law_of_the_common_weights(
    plan_of: PlanOf, parts: list[SiteImages], method: str
) -> None:
    """He's spread, sqrt(2 / inputs), in every kernel; torch's default is 0.41 of it."""
    net = arrays_of(large_learner(plan_of(method, DEEP), parts[0]).model)
    kernels = [array for array in net.values() if array.ndim == 4]
    spreads = [kernel.std() / np.sqrt(2 / np.prod(kernel.shape[1:])) for kernel in kernels]
    assert np.mean(spreads) == pytest.approx(1, abs=0.02)
    assert net["linear.weight"].std() == pytest.approx(np.sqrt(2 / 64), rel=0.25)
    assert not net["linear.bias"].any()


def test_each_site_and_seed_draws_an_own_net_of_its_own(plan_of: PlanOf, parts: list[SiteImages]) -> None:
    first, again, other_seed = (
        arrays_of(large_learner(plan_of("local", DEEP, seed=seed), parts[0]).model)["conv1.weight"]
        for seed in (3, 3, 4)
    )
    images = parts[0].split("train")
    other_site = learners.create(plan_of("local", DEEP, seed=3), "site-002", "large", images, None, Compute())
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other_seed.tobytes()
    assert first.tobytes() != arrays_of(other_site.model)["conv1.weight"].tobytes()


@pytest.mark.parametrize("method", ["local", "fedhelp"])
def test_a_file_for_the_large_net_reaches_it(plan_of: PlanOf, parts: list[SiteImages], method: str) -> None:
    plan, given = plan_of(method, DEEP), weights_of("resnet20")
    first = first_weights.match(plan, [given, weights_of("resnet8")])
    net = arrays_of(large_learner(plan, parts[0], dict(first.own)).model)
    assert all(net[name].tobytes() == array.tobytes() for name, array in given.items())
    assert first.travelling["conv1.weight"].tobytes() == weights_of("resnet8")["conv1.weight"].tobytes()


def test_a_file_reaches_the_travelling_net_and_own_nets_of_the_same_name(plan_of: PlanOf) -> None:
    given = weights_of("resnet8")
    first = first_weights.match(plan_of("fedhelp"), [given])  # the large net is a ResNet20 too
    assert first.own.keys() == {"resnet8"}
    assert first.travelling["conv1.weight"].tobytes() == given["conv1.weight"].tobytes()


def test_a_head_for_other_classes_keeps_its_drawn_values_and_is_named(plan_of: PlanOf, parts: list[SiteImages]) -> None:
    plan = plan_of("local", DEEP)
    first = first_weights.match(plan, [weights_of("resnet20", classes=10)])
    assert first.taken == (first_weights.Taken("resnet20", len(first.own["resnet20"]) - 2, HEAD),)
    net = arrays_of(large_learner(plan, parts[0], dict(first.own)).model)
    assert net["linear.weight"].shape == (3, 64)
    assert net["conv1.weight"].tobytes() == weights_of("resnet20")["conv1.weight"].tobytes()


def test_a_lite0_teacher_starts_from_timms_file_and_a_resnet20_travels_for_it(
    plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    settings = {"nets.large": "efficientnet_lite0", "training.own_lr": "1e-7"}
    plan, published = plan_of("fedhelp", settings, rounds=1), theirs("efficientnet_lite0", classes=10)
    record = api.run_federation(plan, parts, tmp_path / "lab", start=published, threads=1)
    assert [site["tier"] for site in record["sites"]].count("large") == 1
    assert record["bytes_up"] == 3 * METHODS["fedhelp"].up(plan).size  # no more than three ResNet20
    learner = large_learner(plan, parts[0], dict(first_weights.match(plan, [timm.translate(published)]).own))
    assert np.array_equal(arrays_of(learner.model)["stem.conv.weight"], published["conv_stem.weight"])


def test_a_file_for_a_net_that_the_plan_does_not_name_is_refused(plan_of: PlanOf) -> None:
    """The tensors of a ResNet20 are also those of the first blocks of a ResNet32: that is no start for it."""
    with pytest.raises(SchemaShapeError, match="for resnet8, which is no net of this plan"):
        first_weights.match(plan_of("fedavg", {**DEEP, "nets.small": "resnet20"}), [weights_of("resnet8")])


def test_other_first_weights_of_the_large_net_are_another_run(
    plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    plan = plan_of("local", DEEP, rounds=1)
    records = [
        api.run_federation(plan, parts, tmp_path / str(number), start=start, threads=1)
        for number, start in enumerate(([], [weights_of("resnet20")]))
    ]
    assert records[0]["sites"] != records[1]["sites"]
    with pytest.raises(TargetExistsError, match="another run"):
        api.run_federation(plan, parts, tmp_path / "0", start=weights_of("resnet20"), threads=1)
