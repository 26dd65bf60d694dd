"""Asks foundation models, once: each source sees each public image one time, and every answer is saved.

A source is a kind and what it needs: `clip:ViT-B-16@weights.safetensors`, `torchvision:resnet18@weights.safetensors`,
`nets:resnet20@weights.safetensors`, `encoder:encoder.onnx`, `masks:net.onnx`, `files:answers.npz` or
`program:python3 ask.py`. An interrupted run asks only what has no answer yet. Answers are saved under the hash of a
source's files, so that changed weights are asked again and moved ones are not.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.data.pack import MAP_SCALE, Pack, without_predictions
from fedhelp_edge.errors import SourceAnswerError, UsageError
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.prompts import DEFAULT, Prompts, spoken
from fedhelp_edge.knowledge.source_spec import LEARNING, MODULES, OF_PIXELS, SourceSpec

Progress = Callable[[int, int], None]


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> Source:
    """Opens a source. Each kind has a module, which imports what it needs."""
    module = importlib.import_module(f"fedhelp_edge.knowledge.sources.{MODULES[spec.kind]}")
    opened: Source = module.open_source(spec, classes, asking)
    return opened


class SavedAnswers:
    """The answers of one source that are saved: a file for each batch, named by its first image."""

    def __init__(
        self, spec: SourceSpec, classes: Sequence[str], answers: NDArray[np.generic], sees: str, cache: Path,
        prompts: Prompts | None = None,
    ) -> None:  # fmt: skip
        """`answers` has the shape and the kind of numbers of all answers together."""
        self.spec, self._cache = spec, cache
        self._images, self._row, self._dtype = len(answers), answers.shape[1:], answers.dtype
        self._prompts = prompts.fact(classes) if prompts else ""
        asked = spec.identity
        if prompts and (prompts.name != DEFAULT or any(spoken(name) != name for name in classes)):
            asked += f"/{prompts.sha256(classes)}"
        identity = f"{asked}/{sees}/{'/'.join(classes)}"
        self._name = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:24]

    @cached_property
    def _batches(self) -> dict[int, NDArray[Any]]:
        batches = {}
        for path in self._cache.glob(f"{self._name}-*.npy"):
            with suppress(ValueError, TypeError, EOFError, OSError, SourceAnswerError):  # damaged: asked again
                rows, first = np.load(path, allow_pickle=False), int(path.stem.removeprefix(f"{self._name}-"))
                if rows.dtype.kind == "f":
                    check_answers(rows, (len(rows), *self._row), "", lambda index: "")
                is_whole = rows.shape[1:] == self._row and rows.dtype == self._dtype
                if is_whole and 0 < len(rows) <= self._images - first:
                    batches[first] = rows
        return batches

    def missing(self, batch: int) -> list[range]:
        """The batches of images that have no answer yet, in order."""
        gaps, first = [], 0
        while first < self._images:
            if first in self._batches:
                first += len(self._batches[first])
            else:
                gaps.append(range(first, min(first + batch, self._images, *(at for at in self._batches if at > first))))
                first = gaps[-1].stop
        return gaps

    def save(self, first: int, answer: NDArray[np.floating], model: str) -> None:
        """Keeps the answers of a batch, and what is known of the source."""
        self._note(model)
        rows = np.rint(answer * MAP_SCALE) if self._dtype == np.uint8 else answer
        rows = rows.astype(self._dtype)
        with files.writing(self._cache / f"{self._name}-{first:07}.npy", replace=True) as file:
            np.save(file, rows, allow_pickle=False)
        self._batches[first] = rows

    def all(self) -> NDArray[Any]:
        """The answers for all images, of which none is missing."""
        parts, first = [np.zeros((0, *self._row), self._dtype)], 0
        while first < self._images:
            parts.append(self._batches[first])
            first += len(parts[-1])
        return np.concatenate(parts)

    @property
    def facts(self) -> dict[str, str]:
        """When the source was asked, what it called itself, and by which prompts it was asked."""
        noted = self._noted
        dates = noted.get("asked", [])
        facts = {
            "asked": "/".join(dates),
            "model": ", ".join(noted.get("models", [])),
            "prompts": self._prompts,
        }
        return {name: text for name, text in facts.items() if text}

    @property
    def _noted(self) -> dict[str, list[str]]:
        with suppress(FileNotFoundError, ValueError, TypeError):
            return dict(json.loads((self._cache / f"{self._name}.json").read_text(encoding="utf-8")))
        return {}

    def _note(self, model: str) -> None:
        noted, today = self._noted, datetime.now(timezone.utc).date().isoformat()
        dates = noted.get("asked", [])
        models = {*noted.get("models", []), *([model] if model else [])}
        now = {"asked": sorted({*dates[:1], today}), "models": sorted(models)}
        if now != noted:
            files.write_atomic(self._cache / f"{self._name}.json", json.dumps(now).encode())


class Building:
    """A pack in the making: public images, the sources that are asked about them, and the answers so far."""

    def __init__(self, public: Pack, specs: Sequence[SourceSpec], cache: Path, asking: Asking) -> None:
        self._public, self._pixels, self._asking = public, public.pixels, asking
        for spec in specs:
            if (spec.kind in OF_PIXELS) != (public.masks is not None):
                knows, has = ("masks", "labels") if public.masks is None else ("classes of images", "masks")
                raise UsageError(
                    f"{spec.kind}: answers with {knows}, and the public images have {has}",
                    remedy="for public images with masks name masks:FILE.onnx, and only for those",
                )
        cache.mkdir(parents=True, exist_ok=True)
        images_hash = hashlib.sha256(np.ascontiguousarray(self._pixels).data).hexdigest()
        labels_hash = hashlib.sha256(public.labels.tobytes()).hexdigest()
        self._row = public.outputs, *(() if public.masks is None else public.masks.shape[1:])
        number = np.zeros((), np.float32 if public.masks is None else np.uint8)
        answers = np.broadcast_to(number, (len(public), *self._row))
        self._cache, self.answers = cache, []
        for spec in specs:
            sees, prompts = (
                images_hash + (labels_hash if spec.kind in LEARNING else ""),
                asking.prompts_for(spec, public.classes),
            )
            self.answers.append(SavedAnswers(spec, public.classes, answers, sees, cache, prompts))

    def missing(self, saved: SavedAnswers) -> list[range]:
        """The batches of images that a source has not answered yet."""
        return saved.missing(self._asking.batch or saved.spec.batch)

    def run(self, progress: Progress | None = None) -> Pack:
        """Asks for what is missing, and returns the pack."""
        for index, saved in enumerate(self.answers, 1):
            if not (missing := self.missing(saved)):
                continue
            left = sum(map(len, missing))

            def seen(count: int, before: int = (index - 1) * len(self._pixels)) -> None:
                if progress:
                    progress(before + count, len(self.answers) * len(self._pixels))

            with closing(open_source(saved.spec, self._public.classes, self._asking)) as source:
                source.prepare(self._pixels, self._public.labels, self._cache, seen)
                for batch in missing:
                    answer = source.probabilities(self._pixels[batch.start : batch.stop], batch.start)
                    self._check(answer, batch, saved.spec.name)
                    saved.save(batch.start, answer, source.model)
                    left -= len(batch)
                    if progress:
                        progress(index * len(self._pixels) - left, len(self.answers) * len(self._pixels))
        answers = np.stack([saved.all() for saved in self.answers])
        return replace(
            self._public, sources=tuple(saved.spec.name for saved in self.answers),
            probabilities=answers if answers.dtype == np.uint8 else answers.astype(np.float16),
            asked=tuple({**saved.spec.facts, **saved.facts} for saved in self.answers),
        )  # fmt: skip

    def _check(self, answer: NDArray[np.floating], batch: range, name: str) -> None:
        check_answers(
            answer, (len(batch), *self._row), name, lambda index: self._asking.image_name(batch.start + index)
        )


def build(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    specs: Sequence[str],
    cache: Path,
    progress: Progress | None = None,
) -> Pack:
    """A pack of these images and of each source's answers, which are saved in `cache` as they come."""
    public = without_predictions(pixels, labels, classes)
    return Building(public, list(map(SourceSpec.parse, specs)), cache, Asking()).run(progress)


def check_answers(
    answer: NDArray[np.floating], shape: tuple[int, ...], name: str, image_name: Callable[[int], str]
) -> None:
    """Raises unless an answer has probabilities of all classes for each image, or for each of its pixels."""
    if answer.shape != shape or answer.dtype.kind != "f":
        what = "image" if len(shape) == 2 else "pixel, the background first"
        raise SourceAnswerError(f"{name} did not answer with probabilities of {shape[1]} classes for each {what}")
    faults = {
        "NaN or infinite values": ~np.isfinite(answer),
        "a negative value": answer < 0,
        "values that do not sum to 1": np.abs(answer.sum(1) - 1) > 1e-3,
    }
    for fault, where in faults.items():
        is_faulty = where.reshape(len(answer), -1).any(1)
        if is_faulty.any():
            raise SourceAnswerError(f"{name}: its probabilities for {image_name(int(is_faulty.argmax()))} have {fault}")
