"""Asks foundation models, once: each source sees each public image one time, and every answer is saved.

A source is a kind and what it needs: `clip:ViT-L-14@weights.safetensors`, `torchvision:resnet18@weights.safetensors`,
`nets:resnet20@weights.safetensors` or `files:answers.npz`. An interrupted run asks only what has no answer yet. Answers
are saved under the hash of a source's file, so that changed weights are asked again and moved ones are not.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import BadPackError, FileMissingError, UsageError

BATCH = 256  # images asked at once
KINDS = {"clip": "clip", "torchvision": "torchvision", "nets": "nets", "files": "answers"}  # and the module of each
Progress = Callable[[int, int], None]


class Source(Protocol):
    """A foundation model, which gives probabilities over the public classes."""

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        """The probabilities of a batch, images x classes; `first` is the index of its first image among all."""


def open_source(spec: str, classes: Sequence[str]) -> Source:
    """Opens the source that a spec names. Each kind has a module, which imports what it needs."""
    kind, _, argument = spec.partition(":")
    if kind not in KINDS or not argument:
        raise UsageError(f"a source is one of {', '.join(f'{name}:...' for name in KINDS)}, not {spec!r}")
    _, file = _split_spec(spec)
    if file and not Path(file).exists():
        raise FileMissingError(f"{Path(file).name} is not there")
    opened: Source = importlib.import_module(f"fedhelp_edge.knowledge.sources.{KINDS[kind]}").open_source(
        argument, classes
    )
    return opened


def build(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    specs: Sequence[str],
    cache: Path,
    progress: Progress | None = None,
) -> Pack:
    """A pack of these images and of each source's answers, which are saved in `cache` as they come."""
    cache.mkdir(parents=True, exist_ok=True)
    images_hash = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    blocks = range(0, len(pixels), BATCH)
    answers_by_source = []
    for index, spec in enumerate(specs):
        name = hashlib.sha256(f"{_content_key(spec)}/{images_hash}/{'/'.join(classes)}".encode()).hexdigest()[:24]
        opened: Source | None = None
        answers = []
        for first in blocks:
            path = cache / f"{name}-{first:07}.npy"
            if not path.exists():
                opened = opened or open_source(spec, classes)
                block = pixels[first : first + BATCH]
                answer = _check_answers(opened.probabilities(block, first), spec, (len(block), len(classes)))
                with files.writing(path) as file:
                    np.save(file, answer, allow_pickle=False)
            answers.append(np.load(path, allow_pickle=False))
            if progress:
                progress(index * len(pixels) + first + len(answers[-1]), len(specs) * len(pixels))
        answers_by_source.append(np.concatenate(answers))
    whole = np.stack(answers_by_source) if answers_by_source else np.zeros((0, len(pixels), len(classes)), np.float16)
    return Pack(pixels, labels, tuple(classes), tuple(specs_without_folders(specs)), whole.astype(np.float16))


def specs_without_folders(specs: Sequence[str]) -> list[str]:
    """The specs as others may see them: without the folders of this machine."""
    return [head + Path(file).name for head, file in map(_split_spec, specs)]


def _split_spec(spec: str) -> tuple[str, str]:
    """What stands before the file in a spec, and the file."""
    head, separator, file = spec.partition(":" if spec.startswith("files:") else "@")
    return head + separator, file


def _content_key(spec: str) -> str:
    """The spec with the hash of its file in place of the file's name."""
    head, name = _split_spec(spec)
    digest = hashlib.sha256()
    if name:  # a spec without a file is refused by `open_source`
        with files.reading(Path(name)) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return head + digest.hexdigest()


def _check_answers(answer: NDArray[np.float32], spec: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    fits = answer.shape == shape and np.isfinite(answer).all() and (answer >= 0).all()
    if not fits or np.abs(answer.sum(1) - 1).max(initial=0) > 1e-3:
        raise BadPackError(
            f"{specs_without_folders([spec])[0]} did not answer with probabilities of {shape[1]} classes for each image"
        )
    return answer.astype(np.float32)
