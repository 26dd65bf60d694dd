"""What holds for every net that a plan may name, whatever its family, norm layers, channels and side of the images."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedhelp_edge import plan
from fedhelp_edge.knowledge import torchvision_shim
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.layers import SameConv2d
from fedhelp_edge.nets.net import Net, create, images_at_once, load_arrays
from fedhelp_edge.nets.spec import Form
from tests.threads import one_thread as one_thread

families = pytest.mark.parametrize(
    "name", ["resnet20", "resnet12", "mobilenetv2", "efficientnet_lite0", "shufflenetv2"]
)
every = pytest.mark.parametrize("name", plan.IMAGE_NETS)
adaptive = pytest.mark.parametrize(
    "name", ["resnet10", "resnet12", "mobilenetv2", "efficientnet_lite0", "shufflenetv2"]
)
norms = pytest.mark.parametrize("norm", ["batch", "group"])


def drawn(name: str, form: Form) -> Net:
    """A net with the first weights of a seed."""
    net = create(name, form)
    load_arrays(net, spec.initial_weights(spec.schema(name, form), 0))
    return net


def noise(form: Form, count: int = 2) -> torch.Tensor:
    return torch.randn(count, form.channels, form.side, form.side, generator=torch.Generator().manual_seed(0))


def travelling(name: str, form: Form) -> list[tuple[str, tuple[int, ...]]]:
    """The tensors of the module, without making their numbers."""
    with torch.device("meta"):
        state = create(name, form).state_dict()
    return [(key, tuple(tensor.shape)) for key, tensor in state.items() if not key.endswith("num_batches_tracked")]


@every
@norms
@pytest.mark.parametrize("channels", [1, 3])
def test_the_schema_is_the_modules_tensors_in_their_order(name: str, norm: str, channels: int) -> None:
    form = Form(5, channels, norm)
    assert travelling(name, form) == [(tensor.name, tensor.shape) for tensor in spec.schema(name, form).tensors]


@every
def test_no_tensor_depends_on_the_side_of_the_images(name: str) -> None:
    assert len({spec.schema(name, Form(5, side=side)) for side in (8, 64, 1024)}) == 1
    assert travelling(name, Form(5, side=8)) == travelling(name, Form(5, side=1024))


@families
@pytest.mark.parametrize(("norm", "channels", "side"), [("batch", 3, 8), ("group", 1, 17)])
def test_a_net_learns_from_two_small_images_in_every_parameter_and_draws_nothing(
    name: str, norm: str, channels: int, side: int
) -> None:
    """A resumed run has nothing to draw again. Two images are the fewest that training gives to batch norm."""
    form = Form(3, channels, norm, side)
    first = drawn(name, form).train()
    second = copy.deepcopy(first)
    for seed, net in enumerate((first, second)):
        torch.manual_seed(seed)
        net(noise(form)).square().sum().backward()
    gradients = [[parameter.grad for parameter in net.parameters()] for net in (first, second)]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients[0])
    assert all(map(torch.equal, *gradients))


@adaptive
@pytest.mark.parametrize(("side", "rows"), [(8, 4), (20, 5), (28, 4), (32, 4), (64, 4)])
def test_the_last_maps_of_a_small_image_keep_four_rows_or_more(name: str, side: int, rows: int) -> None:
    net = create(name, Form(3, side=side)).eval()
    with torch.no_grad():
        assert net.feature_maps(noise(Form(3, side=side), 1)).shape == (1, spec.NETS[name].width, rows, rows)


@families
def test_a_net_takes_images_of_other_sides_than_its_own(name: str) -> None:
    """Public images have a side of their own."""
    net = create(name, Form(3, side=128)).eval()
    with torch.no_grad():
        assert net(noise(Form(3, side=8))).shape == (2, 3)


@families
def test_the_head_classifies_the_mean_of_the_last_maps(name: str) -> None:
    form = Form(4, side=16)
    net, x = drawn(name, form).eval(), noise(form)
    with torch.no_grad():
        assert torch.equal(net.features(x), net.feature_maps(x).mean((2, 3)))
        assert torch.equal(net.head(net.features(x)), net(x))
    assert net.features(x).shape == (2, net.width) == (2, spec.NETS[name].width)


@families
def test_the_first_weights_keep_numbers_in_their_range(name: str) -> None:
    """A law that forgot that a depthwise kernel has one channel in would make them vanish with the depth."""
    form = Form(8, side=8)
    for layer in (net := drawn(name, form)).modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda x: x  # norm layers would hide it
    with torch.no_grad():
        assert 0.1 < net(noise(form)).std() < 100


@pytest.mark.parametrize(
    ("name", "published"), [("mobilenetv2", "mobilenet_v2"), ("shufflenetv2", "shufflenet_v2_x1_0")]
)
def test_on_large_images_a_net_gives_the_numbers_of_torchvisions(name: str, published: str) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    torchvision_shim.prepare()
    from torchvision import models

    theirs, ours = getattr(models, published)().eval(), create(name, Form(1000, side=224)).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 4)  # so that some numbers reach the six of ReLU6
    tensors = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
    with torch.no_grad():
        x = noise(Form(1000, side=224), 1)
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [1, 2, 5, 6, 7, 8])
def test_a_halving_of_tensorflow_pads_as_tensorflow_documents(kernel: int, side: int) -> None:
    """Of the zeros that ceil(side / 2) windows need, the odd one comes last."""
    layer = SameConv2d(1, 1, kernel, 2, kernel // 2, bias=False)
    x = torch.arange(float(side**2)).reshape(1, 1, side, side)
    total = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
    padded = F.pad(x, (total // 2, total - total // 2) * 2)
    with torch.no_grad():
        assert torch.equal(layer(x), F.conv2d(padded, layer.weight, stride=2))


@every
def test_a_plan_may_name_each_net_at_either_place(name: str) -> None:
    read = plan.read(f'classes = ["a", "b"]\n[nets]\nsmall = "{name}"\nlarge = "{name}"', METHODS)
    assert (read.nets.small, read.nets.large) == (name, name)
    assert Form.of(read) == Form(2, 3, "batch", 64)


def test_a_plan_may_name_no_other_net() -> None:
    assert tuple(spec.NETS) == plan.NETS
    for on, names in (("pixels", plan.IMAGE_NETS), ("features", plan.FEATURE_NETS)):
        assert tuple(name for name, each in spec.NETS.items() if each.on == on and not each.masks) == names
    assert tuple(name for name, each in spec.NETS.items() if each.masks) == plan.MASK_NETS


def test_a_linear_net_classifies_the_features_that_it_is_given() -> None:
    form = Form(5, features=7)
    net, x = drawn("linear", form), torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    assert travelling("linear", form) == [(tensor.name, tensor.shape) for tensor in spec.schema("linear", form).tensors]
    assert torch.equal(net.features(x), x)
    assert torch.equal(net(x), net.head(x))
    assert (net.width, spec.width("linear", form), spec.width("resnet20", form)) == (7, 7, 64)


def test_weights_of_a_linear_layer_are_a_linear_nets_where_nets_see_features() -> None:
    form = Form(5, features=7)
    weights = spec.initial_weights(spec.schema("linear", form), 0)
    assert spec.name_of(weights, form) == "linear"
    assert spec.name_of(weights, Form(5)) == ""


def test_a_shortcut_is_a_projection_only_where_channels_grow() -> None:
    names = [key.split(".")[0] for key, _ in travelling("resnet12", Form(3)) if "shortcut.conv" in key]
    assert names == ["layer2", "layer3", "layer4"]


@pytest.mark.parametrize(("side", "images"), [(8, 256), (32, 256), (64, 128), (224, 10), (1024, 1)])
def test_a_net_that_does_not_learn_sees_fewer_large_images_at_once(side: int, images: int) -> None:
    """256 images of 224 pixels took gigabytes."""
    assert images_at_once(create("resnet20", Form(2, side=side))) == images


def test_features_take_little_memory_whatever_the_side_of_the_images_behind_them() -> None:
    assert images_at_once(create("linear", Form(2, side=224, features=4))) == 256
