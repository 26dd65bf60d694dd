"""The ONNX graph gives the nets' outputs for any net, size and batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from export import calibrate, graph, verify
from fedhelp_edge import plan
from fedhelp_edge.data.picture import resize
from fedhelp_edge.errors import DisagreesError
from fedhelp_edge.infer.engine import Engine
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.nets.spec import Form
from tests.bundles import noise

import onnxruntime  # isort: skip - after the engine, which switches its telemetry off

COLOUR = plan.ImageSettings(32, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = plan.ImageSettings(28, 1, (0.5,), (0.25,))
PRIOR = (0.2, 0.3, 0.5)


def net(name: str, channels: int, norm: str = "batch", seed: int = 0) -> ResNet:
    """A net with running statistics as after training, not those of a new net."""
    torch.manual_seed(seed)
    net_ = ResNet(name, Form(len(PRIOR), channels, norm)).eval()
    for module in net_.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.2)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return net_


def test_two_nets_in_one_graph_are_the_mean_of_their_logits() -> None:
    nets = [net("resnet20", 1, seed=1), net("resnet32", 1, seed=2)]
    both = Engine(graph.build(nets, GREY, None).SerializeToString())
    engines = [Engine(graph.build([item], GREY, None).SerializeToString()) for item in nets]
    images = noise(3, 50, 40, 1)
    assert np.allclose(both(images).logits, np.mean([item(images).logits for item in engines], 0), atol=1e-5)
    assert np.allclose(both(images).cam, np.mean([item(images).cam for item in engines], 0), atol=1e-5)
    assert both(images).embedding.shape == (3, 128)


@pytest.mark.parametrize("size", [(450, 600), (1000, 1250), (33, 31), (20, 25)])
def test_images_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    model = graph.build([net("resnet20", 3)], COLOUR, None)
    resized = next(node.output[0] for node in model.graph.node if node.op_type == "Resize")
    model.graph.output.append(helper.make_tensor_value_info(resized, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    picture = np.asarray(Image.fromarray(noise(size[0] // 10, size[1] // 10, 3)).resize(size[::-1]))
    (actual,) = session.run([resized], {"image": picture[None]})
    expected = resize(picture, COLOUR.size)
    assert np.abs(actual[0].transpose(1, 2, 0) - expected).max() / 255 <= 0.01


def test_an_image_of_the_nets_size_is_not_changed() -> None:
    model = graph.build([net("resnet20", 3)], COLOUR, None)
    resized = next(node.output[0] for node in model.graph.node if node.op_type == "Resize")
    model.graph.output.append(helper.make_tensor_value_info(resized, TensorProto.FLOAT, None))
    images = noise(2, 32, 32, 3)
    (actual,) = onnxruntime.InferenceSession(model.SerializeToString()).run([resized], {"image": images})
    assert np.array_equal(actual.transpose(0, 2, 3, 1), images)


def test_a_graph_with_other_outputs_is_refused() -> None:
    exported, altered = net("resnet20", 1, seed=1), net("resnet20", 1, seed=1)
    altered.linear.bias.data[0] += 0.001
    model = graph.build([altered], GREY, None).SerializeToString()
    with pytest.raises(DisagreesError):
        verify.parity(model, [exported], GREY, None)


def test_the_input_is_marked_as_an_image_of_any_batch_and_size() -> None:
    input_type = graph.build([net("resnet20", 1)], GREY, None).graph.input[0].type
    assert input_type.denotation == "IMAGE"
    sides = input_type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in sides] == ["batch", "height", "width", 1]


def test_the_graphs_outputs_are_checked_on_images_of_the_nets_size_larger_and_smaller_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, tried, drawn = net("resnet20", 1), [], verify.noise_images
    monkeypatch.setattr(verify, "noise_images", lambda *shape: tried.append(shape) or drawn(*shape))
    verify.parity(graph.build([model], GREY, None).SerializeToString(), [model], GREY, None)
    assert tried == [(1, 28, 28, 1), (2, 61, 84, 1), (5, 15, 41, 1)]


def test_the_temperature_divides_the_logits_of_the_probabilities_alone() -> None:
    model, images = graph.build([net("resnet20", 1)], GREY, None), noise(3, 28, 28, 1)
    before = Engine(model.SerializeToString())(images)
    graph.set_temperature(model, 2.5)
    after = Engine(model.SerializeToString())(images)
    assert np.array_equal(after.logits, before.logits)
    assert after.probabilities == pytest.approx(calibrate.softmax(before.logits / 2.5), abs=1e-6)


def test_the_graph_uses_the_oldest_opset_with_the_required_resize() -> None:
    model = graph.build([net("resnet20", 1)], GREY, None)
    assert ([opset.version for opset in model.opset_import], model.ir_version) == ([18], 8)
