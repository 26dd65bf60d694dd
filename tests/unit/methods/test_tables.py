"""FedMD, MDH-FL and FCCL: what sites learn from tables of predictions for public images, and what they send.

Numbers are those of the properties in the methods' specification. Equations are checked in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge import update
from fedhelp_edge.codec import CODECS
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.merge.tables import LOSSES, PREDICTED_IN, ROWS
from fedhelp_edge.methods import losses, registry, tables
from fedhelp_edge.methods.base import Batch, Learner
from fedhelp_edge.methods.fccl import Fccl, correlation_loss, standardised
from fedhelp_edge.methods.fedmd import FedMD
from fedhelp_edge.methods.losses import kl_divergence
from fedhelp_edge.methods.mdhfl import Losses, MdhFl
from fedhelp_edge.nets.net import Net, arrays_of
from fedhelp_edge.nets.spec import NETS, Family, Form
from fedhelp_edge.train import loop
from fedhelp_edge.update import Array
from tests.unit.methods import small
from tests.unit.methods.small import Images

METHODS = [
    ("fedmd", {"public_epochs": 1}),
    ("fedmd", {"head": "private"}),
    ("mdhfl", {}),
    ("mdhfl", {"ccr": True, "fresh_adam": True, "pretrain": 1}),
    ("fccl", {"pretrain": 1}),
]
everyone = pytest.mark.parametrize(("method", "settings"), METHODS)
PACK, PUBLIC = small.pack(), small.images(6, 5, 3, seed=2)
SITES = {"site-001": "small", "site-002": "large"}
State = Mapping[str, Array]


class PowerCut(BaseException):
    pass


class Tiny(Net):
    """One convolution with batch norm and a linear layer; wider as "resnet20" than as "resnet8"."""

    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        self.width = {"resnet8": 6, "resnet20": 10}[name]
        self.conv1 = nn.Conv2d(3, self.width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.width)
        self.linear = nn.Linear(self.width, form.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def feature_maps(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)).relu()


@pytest.fixture(autouse=True)
def tiny_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets of a few numbers for both tiers; the laboratory's tests have real ones."""
    for name in ("resnet8", "resnet20"):
        with torch.random.fork_rng(devices=[]):
            arrays = arrays_of(Tiny(name, Form(4, 3)))
        tensors = update.schema_of(arrays)
        family = Family(f"{__name__}:Tiny", lambda form, tensors=tensors: tensors, width=Tiny(name, Form(4, 3)).width)
        monkeypatch.setitem(NETS, name, family)  # type: ignore[index]


def site(method: str, name: str = "site-001", *, wire: dict[str, Any] | None = None, **settings: Any) -> Any:
    plan = small.plan(method, **{method: {"public_batch": 3, **settings}, "wire": wire or {}})
    return small.learner(plan, SITES.get(name, "small"), PACK, site=name)


def train(learner: Learner, round_: int, public: Images = PUBLIC, **options: Any) -> loop.EpochReport:
    private = small.images(10, seed=int(learner.site.id[-3:]))
    return loop.train(learner, {"private": private, "public": public}, round_, **options)


def sent(learner: Learner) -> State:
    """An update as the coordinator receives it."""
    codec = CODECS[learner.plan.wire.up]
    return codec.decode(codec.encode(learner.give(), {}, {})[0], {})


def merged(learners: Mapping[str, Learner], round_: int, base: State | None = None) -> dict[str, Array]:
    plan = next(iter(learners.values())).plan
    updates = {name: sent(learner) for name, learner in learners.items()}
    return registry.merge(plan, round_, base or {}, updates, dict.fromkeys(updates, 1), public=PACK)


def federation(method: str, rounds: int = 2, order: tuple[str, ...] = tuple(SITES), **settings: Any) -> Any:
    """Two sites with different nets after some rounds, visited in an order; and the merged table."""
    learners: dict[str, Any] = {name: site(method, name, **settings) for name in order}
    agreed: dict[str, Array] = {}
    for round_ in range(1, rounds + 1):
        for learner in learners.values():
            if round_ > 1:
                learner.receive(agreed, round_, LastMerge(len(learners), own=True))
            train(learner, round_)
        agreed = merged(learners, round_)
    return learners, agreed


def public_batch(indices: tuple[int, ...] = (0, 1, 2, 3)) -> Batch:
    index = np.array(indices)
    images = loop.input_tensor(PUBLIC.pixels[index], small.plan().image)
    return Batch(images, torch.from_numpy(PUBLIC.labels[index]), torch.from_numpy(index))


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of a loss as the program has it, and by finite differences."""
    at = at.clone().requires_grad_()
    (exact,) = torch.autograd.grad(loss(at), at)
    measured, step = torch.zeros_like(at), 1e-6
    for place in np.ndindex(*at.shape):
        up, down = at.detach().clone(), at.detach().clone()
        up[place] += step
        down[place] -= step
        measured[place] = (loss(up) - loss(down)) / (2 * step)
    return exact, measured


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- what all have in common -----------------------------------------------------------------------------------------
@everyone
def test_6_3_8_sites_with_different_nets_learn_together(method: str, settings: dict[str, Any]) -> None:
    learners, agreed = federation(method, **settings)
    assert [learner.model.name for learner in learners.values()] == ["resnet8", "resnet20"]
    first = "align" if method == "mdhfl" else "digest"
    for learner in learners.values():
        learner.receive(agreed, 3, LastMerge(2, own=True))
        assert next(phase.name for phase in learner.phases(3, False)) == first


@everyone
def test_a_message_has_predictions_for_public_images_and_nothing_else(method: str, settings: dict[str, Any]) -> None:
    learners, _ = federation(method, rounds=1, **settings)
    for learner in learners.values():
        assert set(learner.give()) == {ROWS, *([LOSSES] if settings.get("ccr") else [])}
        assert update.schema_of(learner.give()).header_bytes == learner.up_schema.header_bytes
        assert learner.give()[ROWS].shape == (6, 5 if settings.get("public_epochs") else 4)


@everyone
def test_a_table_says_what_the_trained_net_predicts_image_by_image(method: str, settings: dict[str, Any]) -> None:
    learners, _ = federation(method, rounds=1, **settings)
    learner = learners["site-002"]
    learner.net.train()
    with torch.no_grad():
        expected = torch.cat([learner.predictions(public_batch(part).images) for part in ((0, 1, 2), (3, 4, 5))])
    assert np.array_equal(learner.give()[ROWS], expected.numpy())


@everyone
def test_private_images_alone_make_the_running_statistics(method: str, settings: dict[str, Any]) -> None:
    learners, agreed = federation(method, rounds=1, **settings)
    learner = learners["site-001"]
    learner.receive(agreed, 2, LastMerge(2, own=True))
    before, phase = arrays_of(learner.net), learner.phases(2, False)[0]
    for module in learner.trained().values():
        module.train()
    learner.step(phase, {"public": public_batch()})
    learner.step(learner.phases(2, False)[-1], {"public": public_batch()})
    moved = small.differing(before, arrays_of(learner.net))
    assert moved
    assert not [name for name in moved if "running" in name]


@everyone
def test_6_3_4_targets_are_fixed_for_the_round_so_the_order_of_sites_does_not_matter(
    method: str, settings: dict[str, Any]
) -> None:
    (forth, agreed), (back, other) = (
        federation(method, order=order, **settings) for order in (tuple(SITES), tuple(reversed(SITES)))
    )
    assert small.same(agreed, other)
    assert all(small.same(forth[name].state(), back[name].state()) for name in SITES)


@everyone
def test_the_agreed_table_does_not_change_during_a_round(method: str, settings: dict[str, Any]) -> None:
    learners, agreed = federation(method, rounds=1, **settings)
    learner = learners["site-001"]
    learner.receive(agreed, 2, LastMerge(2, own=True))
    before = arrays_of(learner.agreed)
    train(learner, 2)
    assert small.same(arrays_of(learner.agreed), before)


@pytest.mark.parametrize(("method", "settings"), METHODS[1:])
@pytest.mark.parametrize("poison", [-1, 10**9, np.iinfo(np.int64).min])
def test_6_3_5_no_public_label_is_read(method: str, settings: dict[str, Any], poison: int) -> None:
    states = []
    for labels in (PUBLIC.labels, np.full(6, poison)):
        learner = site(method, **settings)
        train(learner, 1, replace(PUBLIC, labels=labels))
        learner.receive(merged({"site-001": learner, "site-002": learner}, 1), 2, LastMerge(3, own=True))
        train(learner, 2, replace(PUBLIC, labels=labels))
        states.append(learner.state())
    assert small.same(*states)


@everyone
def test_a_site_cut_at_any_step_ends_with_the_same_bits(method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    learners, agreed = federation(method, rounds=1, **settings)
    before = learners["site-001"].state()

    def second_round(**options: Any) -> State:
        learner = site(method, **settings)
        learner.load(before, 2)
        learner.receive(agreed, 2, LastMerge(2, own=True))
        train(learner, 2, **options)
        return {**learner.state(), **learner.give()}

    whole = second_round()
    for at in range(1, 9):

        def cut(done: int, total: int, rate: float, at: int = at) -> None:
            if done == min(at, total):
                raise PowerCut

        with pytest.raises(PowerCut):
            second_round(checkpoints=tmp_path / str(at), every=0, progress=cut)
        assert small.same(second_round(checkpoints=tmp_path / str(at), every=0), whole)


@everyone
def test_after_a_round_that_was_never_merged_a_site_learns_from_the_last_merged_table(
    method: str, settings: dict[str, Any]
) -> None:
    """The rows are for the images of the round after that table was predicted, and our part in it is of that round."""
    learners, agreed = federation(method, rounds=1, images=4, **settings)
    learner = learners["site-001"]
    learner.receive(agreed, 2, LastMerge(2, own=True))
    source = learner.peers if method == "mdhfl" else learner.agreed
    rows, images = source.rows.clone(), learner.phases(2, False)[0].only
    train(learner, 2)  # this one is cancelled
    learner.receive(agreed, 3, LastMerge(2, own=True))
    assert torch.equal(source.rows, rows)
    assert np.array_equal(learner.phases(3, False)[0].only, images)
    assert not np.array_equal(learner.phases(3, False)[-1].only, images)


def test_each_round_asks_for_other_images_and_all_sites_for_the_same() -> None:
    rounds = [tables.chosen_images(3, round_, 5, 40).tolist() for round_ in range(1, 6)]
    assert len({tuple(images) for images in rounds}) == 5
    assert all(len(set(images)) == 5 and images == sorted(images) for images in rounds)
    first, second = (site("fedmd", name, images=4) for name in SITES)
    assert np.array_equal(first.images_of(first.ours), second.images_of(second.ours))


def test_a_round_can_ask_for_all_images() -> None:
    assert tables.chosen_images(0, 1, 6, 6).tolist() == [0, 1, 2, 3, 4, 5]


# --- FedMD (6.5) -----------------------------------------------------------------------------------------------------
def test_6_5_the_gradient_of_the_absolute_difference_is_its_sign_over_the_number_of_numbers() -> None:
    logits, target = drawn(4, 5), drawn(4, 5, seed=1)
    exact, measured = gradient(lambda z: F.l1_loss(z, target), logits)
    assert torch.allclose(exact, (logits - target).sign() / logits.numel())
    assert torch.allclose(exact, measured, atol=1e-8)


@pytest.mark.parametrize("head", ["public", "private"])
def test_6_5_sites_that_agree_already_stay_as_they_are(head: str) -> None:
    learner: FedMD = site("fedmd", head=head, public_epochs=0)
    batch = public_batch()
    learner.agreed.predicted_in.fill_(1)
    with torch.no_grad():
        learner.agreed.rows[batch.index] = learner.predictions(batch.images)
    before, phase = learner.state(), learner.phases(2, False)[0]
    learner.net.train()
    assert learner.step(phase, {"public": batch}) == {"digest": 0.0}
    gradients = [p.grad for module in learner.trained().values() for p in module.parameters() if p.grad is not None]
    assert gradients
    assert not any(g.any() for g in gradients)
    learner.begin(1)
    assert set(before) <= set(learner.state())


@pytest.mark.parametrize("head", ["public", "private"])
def test_6_5_a_step_moves_the_logits_towards_the_agreed_ones(head: str) -> None:
    learner: FedMD = site("fedmd", head=head, public_epochs=0)
    batch = public_batch()
    learner.agreed.predicted_in.fill_(1)
    phase = learner.phases(2, False)[0]
    learner.net.train()
    parts = [learner.step(phase, {"public": batch})["digest"] for _ in range(12)]
    assert parts[-1] < 0.95 * parts[0]


def test_the_head_for_public_classes_learns_their_labels_once_before_the_first_round() -> None:
    learner = site("fedmd", public_epochs=3)
    names = [[phase.name for phase in learner.phases(round_, False)] for round_ in (1,)]
    assert names == [["public", "train", "predict"]]
    assert learner.phases(1, False)[0].epochs == 3
    learner.receive({}, 2)
    assert [phase.name for phase in learner.phases(2, False)] == ["train", "predict"]


def test_a_site_that_joins_late_learns_public_labels_first_and_the_agreed_table_next() -> None:
    _, agreed = federation("fedmd", public_epochs=1)
    late = site("fedmd", "site-003", public_epochs=1)
    late.rounds.begun.zero_()
    late.receive(agreed, 3, LastMerge(2, own=False))
    assert [phase.name for phase in late.phases(3, False)] == ["public", "digest", "train", "predict"]


def test_the_head_for_public_classes_does_not_change_what_a_site_diagnoses_with_but_through_its_features() -> None:
    learner: FedMD = site("fedmd", public_epochs=0)
    learner.agreed.predicted_in.fill_(1)
    before = arrays_of(learner.net)
    learner.net.train()
    learner.step(learner.phases(2, False)[0], {"public": public_batch()})
    moved = small.differing(before, arrays_of(learner.net))
    assert "conv1.weight" in moved
    assert not moved & {"linear.weight", "linear.bias"}


# --- MDH-FL (6.3) ----------------------------------------------------------------------------------------------------
def reverse(logits: Tensor, labels: Tensor) -> Tensor:
    """The reverse part of the symmetric cross-entropy."""
    return losses.symmetric(logits, labels) - losses.CE_WEIGHT * F.cross_entropy(logits, labels)


def test_6_3_1_the_reverse_part_is_9_21_times_the_missing_probability_and_sums_to_a_constant_over_all_labels() -> None:
    logits = 3 * drawn(7, 5)
    by_label = torch.stack([
        torch.stack([reverse(row[None], torch.tensor([label])) for label in range(5)]) for row in logits
    ])  # fmt: skip
    assert torch.allclose(by_label, 9.210340371976182 * (1 - logits.softmax(1)), atol=1e-5)
    assert float(by_label.max()) <= 9.2104
    assert torch.allclose(by_label.sum(1), torch.full((7,), 9.2103 * 4, dtype=torch.float64), atol=1e-3)
    plain = torch.stack([F.cross_entropy(logits, torch.full((7,), label), reduction="none") for label in range(5)])
    assert plain.sum(0).std() > 1  # cross-entropy has no such bound


def test_6_3_2_without_its_reverse_part_the_loss_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CE_WEIGHT", 1.0)
    monkeypatch.setattr(losses, "REVERSE_WEIGHT", 0.0)
    logits, labels = drawn(6, 4), torch.arange(6) % 4
    assert torch.equal(losses.symmetric(logits, labels), F.cross_entropy(logits, labels))


def test_6_3_2_the_reverse_parts_gradient_at_the_label_is_minus_9_21_p_times_1_minus_p() -> None:
    logits, label = drawn(1, 5), torch.tensor([2])
    exact, measured = gradient(lambda z: reverse(z, label), logits)
    p = logits.softmax(1)[0, 2]
    assert torch.allclose(exact, measured, atol=1e-7)
    assert float(exact[0, 2]) == pytest.approx(-9.210340371976182 * float(p * (1 - p)), rel=1e-6)


def test_6_3_3_the_divergence_is_from_the_peers_to_the_own_net_and_its_gradient_reaches_the_own_alone() -> None:
    peers = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    own = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    loss = kl_divergence(peers, own)
    assert float(loss) == pytest.approx(float((0.5 * (torch.tensor(0.5).log() - own.log_softmax(1)[0, :2])).sum()))
    exact, measured = gradient(lambda z: kl_divergence(peers, z), own)
    assert torch.allclose(exact, own.softmax(1) - peers.detach())
    assert torch.allclose(exact, measured, atol=1e-8)
    assert not kl_divergence(peers, own).requires_grad


def test_6_3_3_the_mean_of_the_others_gives_the_gradient_of_the_sum_over_them() -> None:
    peers, own = drawn(3, 4, 5).softmax(2), drawn(4, 5, seed=3)
    summed = gradient(lambda z: torch.stack([kl_divergence(p, z) for p in peers]).sum(), own)[0]
    assert torch.allclose(summed, 3 * gradient(lambda z: kl_divergence(peers.mean(0), z), own)[0])


def aligned(learner: MdhFl, batch: Batch) -> float:
    learner.net.train()
    return learner.step(learner.phases(2, False)[0], {"public": batch})["align"]


def test_6_3_3_a_site_whose_peers_predict_the_same_does_not_move() -> None:
    learner: MdhFl = site("mdhfl")
    batch = public_batch()
    learner.peers.predicted_in.fill_(1)
    with torch.no_grad():
        learner.peers.rows[batch.index] = learner.predictions(batch.images)
    assert aligned(learner, batch) == pytest.approx(0, abs=1e-6)
    assert max(float(p.grad.abs().max()) for p in learner.net.parameters()) < 1e-6


def test_6_3_3_steps_lower_the_divergence_and_leave_the_peers_as_they_are() -> None:
    learner: MdhFl = site("mdhfl")
    learner.peers.predicted_in.fill_(1)
    learner.peers.rows.copy_(drawn(6, 4).softmax(1))
    before, batch = learner.peers.rows.clone(), public_batch()
    parts = [aligned(learner, batch) for _ in range(4)]
    assert all(later < earlier for earlier, later in pairwise(parts))
    assert torch.equal(learner.peers.rows, before)


@pytest.mark.parametrize("ccr", [False, True])
@pytest.mark.parametrize("wire", ["f32", "f16"])
def test_6_3_3_a_site_is_not_among_those_that_it_aligns_with(ccr: bool, wire: str) -> None:
    """What a site aligns with is the others' mean: from the merged table, its own, and the number of tables."""
    names = ("site-001", "site-002", "site-003")
    learners = {name: site("mdhfl", name, ccr=ccr, wire={"up": wire}) for name in names}
    agreed: dict[str, Array] = {}
    for round_ in (1, 2):
        for learner in learners.values():
            if round_ > 1:
                learner.receive(agreed, round_, LastMerge(3, own=True))
            train(learner, round_)
        agreed = merged(learners, round_)
    updates = {name: sent(learner) for name, learner in learners.items()}
    weights = dict.fromkeys(names, 1.0)
    if ccr:
        gains = {n: (u[LOSSES][0] - u[LOSSES][1]) / u[LOSSES][1] for n, u in updates.items()}
        weights = {n: float(np.exp(0.5 * gain / sum(map(abs, gains.values())))) for n, gain in gains.items()}
    for name, learner in learners.items():
        learner.receive(agreed, 3, LastMerge(3, own=True))
        others = [other for other in names if other != name]
        expected = sum(weights[other] * updates[other][ROWS].astype("f8") for other in others)
        expected /= expected.sum(1, keepdims=True)
        assert np.allclose(learner.peers.rows.numpy(), expected, atol=2e-6)


def test_a_site_that_was_not_merged_aligns_with_all_that_were() -> None:
    learners, agreed = federation("mdhfl")
    learner = learners["site-001"]
    learner.receive(agreed, 3, LastMerge(2, own=False))
    assert np.array_equal(learner.peers.rows.numpy(), agreed[ROWS])


def test_a_site_whose_table_alone_was_merged_has_nobody_to_align_with() -> None:
    learner = site("mdhfl")
    train(learner, 1)
    learner.receive(merged({"site-001": learner}, 1), 2, LastMerge(1, own=True))
    assert [phase.name for phase in learner.phases(2, False)] == ["train", "predict"]


def test_6_3_5_what_is_told_are_probabilities() -> None:
    learners, agreed = federation("mdhfl")
    for table in (*(learner.give() for learner in learners.values()), agreed):
        update.check_probabilities(table, learners["site-001"].up_schema)
    assert agreed[PREDICTED_IN].tolist() == [2]


def test_a_table_that_travels_in_half_precision_stays_the_same_on_its_way() -> None:
    learner = site("mdhfl", wire={"up": "f16"})
    train(learner, 1)
    rows = learner.give()[ROWS]
    assert np.array_equal(rows.astype(np.float16).astype(np.float32), rows)
    update.check_probabilities({ROWS: rows}, learner.up_schema)


def test_the_loss_is_the_methods_or_the_plans() -> None:
    batch = small.batch()
    for settings, expected in (({}, losses.symmetric), ({"loss": "plan"}, F.cross_entropy)):
        learner = site("mdhfl", **settings)
        learner.net.train()
        with torch.no_grad():
            logits = learner.net(batch.images)
        assert torch.equal(learner.loss(logits, batch), expected(logits, batch.labels))


@pytest.mark.parametrize("fresh", [False, True])
def test_3_3_one_optimiser_serves_the_whole_round_unless_the_plan_wants_one_for_each_public_step(fresh: bool) -> None:
    """RHFL makes a new Adam for each public batch: each step is a first one, of the size of the learning rate."""
    learner: MdhFl = site("mdhfl", fresh_adam=fresh)
    learner.peers.predicted_in.fill_(1)
    learner.peers.rows.copy_(drawn(6, 4).softmax(1))
    for _ in range(3):
        before = learner.net.conv1.weight.detach().clone()
        aligned(learner, public_batch())
        step = (learner.net.conv1.weight.detach() - before).abs()
    counts = {int(slots["step"]) for slots in learner.optimisers["net"].slots().values()}
    assert counts == (set() if fresh else {3})
    if fresh:
        assert torch.allclose(step, torch.full_like(step, learner.plan.training.lr), rtol=0.02)


def test_a_sites_loss_counts_every_image_once() -> None:
    seen, parts = Losses(), drawn(9).abs().float()
    seen.losses[1] = 7.0
    seen.begin()
    for part in (parts[:4], parts[4:5], parts[5:]):
        seen.add(part.mean(), len(part))
    assert seen.losses.tolist() == pytest.approx([7.0, float(parts.mean())])


def test_a_site_tells_its_loss_after_the_round_and_the_one_before() -> None:
    learners, _ = federation("mdhfl", rounds=2, ccr=True)
    for name, learner in learners.items():
        images = small.images(10, seed=int(name[-3:]))
        learner.net.eval()
        with torch.no_grad():
            logits = learner.net(loop.input_tensor(images.pixels.copy(), learner.plan.image))
        before, now = learner.give()[LOSSES]
        assert now == pytest.approx(float(learner.criterion(logits, torch.from_numpy(images.labels))), rel=1e-5)
        assert before > 0
        assert before != now


# --- FCCL (6.5) ------------------------------------------------------------------------------------------------------
def test_6_5_columns_that_agree_have_the_correlation_of_an_unbiased_deviation() -> None:
    logits = drawn(8, 3)
    correlations = standardised(logits).T @ standardised(logits) / 8
    assert torch.allclose(correlations.diagonal(), torch.full((3,), 7 / 8, dtype=torch.float64), atol=1e-6)


def test_6_5_between_two_classes_the_correlation_is_driven_to_minus_1() -> None:
    column = drawn(8, 1)
    column -= column.mean()
    opposed, alike = torch.cat([column, -column], 1), torch.cat([column, column], 1)
    target = torch.cat([column, -column], 1)
    weight = 1000.0  # the diagonal counts for nothing beside it
    assert correlation_loss(opposed, target, weight) < correlation_loss(drawn(8, 2, seed=4), target, weight)
    assert correlation_loss(opposed, target, weight) < correlation_loss(alike, target, weight)
    by_hand = (7 / 8 - 1) ** 2 * 2 + weight * 2 * (-7 / 8 + 1) ** 2
    assert float(correlation_loss(opposed, target, weight)) == pytest.approx(by_hand, rel=1e-5)


def test_6_5_the_loss_has_the_diagonal_once_and_everything_beside_it_with_its_weight() -> None:
    logits, target = drawn(6, 3), drawn(6, 3, seed=1)
    z, t = ((x - x.mean(0)) / x.std(0) for x in (logits, target))
    m = z.T @ t / 6
    expected = sum(
        (float(m[u, v]) - 1) ** 2 if u == v else 0.0051 * (float(m[u, v]) + 1) ** 2 for u in range(3) for v in range(3)
    )
    assert float(correlation_loss(logits, target, 0.0051)) == pytest.approx(expected, rel=1e-6)


def test_6_5_shifts_and_positive_scales_of_a_column_do_not_matter() -> None:
    logits, target = drawn(8, 4), drawn(8, 4, seed=1)
    scale, shift = torch.tensor([0.5, 2.0, 10.0, 1.0]), torch.tensor([3.0, -1.0, 0.0, 100.0])
    first = correlation_loss(logits, target, 0.1)
    assert torch.allclose(correlation_loss(logits * scale + shift, target, 0.1), first, rtol=1e-6)
    assert torch.allclose(correlation_loss(logits, target * scale + shift, 0.1), first, rtol=1e-6)
    assert not torch.allclose(correlation_loss(-logits, target, 0.1), first)


def test_6_5_the_gradient_is_that_of_the_loss() -> None:
    target = drawn(6, 3, seed=1)
    exact, measured = gradient(lambda z: correlation_loss(z, target, 0.3), drawn(6, 3))
    assert torch.allclose(exact, measured, atol=1e-7)


@pytest.mark.parametrize("constant", [0.0, 5.0, -1e4])
def test_6_5_a_constant_column_makes_neither_loss_nor_gradient_nan(constant: float) -> None:
    for kind in (torch.float32, torch.float64):
        logits = drawn(6, 3).to(kind)
        logits[:, 1] = constant
        for first, second in ((logits, drawn(6, 3, seed=1).to(kind)), (drawn(6, 3, seed=1).to(kind), logits)):
            at = first.clone().requires_grad_()
            loss = correlation_loss(at, second, 0.0051)
            (found,) = torch.autograd.grad(loss, at)
            assert torch.isfinite(loss)
            assert torch.isfinite(found).all()


def test_6_5_a_site_stays_near_its_net_of_the_round_before_and_near_the_one_after_its_first_round() -> None:
    learner: Fccl = site("fccl", pretrain=2)
    assert [(phase.name, phase.epochs) for phase in learner.phases(1, False)] == [("pretrain", 2), ("predict", 1)]
    report = train(learner, 1)
    assert set(report.means()["pretrain"]) == {"loss"}
    first = arrays_of(learner.net)
    for round_ in (2, 3):
        before = arrays_of(learner.net)
        learner.receive(merged({"site-001": learner}, round_ - 1), round_, LastMerge(1, own=True))
        assert small.same(arrays_of(learner.inter), before)
        assert small.same(arrays_of(learner.intra), first)
        report = train(learner, round_)
        assert set(report.means()["train"]) == {"loss", "inter", "intra"}
        assert small.same(arrays_of(learner.inter), before)
        assert small.same(arrays_of(learner.intra), first)
        assert not any(p.requires_grad for net in (learner.inter, learner.intra) for p in net.parameters())


def test_the_two_earlier_nets_can_be_left_out() -> None:
    learner: Fccl = site("fccl", pretrain=0, inter=0, intra=0)
    assert [phase.epochs for phase in learner.phases(1, False)] == [2, 1]
    assert not {"inter", "intra"} & set(learner.kept())
    train(learner, 1)
    learner.receive(merged({"site-001": learner}, 1), 2, LastMerge(1, own=True))
    assert set(train(learner, 2).means()["train"]) == {"loss"}


def test_fccl_learns_from_the_table_by_correlation() -> None:
    learner: Fccl = site("fccl", pretrain=0)
    learner.receive({}, 2, NO_MERGE)
    learner.agreed.predicted_in.fill_(1)
    learner.agreed.rows.copy_(drawn(6, 4))
    batch, phase = public_batch(), learner.phases(2, False)[0]
    learner.net.train()
    with torch.no_grad():
        logits = learner.public_logits(batch.images)
    expected = correlation_loss(logits, learner.agreed.rows[batch.index], learner.settings.off_diagonal)
    parts = [learner.step(phase, {"public": batch})["digest"] for _ in range(8)]
    assert parts[0] == pytest.approx(float(expected), rel=1e-5)
    assert parts[-1] < parts[0]
