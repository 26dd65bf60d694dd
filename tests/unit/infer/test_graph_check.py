"""A model of a trusted signer may do no more than a model of this kit: no loop, no file, no unlimited cost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from export import graph, quantize
from fedhelp_edge import plan
from fedhelp_edge.errors import BadBundleError
from fedhelp_edge.infer import bundle, engine, graph_check
from fedhelp_edge.infer.engine import Engine
from fedhelp_edge.nets.net import create
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.parcel import sshsig
from tests import bundles

IMAGE = (1, bundles.SIDE, bundles.SIDE, 3)


def model() -> ModelProto:
    return onnx.load_from_string(bundles.export_result().model)


def node(kind: str, inputs: list[str], output: str, **how: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **how)


def before(onnx_model: ModelProto, *nodes: onnx.NodeProto, **constants: np.ndarray) -> ModelProto:
    """Puts operators before all others, whose first one gets their output."""
    onnx_model.graph.node[0].input[0] = nodes[-1].output[0]
    for index, new_node in enumerate(nodes):
        onnx_model.graph.node.insert(index, new_node)
    for name, values in constants.items():
        onnx_model.graph.initializer.append(numpy_helper.from_array(values, name))
    return onnx_model


def subgraph() -> GraphProto:
    true = helper.make_node("Constant", [], ["again"], value=numpy_helper.from_array(np.array(True)))
    output = helper.make_tensor_value_info("again", TensorProto.BOOL, [])
    inputs = [helper.make_tensor_value_info("count", TensorProto.INT64, []),
              helper.make_tensor_value_info("condition", TensorProto.BOOL, [])]  # fmt: skip
    return helper.make_graph([true], "body", inputs, [output])


def loop(onnx_model: ModelProto) -> None:
    """A loop of 2^62 iterations."""
    before(onnx_model, node("Loop", ["turns", ""], "never", body=subgraph()), turns=np.array(2**62))
    onnx_model.graph.node[1].input[0] = "image"


def branch(onnx_model: ModelProto) -> None:
    before(onnx_model, node("If", ["yes"], "x", then_branch=subgraph(), else_branch=subgraph()), yes=np.array(True))


def hidden_loop(onnx_model: ModelProto) -> None:
    """A loop inside an allowed operator."""
    onnx_model.graph.node[0].attribute.append(helper.make_attribute("body", subgraph()))


def function(onnx_model: ModelProto) -> None:
    opset = [helper.make_opsetid("", 18)]
    onnx_model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [node("Abs", ["x"], "y")], opset))


def training(onnx_model: ModelProto) -> None:
    onnx_model.training_info.add()


def other_domain(onnx_model: ModelProto) -> None:
    onnx_model.graph.node[0].domain = "com.microsoft"


def other_operators(onnx_model: ModelProto) -> None:
    onnx_model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def external(onnx_model: ModelProto) -> None:
    """The values of a tensor are in a file of the current folder."""
    tensor = next(candidate for candidate in onnx_model.graph.initializer if candidate.name == "mean")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="passwords.txt")


def named_external(onnx_model: ModelProto) -> None:
    onnx_model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def constant_external(onnx_model: ModelProto) -> None:
    tensor = TensorProto(dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    onnx_model.graph.node[0].attribute.append(helper.make_attribute("value", tensor))


def sparse(onnx_model: ModelProto) -> None:
    onnx_model.graph.sparse_initializer.add()


def string_tensor(onnx_model: ModelProto) -> None:
    onnx_model.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"x"]))


def huge_resize(onnx_model: ModelProto) -> None:
    side = next(each for each in onnx_model.graph.initializer if each.name == "integers.16.16")
    side.CopyFrom(numpy_helper.from_array(np.array([200_000] * 2, np.int64), side.name))


def scaled_resize(onnx_model: ModelProto) -> None:
    resized = next(each for each in onnx_model.graph.node if each.op_type == "Resize")
    resized.input[2] = "mean"


def huge_pad(onnx_model: ModelProto) -> None:
    pad = node("Pad", ["image", "pads"], "padded")
    before(onnx_model, pad, pads=np.array([0, 0, 0, 0, 0, 10**6, 10**6, 0], np.int64))


def doubled_and_doubled(onnx_model: ModelProto) -> None:
    """An image concatenated with itself forty times."""
    names = ["image", *(f"double{n}" for n in range(40))]
    nodes = (node("Concat", [old, old], new, axis=1) for old, new in pairwise(names))
    before(onnx_model, *nodes)


def outer_sum(onnx_model: ModelProto) -> None:
    """A column and a row, added to a matrix."""
    shapes = {"column": np.array([-1, 1], np.int64), "row": np.array([1, -1], np.int64)}
    long = np.zeros(1 << 16, np.float32)
    rows = [node("Reshape", ["long", name], f"{name}s") for name in shapes]
    before(onnx_model, *rows, node("Add", ["columns", "rows"], "square"), long=long, **shapes)


def outer_product(onnx_model: ModelProto) -> None:
    """A column and a row, multiplied to a matrix."""
    shapes = {"column": np.array([1, 1, -1, 1], np.int64), "row": np.array([1, -1], np.int64)}
    long = np.zeros(1 << 16, np.float32)
    rows = [node("Reshape", ["long", name], f"{name}s") for name in shapes]
    before(onnx_model, *rows, node("MatMul", ["columns", "rows"], "square"), long=long, **shapes)


def endless_pooling(onnx_model: ModelProto) -> None:
    """Windows nearly as large as their input, at each place."""
    first = node("Transpose", ["image"], "first", perm=[0, 3, 1, 2])
    larger = node("Resize", ["first", "", "", "size"], "large")
    options = {"kernel_shape": [1000] * 2, "pads": [500] * 4}
    before(
        onnx_model,
        first,
        larger,
        node("MaxPool", ["large"], "out", **options),
        size=np.array([1, 3, 1000, 1000], np.int64),
    )


def padding_pooled(onnx_model: ModelProto) -> None:
    """Windows that lie outside of the image: no number is the largest of none."""
    before(onnx_model, node("MaxPool", ["image"], "pooled", kernel_shape=[3, 3], pads=[3] * 4))


def pooled_with_places(onnx_model: ModelProto) -> None:
    pool = node("MaxPool", ["image"], "pooled", kernel_shape=[3, 3])
    pool.output.append("places")
    before(onnx_model, pool)


def many_at_once(onnx_model: ModelProto) -> None:
    """Each tensor is small enough, but all are needed until the end."""
    size = np.array([1, 4000, 4000, 3], np.int64)
    copies = [node("Resize", ["image", "", "", "size"], f"copy{n}") for n in range(40)]
    before(onnx_model, *copies, node("Concat", [each.output[0] for each in copies], "all", axis=1), size=size)


def endless_work(onnx_model: ModelProto) -> None:
    """A convolution with a kernel as large as its input."""
    kernel = np.zeros((64, 3, 200, 200), np.float32)
    first = node("Transpose", ["image"], "first", perm=[0, 3, 1, 2])
    larger = node("Resize", ["first", "", "", "size"], "large")
    steps = [first, larger, *(node("Conv", ["large", "kernel"], f"out{n}") for n in range(8))]
    before(onnx_model, *steps, kernel=kernel, size=np.array([1, 3, 1000, 1000], np.int64))


def unknown_input(onnx_model: ModelProto) -> None:
    onnx_model.graph.node[3].input[0] = "nowhere"


def produced_twice(onnx_model: ModelProto) -> None:
    onnx_model.graph.node[2].output[0] = onnx_model.graph.node[1].output[0]


def another_input(onnx_model: ModelProto) -> None:
    onnx_model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def image_from_the_file(onnx_model: ModelProto) -> None:
    onnx_model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 16, 16, 3), np.uint8), "image"))


def another_output(onnx_model: ModelProto) -> None:
    onnx_model.graph.output[2].name = "mean"


def too_few_classes(onnx_model: ModelProto) -> None:
    onnx_model.graph.output[0].name = "embedding"


HOSTILE = [
    loop, branch, hidden_loop, function, training, other_domain, other_operators, external, named_external,
    constant_external, sparse, string_tensor, huge_resize, scaled_resize, huge_pad, doubled_and_doubled, outer_sum,
    outer_product, endless_pooling, padding_pooled, pooled_with_places, many_at_once, endless_work, unknown_input,
    produced_twice, another_input, image_from_the_file, another_output, too_few_classes,
]  # fmt: skip


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda spoil: spoil.__name__)
def test_a_model_that_could_do_more_is_refused_before_onnxruntime_loads_it(
    spoil: Callable[[ModelProto], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_model = model()
    spoil(onnx_model)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_model.SerializeToString())
    signature = sshsig.sign(path.read_bytes(), bundles.site().keys.sign, bundle.NAMESPACE)
    bundle.signature_path(path).write_text(signature)
    monkeypatch.setattr(engine, "Engine", None)
    with pytest.raises(BadBundleError):
        bundle.load(path, lambda key: "")


def test_a_second_graph_in_the_file_is_refused() -> None:
    """Libraries merge the two, so different readers see different graphs."""
    data = model().SerializeToString()
    with pytest.raises(BadBundleError):
        graph_check.check_cost(
            data + ModelProto(graph=GraphProto(node=[node("Abs", ["image"], "x")])).SerializeToString(), IMAGE
        )


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "names",
    [
        ("resnet20",),
        ("resnet20",) * 3,
        ("resnet12",),
        ("mobilenetv2",),
        ("efficientnet_lite0",),
        ("shufflenetv2", "resnet20"),
    ],
)
def test_every_model_that_the_kit_exports_is_allowed_and_its_shapes_are_those_of_onnxruntime(
    norm: str, names: tuple[str, ...], channels: int
) -> None:
    nets = [create(name, Form(3, channels, norm, side=16)) for name in names]
    image = plan.ImageSettings(size=16, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    data = graph.build(nets, image, None).SerializeToString()
    for shape in ((1, 16, 16, channels), (2, 61, 47, channels)):
        outputs = Engine(data)(np.zeros(shape, np.uint8))
        assert graph_check.check_cost(data, shape).outputs == {
            name: array.shape for name, array in vars(outputs).items()
        }


def test_an_8_bit_model_is_allowed() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, *IMAGE[1:]), dtype=np.uint8)
    small = quantize.quantize(model(), images).SerializeToString()
    assert (
        graph_check.check_cost(small, IMAGE).outputs
        == graph_check.check_cost(bundles.export_result().model, IMAGE).outputs
    )


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("names", [("resnet110",) * 3, ("resnet12", "efficientnet_lite0", "shufflenetv2")])
def test_even_the_largest_nets_on_the_largest_image_are_allowed(names: tuple[str, ...], norm: str) -> None:
    nets = [create(name, Form(3, norm=norm, side=1024)) for name in names]
    graph_check.check_cost(
        graph.build(nets, plan.ImageSettings(size=1024), None).SerializeToString(), (1, 1024, 1024, 3)
    )


def test_the_cost_grows_with_the_image_and_counts_the_tensors_needed_at_once() -> None:
    data = bundles.export_result().model
    single, double = graph_check.check_cost(data, IMAGE), graph_check.check_cost(data, (2, *IMAGE[1:]))
    assert double.activations == 2 * single.activations
    assert double.multiplications == pytest.approx(2 * single.multiplications)
    widest = 16 * bundles.SIDE**2  # the first stage of a ResNet20
    assert 2 * widest <= single.activations <= 4 * widest


def test_a_model_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = graph.build([create("resnet110", Form(3))], plan.ImageSettings(size=256), None).SerializeToString()
    slow_engine = Engine(slow, 1)
    monkeypatch.setattr(engine, "SECONDS_PER_IMAGE", 0.02)
    with pytest.raises(BadBundleError, match="too long"):
        slow_engine(np.zeros((4, 256, 256, 3), np.uint8))


def test_images_are_processed_in_batches_that_fit_into_memory() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, *IMAGE[1:]), dtype=np.uint8)
    at_once_outputs, parts = (Engine(bundles.export_result().model, 1, at_once)(images) for at_once in (64, 2))
    for each, other in zip(vars(at_once_outputs).values(), vars(parts).values(), strict=True):
        assert np.allclose(each, other, atol=1e-5)


@given(st.data())
def test_a_graph_with_any_changed_bytes_is_judged_without_a_crash(data: st.DataObject) -> None:
    changed = bytearray(bundles.export_result().model)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        graph_check.check_cost(bytes(changed), IMAGE)
    except BadBundleError:
        return
