"""FedAdam: the coordinator's step equals its formula, in the first round and later, and its moments stay at home."""

from __future__ import annotations

import numpy as np
import pytest

from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.merge.closing import merger_state
from fedhelp_edge.methods import registry, schemas
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array
from tests.unit.methods import small

LR, B1, B2, TAU = 0.3, 0.8, 0.95, 0.02


def plan_of(**settings: float) -> Plan:
    numbers = {"lr": LR, "beta1": B1, "beta2": B2, "tau": TAU, **settings}
    return small.plan("fedadam", nets={"norm": "batch"}, merge={"weight": "uniform"}, fedadam=numbers)


def model(plan: Plan, seed: int = 0, size: float = 1.0) -> dict[str, Array]:
    stream = np.random.default_rng(seed)
    return {
        t.name: np.abs(size * stream.standard_normal(t.shape)).astype(np.float32)
        for t in schemas.travelling_net(plan).tensors
    }


def merged(plan: Plan, base: dict[str, Array], *changes: dict[str, Array]) -> dict[str, Array]:
    updates = {str(n): {name: base[name] + change[name] for name in change} for n, change in enumerate(changes)}
    return registry.merge(plan, 1, base, updates, dict.fromkeys(updates, 1))


def mean_change(base: dict[str, Array], changes: tuple[dict[str, Array], ...], name: str) -> Array:
    return np.mean([(base[name] + change[name]).astype(np.float64) - base[name] for change in changes], 0)


def test_the_first_step_is_that_of_the_formula_without_a_correction_of_the_bias() -> None:
    plan = plan_of()
    base, changes = model(plan), (model(plan, 1, 0.1), model(plan, 2, 0.1))
    result = merged(plan, base, *changes)
    change = mean_change(base, changes, "conv1.weight")
    step = LR * (1 - B1) * change / (np.sqrt(B2 * TAU**2 + (1 - B2) * change**2) + TAU)
    assert np.allclose(result["conv1.weight"], base["conv1.weight"] + step, atol=1e-6)


def test_later_steps_go_on_from_what_was_kept() -> None:
    plan = plan_of()
    base, mean, square = model(plan), 0.0, TAU**2
    weights = base["linear.weight"].astype(np.float64)
    for round_ in range(1, 4):
        changes = (model(plan, round_, 0.1), model(plan, 10 + round_, 0.2))
        change = mean_change(base, changes, "linear.weight")
        mean, square = B1 * mean + (1 - B1) * change, B2 * square + (1 - B2) * change**2
        weights = weights + LR * mean / (np.sqrt(square) + TAU)
        base |= merged(plan, base, *changes)
    assert np.allclose(base["linear.weight"], weights, atol=1e-5)


def test_without_memory_and_with_a_large_tau_the_model_moves_along_the_mean_change() -> None:
    """beta1 = beta2 = 0 and tau far above the changes: lr / tau times the mean change."""
    plan = plan_of(lr=1.0, beta1=0, beta2=0, tau=1)
    base, changes = model(plan), (model(plan, 1, 1e-3), model(plan, 2, 1e-3))
    change = mean_change(base, changes, "conv1.weight")
    moved = merged(plan, base, *changes)["conv1.weight"] - base["conv1.weight"]
    assert np.allclose(moved, change, rtol=0.02, atol=1e-6)


def test_running_statistics_are_averaged() -> None:
    """A step along their change could make a variance negative."""
    plan = plan_of(lr=10.0)
    base, change = model(plan), model(plan, 1, 0.1)
    base["bn1.running_var"][:] = 1
    change["bn1.running_var"][:] = -0.9
    assert np.allclose(merged(plan, base, change, change)["bn1.running_var"], 0.1)


def test_the_moments_are_kept_and_are_no_part_of_what_travels() -> None:
    plan = plan_of()
    base = model(plan)
    result = merged(plan, base, model(plan, 1, 0.1))
    travelling = {tensor.name for tensor in registry.METHODS["fedadam"].down(plan).tensors}
    assert set(result) - set(merger_state(result)) == travelling
    weights = {t.name for t in schemas.travelling_net(plan).tensors if t.role != "stat"}
    assert set(merger_state(result)) == {f"{which}!{name}" for which in ("mean", "square") for name in weights}


@pytest.mark.parametrize(
    ("key", "value"), [("lr", 0), ("beta1", 1), ("beta2", 1), ("tau", 0)], ids=["lr", "beta1", "beta2", "tau"]
)
def test_a_number_with_which_nothing_would_move_or_anything_might_is_refused(key: str, value: float) -> None:
    with pytest.raises(BadPlanError, match=key):
        plan_of(**{key: value})
