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

MIN_AGREEMENT = 0.99  # of images on which both give the same class
MIN_SPEED_UP = 1.2  # at one image
_OPERATORS = ["Conv", "Add"]  # what learns; pixels, the heat-map and the answer stay in floating point
_REPEATS = 15


@dataclass(frozen=True)
class QuantizationGain:
    """What was measured, and why 8 bits are not worth it; `why` is "" where they are."""

    agreement: float  # how often both nets give the same class
    accuracy: float  # of the 8-bit net on the validation images, less that of the other
    speed_up: float  # of one image
    why: str = ""


def quantize(model: ModelProto, images: NDArray[np.uint8]) -> ModelProto:
    """The 8-bit graph: static, by channel, activation ranges from these images. 7-bit weights are exact on any PC."""
    tools = engine.quantization_tools()

    class CalibrationReader(tools.CalibrationDataReader):  # type: ignore[misc,name-defined]
        rows = iter(np.array_split(images, max(1, len(images) // 32)))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.rows, None)
            return None if batch is None else {"image": batch}

    copy = ModelProto()
    copy.CopyFrom(model)  # the tool moves the numbers of what it is given into files
    with tempfile.TemporaryDirectory() as folder, _muted_logging():
        path = Path(folder) / "int8.onnx"
        tools.quantize_static(
            copy, path, CalibrationReader(), quant_format=tools.QuantFormat.QDQ, op_types_to_quantize=_OPERATORS,
            per_channel=True, reduce_range=True, activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            nodes_to_exclude=[node.name for node in model.graph.node if node.name.startswith("cam")],
        )  # fmt: skip
        quantized = onnx.load(path)
    del quantized.metadata_props[:]
    for tensor in quantized.graph.initializer:
        tensor.ClearField("data_location")  # the tool says of each that it is in this file, as it is anyway
    return quantized


@contextmanager
def _muted_logging() -> Iterator[None]:
    """Without the tool's advice on how to prepare a model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def measure_gain(
    fp32: Engine, int8: Engine, images: NDArray[np.uint8], validation_count: int, labels: NDArray[np.int64]
) -> QuantizationGain:
    """What 8 bits cost and bring; the first `validation_count` images are the validation images with these labels."""
    classes = [_predicted_classes(candidate, images) for candidate in (fp32, int8)]
    agreement = float((classes[0] == classes[1]).mean())
    accuracies = [float((candidate[:validation_count] == labels).mean()) for candidate in classes]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_REPEATS):
        for spent, candidate in zip(seconds, (fp32, int8), strict=True):
            started = time.perf_counter()
            candidate(images[:1])
            spent.append(time.perf_counter() - started)
    speed_up = statistics.median(seconds[0]) / statistics.median(seconds[1])
    return QuantizationGain(
        agreement,
        accuracies[1] - accuracies[0],
        speed_up,
        reason_against(agreement, accuracies[1] - accuracies[0], speed_up),
    )


def _predicted_classes(candidate: Engine, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    parts = np.array_split(images, max(1, len(images) // 32))
    return np.concatenate([candidate(part).logits.argmax(1) for part in parts])


def reason_against(agreement: float, accuracy: float, speed_up: float) -> str:
    """Why 8 bits are not worth it, or ""."""
    if agreement < MIN_AGREEMENT:
        return f"only {agreement:.1%} of the answers are the same"
    if accuracy < 0:
        return f"it is right less often, by {-accuracy:.1%} of the validation images"
    if speed_up < MIN_SPEED_UP:
        return f"it is only {speed_up:.2f} times as fast here"
    return ""
