"""The only importer of onnxruntime, whose telemetry must be off before it is imported: later is too late."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fedhelp_edge.cores import usable_cores
from fedhelp_edge.errors import BadBundleError

SECONDS_PER_IMAGE = 120.0  # after which the model is stopped
_LOG_ERRORS_ONLY = 3
_EXAMPLE_NUMBERS = 1 << 16
onnxruntime.set_default_logger_severity(_LOG_ERRORS_ONLY)


@dataclass(frozen=True)
class Outputs:
    """The outputs of a model; the first axis is the batch."""

    logits: NDArray[np.float32]  # N x classes
    probabilities: NDArray[np.float32]  # N x classes
    embedding: NDArray[np.float32]  # N x features
    cam: NDArray[np.float32] | None = None  # N x classes x rows x columns; the mean plus the bias is the logit

    def named(self) -> dict[str, NDArray[np.float32]]:
        """The outputs that there are, by name: not every model has a heat-map."""
        return {name: values for name, values in vars(self).items() if values is not None}


class Session:
    """An open model, which runs on one batch of images at a time. Several threads may run it at once."""

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _LOG_ERRORS_ONLY
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = threads or usable_cores()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep
        options.enable_cpu_mem_arena = False  # return memory between batches
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BadBundleError("onnxruntime cannot open the model") from error
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, image: str, images: NDArray[np.uint8], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """The named outputs for a batch, which is the input `image`. It is stopped where it takes too long.

        onnxruntime stops only between two operators.
        """
        options = onnxruntime.RunOptions()
        alarm = threading.Timer(SECONDS_PER_IMAGE * max(1, len(images)), setattr, (options, "terminate", True))
        alarm.daemon = True
        alarm.start()
        try:
            return list(self._session.run(list(names), {image: np.ascontiguousarray(images)}, options))
        except Exception as error:
            timeout = "; it was stopped after taking too long" if options.terminate else ""
            raise BadBundleError(f"the model fails on these images{timeout}") from error
        finally:
            alarm.cancel()


class Engine:
    """A loaded bundle. It runs at most `at_once` images together, which bounds memory. Their cost was checked."""

    def __init__(self, model: bytes, threads: int | None = None, at_once: int = 64) -> None:
        self._at_once, self._session = at_once, Session(model, threads)

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Run the model on images of one size (N x height x width x channels)."""
        names = self._session.outputs
        parts = [
            self._session.run("image", images[start : start + self._at_once], names)
            for start in range(0, max(1, len(images)), self._at_once)
        ]
        whole = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        return Outputs(**dict(zip(names, whole, strict=True)))


class MaskOutputs(NamedTuple):
    """The outputs of a model of masks; the first axis is the batch."""

    probabilities: NDArray[np.float32]  # N x outputs x the sides of what the net sees; the background comes first
    embedding: NDArray[np.float32]  # N x features

    def thinned(self) -> dict[str, NDArray[np.float32]]:
        """The outputs by name; of many probabilities, of which a model holds those of an example, each so-manieth."""
        step = max(1, self.probabilities.size // _EXAMPLE_NUMBERS) | 1
        return {"probabilities": self.probabilities.ravel()[::step], "embedding": self.embedding}


class MaskEngine:
    """A loaded model of masks. It runs at most `at_once` images or blocks together."""

    def __init__(self, model: bytes, threads: int | None = None, at_once: int = 1) -> None:
        self._at_once, self._session = at_once, Session(model, threads)

    def __call__(self, images: NDArray[np.uint8]) -> MaskOutputs:
        """Run the model on images of one size, or on blocks (N x sides x channels)."""
        parts = [
            self._session.run("image", images[start : start + self._at_once], MaskOutputs._fields)
            for start in range(0, max(1, len(images)), self._at_once)
        ]
        return MaskOutputs(*map(np.concatenate, zip(*parts, strict=True)))


def version() -> str:
    """The version of onnxruntime."""
    return str(onnxruntime.__version__)


def quantization_tools() -> ModuleType:
    """onnxruntime's tools for 8-bit models; they need the package onnx."""
    from onnxruntime import quantization as tools

    untyped: Any = tools
    return untyped  # type: ignore[no-any-return]
