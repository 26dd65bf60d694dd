"""Settings of methods in a plan: the paper's numbers by default, and others within bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.merge import rules
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.registry import METHODS
from tests.unit.methods import small

BOUNDS = [  # method, key, the smallest and the largest allowed value
    ("fedprox", "mu", 0, 1000),
    ("fedhelp", "lambda_r", 0, 1000),
    ("fedhelp", "lambda_j", 0, 1000),
    ("fedhelp", "lambda_f", 0, 1000),
    ("fedhelp", "lambda_b", 0, 1000),
    ("fedhelp", "top", 1, 1000),
    ("fedhelp", "public_every", 1, 1000),
    ("perfedavg", "inner", 0, 10),
    ("pfedme", "steps", 1, 100),
]


def numbers(method: str, **settings: Any) -> Any:
    return small.plan(method, **{method: settings}).method_settings


def test_fedhelp_has_the_papers_numbers_unless_a_plan_has_others() -> None:
    """Section 4: lambda_R = 0.1, lambda_J = 0.2, lambda_F = 1, lambda_B = 0.2, and three classes in the ranking."""
    settings = numbers("fedhelp")
    assert (settings.lambda_r, settings.lambda_j, settings.lambda_f, settings.lambda_b, settings.top) == (
        0.1,
        0.2,
        1.0,
        0.2,
        3,
    )
    assert (settings.alpha, settings.sources, settings.backward, settings.schedule) == (
        "learned",
        "all",
        "rank",
        "joint",
    )


def test_fedhelps_deviations_from_the_paper_are_as_decided() -> None:
    settings = METHODS["fedhelp"].table()
    assert (settings.public_every, settings.proxy_ce) == (4, True)


def test_fedprox_has_a_small_mu_by_default() -> None:
    assert numbers("fedprox").mu == 0.01


@pytest.mark.parametrize(("method", "key", "least", "most"), BOUNDS, ids=[key for _, key, _, _ in BOUNDS])
def test_a_setting_of_a_method_must_be_within_its_bounds(method: str, key: str, least: int, most: int) -> None:
    assert [getattr(numbers(method, **{key: value}), key) for value in (least, most)] == [least, most]
    for value in (least - 1, most + 1):
        with pytest.raises(BadPlanError, match=key):
            numbers(method, **{key: value})


@pytest.mark.parametrize(
    "proxy_settings", [{"lambda_f": 0}, {"proxy_ce": False}, {"lambda_f": 0.5, "proxy_ce": False}], ids=str
)
def test_a_proxy_may_learn_from_the_large_net_or_from_labels_alone(proxy_settings: dict[str, Any]) -> None:
    assert numbers("fedhelp", **proxy_settings) is not None


def test_a_proxy_that_would_learn_nothing_is_refused() -> None:
    with pytest.raises(BadPlanError, match="lambda_f"):
        numbers("fedhelp", lambda_f=0, proxy_ce=False)


def test_where_a_plan_leaves_the_weights_to_the_method_they_are_the_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    uniform = replace(METHODS["fedavg"], weight="uniform")
    base = {"linear.bias": np.zeros(1, np.float32)}
    updates = {"a": {"linear.bias": np.zeros(1, np.float32)}, "b": {"linear.bias": np.full(1, 8, np.float32)}}
    for weight, method, expected in (
        ("method", METHODS["fedavg"], 2), ("method", uniform, 4), ("examples", uniform, 2), ("uniform", uniform, 4),
    ):  # fmt: skip
        monkeypatch.setitem(METHODS, "fedavg", method)  # type: ignore[index]
        plan = small.plan(merge={"weight": weight, "cap": 1.0})
        assert registry.merge_settings(plan).weight != "method"
        assert registry.merge(plan, 1, base, updates, {"a": 6, "b": 2})["linear.bias"] == expected


def test_no_rule_takes_the_methods_weights_for_another_silently() -> None:
    with pytest.raises(KeyError):
        rules.weights([1, 2], "method")


@pytest.mark.parametrize("name", METHODS)
def test_the_registry_describes_what_a_methods_learner_does(name: str) -> None:
    learner = small.learner(small.plan(name), "large")
    other = small.learner(small.plan(name), "small")
    assert METHODS[name].exchanges(learner.plan) is bool(learner.give())
    assert (METHODS[name].home == "tier") is (learner.model.name != other.model.name)
