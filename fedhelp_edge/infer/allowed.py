"""What a model may do, judged before onnxruntime sees it: a signer may be hostile, or have lost the key.

Only the operators that `export` writes, in one straight graph: no loop, branch, function or operator of another domain,
and no number outside the file. The shape of every tensor follows from that of the image, so that what an answer costs
in memory and work is known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedhelp_edge.errors import BadBundleError
from fedhelp_edge.infer import wire

MOST_NUMBERS = 1 << 27  # in memory at once, for one image
MOST_WORK = 1 << 41  # multiplications for one image: three ResNet110 at 1,024 px take half of it
_MOST_NODES = 20_000
_MOST_INTEGERS = 64  # of a tensor that gives sizes or axes

# The fields that each message may have, by the numbers of onnx.proto. What is not here is refused: a function, training
# information, a sparse tensor, a sub-graph, a file beside the model.
_MODEL = {1, 2, 3, 4, 5, 6, 7, 8, 14}
_GRAPH = {1, 2, 5, 10, 11, 12, 13}
_NODE = {1, 2, 3, 4, 5, 6, 7}
_ATTRIBUTE = {1, 2, 3, 4, 7, 8, 13, 20}
_TENSOR = {1, 2, 4, 5, 7, 8, 9, 12}
_INT64, _NUMBERS = 7, (1, 2, 3, 6, 7)  # ONNX's number types in use: float, uint8, int8, int32, int64

Shape = tuple[int, ...]
Values = list[list[int] | None]  # of those inputs that are short integer tensors
Message = dict[int, list[wire.Value]]


@dataclass(frozen=True)
class Cost:
    """What one pass over the images costs, and the shapes of what comes out."""

    numbers: int  # in memory at once, beside the model's own
    work: int  # multiplications
    outputs: Mapping[str, Shape]


@dataclass(frozen=True)
class Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | list[int] | str]

    def integers(self, name: str, default: list[int]) -> list[int]:
        value = self.attributes.get(name)
        return value if isinstance(value, list) else default

    def integer(self, name: str, default: int) -> int:
        value = self.attributes.get(name)
        return value if isinstance(value, int) else default


@dataclass
class Graph:
    nodes: list[Node]
    shapes: dict[str, Shape]  # of the numbers that the file holds
    values: dict[str, list[int]]  # of its short integer tensors: sizes, axes, pads
    outputs: tuple[str, ...]


def cost(model: bytes, image: Shape) -> Cost:
    """What a model does with images of this shape (batch x height x width x channels); or it is refused."""
    graph = _graph(model)
    shapes, values = {**graph.shapes, "image": image}, dict(graph.values)
    needed_until = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    permanent = {"", *graph.shapes, *graph.outputs}
    numbers, most, work = math.prod(image), 0, 0
    for place, node in enumerate(graph.nodes):
        infer = _OPERATORS.get(node.operator)
        if infer is None:
            raise BadBundleError(f"it uses the operator {node.operator[:40]!r}, which no model of this kit has")
        try:
            (name,) = node.outputs
            given = [values.get(one) for one in node.inputs]
            shape, spent = infer(node, [shapes[one] if one else () for one in node.inputs], given)
            if name in shapes or min(shape, default=0) < 0:
                raise ValueError
        except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
            raise BadBundleError(f"its operator {node.operator} does not fit what it is given") from error
        shapes[name], numbers = shape, numbers + math.prod(shape)
        most, work = max(most, numbers), work + spent
        if most > MOST_NUMBERS * image[0] or work > MOST_WORK * image[0]:
            raise BadBundleError("it takes more memory or work than a model of this kit")
        for one in {*node.inputs, name} - permanent:
            if needed_until.get(one, place) == place:
                numbers -= math.prod(shapes[one])
        if (value := _value(node, shapes, given)) is not None:
            values[name] = value
    try:
        return Cost(most, work, {name: shapes[name] for name in graph.outputs})
    except KeyError:
        raise BadBundleError("it gives something that it does not make") from None


# --- the shape that an operator gives, and the multiplications that it takes ---------------------------------------
def _same(node: Node, shapes: list[Shape], _: Values) -> tuple[Shape, int]:
    return shapes[0], 4 * math.prod(shapes[0])


def _broadcast(node: Node, shapes: list[Shape], _: Values) -> tuple[Shape, int]:
    first, second = shapes
    rank = max(len(first), len(second))
    pairs = zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, strict=True)
    shape = tuple(_broadcast_side(*pair) for pair in pairs)
    return shape, math.prod(shape)


def _broadcast_side(one: int, other: int) -> int:
    if one != other and 1 not in (one, other):
        raise ValueError
    return other if one == 1 else one


def _transposed(node: Node, shapes: list[Shape], _: Values) -> tuple[Shape, int]:
    order = node.integers("perm", [])
    if sorted(order) != list(range(len(shapes[0]))):
        raise ValueError
    return tuple(shapes[0][axis] for axis in order), math.prod(shapes[0])


def _shape_of(node: Node, shapes: list[Shape], _: Values) -> tuple[Shape, int]:
    return (len(_sides(node, shapes[0])),), 0


def _joined(node: Node, shapes: list[Shape], _: Values) -> tuple[Shape, int]:
    axis = _axis(node.integer("axis", 0), len(shapes[0]))
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) != 1 or {len(s) for s in shapes} != {
        len(shapes[0])
    }:
        raise ValueError
    sides = list(shapes[0])
    sides[axis] = sum(shape[axis] for shape in shapes)
    return tuple(sides), math.prod(sides)


def _resized(node: Node, shapes: list[Shape], values: Values) -> tuple[Shape, int]:
    if len(shapes) != 4 or node.inputs[1] or node.inputs[2] or values[3] is None or len(values[3]) != len(shapes[0]):
        raise ValueError
    if set(node.attributes) - {"mode", "antialias", "exclude_outside", "coordinate_transformation_mode"}:
        raise ValueError
    shape = tuple(values[3])
    support = math.prod(max(1.0, old / new) for old, new in zip(shapes[0], shape, strict=True) if new)
    return shape, int(4 * math.prod(shape) * support)


def _convolved(node: Node, shapes: list[Shape], _: Values) -> tuple[Shape, int]:
    (batch, channels, *sides), (made, taken, *kernel) = shapes[0], shapes[1]
    strides, dilations = node.integers("strides", [1, 1]), node.integers("dilations", [1, 1])
    pads, groups = node.integers("pads", [0] * 4), node.integer("group", 1)
    if (
        len(sides) != 2 or len(kernel) != 2 or "auto_pad" in node.attributes or taken * groups != channels
        or made % groups or node.integers("kernel_shape", kernel) != kernel or min(*pads, 0) < 0 or max(pads) > 1024
        or min(*strides, *dilations) < 1 or len(pads) != 4 or len(strides) != 2 or len(dilations) != 2
    ):  # fmt: skip
        raise ValueError
    out = [
        (side + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        for axis, side in enumerate(sides)
    ]
    shape = (batch, made, *out)
    return shape, math.prod(shape) * taken * math.prod(kernel)


def _sliced(node: Node, shapes: list[Shape], values: Values) -> tuple[Shape, int]:
    begins, ends, axes, steps = values[1:5]
    if begins is None or ends is None or axes is None or steps is None:
        raise ValueError
    sides = list(shapes[0])
    for begin, end, axis, step in zip(begins, ends, axes, steps, strict=True):
        axis = _axis(axis, len(sides))
        sides[axis] = len(range(sides[axis])[begin:end:step])
    return tuple(sides), math.prod(sides)


def _padded(node: Node, shapes: list[Shape], values: Values) -> tuple[Shape, int]:
    pads, rank = values[1], len(shapes[0])
    if pads is None or len(pads) != 2 * rank or len(shapes) > 2 or node.attributes:
        raise ValueError
    return tuple(side + pads[axis] + pads[axis + rank] for axis, side in enumerate(shapes[0])), math.prod(shapes[0])


def _reduced(node: Node, shapes: list[Shape], values: Values) -> tuple[Shape, int]:
    if values[1] is None:
        raise ValueError
    axes = {_axis(axis, len(shapes[0])) for axis in values[1]}
    if node.integer("keepdims", 1):
        return tuple(1 if axis in axes else side for axis, side in enumerate(shapes[0])), math.prod(shapes[0])
    return tuple(side for axis, side in enumerate(shapes[0]) if axis not in axes), math.prod(shapes[0])


def _gemm(node: Node, shapes: list[Shape], _: Values) -> tuple[Shape, int]:
    (rows, inner), (made, taken) = shapes[0], shapes[1]
    if node.integer("transA", 0) or not node.integer("transB", 0) or taken != inner:
        raise ValueError
    return (rows, made), rows * made * inner


def _reshaped(node: Node, shapes: list[Shape], values: Values) -> tuple[Shape, int]:
    if values[1] is None or node.attributes or values[1].count(-1) > 1:
        raise ValueError
    sides = [shapes[0][axis] if side == 0 else side for axis, side in enumerate(values[1])]
    whole = math.prod(shapes[0])
    if -1 in sides:
        rest = -math.prod(sides)
        sides[sides.index(-1)] = whole // rest
    if math.prod(sides) != whole:
        raise ValueError
    return tuple(sides), 0


_OPERATORS: Mapping[str, Callable[[Node, list[Shape], Values], tuple[Shape, int]]] = {
    "Transpose": _transposed, "Cast": _same, "Shape": _shape_of, "Concat": _joined, "Resize": _resized,
    "Sub": _broadcast, "Div": _broadcast, "Add": _broadcast, "Mul": _broadcast, "Conv": _convolved, "Relu": _same,
    "Slice": _sliced, "Pad": _padded, "ReduceMean": _reduced, "Gemm": _gemm, "Softmax": _same, "Reshape": _reshaped,
    "InstanceNormalization": _same, "QuantizeLinear": _same, "DequantizeLinear": _same,
}  # fmt: skip


def _value(node: Node, shapes: Mapping[str, Shape], values: Values) -> list[int] | None:
    """What a short integer tensor holds, where the graph works it out: the size that the image is brought to."""
    if node.operator == "Shape":
        return _sides(node, shapes[node.inputs[0]])
    if node.operator == "Concat" and all(value is not None for value in values):
        joined = [one for value in values if value is not None for one in value]
        return joined if len(joined) <= _MOST_INTEGERS else None
    return None


def _sides(node: Node, shape: Shape) -> list[int]:
    return list(shape[slice(node.integer("start", 0), node.integer("end", len(shape)))])


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError
    return axis % rank


# --- reading -------------------------------------------------------------------------------------------------------
def _graph(model: bytes) -> Graph:
    outer = _message(memoryview(model), _MODEL, "the model", once={7})
    if any(_text(one, 1) not in ("", "ai.onnx") for one in map(_operator_set, outer.get(8, []))):
        raise BadBundleError("it uses operators that are not ONNX's own")
    inner = _message(_bytes(outer[7][0]), _GRAPH, "its graph") if 7 in outer else {}
    taken = [_text(_message(_bytes(one), None, "an input"), 1) for one in inner.get(11, [])]
    if taken != ["image"]:
        raise BadBundleError("it takes something else than images")
    graph = Graph([], {}, {}, tuple(_text(_message(_bytes(one), None, "an output"), 1) for one in inner.get(12, [])))
    for one in inner.get(5, []):
        _tensor(graph, _message(_bytes(one), _TENSOR, "a tensor", once={2, 8, 9}))
    if len(inner.get(1, [])) > _MOST_NODES:
        raise BadBundleError(f"it has more than {_MOST_NODES} operators")
    graph.nodes = [_node(_message(_bytes(one), _NODE, "an operator", once={3, 4, 7})) for one in inner.get(1, [])]
    return graph


def _operator_set(value: wire.Value) -> Message:
    return _message(_bytes(value), {1, 2}, "an operator set", once={1, 2})


def _node(message: Message) -> Node:
    if _text(message, 7) not in ("", "ai.onnx"):
        raise BadBundleError("it uses operators that are not ONNX's own")
    attributes: dict[str, int | list[int] | str] = {}
    for one in message.get(5, []):
        found = _message(_bytes(one), _ATTRIBUTE, "an attribute", once={1, 2, 3, 4, 20})
        name = _text(found, 1)
        if name in attributes:
            raise BadBundleError("it says one thing twice")
        if 8 in found:
            attributes[name] = wire.integers(found[8])
        else:
            attributes[name] = wire.integers(found[3])[0] if 3 in found else _text(found, 4)
    inputs, outputs = (tuple(map(_decoded, message.get(part, []))) for part in (1, 2))
    return Node(_text(message, 4), inputs, outputs, attributes)


def _tensor(graph: Graph, message: Message) -> None:
    """The shape of a tensor that the file holds; and what a short one of integers says."""
    name, shape = _text(message, 8), tuple(wire.integers(message.get(1, [])))
    kind = message.get(2, [0])[0]
    raw = message.get(9)
    if name in ("image", *graph.shapes) or min(shape, default=0) < 0 or kind not in _NUMBERS:
        raise BadBundleError("one of its tensors does not fit")
    graph.shapes[name] = shape
    if kind == _INT64 and math.prod(shape) <= _MOST_INTEGERS:
        held = np.frombuffer(_bytes(raw[0]), "<i8").tolist() if raw else wire.integers(message.get(7, []))
        if len(held) != math.prod(shape):
            raise BadBundleError("one of its tensors does not fit")
        graph.values[name] = held


def _message(
    data: memoryview, allowed: set[int] | None, what: str, once: frozenset[int] | set[int] = frozenset()
) -> Message:
    found: Message = {}
    for number, value in wire.fields(data):
        if allowed is not None and number not in allowed:
            raise BadBundleError(f"{what} holds something that no model of this kit has (field {number})")
        found.setdefault(number, []).append(value)
        if number in once and len(found[number]) > 1:
            raise BadBundleError("it says one thing twice")
    return found


def _text(message: Message, number: int) -> str:
    return _decoded(message[number][-1]) if number in message else ""


def _decoded(value: wire.Value) -> str:
    return bytes(_bytes(value)).decode("utf-8", "replace")


def _bytes(value: wire.Value) -> memoryview:
    if isinstance(value, int):
        raise BadBundleError("it is no ONNX file")
    return value
