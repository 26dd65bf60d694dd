"""U-Nets of pictures and of volumes: their tensors, their sizes, and that a mask is as large as its image."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from fedhelp_edge import plan
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.net import classify, create, frozen_bn_stats, images_at_once, load_arrays
from fedhelp_edge.nets.spec import Form
from tests.threads import one_thread as one_thread

every = pytest.mark.parametrize("name", plan.MASK_NETS)
forms = pytest.mark.parametrize("depth", [1, 8], ids=["picture", "volume"])


def drawn(name: str, form: Form) -> nn.Module:
    net = create(name, form)
    load_arrays(net, spec.initial_weights(spec.schema(name, form), 0))
    return net


def noise(form: Form, count: int = 2) -> torch.Tensor:
    sides = (form.depth, form.side, form.side)[3 - form.dimensions :]
    return torch.randn(count, form.channels, *sides, generator=torch.Generator().manual_seed(0))


@every
@forms
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_schema_is_the_modules_tensors_in_their_order(name: str, depth: int, norm: str) -> None:
    form = Form(3, 1, norm, 16, depth=depth)
    with torch.device("meta"):
        state = create(name, form).state_dict()
    tensors = [(key, tuple(tensor.shape)) for key, tensor in state.items() if not key.endswith("num_batches_tracked")]
    assert tensors == [(tensor.name, tensor.shape) for tensor in spec.schema(name, form).tensors]


@pytest.mark.parametrize(
    ("name", "form", "count"),
    [
        ("unet8", Form(3), 121_195),
        ("unet16", Form(3), 482_771),
        ("unet24", Form(3), 1_084_731),
        ("unet32", Form(3), 1_927_075),
        ("unet8", Form(2, 1, depth=8), 350_818),
        ("unet16", Form(2, 1, depth=8), 1_401_282),
    ],
)
def test_the_documented_numbers_of_parameters_are_true(name: str, form: Form, count: int) -> None:
    learned = [tensor for tensor in spec.schema(name, form).tensors if tensor.role != "stat"]
    assert sum(math.prod(tensor.shape) for tensor in learned) == count


@forms
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_mask_is_as_large_as_its_image_and_every_parameter_learns(depth: int, norm: str) -> None:
    form = Form(3, 1, norm, 16, depth=depth)
    net = drawn("unet8", form).train()
    logits = net(noise(form))
    assert logits.shape == (2, 3, *noise(form).shape[2:])
    logits.square().mean().backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_the_head_says_of_a_pixel_what_it_says_of_an_image_with_the_same_features() -> None:
    head, maps = nn.Linear(5, 3), torch.randn(2, 5, 4, 6)
    logits = classify(head, maps)
    assert torch.equal(logits.movedim(1, -1).reshape(-1, 3), head(maps.movedim(1, -1).reshape(-1, 5)))


@forms
def test_batch_norm_of_a_frozen_pass_keeps_its_statistics(depth: int) -> None:
    form = Form(2, 1, side=8, depth=depth)
    net = drawn("unet8", form).train()
    before = copy.deepcopy(net.state_dict())
    with frozen_bn_stats(net):
        net(noise(form))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_no_group_of_group_norm_is_a_single_channel() -> None:
    layers = [layer for layer in create("unet8", Form(2, norm="group")).modules() if isinstance(layer, nn.GroupNorm)]
    assert layers
    assert all(layer.num_groups < layer.num_channels for layer in layers)


def test_weights_of_a_unet_are_known_by_their_widths() -> None:
    for name in plan.MASK_NETS:
        weights = spec.initial_weights(spec.schema(name, Form(4, 1)), 0)
        assert spec.name_of(weights, Form(4, 1)) == name
        headless = {key: array for key, array in weights.items() if not key.startswith("linear")}
        assert spec.name_of(headless, Form(2, 1)) == name


def test_few_large_images_or_blocks_are_seen_at_once() -> None:
    assert images_at_once(create("unet8", Form(2, side=256))) == 8
    assert images_at_once(create("unet8", Form(2, side=64, depth=64))) == 2
