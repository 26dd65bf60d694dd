"""8-bit weights and activations, where they are worth it: measured on this machine, on this site's images."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from fedhelp_edge.infer import engine
from fedhelp_edge.infer.engine import Engine

AGREEMENT = 0.99  # of images on which both give the same class
SPEED_UP = 1.2  # at one image
_KINDS = ["Conv", "Add"]  # what learns; pixels, the heat-map and the answer stay in floating point
_REPEATS = 15


@dataclass(frozen=True)
class Gain:
    """What was measured, and why 8 bits are not worth it; `why` is "" where they are."""

    agreement: float  # how often both nets give the same class
    accuracy: float  # of the 8-bit net on the validation images, less that of the other
    speed_up: float  # of one image
    why: str = ""


def quantized(model: ModelProto, images: NDArray[np.uint8]) -> ModelProto:
    """Static, by channel, with a range for each activation from these images; weights of 7 bits run right on any PC."""
    tools = engine.quantization()

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc,name-defined]
        rows = iter(np.array_split(images, max(1, len(images) // 32)))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.rows, None)
            return None if batch is None else {"image": batch}

    copy = ModelProto()
    copy.CopyFrom(model)  # the tool moves the numbers of what it is given into files
    with tempfile.TemporaryDirectory() as folder, _quietly():
        path = Path(folder) / "int8.onnx"
        tools.quantize_static(
            copy, path, Reader(), quant_format=tools.QuantFormat.QDQ, op_types_to_quantize=_KINDS,
            per_channel=True, reduce_range=True, activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8, nodes_to_exclude=["cam"],
        )  # fmt: skip
        made = onnx.load(path)
    del made.metadata_props[:]
    for tensor in made.graph.initializer:
        tensor.ClearField("data_location")  # the tool says of each that it is in this file, as it is anyway
    return made


@contextmanager
def _quietly() -> Iterator[None]:
    """Without advice on how models of other origin should be prepared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def gain(whole: Engine, small: Engine, images: NDArray[np.uint8], kept: int, labels: NDArray[np.int64]) -> Gain:
    """What 8 bits cost and bring; the first `kept` of the images are the validation images with these labels."""
    said = [_classes(one, images) for one in (whole, small)]
    agreement = float((said[0] == said[1]).mean())
    right = [float((one[:kept] == labels).mean()) for one in said]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_REPEATS):
        for spent, one in zip(seconds, (whole, small), strict=True):
            begun = time.perf_counter()
            one(images[:1])
            spent.append(time.perf_counter() - begun)
    speed_up = statistics.median(seconds[0]) / statistics.median(seconds[1])
    return Gain(agreement, right[1] - right[0], speed_up, why(agreement, right[1] - right[0], speed_up))


def _classes(one: Engine, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    parts = np.array_split(images, max(1, len(images) // 32))
    return np.concatenate([one(part).logits.argmax(1) for part in parts])


def why(agreement: float, accuracy: float, speed_up: float) -> str:
    """Why 8 bits are not worth it, or ""."""
    if agreement < AGREEMENT:
        return f"only {agreement:.1%} of the answers are the same"
    if accuracy < 0:
        return f"it is right less often, by {-accuracy:.1%} of the validation images"
    if speed_up < SPEED_UP:
        return f"it is only {speed_up:.2f} times as fast here"
    return ""
