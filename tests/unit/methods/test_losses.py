from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedhelp_edge.methods import losses
from fedhelp_edge.methods.fedhelp import mix_kl_divergence
from fedhelp_edge.methods.losses import kl_divergence, mix_sources, ranking_loss, symmetric

BOUND = -math.log(1e-4)  # 9.2103: of the reverse part of the symmetric loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def learned(*shape: int, seed: int = 0) -> Tensor:
    return draw(*shape, seed=seed).requires_grad_()


def labels(count: int, classes: int) -> Tensor:
    return torch.arange(count) % classes


def gradient(loss: Tensor, variable: Tensor) -> Tensor:
    gradient: Tensor = torch.autograd.grad(loss, variable)[0]
    return gradient


def reverse(logits: Tensor, target: Tensor) -> Tensor:
    """The reverse part of the symmetric loss."""
    return (symmetric(logits, target) - losses.CE_WEIGHT * F.cross_entropy(logits, target)) / losses.REVERSE_WEIGHT


# --- gradients by finite differences -------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1, 3])
def test_the_ranked_loss_has_the_gradient_of_finite_differences(top: int) -> None:
    guide = draw(5, 6, seed=1)
    assert torch.autograd.gradcheck(lambda logits: ranking_loss(logits, guide, top), learned(5, 6))


def test_the_divergence_has_the_gradient_of_finite_differences() -> None:
    teacher = draw(5, 6, seed=1).softmax(1)
    assert torch.autograd.gradcheck(lambda logits: kl_divergence(teacher, logits), learned(5, 6))


def test_the_divergence_of_mixed_sources_has_the_gradient_of_finite_differences_for_trust_and_logits() -> None:
    answers = draw(4, 3, 6, seed=1).softmax(2)

    def loss(trust: Tensor, logits: Tensor) -> Tensor:
        return mix_kl_divergence(mix_sources(answers, trust.softmax(1)), logits)

    assert torch.autograd.gradcheck(loss, (learned(4, 3, seed=2), learned(4, 6)))


@pytest.mark.parametrize("name", ["ce", "logit-adjusted", "symmetric"])
def test_every_loss_of_the_plan_has_the_gradient_of_finite_differences(name: str) -> None:
    loss = losses.loss_function(name, (100, 10, 1, 0))
    assert torch.autograd.gradcheck(lambda logits: loss(logits, labels(6, 4)), learned(6, 4))


# --- the ranking (Eq. 5-6) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1, 2, 3])
def test_the_gradient_of_the_ranking_is_k_times_softmax_minus_one_for_the_chosen(top: int) -> None:
    logits, guide = learned(1, 6), draw(1, 6, seed=1)
    chosen = torch.zeros(1, 6, dtype=torch.float64).scatter(1, guide.topk(top).indices, 1)
    slope = gradient(ranking_loss(logits, guide, top), logits)
    assert torch.allclose(slope, top * logits.softmax(1) - chosen, atol=1e-12)
    assert abs(float(slope.sum())) < 1e-12


def test_a_chosen_class_is_raised_only_while_it_is_below_its_part() -> None:
    guide = torch.tensor([[5.0, 4.0, 3.0, 0.0, 0.0]], dtype=torch.float64)
    logits = learned(200, 5) * 2
    probability = logits.softmax(1)[:, :3]
    raised = gradient(ranking_loss(logits, guide.expand(200, 5), 3), logits)[:, :3] < 0
    assert torch.equal(raised, probability < 1 / 3)
    assert raised.any()
    assert not raised.all()


def test_the_ranking_has_no_gradient_for_the_guide() -> None:
    guide = learned(3, 5, seed=1)
    loss = ranking_loss(learned(3, 5), guide, 2)
    assert torch.autograd.grad(loss, guide, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    "rising",
    [lambda x: 2 * x, lambda x: x + 3, lambda x: x**3, torch.exp, lambda x: x.softmax(1)],
    ids=["doubled", "shifted", "cubed", "exponential", "softmax"],
)
def test_only_the_ranks_of_the_guide_matter(rising: Callable[[Tensor], Tensor]) -> None:
    logits, guide = learned(8, 6), draw(8, 6, seed=1)
    first, second = ranking_loss(logits, guide, 3), ranking_loss(logits, rising(guide), 3)
    assert torch.equal(first, second)
    assert torch.equal(gradient(first, logits), gradient(second, logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_among_the_chosen_does_not_matter(dtype: torch.dtype) -> None:
    for logits, guide in zip(draw(100, 1, 6).to(dtype), draw(100, 1, 6, seed=1).to(dtype), strict=True):
        logits.requires_grad_()
        best = guide.topk(3).indices
        turned = guide.scatter(1, best, guide.gather(1, best.roll(1, 1)))
        first, second = ranking_loss(logits, guide, 3), ranking_loss(logits, turned, 3)
        assert torch.equal(first, second)
        assert torch.equal(gradient(first, logits), gradient(second, logits))


def test_another_class_among_the_chosen_matters() -> None:
    logits = learned(1, 5)
    first = ranking_loss(logits, torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]]), 3)
    second = ranking_loss(logits, torch.tensor([[5.0, 4.0, 2.0, 3.0, 1.0]]), 3)
    assert not torch.equal(first, second)
    assert not torch.equal(gradient(first, logits), gradient(second, logits))


@pytest.mark.parametrize("seed", range(5))
def test_a_step_down_the_ranking_makes_the_chosen_more_likely(seed: int) -> None:
    logits, guide = learned(1, 8, seed=seed), draw(1, 8, seed=seed + 100)
    chosen = guide.topk(3).indices
    after = logits - 0.1 * gradient(ranking_loss(logits, guide, 3), logits)
    assert after.log_softmax(1).gather(1, chosen).sum() > logits.log_softmax(1).gather(1, chosen).sum()


@pytest.mark.parametrize(
    ("label", "right", "others"), [(0, 0.75, [0.125, 0.125]), (7, 0.625, [0.125, 0.125, 0.125])], ids=["in", "out"]
)
def test_cross_entropy_and_ranking_together_have_a_soft_label_as_minimum(
    label: int, right: float, others: list[float]
) -> None:
    logits = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    guide = torch.tensor([[9.0, 8.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0]])  # ranks 0, 1 and 2 highest
    optimiser = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(logits, torch.tensor([label])) + 0.2 * ranking_loss(logits, guide, 3)
        value.backward()
        return value

    optimiser.step(loss)
    probabilities = logits.detach().softmax(1)[0]
    other_classes = [index for index in range(3) if index != label]
    assert probabilities[label].item() == pytest.approx(right, abs=1e-4)
    assert probabilities[other_classes].tolist() == pytest.approx(others, abs=1e-4)


def test_ranking_one_class_is_cross_entropy_with_the_guides_answer() -> None:
    logits, guide = learned(6, 5), draw(6, 5, seed=1)
    plain = F.cross_entropy(logits, guide.argmax(1))
    assert torch.allclose(ranking_loss(logits, guide, 1), plain, atol=1e-14)
    assert torch.allclose(gradient(ranking_loss(logits, guide, 1), logits), gradient(plain, logits), atol=1e-14)


def test_the_chosen_classes_are_compared_with_every_class_counted_once() -> None:
    logits, guide = draw(1, 6), draw(1, 6, seed=1)
    chosen = guide.topk(3).indices[0].tolist()
    phi = sum(math.exp(value) for value in logits[0].tolist())
    expected = -sum(math.log(math.exp(logits[0, index].item()) / phi) for index in chosen)
    assert ranking_loss(logits, guide, 3).item() == pytest.approx(expected, abs=1e-12)


# --- distillation (Eq. 4) ------------------------------------------------------------------------------------------


def test_the_divergence_of_equal_distributions_is_zero_without_a_gradient() -> None:
    logits = learned(4, 5)
    loss = kl_divergence(logits.softmax(1), logits + 3)  # a constant changes no probability
    assert abs(loss.item()) < 1e-14
    assert gradient(loss, logits).abs().max() < 1e-14


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_of_unequal_distributions_is_above_zero(seed: int) -> None:
    assert kl_divergence(draw(4, 5, seed=seed).softmax(1), draw(4, 5, seed=seed + 100)) > 0.01


def test_the_divergence_is_from_the_teacher_to_the_student() -> None:
    teacher, pupil = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.2, 0.3, 0.5]])
    expected = sum(t * math.log(t / p) for t, p in zip(teacher[0].tolist(), pupil[0].tolist(), strict=True))
    assert kl_divergence(teacher, pupil.log()).item() == pytest.approx(expected, abs=1e-6)


def test_a_student_may_give_probability_to_a_class_that_its_teacher_excludes() -> None:
    teacher = torch.tensor([[0.5, 0.5, 0.0]])
    pupil = torch.tensor([[0.25, 0.25, 0.5]])
    assert kl_divergence(teacher, pupil.log()).item() == pytest.approx(math.log(2), abs=1e-6)


def test_a_students_loss_is_unbounded_for_excluding_its_teachers_class() -> None:
    teacher = torch.tensor([[0.5, 0.5, 0.0]])
    assert kl_divergence(teacher, torch.tensor([[0.0, -2000.0, 0.0]])) > 900


def test_the_divergence_has_a_gradient_only_for_the_student() -> None:
    teacher, pupil = learned(4, 5, seed=1), learned(4, 5)
    loss = kl_divergence(teacher.softmax(1), pupil)
    assert torch.autograd.grad(loss, teacher, allow_unused=True, retain_graph=True) == (None,)
    assert gradient(loss, pupil).abs().max() > 0


# --- sources mixed by trust (Eq. 1) --------------------------------------------------------------------------------


def test_the_gradient_of_trust_is_the_closed_form() -> None:
    answers, logits = draw(1, 3, 6, seed=1).softmax(2), draw(1, 6)
    alpha = draw(1, 3, seed=2).softmax(1).requires_grad_()
    mix = mix_sources(answers, alpha)
    expected = (answers * ((mix / logits.softmax(1)).log() + 1).unsqueeze(1)).sum(2)
    assert torch.allclose(gradient(mix_kl_divergence(mix, logits), alpha), expected, atol=1e-12)


def test_the_mixed_divergence_is_the_plain_one_with_fixed_trust() -> None:
    teacher, logits = draw(4, 5, seed=1).softmax(1), draw(4, 5)
    assert torch.allclose(mix_kl_divergence(teacher, logits), kl_divergence(teacher, logits), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_that_every_source_excludes_gives_no_nan_gradient(dtype: torch.dtype) -> None:
    answers = torch.tensor([[[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]]], dtype=dtype)
    trust = torch.zeros(1, 2, dtype=dtype, requires_grad=True)
    logits = draw(1, 3).to(dtype)
    three = gradient(mix_kl_divergence(mix_sources(answers, trust.softmax(1)), logits), trust)
    two = gradient(mix_kl_divergence(mix_sources(answers[:, :, :2], trust.softmax(1)), logits[:, :2]), trust)
    assert torch.allclose(three, two, atol=1e-6)


def test_a_mix_weighs_each_source_of_each_image() -> None:
    answers = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    assert mix_sources(answers, torch.tensor([[0.25, 0.75], [1.0, 0.0]])).tolist() == [[0.25, 0.75], [1.0, 0.0]]


# --- the losses of the plan ----------------------------------------------------------------------------------------


def test_the_reverse_part_is_bounded_and_falls_with_the_probability_of_the_label() -> None:
    logits, target = draw(1, 5), torch.tensor([2])
    missing = 1 - logits.softmax(1)[0, 2].item()
    assert reverse(logits, target).item() == pytest.approx(BOUND * missing, rel=1e-5)
    assert reverse(logits * 100, target).item() <= BOUND * (1 + 1e-5)


def test_the_gradient_of_the_reverse_part_is_the_closed_form() -> None:
    logits, target = learned(1, 5), torch.tensor([2])
    p = logits.softmax(1)[0, 2].item()
    assert gradient(reverse(logits, target), logits)[0, 2].item() == pytest.approx(-BOUND * p * (1 - p), rel=1e-6)


def test_over_all_labels_the_reverse_part_sums_to_a_constant_so_that_wrong_labels_cancel() -> None:
    for seed in range(5):
        logits = draw(1, 5, seed=seed)
        total = sum(reverse(logits, torch.tensor([label])).item() for label in range(5))
        assert total == pytest.approx(BOUND * 4, rel=1e-5)


def test_cross_entropy_has_no_such_constant() -> None:
    totals = [
        sum(F.cross_entropy(draw(1, 5, seed=seed), torch.tensor([label])).item() for label in range(5))
        for seed in range(2)
    ]
    assert abs(totals[0] - totals[1]) > 0.1


def test_with_equal_class_frequencies_nothing_is_adjusted() -> None:
    adjusted, logits = losses.loss_function("logit-adjusted", (7, 7, 7, 7)), learned(6, 4)
    plain = F.cross_entropy(logits, labels(6, 4))
    assert torch.allclose(adjusted(logits, labels(6, 4)), plain, atol=1e-6)
    assert torch.allclose(gradient(adjusted(logits, labels(6, 4)), logits), gradient(plain, logits), atol=1e-6)


def test_a_rare_class_counts_for_more() -> None:
    adjusted, logits = losses.loss_function("logit-adjusted", (90, 10)), torch.zeros(1, 2)
    assert adjusted(logits, torch.tensor([1])) > F.cross_entropy(logits, torch.tensor([1]))
    assert adjusted(logits, torch.tensor([0])) < F.cross_entropy(logits, torch.tensor([0]))


def test_the_prior_is_the_class_frequencies_and_never_zero() -> None:
    assert losses.class_prior((5, 3, 0)).tolist() == pytest.approx([6 / 11, 4 / 11, 1 / 11])


@pytest.mark.parametrize("name", ["ce", "logit-adjusted", "symmetric"])
def test_every_loss_of_the_plan_is_a_mean_over_the_batch(name: str) -> None:
    loss, logits = losses.loss_function(name, (3, 2, 1)), draw(3, 3)
    single = [loss(logits[index : index + 1], labels(3, 3)[index : index + 1]).item() for index in range(3)]
    assert loss(logits, labels(3, 3)).item() == pytest.approx(sum(single) / 3)


def test_in_the_symmetric_loss_the_plain_part_weighs_a_tenth_of_the_reverse_one() -> None:
    """By hand, for two classes with equal logits: ln 2, and half of minus the log of the smallest label."""
    loss = symmetric(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])).item()
    assert loss == pytest.approx(0.1 * math.log(2) + 1.0 * BOUND / 2)
