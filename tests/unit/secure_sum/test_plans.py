"""What a plan with a secure sum may ask: nothing for which somebody would have to see a single update."""

from __future__ import annotations

import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import Plan
from tests.unit.secure_sum.plans import plan_text

TEXT = plan_text(keys.generate().public)
SUMS = {
    "fedhelp", "fedavg", "fedprox", "fedmic", "fedmedclip", "ridge", "perfedavg", "pfedbayes", "fedadam", "scaffold",
    "pfedme", "fedsm",
}  # fmt: skip


def mistakes(**changes: str) -> dict[str, str]:
    """The mistakes of the plan with these changes, by place."""
    with pytest.raises(BadPlanError) as caught:
        plans.read(TEXT, METHODS, changes)
    return {mistake.where: mistake.cause for mistake in caught.value.mistakes}


def test_the_plan_is_accepted_and_late_updates_do_not_count() -> None:
    plan = plans.read(TEXT, METHODS)
    assert plan.privacy.is_secure_sum
    assert plan.round.stale == 1
    assert METHODS[plan.method].stale_rounds(plan) == 0


def test_these_methods_are_sums() -> None:
    assert {name for name in METHODS if METHODS[name].is_sum} == SUMS


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("merge.rule", "median", "single updates"),
        ("merge.rule", "trimmed", "single updates"),
        ("merge.clip", "auto", "single updates"),
        ("merge.cap", "0.5", "number of images of one site"),
        ("wire.up", "f16", "cannot be added"),
        ("wire.up", "int8-delta", "cannot be added"),
        ("wire.up", "lowrank", "cannot be added"),
        ("round.quorum", "2", "each learns the other's"),
        ("privacy.helper_key", '""', "fedhelp-helper init"),
        ("privacy.helper_sign", "ssh-rsa AAAA", "fedhelp-helper init"),
    ],
)
def test_what_needs_single_updates_is_refused_with_the_reason(setting: str, value: str, reason: str) -> None:
    table, _, name = setting.partition(".")
    assert reason in mistakes(**{setting: value})[f"[{table}] {name}"]


@pytest.mark.parametrize("method", sorted(set(METHODS) - SUMS))
def test_methods_that_are_no_sums_are_refused(method: str) -> None:
    assert "one of the methods fedhelp, " in mistakes(method=method)["[privacy] mode"]


def test_a_cap_is_allowed_where_all_sites_weigh_alike() -> None:
    plan = plans.read(TEXT, METHODS, {"merge.weight": "uniform", "merge.cap": "0.5"})
    assert plan.merge.cap == 0.5


def test_a_post_quantum_plan_needs_a_post_quantum_helper() -> None:
    """The coordinator has the seeds too: with a quantum computer it would open them, and see each update."""
    wire = {"wire.post_quantum": "true"}
    assert "init --post-quantum' prints" in mistakes(**wire)["[privacy] helper_key"]
    text = plan_text(keys.generate(post_quantum=True).public)
    assert plans.read(text, METHODS, wire).wire.post_quantum
    assert not plans.read(text, METHODS).wire.post_quantum  # such a helper also serves other plans
    plain = {"privacy.mode": "plain", "privacy.helper_key": '""', "privacy.helper_sign": '""'}
    assert plans.read(TEXT, METHODS, wire | plain).wire.post_quantum  # without a helper there is no such key


def test_a_helper_of_a_plain_plan_is_a_mistake() -> None:
    assert set(mistakes(**{"privacy.mode": "plain"})) >= {"[privacy] helper_key", "[privacy] helper_sign"}


def test_a_plain_plan_needs_no_helper() -> None:
    assert Plan().privacy.mode == "plain"
