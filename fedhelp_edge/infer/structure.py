"""Check the structure of a model that another program wrote, before onnxruntime loads it.

Any operator of ONNX's own may be there, but for those that draw random numbers: the same image gives the same numbers.
There is no operator of another domain, no loop, branch or function, and no data outside the file. How much memory and
work the operators take is not known; `graph_check` bounds that for the models of this kit. Whoever vouches for the file
vouches for it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedhelp_edge.errors import BadBundleError
from fedhelp_edge.infer.protobuf import Message, Value, read_message, text_field, to_int64

# The allowed fields of each message, by the numbers of onnx.proto: as in `graph_check`, with notes on each part.
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14}
_GRAPH_FIELDS = {1, 2, 5, 10, 11, 12, 13, 16}
_NODE_FIELDS = {1, 2, 3, 4, 5, 6, 7, 9}
_ATTRIBUTE_FIELDS = {1, 2, 3, 4, 5, 7, 8, 9, 13, 20}
_TENSOR_FIELDS = {1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 16}  # no texts, nothing outside the file
_MAX_NODES = 100_000
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)

Side = int | None  # None: any


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, the number of its type in onnx.proto, and its sides."""

    name: str
    type: int
    shape: tuple[Side, ...]


@dataclass(frozen=True)
class Structure:
    """What a model takes and gives, and its metadata."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, str]


def check(model: bytes) -> Structure:
    """The structure of a model; raise `BadBundleError` if it is not allowed."""
    fields = read_message(memoryview(model), _MODEL_FIELDS, "the model", once={7})
    if 7 not in fields:
        raise BadBundleError("it is not an ONNX file")
    for operator_set in fields.get(8, []):
        _check_domain(text_field(read_message(operator_set, {1, 2}, "an operator set"), 1))
    graph = read_message(fields[7][0], _GRAPH_FIELDS, "its graph")
    if len(graph.get(1, [])) > _MAX_NODES:
        raise BadBundleError(f"it has more than {_MAX_NODES} operators")
    for node in graph.get(1, []):
        _check_node(read_message(node, _NODE_FIELDS, "an operator"))
    for tensor in graph.get(5, []):
        read_message(tensor, _TENSOR_FIELDS, "a tensor")
    metadata = (read_message(pair, {1, 2}, "its metadata") for pair in fields.get(14, []))
    return Structure(
        tuple(map(_tensor, graph.get(11, []))),
        tuple(map(_tensor, graph.get(12, []))),
        {text_field(pair, 1): text_field(pair, 2) for pair in metadata},
    )


def _check_domain(domain: str) -> None:
    if domain not in ("", "ai.onnx"):
        raise BadBundleError(f"it uses operators of {domain[:40]!r}, which are not ONNX's own")


def _check_node(node: Message) -> None:
    _check_domain(text_field(node, 7))
    if (operator := text_field(node, 4)) in _RANDOM:
        raise BadBundleError(f"its operator {operator} draws random numbers")
    for part in node.get(5, []):
        attribute = read_message(part, _ATTRIBUTE_FIELDS, f"its operator {operator[:40]}")
        for tensor in attribute.get(5, []):
            read_message(tensor, _TENSOR_FIELDS, "a tensor")


def _tensor(value: Value) -> Tensor:
    """An input or output, whose type is that of a tensor."""
    info = read_message(value, None, "an input or output")
    kind = read_message(info[2][-1], None, "a type") if 2 in info else {}
    tensor = read_message(kind[1][-1], None, "a type") if 1 in kind else {}
    shape = read_message(tensor[2][-1], None, "a shape") if 2 in tensor else {}
    sides = (read_message(side, None, "a side") for side in shape.get(1, []))
    element = tensor.get(1, [0])[-1]
    return Tensor(text_field(info, 1), element if isinstance(element, int) else 0, tuple(map(_side, sides)))


def _side(side: Message) -> Side:
    number = side.get(1, [0])[-1]
    return to_int64(number) or None if isinstance(number, int) else None
