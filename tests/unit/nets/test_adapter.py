"""FedMedCLIP's adapter, classifier and mixture: masks that learn, true entropies, probabilities that sum to 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.nets.adapter import Adapter, Classifier, MaskedLinear, Masks, Mixture, Similarity, certainty, entropy
from fedhelp_edge.nets.spec import Form

PAPER, CODE = Masks(), Masks(bias=False, step="code", grad="released")


def numbers(*shape: int, seed: int = 1, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def drawn(module: nn.Module, scale: float = 0.3) -> Any:
    """The module in double precision, with weights, biases and running statistics drawn."""
    module.double()
    for index, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point() and "threshold" not in name:
            tensor.copy_(numbers(*tensor.shape, seed=index, scale=scale).abs() if "var" in name else
                         numbers(*tensor.shape, seed=index, scale=scale))  # fmt: skip
    return module


class Vectors(nn.Module):
    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(rows))

    def forward(self) -> Tensor:
        return self.rows  # type: ignore[return-value]


def mixture(classes: int = 3, width: int = 6) -> Any:
    similarity = Similarity(Form(classes, features=width), PAPER, Vectors(numbers(classes, width, seed=50)), 20.0)
    return drawn(Mixture(similarity, PAPER)).eval()


# --- masks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("masks", [PAPER, Masks(bias=False)])
def test_a_threshold_above_a_rows_mean_turns_off_exactly_this_row(masks: Masks) -> None:
    layer, x = drawn(MaskedLinear(5, 4, masks)), numbers(7, 5)
    plain = F.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), plain)
    with torch.no_grad():
        layer.threshold[2] = layer.weight[2].abs().mean() + 1e-9
    others = [0, 1, 3]
    assert torch.equal(layer(x)[:, others], plain[:, others])
    assert torch.equal(layer(x)[:, 2], torch.zeros(7) if masks.bias else layer.bias[2].expand(7))


@pytest.mark.parametrize(("step", "on"), [("paper", [1, 1, 1, 0]), ("code", [1, 0, 0, 0])])
def test_a_row_is_on_at_its_threshold_or_as_in_the_program_a_hundredth_above(step: str, on: list[int]) -> None:
    layer = MaskedLinear(2, 4, Masks(step=step)).double()
    with torch.no_grad():
        layer.weight[:] = torch.tensor([0.02, 0.005, 0.0, -0.001], dtype=torch.float64)[:, None]
        layer.threshold[3] = 0.002
    assert layer.mask().tolist() == on


def gradients(masks: Masks, threshold: float) -> tuple[MaskedLinear, Tensor, Tensor]:
    """A layer with the gradients of a loss; and of that loss by mask and by masked weight."""
    layer, x, wanted = drawn(MaskedLinear(5, 4, masks)), numbers(7, 5, seed=8), numbers(7, 4, seed=9)
    with torch.no_grad():
        layer.threshold[:] = threshold
    ((layer(x) - wanted) ** 2).mean().backward()
    mask = layer.mask().detach().requires_grad_()
    masked = (layer.weight.detach() * mask.detach()[:, None]).requires_grad_()
    bias = layer.bias * mask if masks.bias else layer.bias
    ((F.linear(x, layer.weight.detach() * mask[:, None], bias) - wanted) ** 2).mean().backward()
    frozen = (layer.bias * mask if masks.bias else layer.bias).detach()
    ((F.linear(x, masked, frozen) - wanted) ** 2).mean().backward()
    assert mask.grad is not None
    assert masked.grad is not None
    return layer, mask.grad, masked.grad


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.5])  # rows are on; rows are off, and can return
def test_the_gradient_goes_straight_through_to_thresholds_and_weights(bias: bool, threshold: float) -> None:
    layer, by_mask, by_masked = gradients(Masks(bias=bias), threshold)
    assert layer.mask().tolist() == [float(threshold == 0)] * 4
    assert layer.threshold.grad is not None
    assert layer.weight.grad is not None
    assert by_mask.abs().min() > 1e-4
    assert torch.allclose(layer.threshold.grad, -by_mask)
    through_the_mean = by_mask[:, None] * layer.weight.sign() / 5
    assert torch.allclose(layer.weight.grad, layer.mask()[:, None] * by_masked + through_the_mean)


@pytest.mark.parametrize("grad", ["inside", "released"])
@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_the_programs_gradient_reaches_only_thresholds_that_are_far_away(grad: str, threshold: float) -> None:
    layer, by_mask, _ = gradients(Masks(grad=grad), threshold)
    assert layer.threshold.grad is not None
    passes = (grad == "inside") == (threshold == 0)
    assert torch.allclose(layer.threshold.grad, -by_mask if passes else torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(("grad", "on"), [("inside", [1, 0]), ("released", [1, 1])])
def test_training_turns_off_a_row_that_harms_which_the_program_never_did(grad: str, on: list[int]) -> None:
    torch.manual_seed(0)
    layer = drawn(MaskedLinear(8, 2, Masks(grad=grad)), scale=0.05)
    wanted = nn.Parameter(layer.weight.detach().clone())
    layer.weight.requires_grad_(False), layer.bias.requires_grad_(False)
    optimiser = torch.optim.AdamW([layer.threshold], 0.002)
    x = numbers(32, 8)
    for _ in range(60):  # the first row is as it should be, and the second should be none
        optimiser.zero_grad()
        ((layer(x) - F.linear(x, wanted, layer.bias) * torch.tensor([1.0, 0.0])) ** 2).mean().backward()
        optimiser.step()
    assert layer.mask().tolist() == on
    assert (layer.threshold.abs().max() > 0) == (grad == "inside")


# --- adapter and classifier ------------------------------------------------------------------------------------------
def test_an_adapter_of_512_features_has_the_published_size() -> None:
    count = sum(parameter.numel() for parameter in Adapter(512, PAPER).parameters())
    assert count == 526_336
    assert count * 4 / 2**20 == pytest.approx(2.008, abs=5e-4)


@pytest.mark.parametrize(("classes", "count"), [(2, 793_604), (8, 796_688)])
def test_a_classifier_of_512_features_has_the_published_size(classes: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in Classifier(512, classes, PAPER).parameters()) == count


def test_an_adapter_weighs_features_by_numbers_that_sum_to_one() -> None:
    weights = drawn(Adapter(16, PAPER))(numbers(5, 16, scale=3))
    assert weights.shape == (5, 16)
    assert weights.min() > 0
    assert torch.allclose(weights.sum(1), torch.ones(5, dtype=torch.float64))


def test_an_adapter_normalises_each_image_by_itself() -> None:
    """InstanceNorm1d of a batch of rows has one mean and one variance for each row, and no weights."""
    adapter, x = drawn(Adapter(16, PAPER)), numbers(5, 16)
    hidden = F.instance_norm(adapter.first(x)[None])[0].relu()
    assert torch.allclose(adapter(x), adapter.second(hidden).softmax(1))
    assert torch.allclose(adapter(x)[2:3], adapter(x[2:3]))


def test_adapted_features_are_weighed_ones_of_length_one() -> None:
    net, x = mixture(), numbers(5, 6)
    adapted = net.features(x)
    assert torch.allclose(adapted.norm(dim=1), torch.ones(5, dtype=torch.float64))
    weighed = net.similarity.adapter(x) * x
    assert torch.allclose(adapted, weighed / weighed.norm(dim=1, keepdim=True))


# --- the mixture -----------------------------------------------------------------------------------------------------
def test_the_entropy_is_a_true_one() -> None:
    logits = torch.tensor([[0.0, 0, 0, 0], [1000, 0, 0, 0], [math.log(3), 0, -1e4, -1e4]], dtype=torch.float64)
    expected = [math.log(4), 0, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert torch.allclose(entropy(logits), torch.tensor(expected, dtype=torch.float64))


def test_the_more_certain_one_weighs_more() -> None:
    sharp, flat = numbers(20, 4, seed=2, scale=9), numbers(20, 4, seed=3, scale=0.1)
    for adapter in (sharp, flat):
        for classifier in (sharp, flat):
            omega = certainty(adapter, classifier)
            assert ((omega >= 0) & (omega <= 1)).all()
            assert torch.allclose(omega, 1 - certainty(classifier, adapter))
    assert certainty(flat, sharp).min() > 0.5
    assert certainty(flat, 1e4 * sharp).min() > 0.999999
    assert certainty(sharp, sharp).tolist() == [0.5] * 20
    assert certainty(flat, flat.flip(1)).tolist() == pytest.approx([0.5] * 20)
    assert certainty(1e4 * sharp, 1e4 * sharp.flip(1)).tolist() == pytest.approx([0.5] * 20)  # both are certain


def test_mixed_probabilities_are_those_of_both_weighed_by_certainty_and_sum_to_one() -> None:
    net, x = mixture(), numbers(9, 6)
    logits = net(x)
    adapted = net.features(x)
    p, q = net.similarity(x).softmax(1), net.classifier(adapted).softmax(1)
    h, g = (-(each * each.log()).sum(1, keepdim=True) for each in (p, q))
    omega = (1 / g) / (1 / h + 1 / g)
    assert torch.allclose(logits.softmax(1), omega * q + (1 - omega) * p)
    assert torch.allclose(logits.exp().sum(1), torch.ones(9, dtype=torch.float64))
    assert torch.allclose(net.similarity(x), 20 * adapted @ net.similarity.vectors().T)


def test_half_precision_does_not_round_cosines() -> None:
    net, adapted = mixture().similarity.float(), F.normalize(numbers(9, 6).float())
    exact = adapted @ net.vectors().T
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(net.cosines(adapted), exact, atol=2e-7)


def test_predictions_stay_finite_where_both_are_certain() -> None:
    net = mixture().float()
    net.similarity.scale = 1e4
    with torch.no_grad():
        net.classifier.last.weight.mul_(1e4)
        logits = net(numbers(9, 6).float())
    assert logits.isfinite().all()
    assert np.allclose(logits.softmax(1).sum(1), 1)


def test_the_gradients_of_the_mixture_are_right() -> None:
    net = mixture()
    assert torch.autograd.gradcheck(net, numbers(3, 6).requires_grad_())
