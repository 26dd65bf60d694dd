"""Answers from a file: an NPZ with `probabilities`, rows in the order of the public images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data.arrays import open_archive
from fedhelp_edge.errors import BadNpzError, BadPackError
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.source_spec import SourceSpec
from fedhelp_edge.safe_text import counted


class AnswerFiles(Source):
    """A source whose answers are known already."""

    def __init__(self, path: Path, chosen: NDArray[np.int64] | None) -> None:
        rows = read_arrays(path, "probabilities").get("probabilities")
        if rows is None or rows.dtype.kind != "f" or rows.ndim != 2:
            raise BadPackError(f"{path.name} is not an NPZ with 'probabilities', a row for each image")
        if chosen is not None and len(rows) <= chosen.max(initial=-1):
            raise BadPackError(f"the file has {counted(len(rows), 'answer')}, and there are more images")
        self._rows = (rows if chosen is None else rows[chosen]).astype(np.float32)

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self._rows[first : first + len(images)]
        if len(rows) < len(images):
            raise BadPackError(f"the file has {counted(len(self._rows), 'answer')}, and there are more images")
        return rows


def read_arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Those of these arrays that an NPZ holds. Nothing is unpickled."""
    try:
        with open_archive(path) as archive:
            return {name: archive.array(name) for name in names if name in archive}
    except BadNpzError as error:
        raise BadPackError(f"{path.name} is not an NPZ, or it is damaged: {error.cause}") from error


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> AnswerFiles:
    """The source of an NPZ file."""
    return AnswerFiles(Path(spec.argument), asking.rows)
