"""The exported graph gives the numbers of the net that PyTorch runs, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export import graph, quantize, verify
from fedhelp_edge import plan
from fedhelp_edge.errors import UnknownLayerError
from fedhelp_edge.infer import graph_check
from fedhelp_edge.infer.engine import Engine
from fedhelp_edge.nets.net import Net, create
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.nets.spec import Form
from tests.bundles import noise
from tests.threads import one_thread as one_thread
from tests.unit.methods import small

PRIOR = (0.2, 0.3, 0.5)
SMALLEST = ["resnet20", "resnet12", "mobilenetv2", "efficientnet_lite0", "shufflenetv2"]  # of each family
FORMS = [("batch", 3, 8), ("batch", 1, 28), ("group", 3, 17), ("group", 1, 64), ("batch", 1, 130)]


def image(side: int, channels: int = 3) -> plan.ImageSettings:
    return plan.ImageSettings(side, channels, (0.45,) * channels, (0.25,) * channels)


def used(net: Net, seed: int = 0) -> Net:
    """The net with norm layers as after training, not those of a new net."""
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=draw)
            module.running_var.uniform_(0.5, 2, generator=draw)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.2, generator=draw)
            nn.init.normal_(module.bias, 0, 0.1, generator=draw)
    return net.eval()


def made(name: str, side: int, channels: int = 3, norm: str = "batch", seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return used(create(name, Form(len(PRIOR), channels, norm, side)), seed)


def exported(nets: Sequence[Net], settings: plan.ImageSettings) -> bytes:
    return graph.build(nets, settings, PRIOR).SerializeToString()


@pytest.mark.parametrize(
    ("name", "norm", "channels", "side"),
    [
        *((name, *form) for name in SMALLEST for form in FORMS),
        *((name, "batch", 3, 17) for name in plan.IMAGE_NETS if name not in SMALLEST),
    ],
)
def test_every_net_gives_the_same_numbers_in_onnxruntime_as_in_torch(
    name: str, norm: str, channels: int, side: int
) -> None:
    nets, settings = [made(name, side, channels, norm)], image(side, channels)
    data = exported(nets, settings)
    assert verify.parity(data, nets, settings, PRIOR) <= 2e-5
    graph_check.check_cost(data, (1, side, side, channels))


@pytest.mark.parametrize("names", [[name] for name in SMALLEST] + [["shufflenetv2", "resnet20"], SMALLEST])
@pytest.mark.parametrize("side", [28, 16])
def test_a_logit_is_the_mean_of_its_heat_map_plus_the_bias(names: list[str], side: int) -> None:
    nets = [made(name, side) for name in names]
    outputs = Engine(exported(nets, image(side)))(noise(3, 61, 47, 3))
    _, bias = graph.last_layer(nets, PRIOR)
    assert np.abs(outputs.cam.mean((2, 3)) + bias - outputs.logits).max() <= 1e-5


def test_nets_of_all_families_are_averaged_on_the_grid_of_the_finest() -> None:
    nets = [made(name, 28, 1) for name in SMALLEST]
    whole, *parts = (Engine(exported(each, image(28, 1))) for each in (nets, *([net] for net in nets)))
    pixels = noise(2, 28, 28, 1)
    together, alone = whole(pixels), [part(pixels) for part in parts]
    assert together.logits == pytest.approx(np.mean([each.logits for each in alone], 0), abs=1e-5)
    assert np.array_equal(together.embedding, np.concatenate([each.embedding for each in alone], 1))
    assert [each.cam.shape[2:] for each in (together, *alone)] == [(7, 7), (7, 7), (4, 4), (4, 4), (4, 4), (4, 4)]
    coarse = np.mean([each.cam for each in alone[1:]], 0)
    finest = 5 * together.cam - alone[0].cam  # what the four coarse ones give
    assert finest[..., 0, 0] == pytest.approx(4 * coarse[..., 0, 0], abs=1e-4)  # a corner lies in one coarse place
    assert verify.parity(exported(nets, image(28, 1)), nets, image(28, 1), PRIOR) <= 2e-5


@pytest.mark.parametrize(("rows", "finer"), [(4, 7), (3, 3), (4, 8), (1, 5), (8, 9)])
def test_a_finer_grid_keeps_constants_and_the_mean(rows: int, finer: int) -> None:
    matrix = graph.resampling(rows, finer)
    values = np.random.default_rng(0).normal(size=rows)
    assert matrix.sum(1) == pytest.approx(np.ones(finer))
    assert (matrix @ values).mean() == pytest.approx(values.mean())
    assert rows != finer or np.array_equal(matrix, np.eye(rows))
    assert finer % rows or (matrix @ values) == pytest.approx(values.repeat(finer // rows))


def test_of_an_8_bit_average_of_families_the_heat_map_stays_exact() -> None:
    nets, settings = [made("mobilenetv2", 8), made("resnet20", 8)], image(8)
    int8 = quantize.quantize(graph.build(nets, settings, PRIOR), noise(16, 8, 8, 3)).SerializeToString()
    graph_check.check_cost(int8, (1, 8, 8, 3))
    outputs, expected = (Engine(data)(noise(8, 8, 8, 3)) for data in (int8, exported(nets, settings)))
    _, bias = graph.last_layer(nets, PRIOR)
    assert np.abs(outputs.cam.mean((2, 3)) + bias - outputs.logits).max() <= 1e-5
    assert len(int8) < len(exported(nets, settings)) / 2
    assert np.abs(outputs.logits - expected.logits).max() < 0.5 * expected.logits.std()


def test_the_same_net_gives_the_same_bytes_in_the_same_operators() -> None:
    model = graph.build([made("shufflenetv2", 64)], image(64), PRIOR)
    operators = {node.op_type for node in model.graph.node}
    assert {
        "MaxPool",
        "Slice",
        "Concat",
        "Reshape",
        "Transpose",
    } < operators  # the families' own, and batch norm folded
    assert operators <= set(graph_check._OPERATORS)
    assert model.SerializeToString() == exported([made("shufflenetv2", 64)], image(64))


@pytest.mark.parametrize(
    ("method", "tier"),
    sorted({(method, tier) for method, tier, _ in small.EVERYBODY if method not in small.ON_FEATURES}),
)
def test_what_a_site_of_any_method_diagnoses_with_is_exported(method: str, tier: str) -> None:
    agreed = small.plan(method)
    net = used(small.learner(agreed, tier, small.pack()).exported)
    model = graph.build([net], agreed.image, None).SerializeToString()
    assert verify.parity(model, [net], agreed.image, None) <= 2e-5


# --- what the walker does not know -----------------------------------------------------------------------------------
class Changed(ResNet):
    """A ResNet20 with one more step among its maps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__("resnet20", Form(len(PRIOR), side=8))
        self.extra = layer

    def feature_maps(self, x: Tensor) -> Tensor:
        return self.extra(super().feature_maps(x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Softplus(), nn.AvgPool2d(2), nn.BatchNorm2d(64), nn.Dropout(0.5), nn.MaxPool2d(3, ceil_mode=True),
        nn.MaxPool2d(3, dilation=2), nn.MaxPool2d(3, return_indices=True), nn.MaxPool2d((2, 1)),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"), nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, (3, 1)), nn.Conv2d(64, 64, 3, padding=2, dilation=2),
        nn.Sequential(nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64, track_running_stats=False)),
    ],
    ids=str,
)  # fmt: skip
def test_an_unknown_layer_is_refused_by_its_kind_and_name(layer: nn.Module) -> None:
    kind = type(layer).__name__ if not isinstance(layer, nn.Sequential) else "Conv2d"
    with pytest.raises(UnknownLayerError, match=rf"resnet20 .* {kind} \(extra") as refused:
        exported([Changed(layer)], image(8))
    assert "export/walk.py" in refused.value.remedy


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(64, 64, 3, padding=1), nn.Sequential(nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64)), nn.ReLU6()],
    ids=str,
)
def test_a_known_layer_is_written_wherever_it_stands(layer: nn.Module) -> None:
    net = used(Changed(layer))
    assert verify.parity(exported([net], image(8)), [net], image(8), PRIOR) <= 2e-5


class Tapped(nn.Module):
    """A convolution that batch norm follows, and something else too: so neither can be folded into the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + self.bn(y)  # type: ignore[no-any-return]


def test_batch_norm_that_cannot_be_folded_is_refused() -> None:
    with pytest.raises(UnknownLayerError, match=r"BatchNorm2d \(extra_bn\)"):
        exported([Changed(Tapped())], image(8))


class Function(ResNet):
    """A ResNet20 with a function after its maps."""

    def __init__(self, function: object) -> None:
        super().__init__("resnet20", Form(len(PRIOR), side=8))
        self.function = function

    def feature_maps(self, x: Tensor) -> Tensor:
        return self.function(super().feature_maps(x))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: F.softplus(x), "softplus"), (lambda x: x * 2, "mul"), (lambda x: x.flip(1), "flip"),
        (lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), "pad"), (lambda x: F.pad(x, (1, 0)), "pad"),
        (lambda x: F.pad(x, (1, 1, 1, 1), value=1.0), "pad"), (lambda x: x[:1], "getitem"),
        (lambda x: x[:, :, ::2], "getitem"), (lambda x: x[:, 0], "getitem"),
        (lambda x: x + 1, "add"), (lambda x: x + x[:, :, ::2, ::2], "add"), (lambda x: torch.cat((x, x), 2), "cat"),
    ],
)  # fmt: skip
def test_an_unknown_function_is_refused_by_its_name(function: object, name: str) -> None:
    with pytest.raises(UnknownLayerError, match=rf"does not know: {name} \("):
        exported([Function(function)], image(8))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, 16:48, 1:-1, 1:-1], lambda x: torch.cat((x, x[:, :8]), 1), lambda x: F.pad(x, (1, 1, 1, 1)),
        lambda x: F.pad(x, (2, 1, 1, 2, 3, 4)), lambda x: x[:, :, ::3, ::3],
    ],
)  # fmt: skip
def test_a_known_function_has_torchs_numbers(function: object) -> None:
    net, settings = used(Function(function)), image(17)
    width = function(torch.zeros(1, 64, 5, 5)).shape[1]  # type: ignore[operator]
    net.width, net.linear = width, nn.Linear(width, len(PRIOR))
    assert verify.parity(exported([net], settings), [net], settings, PRIOR) <= 2e-5


class WithoutMean(ResNet):
    def features(self, x: Tensor) -> Tensor:
        return self.feature_maps(x).amax((2, 3))


class TwoHeads(ResNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)) * 2  # type: ignore[no-any-return]


class Curious(ResNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0 else -x)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (WithoutMean, "does not end in the mean of its maps and one linear layer"),
        (TwoHeads, "does not end in the mean of its maps and one linear layer"), (Curious, "depend on the image"),
    ],
)  # fmt: skip
def test_a_net_with_another_end_or_path_is_refused(kind: type[ResNet], cause: str) -> None:
    with pytest.raises(UnknownLayerError, match=cause):
        exported([kind("resnet20", Form(len(PRIOR), side=8))], image(8))


def test_a_layer_that_is_used_twice_has_its_numbers_once() -> None:
    layer = nn.Conv2d(64, 64, 3, padding=1)
    once, twice = (exported([Changed(nn.Sequential(*layers))], image(8)) for layers in ([layer], [layer, layer]))
    assert len(twice) < len(once) + layer.weight.nbytes / 4
