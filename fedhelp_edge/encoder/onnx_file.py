"""An encoder's file: checked by its hash and its structure before onnxruntime opens it.

It takes N images (N x height x width x 3, uint8, colour) and gives N x width numbers, the first of its outputs. In its
metadata it may have text features of classes (`fedhelp.text`) and the scale of their similarities.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.cores import usable_cores
from fedhelp_edge.data.features import EncoderFacts, Features
from fedhelp_edge.errors import BadBundleError, EncoderError
from fedhelp_edge.infer import structure
from fedhelp_edge.plan import ENCODER_NAME, Plan

if TYPE_CHECKING:
    from fedhelp_edge.infer.engine import Session

LIMIT = 512 << 20  # bytes
_FLOAT, _UINT8 = 1, 2  # types in onnx.proto
TEXT = "fedhelp.text"  # metadata: {"classes": [...], "features": [[...], ...], "logit_scale": 100.0}


@dataclass(frozen=True)
class Text:
    """Text features of classes."""

    classes: tuple[str, ...]
    features: NDArray[np.float32]  # classes x width
    logit_scale: float


@dataclass(frozen=True)
class Encoder:
    """An encoder whose file was checked. It is opened when the first image needs it."""

    model: bytes = field(repr=False)
    sha256: str
    input: str
    output: str
    side: int | None  # pixels of an image; None: any
    width: int | None  # features; None: the file does not say
    text: Text | None

    @cached_property
    def _session(self) -> Session:
        from fedhelp_edge.infer.engine import Session  # when the first image needs it

        try:
            return Session(self.model, threads=1)
        except BadBundleError as error:
            raise EncoderError(error.cause) from error

    def facts(self, plan: Plan) -> EncoderFacts:
        """What the plan's method may know. Text features are those of the plan's classes, if it has them all."""
        if self.text is None or not set(plan.classes) <= set(self.text.classes):
            return EncoderFacts(plan.nets.encoder_width)
        rows = [self.text.classes.index(name) for name in plan.classes]
        return EncoderFacts(plan.nets.encoder_width, self.text.features[rows], self.text.logit_scale)

    def measured_width(self, size: int = 224) -> int:
        """The number of features: as the file says, or of a black image (of `size`, where it takes any)."""
        side = self.side or size
        return self.width or len(self.features(np.zeros((side, side, 3), np.uint8)))

    def features(self, image: NDArray[np.uint8]) -> Features:
        """The features of one image (side x side x 3). No other image changes a bit of them."""
        try:
            (values,) = self._session.run(self.input, image[None], [self.output])
        except BadBundleError as error:
            raise EncoderError(error.cause) from error
        if values.ndim != 2 or len(values) != 1:
            raise EncoderError(f"it gives an array of {' x '.join(map(str, values.shape))} for one image, not a row")
        with np.errstate(over="ignore"):
            row = np.asarray(values[0], np.float16)
        if not np.isfinite(row).all():
            raise EncoderError("it gives numbers that are infinite, NaN or above 65,504")
        return row

    def all_features(
        self, images: Iterable[Sequence[NDArray[np.uint8]]], workers: int | None = None
    ) -> Generator[Features]:
        """The features of all views of each image, views x width, in order: as many images at once as there are cores.

        The images are made in this thread, one by one as they are needed.
        """
        workers = workers or usable_cores()

        def run(views: Sequence[NDArray[np.uint8]]) -> Features:
            return np.stack([self.features(view) for view in views])

        pending: deque[Future[Features]] = deque()
        pool = ThreadPoolExecutor(workers)
        try:
            for views in images:
                pending.append(pool.submit(run, views))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def read(path: Path) -> Encoder:
    """Read and check an encoder's file."""
    with files.reading(path) as file:
        if file.seek(0, os.SEEK_END) > LIMIT:
            raise _no_encoder(f"{path.name} is larger than {LIMIT >> 20} MiB")
        file.seek(0)
        return parse(file.read(), path.name)


def parse(model: bytes, name: str) -> Encoder:
    """Check an encoder of this content."""
    try:
        graph = structure.check(model)
    except BadBundleError as error:
        raise _no_encoder(f"{name}: {error.cause}") from error
    image = graph.inputs[0] if len(graph.inputs) == 1 else None
    output = graph.outputs[0] if graph.outputs else None
    if image is None or image.type != _UINT8 or len(image.shape) != 4 or image.shape[3] != 3:
        raise _no_encoder(f"{name} does not take colour images: its one input should be uint8, N x height x width x 3")
    _, height, width, _ = image.shape
    if height != width:
        raise _no_encoder(f"{name} does not take square images")
    if output is None or output.type != _FLOAT or len(output.shape) != 2:
        raise _no_encoder(f"{name} does not give features: its first output should be float, N x width")
    text = _parse_text(graph.metadata, output.shape[1], name)
    digest = hashlib.sha256(model).hexdigest()
    return Encoder(model, digest, image.name, output.name, height, output.shape[1], text)


def _parse_text(metadata: Mapping[str, str], width: int | None, name: str) -> Text | None:
    if TEXT not in metadata:
        return None
    try:
        raw = json.loads(metadata[TEXT])
        text = Text(tuple(map(str, raw["classes"])), np.asarray(raw["features"], np.float32), float(raw["logit_scale"]))
        fits = text.features.ndim == 2 and len(text.features) == len(text.classes) == len(set(text.classes))
        if not fits or width not in (None, text.features.shape[1]) or not np.isfinite(text.features).all():
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_encoder(f"{name}: its text features do not fit") from error
    return text


def plan_values(encoder: Encoder, path: Path) -> dict[str, object]:
    """What a plan with this encoder says of it."""
    if not ENCODER_NAME.fullmatch(path.name):
        raise EncoderError(
            f"{path.name} cannot stand in a plan",
            remedy="rename it: letters, digits, hyphens and points, and .onnx at the end",
        )
    side = encoder.side or 224
    return {"encoder": path.name, "sha256": encoder.sha256, "width": encoder.measured_width(side), "side": side}


def _no_encoder(cause: str) -> EncoderError:
    remedy = "name the ONNX file of an encoder: docs/spec/encoder.md says what it takes and gives"
    return EncoderError(cause, remedy=remedy)


def check_plan(encoder: Encoder, plan: Plan) -> Encoder:
    """Refuse an encoder that is not the plan's, or that the plan describes wrongly."""
    nets, size = plan.nets, plan.image.size
    if encoder.sha256 != nets.encoder_sha256:
        cause = f"the file is not the plan's encoder: its SHA-256 begins with {encoder.sha256[:12]}, the plan's with"
        raise EncoderError(f"{cause} {nets.encoder_sha256[:12]}")
    if encoder.side not in (None, size):
        side = encoder.side
        raise EncoderError(
            f"{nets.encoder} takes images of {side} pixels, and the plan's [image] size is {size}",
            remedy=f"write size = {side} below [image] in the plan",
        )
    if encoder.width not in (None, nets.encoder_width):
        raise width_error(plan, encoder.width)
    return encoder


def width_error(plan: Plan, width: int) -> EncoderError:
    """An encoder gives another number of features than the plan says."""
    return EncoderError(
        f"{plan.nets.encoder} gives {width} features, and the plan's encoder_width is {plan.nets.encoder_width}",
        remedy=f"write encoder_width = {width} below [nets] in the plan",
    )
