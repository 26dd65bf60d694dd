"""Properties of every method's learner."""

from __future__ import annotations

import hashlib
import io
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedhelp_edge import update
from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods import registry, schemas
from fedhelp_edge.methods.base import Compute, Learner, LearnerContext, Phase, SiteFacts, derive_seed
from fedhelp_edge.methods.fedhelp import Surrogate
from fedhelp_edge.methods.losses import class_prior
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.nets.spec import Form
from tests.unit.methods import small
from tests.unit.methods.tiny import tiny_nets as tiny_nets

GREY = {"channels": 1, "mean": [0.5], "std": [0.25]}
pytestmark = pytest.mark.usefixtures("tiny_nets")
everybody = pytest.mark.parametrize(("method", "tier", "numbers"), small.EVERYBODY)
exchanging = pytest.mark.parametrize(
    ("method", "tier", "numbers"), [who for who in small.EVERYBODY if who[0] != "local"]
)
keeping_norm_layers = pytest.mark.parametrize(
    ("method", "tier", "numbers"),
    [
        who
        for who in small.EVERYBODY
        if registry.METHODS[who[0]].up is schemas.travelling_net and small.allows(who[0], wire={"norm": "local"})
    ],
)


def made(method: str, tier: str, numbers: dict[str, Any], **tables: Any) -> Learner:
    plan = small.plan(method, **{**tables, method: {**numbers, **tables.get(method, {})}})
    return small.learner(plan, tier, small.pack())


def walk(learner: Learner, steps: int = 2) -> list[dict[str, float]]:
    """Runs steps of the first phase that trains, after those before it; returns their losses."""
    for phase in learner.phases(1, False):
        losses = [learner.step(phase, small.batches(phase, learner.plan)) for _ in range(steps if phase.train else 1)]
        if phase.train:
            break
    return losses


@everybody
def test_a_step_lowers_the_loss_of_the_batch_it_saw(method: str, tier: str, numbers: dict[str, Any]) -> None:
    first, *_, last = walk(made(method, tier, numbers), 8)
    assert last["loss"] < first["loss"]


@everybody
def test_two_learners_of_one_site_give_the_same_bits(method: str, tier: str, numbers: dict[str, Any]) -> None:
    first, second = made(method, tier, numbers), made(method, tier, numbers)
    torch.manual_seed(99)  # other random numbers do not matter
    assert walk(first) == walk(second)
    assert small.same(first.state(), second.state())


@everybody
def test_creating_a_learner_uses_no_random_numbers_of_torch(method: str, tier: str, numbers: dict[str, Any]) -> None:
    before = torch.random.get_rng_state()
    made(method, tier, numbers)
    assert torch.equal(torch.random.get_rng_state(), before)


@everybody
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_training_from_a_loaded_state_continues_as_if_undisturbed(
    method: str, tier: str, numbers: dict[str, Any], optimiser: str
) -> None:
    first = made(method, tier, numbers, training={"optimiser": optimiser})
    second = made(method, tier, numbers, training={"optimiser": optimiser})
    walk(first)
    second.load(first.state(), 1)
    assert small.same(first.state(), second.state())
    assert walk(first) == walk(second)
    assert small.same(first.state(), second.state())


@everybody
def test_a_new_learner_can_load_a_state(method: str, tier: str, numbers: dict[str, Any]) -> None:
    first, site = made(method, tier, numbers), SiteFacts("site-001", tier, (1, 2, 3, 4))
    first.receive(small.merged(first), 3)
    walk(first)
    second = type(first)(LearnerContext(first.plan, site, small.pack(), encoder=first.encoder))
    second.load(first.state(), 3)
    assert walk(first) == walk(second)
    assert small.same(first.state(), second.state())


@everybody
def test_a_round_begins_alike_without_the_part_of_the_state_that_the_merged_model_overwrites(
    method: str, tier: str, numbers: dict[str, Any]
) -> None:
    learner = made(method, tier, numbers)
    walk(learner, 1)
    learner.end()
    merged = small.merged(learner)
    state, overwritten = learner.state(), learner.overwritten(2)
    assert len(overwritten) == len(set(overwritten)) >= len(merged)
    rest = {name: array for name, array in state.items() if name not in overwritten}
    with_all, with_rest = made(method, tier, numbers), made(method, tier, numbers)
    with_all.load(state, 2)
    with_rest.load({**with_rest.state(), **rest}, 2)
    for other in (with_all, with_rest):
        other.receive(merged, 2, LastMerge(3, True))
    assert small.same(with_all.state(), with_rest.state())


def test_an_averaged_net_is_overwritten_whole() -> None:
    learner = made("fedavg", "small", {})
    kept = learner.state().keys() - learner.overwritten(2)
    assert all(name.endswith("num_batches_tracked") for name in kept)


@everybody
def test_a_state_has_only_arrays_that_a_file_can_store(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner, file = made(method, tier, numbers), io.BytesIO()
    walk(learner)
    update.write(file, learner.state())
    assert small.same(update.load(file, limit=4 << 20), learner.state())


@exchanging
def test_an_update_matches_the_schema_exactly(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner = made(method, tier, numbers)
    walk(learner)
    assert update.schema_of(learner.give()).header_bytes == small.schema(learner).header_bytes


@keeping_norm_layers
def test_an_update_without_norm_layers_matches_it_too(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner = made(method, tier, numbers, wire={"norm": "local"})
    walk(learner)
    assert update.schema_of(learner.give()).header_bytes == small.schema(learner).header_bytes


@exchanging
def test_small_and_large_sites_give_the_same_names_and_shapes(method: str, tier: str, numbers: dict[str, Any]) -> None:
    large_update, small_update = (made(method, *site).give() for site in ((tier, numbers), ("small", numbers)))
    assert update.schema_of(large_update) == update.schema_of(small_update)


@exchanging
def test_a_merged_model_is_loaded_unchanged(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner = made(method, tier, numbers)
    walk(learner)
    merged = small.merged(learner)
    learner.receive(merged, 2)
    modules = learner.takes(2)
    loaded = {prefix + name: array for prefix, module in modules.items() for name, array in arrays_of(module).items()}
    assert small.same({name: loaded[name] for name in merged}, merged)


@exchanging
def test_optimisers_are_new_in_each_round(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner = made(method, tier, numbers)
    walk(learner)
    learner.receive(small.merged(learner), 2)
    assert not [name for name in learner.state() if "!" in name]


@keeping_norm_layers
def test_norm_layers_that_do_not_travel_are_not_sent(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner = made(method, tier, numbers, wire={"norm": "local"})
    names = set(learner.give())
    assert names == {name for name in arrays_of(learner.net) if "bn" not in name}
    assert any("conv" in name for name in names)


@keeping_norm_layers
def test_norm_layers_that_do_not_travel_stay_the_sites_own(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner = made(method, tier, numbers, wire={"norm": "local"})
    walk(learner)
    before = arrays_of(learner.net)
    learner.receive({name: array + 1 for name, array in learner.give().items()}, 2)
    assert small.differing(before, arrays_of(learner.net)) == set(learner.give())


@pytest.mark.parametrize(("round_", "part"), [(1, 1.0), (2, (1 + 0.5**0.5) / 2), (3, 0.5), (4, (1 - 0.5**0.5) / 2)])
def test_the_learning_rate_falls_as_a_cosine_over_the_rounds(round_: int, part: float) -> None:
    learner = small.learner(small.plan("fedavg", training={"lr": 0.01}))
    learner.begin(round_)
    assert learner.optimisers["net"].param_groups[0]["lr"] == pytest.approx(0.01 * part)


def test_a_constant_learning_rate_stays() -> None:
    learner = small.learner(small.plan("fedavg", training={"lr": 0.01, "schedule": "constant"}))
    learner.begin(4)
    assert learner.optimisers["net"].param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_the_optimiser_is_the_plans(optimiser: str) -> None:
    training = {"optimiser": optimiser, "lr": 0.02, "weight_decay": 0.003}
    made_optimiser = small.learner(small.plan("fedavg", training=training)).optimisers["net"]
    [group] = made_optimiser.param_groups
    assert type(made_optimiser).__name__.lower() == optimiser
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.003)


@everybody
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_training_does_not_import_the_compiler_of_torch(
    method: str, tier: str, numbers: dict[str, Any], optimiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # as if it were not installed
    walk(made(method, tier, numbers, training={"optimiser": optimiser}), 1)


@everybody
def test_the_phases_that_train_have_the_plans_epochs_together(method: str, tier: str, numbers: dict[str, Any]) -> None:
    """A phase over some of the images only is no epoch."""
    phases = made(method, tier, numbers, training={"epochs": 3}).phases(1, False)
    assert sum(phase.epochs for phase in phases if phase.train and phase.only is None) == (
        6 if "schedule" in numbers else 3
    )  # alternating: each net has three


def test_joint_sets_are_drawn_at_each_step_unless_a_phase_says_otherwise() -> None:
    assert Phase("both", ("private", "public")).every == 1


def test_by_default_one_process_works_in_single_precision_on_the_cpu() -> None:
    assert Compute() == Compute(device="cpu", bf16=False, rank=0, ranks=1)


@everybody
def test_all_trained_modules_are_on_the_chosen_device(method: str, tier: str, numbers: dict[str, Any]) -> None:
    first = made(method, tier, numbers)
    second = type(first)(
        LearnerContext(first.plan, first.site, small.pack(), Compute("meta"), encoder=first.encoder)
    )  # a device everywhere at hand
    tensors = [tensor for module in second.kept().values() for tensor in module.state_dict().values()]
    tensors += [second.source_answers, second.fixed_alpha] if isinstance(second, Surrogate) else []
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@everybody
def test_a_step_shared_with_an_equal_process_is_the_step_of_one(
    method: str, tier: str, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process adds the same to each sum; tests/unit/train/test_parallel.py has real processes."""
    single = made(method, tier, numbers)
    half = small.learner(single.plan, tier, small.pack(), compute=Compute(ranks=2))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda summed: summed.mul_(2))
    for phase in (phase for phase in single.phases(1, False) if phase.train):
        shared = {name: replace(batch, fraction=0.5) for name, batch in small.batches(phase, single.plan).items()}
        assert half.step(phase, shared) == single.step(phase, small.batches(phase, single.plan))
    assert small.same(half.state(), single.state())


@pytest.mark.parametrize("loss", ["ce", "logit-adjusted", "symmetric"])
def test_the_prior_is_added_to_predictions_if_the_loss_separates_it(loss: str) -> None:
    learner = small.learner(small.plan(training={"loss": loss}))
    assert learner.prior == (class_prior((1, 2, 3, 4)).tolist() if loss == "logit-adjusted" else None)


def test_random_numbers_depend_on_seed_site_and_purpose_in_every_version() -> None:
    first_bytes = hashlib.sha256(b"3/site-001/teacher").hexdigest()[:14]
    assert derive_seed(3, "site-001", "teacher") == int(first_bytes, 16)


@everybody
def test_half_precision_trains_and_is_not_stored(method: str, tier: str, numbers: dict[str, Any]) -> None:
    plan = small.plan(method, **{method: numbers})
    learner = small.learner(plan, tier, small.pack(), compute=Compute(bf16=True))
    first, *_, last = walk(learner, 8)
    assert last["loss"] < first["loss"]
    assert min(array.dtype.itemsize for array in learner.state().values()) >= 4


@everybody
@pytest.mark.parametrize("loss", ["logit-adjusted", "symmetric"])
def test_a_learner_uses_the_loss_of_its_plan(method: str, tier: str, numbers: dict[str, Any], loss: str) -> None:
    plain, other = made(method, tier, numbers), made(method, tier, numbers, training={"loss": loss})
    assert walk(plain, 1)[0]["loss"] != walk(other, 1)[0]["loss"]


@pytest.mark.parametrize(
    ("method", "tier", "numbers"), [who for who in small.EVERYBODY if small.allows(who[0], image=GREY)]
)
def test_grey_images_and_group_norm_can_be_trained(method: str, tier: str, numbers: dict[str, Any]) -> None:
    first, *_, last = walk(made(method, tier, numbers, image=GREY, nets={"norm": "group"}), 8)
    assert last["loss"] < first["loss"]


# --- the local baseline --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tier", "net"), [("small", "resnet8"), ("large", "resnet20")])
def test_the_local_baseline_trains_the_net_that_the_site_would_diagnose_with(tier: str, net: str) -> None:
    learner = made("local", tier, {})
    assert update.schema_of(arrays_of(learner.model)) == spec.schema(net, Form(4, 3))


@pytest.mark.parametrize("tier", ["small", "large"])
def test_the_local_baseline_gives_and_receives_nothing(tier: str) -> None:
    learner = made("local", tier, {})
    walk(learner)
    before = arrays_of(learner.net)
    learner.receive(spec.initial_weights(spec.schema("resnet8", Form(4, 3)), 42), 2)
    assert not learner.give()
    assert small.same(arrays_of(learner.net), before)


def test_a_small_sites_local_baseline_starts_from_the_common_weights() -> None:
    learner = made("local", "small", {})
    assert small.same(arrays_of(learner.net), registry.METHODS["local"].start(learner.plan))


def test_a_large_sites_local_baseline_starts_with_its_own_weights() -> None:
    learner = made("local", "large", {})
    common = registry.METHODS["local"].start(learner.plan)
    assert not np.array_equal(arrays_of(learner.net)["conv1.weight"], common["conv1.weight"])


def test_a_small_sites_local_baseline_trains_its_first_round_as_in_a_federation() -> None:
    baseline, together = made("local", "small", {}), made("fedavg", "small", {})
    walk(baseline), walk(together)
    assert small.same(baseline.state(), together.state())


@pytest.mark.parametrize(("method", "tier", "net"), [("fedhelp", "large", "teacher"), ("local", "large", "net")])
def test_a_net_that_stays_learns_at_a_rate_of_its_own(method: str, tier: str, net: str) -> None:
    """It may be pretrained, while the net that travels learns from random weights."""
    plain = small.learner(small.plan(method), tier)
    slow = small.learner(small.plan(method, training={"own_lr": 1e-4}), tier)
    rates = [{name: o.param_groups[0]["lr"] for name, o in each.optimisers.items()} for each in (plain, slow)]
    assert rates == [dict.fromkeys(rates[0], 1e-3), {**rates[0], net: 1e-4}]


@pytest.mark.parametrize(("method", "tier"), [("fedavg", "large"), ("fedhelp", "small"), ("local", "small")])
def test_a_net_that_comes_with_the_round_learns_at_the_plans_rate(method: str, tier: str) -> None:
    learner = small.learner(small.plan(method, training={"own_lr": 1e-4}), tier)
    assert {o.param_groups[0]["lr"] for o in learner.optimisers.values()} == {1e-3}
