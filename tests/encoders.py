"""Tiny encoders for tests: ONNX files of a few kilobytes that see colours in a grid of four by four."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 24
Change = Callable[[onnx.ModelProto], None]


def model(
    width: int = WIDTH, side: int | str = "side", *, metadata: Mapping[str, str] | None = None, seed: int = 0
) -> Any:
    """uint8 N x side x side x 3 in, N x width out."""
    weights = np.random.default_rng(seed).normal(0, 1, (48, width)).astype(np.float32)
    grid = helper.make_node("Resize", ["chw", "", "", "sizes"], ["grid"], mode="linear", antialias=1)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["chw"], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["chw"], ["channels"], start=0, end=2),
        helper.make_node("Concat", ["channels", "four"], ["sizes"], axis=0),
        grid,
        helper.make_node("Flatten", ["grid"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["raw"]),
        helper.make_node("Tanh", ["raw"], ["features"]),
    ]
    constants = {"scale": np.float32(255), "four": np.array([4, 4]), "weights": weights}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", side, side, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(made, dict(metadata or {}))
    return made


def save(path: Path, made: Any = None, change: Change | None = None) -> Path:
    made = model() if made is None else made
    if change:
        change(made)
    path.write_bytes(made.SerializeToString())
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keys(path: Path, width: int = WIDTH, views: int = 1) -> dict[str, str]:
    """Settings that make a plan one with this encoder."""
    values = {"encoder": path.name, "encoder_sha256": digest(path), "encoder_width": width, "encoder_views": views}
    values |= {"small": "linear", "large": "linear"}
    return {f"nets.{name}": json.dumps(value) for name, value in values.items()}
