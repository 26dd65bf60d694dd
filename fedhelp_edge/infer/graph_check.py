"""Check a model's graph before onnxruntime loads it: a signer may be hostile, or may have lost the key.

Allowed are the operators that `export` writes, in one straight graph. There is no loop, branch, function or operator of
another domain, and no data outside the file. The shape of every tensor follows from the image's, so memory and work are
known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedhelp_edge.errors import BadBundleError
from fedhelp_edge.infer import protobuf
from fedhelp_edge.infer.protobuf import Message, Value, as_bytes, decode_text, read_message, text_field

MAX_ACTIVATIONS = 1 << 27  # numbers in memory at once, for one image
MAX_MULTIPLICATIONS = 1 << 41  # for one image; three ResNet110 at 1,024 px take half of it
_MAX_NODES = 20_000
_MAX_INTEGERS = 64  # of a tensor of sizes or axes

# The allowed fields of each message, by the numbers of onnx.proto. Everything else is refused: functions, training
# information, sparse tensors, sub-graphs, external data.
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14}
_GRAPH_FIELDS = {1, 2, 5, 10, 11, 12, 13}
_NODE_FIELDS = {1, 2, 3, 4, 5, 6, 7}
_ATTRIBUTE_FIELDS = {1, 2, 3, 4, 7, 8, 13, 20}
_TENSOR_FIELDS = {1, 2, 4, 5, 7, 8, 9, 12}
_INT64, _TENSOR_TYPES = 7, (1, 2, 3, 6, 7)  # float, uint8, int8, int32, int64

Shape = tuple[int, ...]
IntegerInputs = list[list[int] | None]  # values of the inputs that are short integer tensors


@dataclass(frozen=True)
class GraphCost:
    """The cost of one forward pass, and the shapes of its outputs."""

    activations: int  # numbers in memory at once, beside the weights
    multiplications: int
    outputs: Mapping[str, Shape]


@dataclass(frozen=True)
class GraphNode:
    """One operator of a graph."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | list[int] | str]

    def integers(self, name: str, default: list[int]) -> list[int]:
        """An attribute that is a list of integers."""
        value = self.attributes.get(name)
        return value if isinstance(value, list) else default

    def integer(self, name: str, default: int) -> int:
        """An attribute that is an integer."""
        value = self.attributes.get(name)
        return value if isinstance(value, int) else default


@dataclass
class Graph:
    """A parsed graph."""

    nodes: list[GraphNode]
    shapes: dict[str, Shape]  # of the tensors in the file
    values: dict[str, list[int]]  # of the short integer tensors in the file: sizes, axes, pads
    outputs: tuple[str, ...]


def check_cost(model: bytes, image: Shape) -> GraphCost:
    """Return the cost of a model on images of this shape (batch x height x width x channels).

    Raise `BadBundleError` if the model is not allowed.
    """
    graph = _read_graph(model)
    shapes, values = {**graph.shapes, "image": image}, dict(graph.values)
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    permanent = {"", *graph.shapes, *graph.outputs}
    activations, peak, multiplications = math.prod(image), 0, 0
    for index, node in enumerate(graph.nodes):
        infer = _OPERATORS.get(node.operator)
        if infer is None:
            raise BadBundleError(f"it uses the operator {node.operator[:40]!r}, which no model of this kit has")
        try:
            (name,) = node.outputs
            known_values = [values.get(tensor) for tensor in node.inputs]
            shape, node_cost = infer(node, [shapes[tensor] if tensor else () for tensor in node.inputs], known_values)
            if name in shapes or min(shape, default=0) < 0:
                raise ValueError
        except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
            raise BadBundleError(f"its operator {node.operator} does not fit its inputs") from error
        shapes[name], activations = shape, activations + math.prod(shape)
        peak, multiplications = max(peak, activations), multiplications + node_cost
        if peak > MAX_ACTIVATIONS * image[0] or multiplications > MAX_MULTIPLICATIONS * image[0]:
            raise BadBundleError("it takes more memory or work than a model of this kit")
        for tensor in {*node.inputs, name} - permanent:
            if last_use.get(tensor, index) == index:
                activations -= math.prod(shapes[tensor])
        if (value := _constant_output(node, shapes, known_values)) is not None:
            values[name] = value
    try:
        return GraphCost(peak, multiplications, {name: shapes[name] for name in graph.outputs})
    except KeyError as error:
        raise BadBundleError("it names an output that no operator makes") from error


# --- the output shape of each operator, and its multiplications ---------------------------------------------------
def _elementwise(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    return shapes[0], 4 * math.prod(shapes[0])


def _broadcast(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    first, second = shapes
    rank = max(len(first), len(second))
    pairs = zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, strict=True)
    shape = tuple(_broadcast_side(*pair) for pair in pairs)
    return shape, math.prod(shape)


def _broadcast_side(first: int, second: int) -> int:
    if first != second and 1 not in (first, second):
        raise ValueError
    return second if first == 1 else first


def _transpose(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    order = node.integers("perm", [])
    if sorted(order) != list(range(len(shapes[0]))):
        raise ValueError
    return tuple(shapes[0][axis] for axis in order), math.prod(shapes[0])


def _shape(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    return (len(_sides(node, shapes[0])),), 0


def _concat(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    axis = _axis(node.integer("axis", 0), len(shapes[0]))
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) != 1 or {len(s) for s in shapes} != {
        len(shapes[0])
    }:
        raise ValueError
    sides = list(shapes[0])
    sides[axis] = sum(shape[axis] for shape in shapes)
    return tuple(sides), math.prod(sides)


def _resize(node: GraphNode, shapes: list[Shape], values: IntegerInputs) -> tuple[Shape, int]:
    if len(shapes) != 4 or node.inputs[1] or node.inputs[2] or values[3] is None or len(values[3]) != len(shapes[0]):
        raise ValueError
    if set(node.attributes) - {"mode", "antialias", "exclude_outside", "coordinate_transformation_mode"}:
        raise ValueError
    shape = tuple(values[3])
    support = math.prod(max(1.0, before / after) for before, after in zip(shapes[0], shape, strict=True) if after)
    return shape, int(4 * math.prod(shape) * support)


def _conv(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    (batch, channels, *sides), (out_channels, in_channels, *kernel) = shapes[0], shapes[1]
    rank = len(sides)
    strides, dilations = node.integers("strides", [1] * rank), node.integers("dilations", [1] * rank)
    pads, groups = node.integers("pads", [0] * 2 * rank), node.integer("group", 1)
    if (
        rank not in (2, 3) or len(kernel) != rank or "auto_pad" in node.attributes or in_channels * groups != channels
        or out_channels % groups or node.integers("kernel_shape", kernel) != kernel or min(*pads, 0) < 0
        or max(pads) > 1024
        or min(*strides, *dilations) < 1 or len(pads) != 2 * rank or len(strides) != rank or len(dilations) != rank
    ):  # fmt: skip
        raise ValueError
    out = [
        (side + pads[axis] + pads[axis + rank] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        for axis, side in enumerate(sides)
    ]
    shape = (batch, out_channels, *out)
    return shape, math.prod(shape) * in_channels * math.prod(kernel)


def _conv_transpose(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    """Only of windows that do not overlap, without padding."""
    (batch, channels, *sides), (in_channels, out_channels, *kernel) = shapes[0], shapes[1]
    strides = node.integers("strides", [])
    if (
        len(sides) not in (2, 3) or len(kernel) != len(sides) or in_channels != channels or strides != kernel
        or set(node.attributes) - {"kernel_shape", "strides"} or node.integers("kernel_shape", kernel) != kernel
        or not 1 <= min(kernel) <= max(kernel) <= 16
    ):  # fmt: skip
        raise ValueError
    shape = (batch, out_channels, *(side * length for side, length in zip(sides, kernel, strict=True)))
    return shape, math.prod(shape) * in_channels


def _max_pool(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    (batch, channels, *sides), kernel = shapes[0], node.integers("kernel_shape", [])
    rank = len(sides)
    strides, pads = node.integers("strides", [1] * rank), node.integers("pads", [0] * 2 * rank)
    if (
        len(shapes) != 1 or rank not in (2, 3) or not len(kernel) == len(strides) == rank or len(pads) != 2 * rank
        or set(node.attributes) - {"kernel_shape", "strides", "pads"}
        or min(*kernel, *strides) < 1 or min(pads) < 0 or max(pads) >= min(kernel) or max(kernel) > 1024
    ):  # fmt: skip
        raise ValueError
    out = [(side + pads[i] + pads[i + rank] - kernel[i]) // strides[i] + 1 for i, side in enumerate(sides)]
    shape = (batch, channels, *out)
    return shape, math.prod(shape) * math.prod(kernel)


def _matmul(node: GraphNode, shapes: list[Shape], values: IntegerInputs) -> tuple[Shape, int]:
    """Of matrices, and of stacks of them."""
    first, second = shapes
    if min(map(len, shapes)) < 2 or first[-1] != second[-2]:
        raise ValueError
    stack, _ = _broadcast(node, [first[:-2], second[:-2]], values)
    shape = (*stack, first[-2], second[-1])
    return shape, math.prod(shape) * first[-1]


def _gather(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    sides, indices = shapes
    axis = _axis(node.integer("axis", 0), len(sides))
    shape = (*sides[:axis], *indices, *sides[axis + 1 :])
    return shape, math.prod(shape)


def _unsqueeze(node: GraphNode, shapes: list[Shape], values: IntegerInputs) -> tuple[Shape, int]:
    if values[1] is None or len(set(values[1])) < len(values[1]):
        raise ValueError
    rank = len(shapes[0]) + len(values[1])
    new, sides = {_axis(axis, rank) for axis in values[1]}, iter(shapes[0])
    return tuple(1 if axis in new else next(sides) for axis in range(rank)), 0


def _squeeze(node: GraphNode, shapes: list[Shape], values: IntegerInputs) -> tuple[Shape, int]:
    if values[1] is None:
        raise ValueError
    axes = {_axis(axis, len(shapes[0])) for axis in values[1]}
    if any(shapes[0][axis] != 1 for axis in axes):
        raise ValueError
    return tuple(side for axis, side in enumerate(shapes[0]) if axis not in axes), 0


def _expand(node: GraphNode, shapes: list[Shape], values: IntegerInputs) -> tuple[Shape, int]:
    if values[1] is None or min(values[1], default=0) < 0:
        raise ValueError
    return _broadcast(node, [shapes[0], tuple(values[1])], values)


def _slice(node: GraphNode, shapes: list[Shape], values: IntegerInputs) -> tuple[Shape, int]:
    starts, ends, axes, steps = values[1:5]
    if starts is None or ends is None or axes is None or steps is None:
        raise ValueError
    sides = list(shapes[0])
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = _axis(axis, len(sides))
        sides[axis] = len(range(sides[axis])[start:end:step])
    return tuple(sides), math.prod(sides)


def _pad(node: GraphNode, shapes: list[Shape], values: IntegerInputs) -> tuple[Shape, int]:
    pads, rank = values[1], len(shapes[0])
    allowed = node.attributes in ({}, {"mode": "constant"})
    if pads is None or len(pads) != 2 * rank or len(shapes) > 3 or not allowed:
        raise ValueError
    return tuple(side + pads[axis] + pads[axis + rank] for axis, side in enumerate(shapes[0])), math.prod(shapes[0])


def _reduce_mean(node: GraphNode, shapes: list[Shape], values: IntegerInputs) -> tuple[Shape, int]:
    if values[1] is None:
        raise ValueError
    axes = {_axis(axis, len(shapes[0])) for axis in values[1]}
    if node.integer("keepdims", 1):
        return tuple(1 if axis in axes else side for axis, side in enumerate(shapes[0])), math.prod(shapes[0])
    return tuple(side for axis, side in enumerate(shapes[0]) if axis not in axes), math.prod(shapes[0])


def _global_pool(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    batch, channels, *sides = shapes[0]
    return (batch, channels, *(1 for _ in sides)), math.prod(shapes[0])


def _flatten(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    axis = _axis(node.integer("axis", 1), len(shapes[0]) + 1)
    return (math.prod(shapes[0][:axis]), math.prod(shapes[0][axis:])), 0


def _gemm(node: GraphNode, shapes: list[Shape], _: IntegerInputs) -> tuple[Shape, int]:
    (rows, inner), (columns, depth) = shapes[0], shapes[1]
    if node.integer("transA", 0) or not node.integer("transB", 0) or depth != inner:
        raise ValueError
    return (rows, columns), rows * columns * inner


def _reshape(node: GraphNode, shapes: list[Shape], values: IntegerInputs) -> tuple[Shape, int]:
    if values[1] is None or node.attributes not in ({}, {"allowzero": 0}) or values[1].count(-1) > 1:
        raise ValueError
    sides = [shapes[0][axis] if side == 0 else side for axis, side in enumerate(values[1])]
    total = math.prod(shapes[0])
    if -1 in sides:
        rest = -math.prod(sides)
        sides[sides.index(-1)] = total // rest
    if math.prod(sides) != total:
        raise ValueError
    return tuple(sides), 0


_OPERATORS: Mapping[str, Callable[[GraphNode, list[Shape], IntegerInputs], tuple[Shape, int]]] = {
    "Transpose": _transpose, "Cast": _elementwise, "Shape": _shape, "Concat": _concat, "Resize": _resize,
    "Sub": _broadcast, "Div": _broadcast, "Add": _broadcast, "Mul": _broadcast, "Conv": _conv, "Relu": _elementwise,
    "ConvTranspose": _conv_transpose,
    "Slice": _slice, "Pad": _pad, "ReduceMean": _reduce_mean, "Gemm": _gemm, "Softmax": _elementwise,
    "Reshape": _reshape, "Clip": _elementwise, "MaxPool": _max_pool, "MatMul": _matmul,
    "InstanceNormalization": _elementwise, "GlobalAveragePool": _global_pool, "Flatten": _flatten,
    "Gather": _gather, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Expand": _expand, "Pow": _broadcast,
    "ReduceL2": _reduce_mean, "ReduceSum": _reduce_mean, "LayerNormalization": _elementwise,
    **dict.fromkeys(("Tanh", "Sigmoid", "Erf", "Sqrt", "Exp", "Log", "Neg", "HardSigmoid", "HardSwish"), _elementwise),
    **dict.fromkeys(("Gelu", "LogSoftmax", "BatchNormalization"), _elementwise),
    **dict.fromkeys(("Max", "Min"), _broadcast), "QuantizeLinear": _elementwise, "DequantizeLinear": _elementwise,
}  # fmt: skip


def _constant_output(node: GraphNode, shapes: Mapping[str, Shape], values: IntegerInputs) -> list[int] | None:
    """The value of a short integer tensor that the graph computes (the size to which the image is resized)."""
    if node.operator == "Shape":
        return _sides(node, shapes[node.inputs[0]])
    if node.operator == "Mul" and all(value and len(value) == 1 for value in values):
        return [math.prod(value[0] for value in values if value)]
    if node.operator == "Concat" and all(value is not None for value in values):
        joined = [number for value in values if value is not None for number in value]
        return joined if len(joined) <= _MAX_INTEGERS else None
    return None


def _sides(node: GraphNode, shape: Shape) -> list[int]:
    return list(shape[slice(node.integer("start", 0), node.integer("end", len(shape)))])


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError
    return axis % rank


# --- reading -------------------------------------------------------------------------------------------------------
def _read_graph(model: bytes) -> Graph:
    model_fields = read_message(memoryview(model), _MODEL_FIELDS, "the model", once={7})
    if any(text_field(part, 1) not in ("", "ai.onnx") for part in map(_read_operator_set, model_fields.get(8, []))):
        raise BadBundleError("it uses operators that are not ONNX's own")
    graph_fields = read_message(model_fields[7][0], _GRAPH_FIELDS, "its graph") if 7 in model_fields else {}
    input_names = [text_field(read_message(part, None, "an input"), 1) for part in graph_fields.get(11, [])]
    if input_names != ["image"]:
        raise BadBundleError("its input is not called 'image'")
    graph = Graph(
        [],
        {},
        {},
        tuple(text_field(read_message(part, None, "an output"), 1) for part in graph_fields.get(12, [])),
    )
    for part in graph_fields.get(5, []):
        _read_tensor(graph, read_message(part, _TENSOR_FIELDS, "a tensor", once={2, 8, 9}))
    if len(graph_fields.get(1, [])) > _MAX_NODES:
        raise BadBundleError(f"it has more than {_MAX_NODES} operators")
    graph.nodes = [
        _read_node(read_message(part, _NODE_FIELDS, "an operator", once={3, 4, 7})) for part in graph_fields.get(1, [])
    ]
    return graph


def _read_operator_set(value: Value) -> Message:
    return read_message(value, {1, 2}, "an operator set", once={1, 2})


def _read_node(message: Message) -> GraphNode:
    if text_field(message, 7) not in ("", "ai.onnx"):
        raise BadBundleError("it uses operators that are not ONNX's own")
    attributes: dict[str, int | list[int] | str] = {}
    for attribute_bytes in message.get(5, []):
        attribute = read_message(attribute_bytes, _ATTRIBUTE_FIELDS, "an attribute", once={1, 2, 3, 4, 20})
        name = text_field(attribute, 1)
        if name in attributes:
            raise BadBundleError("it has a field twice")
        if 8 in attribute:
            attributes[name] = protobuf.unpack_int64s(attribute[8])
        else:
            attributes[name] = protobuf.unpack_int64s(attribute[3])[0] if 3 in attribute else text_field(attribute, 4)
    inputs, outputs = (tuple(map(decode_text, message.get(number, []))) for number in (1, 2))
    return GraphNode(text_field(message, 4), inputs, outputs, attributes)


def _read_tensor(graph: Graph, message: Message) -> None:
    """Record the shape of a tensor in the file, and the values of a short integer tensor."""
    name, shape = text_field(message, 8), tuple(protobuf.unpack_int64s(message.get(1, [])))
    kind = message.get(2, [0])[0]
    raw = message.get(9)
    if name in ("image", *graph.shapes) or min(shape, default=0) < 0 or kind not in _TENSOR_TYPES:
        raise BadBundleError("one of its tensors does not fit")
    graph.shapes[name] = shape
    if kind == _INT64 and math.prod(shape) <= _MAX_INTEGERS:
        numbers = np.frombuffer(as_bytes(raw[0]), "<i8").tolist() if raw else protobuf.unpack_int64s(message.get(7, []))
        if len(numbers) != math.prod(shape):
            raise BadBundleError("one of its tensors does not fit")
        graph.values[name] = numbers
