"""FedMIC: teacher and student learn from each other, and only the student travels.

The losses are checked in double precision on nets of a few numbers, with features of unequal width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.codec import update_codec
from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Batch, Phase
from fedhelp_edge.methods.fedmic import FedMIC
from fedhelp_edge.nets.net import Net, arrays_of
from fedhelp_edge.nets.spec import NETS, Family, Form
from fedhelp_edge.update import Array, Schema
from tests.unit.methods import small

TRAIN = Phase("train")
WIDTHS = {"resnet8": 3, "resnet20": 5}  # of the features of the nets with these names, in these tests
PIXELS = 12  # that these nets look at
MAPS = pytest.mark.parametrize("aux_at", ["representation", "decision"])


class Tiny(Net):
    """A net of two small layers."""

    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        self.width = WIDTHS[name]
        self.body = nn.Linear(PIXELS, self.width)
        self.linear = nn.Linear(self.width, form.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def features(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1)[:, :PIXELS]).tanh()


def tiny_schema(width: int, form: Form) -> Schema:
    layers = {"body": (width, PIXELS), "linear": (form.classes, width)}
    return Schema.parse([f"{name}.{tensor}" for name, (rows, columns) in layers.items()
                         for tensor in (f"weight F32 {rows}x{columns}", f"bias F32 {rows}")])  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FedMIC]:
    """Makes learners of tiny nets, in double precision."""
    for name, width in WIDTHS.items():
        family = Family(f"{__name__}:Tiny", partial(tiny_schema, width), width)
        monkeypatch.setitem(NETS, name, family)  # type: ignore[index]

    def make(tier: str = "large", training: dict[str, Any] | None = None, **settings: Any) -> FedMIC:
        steps = {"optimiser": "sgd", "weight_decay": 0.0, "schedule": "constant", **(training or {})}
        nets = {"large": "resnet20" if tier == "large" else "resnet8"}
        learner = small.learner(small.plan("fedmic", fedmic=settings, nets=nets, training=steps), tier)
        assert isinstance(learner, FedMIC)
        for seed, module in enumerate(learner.kept().values()):
            module.double()
            with torch.no_grad():
                for parameter in module.parameters():  # no auxiliary matrix is an identity
                    parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        learner.begin(1)
        return learner

    return make


def batch(seed: int = 0) -> Batch:
    drawn = small.batch(6, seed=seed)
    return Batch(drawn.images.double(), drawn.labels, drawn.index)


def parameters(learner: FedMIC) -> dict[str, nn.Parameter]:
    return {f"{name}.{key}": p for name, module in learner.trained().items() for key, p in module.named_parameters()}


def gradients(learner: FedMIC, images: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradients of a step for all parameters, without the step itself, and the parts of the loss."""
    learner.optimisers.clear()
    for parameter in parameters(learner).values():
        parameter.grad = None
    parts = learner.step(TRAIN, {"private": images})
    return {name: p.grad.clone() for name, p in parameters(learner).items() if p.grad is not None}, parts


def numbers(learner: FedMIC, images: Batch) -> list[Tensor]:
    """Student's features and logits, then the teacher's: constants, by these nets' formulas."""
    pixels = images.images.flatten(1)[:, :PIXELS]
    found = []
    for net in (learner.net, learner.teacher):
        state = {name: value.detach() for name, value in net.state_dict().items()}
        features = (pixels @ state["body.weight"].T + state["body.bias"]).tanh()
        found += [features, features @ state["linear.weight"].T + state["linear.bias"]]
    return found


def parts_by_formula(learner: FedMIC, images: Batch, constants: list[Tensor]) -> dict[str, float]:
    """The parts of the loss. What a net learns from, and the denominator, come from `constants`."""
    (h_s, z_s, h_t, z_t), (ch_s, cz_s, ch_t, cz_t) = numbers(learner, images), constants
    settings, of_student, of_teacher = learner.settings, *(p.detach() for p in learner.auxiliary.parameters())
    denominator = sum(F.cross_entropy(z, images.labels) for z in (cz_s, cz_t))
    if settings.aux_at == "representation":
        h_s, h_t = h_s @ of_student.T, h_t @ of_teacher.T
        q_s, q_t = z_s.softmax(1), z_t.softmax(1)
    else:
        q_s, q_t = (z_s @ of_student.T).softmax(1), (z_t @ of_teacher.T).softmax(1)
    p_s, p_t = cz_s.softmax(1), cz_t.softmax(1)
    parts = {
        "loss": F.cross_entropy(z_s, images.labels),
        "teacher": F.cross_entropy(z_t, images.labels),
        "decision": settings.lambda_d * (p_t * (p_t / q_s).log()).sum(1).mean() / denominator,
        "teacher decision": settings.lambda_d * (p_s * (p_s / q_t).log()).sum(1).mean() / denominator,
        "representation": settings.lambda_h * ((h_s - ch_t) ** 2).mean() / denominator,
        "teacher representation": settings.lambda_h * ((h_t - ch_s) ** 2).mean() / denominator,
    }
    return {name: float(part) for name, part in parts.items()}


def same_width(learner: FedMIC) -> FedMIC:
    """The same learner, its teacher a copy of its student and its matrices identities."""
    learner.teacher.load_state_dict(learner.net.state_dict())
    with torch.no_grad():
        for matrix in learner.auxiliary.parameters():
            matrix.copy_(torch.eye(*matrix.shape))
    return learner


BOTH = pytest.mark.parametrize(
    ("tier", "settings"), [("large", {"lambda_d": 0.7, "lambda_h": 1.3}), ("small", {"aux_at": "decision"})]
)


@BOTH
def test_the_parts_of_the_loss_are_those_of_the_formulas(
    tiny: Callable[..., FedMIC], tier: str, settings: dict[str, Any]
) -> None:
    """Divergences are sums over classes and means over images."""
    learner, images = tiny(tier, **settings), batch()
    expected = parts_by_formula(learner, images, numbers(learner, images))
    assert gradients(learner, images)[1] == pytest.approx(expected, rel=1e-12)


# 6.2.6
@MAPS
def test_of_equal_nets_only_the_labels_are_learned(tiny: Callable[..., FedMIC], aux_at: str) -> None:
    learner, images = same_width(tiny("small", aux_at=aux_at)), batch()
    found, parts = gradients(learner, images)
    learner.settings = type(learner.settings)(lambda_d=0.0, lambda_h=0.0)
    by_labels, label_parts = gradients(learner, images)
    assert max(abs(value) for name, value in parts.items() if name not in ("loss", "teacher")) < 1e-15
    assert {name: parts[name] for name in label_parts} == label_parts
    assert all(torch.allclose(found[name], value, atol=1e-14) for name, value in by_labels.items())
    assert all(not value.abs().max() > 1e-14 for name, value in found.items() if name not in by_labels)


# 6.2.7
@pytest.mark.parametrize("tier", ["small", "large"])
@pytest.mark.parametrize("norm", ["shared", "local"])
def test_no_tensor_of_the_teacher_and_no_auxiliary_matrix_travels(tier: str, norm: str) -> None:
    plan = small.plan("fedmic", wire={"norm": norm})
    learner = small.learner(plan, tier)
    learner.step(TRAIN, {"private": small.batch()})
    sent, of_fedavg = learner.give(), small.learner(small.plan("fedavg", wire={"norm": norm})).give()
    assert {name: a.shape for name, a in sent.items()} == {name: a.shape for name, a in of_fedavg.items()}
    students = arrays_of(learner.net)
    assert all(array.tobytes() == students[name].tobytes() for name, array in sent.items())


# 6.2.7
@pytest.mark.parametrize("tier", ["small", "large"])
def test_teacher_and_auxiliary_matrices_change_only_by_local_training(tier: str) -> None:
    learner = small.learner(small.plan("fedmic"), tier)

    def stays() -> dict[str, Array]:
        return {name: array for name, array in learner.state().items() if name.startswith(("teacher/", "auxiliary/"))}

    before = stays()
    learner.receive({name: array + 0.01 for name, array in learner.give().items()}, 2)
    assert small.same(before, stays())
    learner.step(TRAIN, {"private": small.batch()})
    changed = small.differing(before, stays())
    assert {"auxiliary/of_student", "auxiliary/of_teacher", "teacher/conv1.weight"} <= changed


# 6.2.8
@MAPS
def test_no_gradient_of_what_a_net_learns_reaches_the_other_net(tiny: Callable[..., FedMIC], aux_at: str) -> None:
    learner, images = tiny("small", aux_at=aux_at), batch()
    parts = learner.mutual(*(learner.output(net, images.images) for net in (learner.net, learner.teacher)))
    assert len(parts) == 4
    for name, part in parts.items():
        learning, other = learner.net, learner.teacher
        if name.startswith("teacher"):
            learning, other = other, learning
        reached, missed = (
            torch.autograd.grad(part, list(net.body.parameters()), retain_graph=True, allow_unused=True)  # type: ignore[union-attr]
            for net in (learning, other)
        )
        assert any(gradient is not None and gradient.abs().max() > 1e-6 for gradient in reached), name
        assert all(gradient is None for gradient in missed), name


# 6.2.8
@BOTH
def test_the_gradients_are_those_with_targets_and_denominator_held_constant(
    tiny: Callable[..., FedMIC], tier: str, settings: dict[str, Any]
) -> None:
    """By finite differences: a target that moved, or the gradient of 1/D, would show in each of them."""
    learner, images = tiny(tier, **settings), batch()
    constants = numbers(learner, images)
    found, _ = gradients(learner, images)
    for name, parameter in parameters(learner).items():
        for index in range(0, parameter.numel(), 5):
            flat, step, sums = parameter.data.view(-1), 1e-6, []
            for sign in (1, -2):
                flat[index] += sign * step
                sums.append(sum(parts_by_formula(learner, images, constants).values()))
            flat[index] += step
            expected = (sums[0] - sums[1]) / (2 * step)
            assert float(found[name].view(-1)[index]) == pytest.approx(expected, rel=1e-6, abs=1e-8), name


# 6.2.8
def test_the_denominator_leaves_the_gradient_of_the_cross_entropies_alone(tiny: Callable[..., FedMIC]) -> None:
    learner, images = tiny(), batch()
    found, parts = gradients(learner, images)
    weight = 1 / (parts["loss"] + parts["teacher"])
    student, teacher = (learner.output(net, images.images) for net in (learner.net, learner.teacher))
    total = F.cross_entropy(student.logits, images.labels) + F.cross_entropy(teacher.logits, images.labels)
    total = total + weight * torch.stack(list(learner.mutual(student, teacher).values())).sum()
    constant = torch.autograd.grad(total, list(parameters(learner).values()))
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(found.values(), constant, strict=True))


def test_a_batch_that_both_nets_fit_does_not_let_the_mutual_losses_grow_without_bound(
    tiny: Callable[..., FedMIC],
) -> None:
    learner, images = tiny(), batch()
    _, parts = gradients(learner, images)
    total = parts["loss"] + parts["teacher"]
    learner.loss = lambda logits, labels: 0 * logits.sum()
    _, fitted = gradients(learner, images)
    assert fitted["representation"] == pytest.approx(parts["representation"] * total / 0.01)


def test_a_weight_of_zero_leaves_its_losses_out(tiny: Callable[..., FedMIC]) -> None:
    learner = tiny(lambda_d=0.0, lambda_h=0.0)
    found, parts = gradients(learner, batch())
    assert set(parts) == {"loss", "teacher"}
    assert not [name for name in found if name.startswith("auxiliary")]


def test_the_auxiliary_matrices_carry_features_of_one_width_to_those_of_the_other(tiny: Callable[..., FedMIC]) -> None:
    def shapes(matrices: Iterable[Tensor]) -> list[tuple[int, ...]]:
        return [tuple(matrix.shape) for matrix in matrices]

    assert shapes(tiny("large").auxiliary.parameters()) == [(5, 3), (3, 5)]
    assert shapes(tiny("small").auxiliary.parameters()) == [(3, 3), (3, 3)]
    assert shapes(tiny("small", aux_at="decision").auxiliary.parameters()) == [(4, 4), (4, 4)]


def test_features_of_unequal_number_need_the_matrices() -> None:
    nets = {"small": "resnet8", "large": "mobilenetv2"}
    with pytest.raises(BadPlanError, match=r"resnet8 and mobilenetv2 have features of unequal number.*lambda_h = 0"):
        small.plan("fedmic", nets=nets, fedmic={"aux_at": "decision"})
    for settings in ({"aux_at": "representation"}, {"aux_at": "decision", "lambda_h": 0.0}):
        assert small.plan("fedmic", nets=nets, fedmic=settings).nets.large == "mobilenetv2"
    assert small.plan("fedavg", nets=nets, fedmic={"aux_at": "decision"}).method == "fedavg"


def test_a_teacher_of_another_family_teaches_a_small_student() -> None:
    learner = small.learner(small.plan("fedmic", nets={"large": "shufflenetv2"}), "large")
    before = learner.state()
    learner.step(TRAIN, {"private": small.batch()})
    assert before["auxiliary/of_student"].shape == (1024, 64)
    assert {"auxiliary/of_student", "auxiliary/of_teacher", "net/conv1.weight"} <= small.differing(
        before, {name: array for name, array in learner.state().items() if name in before}
    )


def test_the_matrices_begin_as_identities() -> None:
    learner = small.learner(small.plan("fedmic"), "large")
    assert isinstance(learner, FedMIC)
    assert all(torch.equal(matrix, torch.eye(64)) for matrix in learner.auxiliary.parameters())


@pytest.mark.parametrize(("tier", "teacher"), [("small", "resnet8"), ("large", "resnet20")])
def test_the_teacher_is_the_net_of_the_sites_tier_and_the_student_is_small(tier: str, teacher: str) -> None:
    learner = small.learner(small.plan("fedmic"), tier)
    assert isinstance(learner, FedMIC)
    assert (learner.net.name, learner.teacher.name) == ("resnet8", teacher)
    assert learner.model is learner.net
    assert learner.others() == {"teacher": learner.teacher}
    assert not torch.equal(learner.net.conv1.weight, learner.teacher.conv1.weight)  # type: ignore[union-attr]


# 6.2.9
@pytest.mark.parametrize("tier", ["small", "large"])
def test_without_mutual_losses_the_student_is_fedavgs_net(tier: str) -> None:
    off = small.learner(small.plan("fedmic", fedmic={"lambda_d": 0.0, "lambda_h": 0.0}), tier)
    fedavg = small.learner(small.plan("fedavg"), tier)
    for round_ in (1, 2):
        for learner in (off, fedavg):
            for seed in range(2):
                learner.step(TRAIN, {"private": small.batch(seed=seed)})
            base = registry.METHODS["fedavg"].start(learner.plan)
            merged = registry.merge(learner.plan, round_, base, {"site-001": learner.give()}, {"site-001": 10})
            learner.receive(merged, round_ + 1)
    assert small.same(off.give(), fedavg.give())


# 6.2.9, 6.2.10
def test_what_lowrank_sends_whole_merges_as_the_mean_of_the_students() -> None:
    plan = small.plan("fedmic", wire={"up": "lowrank"}, lowrank={"start": 1.0, "end": 1.0}, merge={"clip": "none"})
    examples, students, arrived = {"site-001": 10, "site-002": 20, "site-003": 30}, {}, {}
    base = registry.METHODS["fedmic"].start(plan)
    for site in examples:
        learner = small.learner(plan, "small", site=site)
        for seed in range(2):
            learner.step(TRAIN, {"private": small.batch(seed=seed)})
        codec, students[site] = update_codec(plan, 1), learner.give()
        arrived[site] = dict(codec.decode(codec.encode(students[site], base, {})[0], base))
    merged = registry.merge(plan, 1, base, arrived, examples)
    for name, array in merged.items():
        mean = sum(examples[site] / 60 * students[site][name].astype(np.float64) for site in examples)
        assert np.abs(array - mean).max() < 1e-6, name
