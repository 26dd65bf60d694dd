from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedhelp_edge import update
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.net import arrays_of, frozen_bn_stats, load_arrays
from fedhelp_edge.nets.resnet import ResidualBlock, ResNet
from fedhelp_edge.nets.spec import Form
from tests.threads import one_thread as one_thread

_ROOT = Path(__file__).resolve().parents[3]
DATA = _ROOT / os.environ.get("FEDHELP_DATA", "../shared/data")

every = pytest.mark.parametrize("net", ["resnet20", "resnet32", "resnet56", "resnet110"])
both = pytest.mark.parametrize("norm", ["batch", "group"])


def published(net: str) -> dict[str, update.Array]:
    path = DATA.parent / "weights" / f"{net}_cifar10.safetensors"
    if not path.exists():
        pytest.skip("the folder 'weights' beside FEDHELP_DATA is not here")
    return update.load(path)


def made(net: str = "resnet20", classes: int = 4, channels: int = 3, norm: str = "batch", seed: int = 0) -> ResNet:
    """A net with the first weights of a seed."""
    net_ = ResNet(net, Form(classes, channels, norm))
    load_arrays(net_, spec.initial_weights(spec.schema(net, Form(classes, channels, norm)), seed))
    return net_


def noise(count: int = 4, channels: int = 3, side: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("net", "numbers"), [("resnet20", 269_592), ("resnet110", 1_727_832)])
def test_a_net_has_the_papers_number_of_parameters(net: str, numbers: int) -> None:
    assert sum(parameter.numel() for parameter in ResNet(net, Form(8)).parameters()) == numbers


@pytest.mark.parametrize("net", ["resnet20", "resnet32", "resnet56"])
def test_the_published_weights_fit_unchanged(net: str) -> None:
    weights, loaded = published(net), ResNet(net, Form(10))
    load_arrays(loaded, weights)
    arrays = arrays_of(loaded)
    assert all(np.array_equal(arrays[name], weights[name]) for name in weights)


def test_the_published_net_has_its_measured_accuracy() -> None:
    net, path = ResNet("resnet20", Form(10)).eval(), DATA / "public" / "cifar10_5k.npz"
    load_arrays(net, published("resnet20"))
    if not path.exists():
        pytest.skip("public/cifar10_5k.npz of FEDHELP_DATA is not here")
    with np.load(path, allow_pickle=False) as archive:
        pixels, labels = archive["images"][:1000], archive["labels"][:1000]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    inputs = torch.from_numpy(((pixels / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        predicted = torch.cat([net(part).argmax(1) for part in inputs.split(250)]).numpy()
    measured = 0.8103  # on the ten thousand that these are from
    assert abs((predicted == labels).mean() - measured) < 3.3 * math.sqrt(measured * (1 - measured) / len(labels))


@every
def test_the_last_layer_computes_the_logits_from_64_features(net: str) -> None:
    made_, x = made(net).eval(), noise()
    features = made_.features(x)
    assert features.shape == (4, made_.width) == (4, 64)
    assert torch.equal(made_.linear(features), made_(x))


def test_the_last_maps_have_a_quarter_of_the_image_size_and_their_mean_is_the_feature() -> None:
    net, x = made().eval(), noise(side=16)
    maps = net.feature_maps(x)
    assert maps.shape == (4, 64, 4, 4)
    assert torch.equal(maps.mean((2, 3)), net.features(x))


@pytest.mark.parametrize(("inside", "outside"), [(16, 16), (16, 32), (32, 64)])
def test_a_shortcut_has_no_parameters(inside: int, outside: int) -> None:
    names = {
        name.split(".")[0] for name, _ in ResidualBlock(inside, outside, "batch", outside // inside).named_parameters()
    }
    assert names == {"conv1", "bn1", "conv2", "bn2"}


def test_a_shortcut_uses_every_other_pixel_and_zeros_for_new_channels() -> None:
    block, x = ResidualBlock(16, 32, "batch", 2).eval(), noise(channels=16).relu()
    nn.init.zeros_(block.conv2.weight)  # the shortcut alone
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_frozen_bn_stats_leave_the_running_statistics_unchanged() -> None:
    net = made().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with frozen_bn_stats(net):
        net(noise())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_frozen_bn_stats_still_normalise_by_the_batch() -> None:
    net, x = made().train(), noise()
    with frozen_bn_stats(net):
        still = net(x)
    assert torch.equal(still, net(x))  # as in training
    assert not torch.allclose(still, net.eval()(x))  # and not as in use


def test_gradients_flow_as_if_the_statistics_were_not_frozen() -> None:
    first, second = made().train(), made().train()
    first(noise()).square().sum().backward()
    with frozen_bn_stats(second):
        second(noise()).square().sum().backward()
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad) for a, b in pairs)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in second.parameters())


def test_statistics_are_updated_again_after_freezing_even_after_an_error() -> None:
    net = made().train()
    with pytest.raises(ZeroDivisionError), frozen_bn_stats(net):
        raise ZeroDivisionError
    before = net.bn1.running_mean.clone()
    net(noise())
    assert not torch.equal(net.bn1.running_mean, before)


@both
@pytest.mark.parametrize("channels", [1, 3])
def test_loading_a_nets_arrays_makes_another_net_equal(channels: int, norm: str) -> None:
    first, second = made(channels=channels, norm=norm, seed=1), made(channels=channels, norm=norm, seed=2)
    first.train()(noise(channels=channels))
    load_arrays(second, arrays_of(first))
    x = noise(channels=channels, seed=5)
    assert torch.equal(first.eval()(x), second.eval()(x))


def test_arrays_are_copies() -> None:
    net = made()
    arrays_of(net)["conv1.weight"][:] = 7
    assert not (net.conv1.weight == 7).any()


def test_counters_do_not_travel_and_stay_unchanged() -> None:
    net = made().train()
    net(noise())
    assert not [name for name in arrays_of(net) if name.endswith("num_batches_tracked")]
    load_arrays(net, arrays_of(made(seed=1)))
    assert int(net.bn1.num_batches_tracked) == 1


@pytest.mark.parametrize(
    "other",
    [
        ResNet("resnet32", Form(4)),
        ResNet("resnet20", Form(5)),
        ResNet("resnet20", Form(4, channels=1)),
        ResNet("resnet20", Form(4, norm="group")),
    ],
    ids=["deeper", "more classes", "grey", "another norm"],
)
def test_arrays_of_another_net_are_refused_and_change_nothing(other: ResNet) -> None:
    net = made()
    before = arrays_of(net)
    with pytest.raises(ValueError, match="for another net"):
        load_arrays(net, arrays_of(other))
    assert all(np.array_equal(array, before[name]) for name, array in arrays_of(net).items())


def test_a_missing_array_is_named() -> None:
    values = arrays_of(made())
    del values["layer2.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1\.weight"):
        load_arrays(made(), values)


def test_with_group_norm_an_images_output_does_not_depend_on_its_batch() -> None:
    net, x = made(norm="group").train(), noise()
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)
