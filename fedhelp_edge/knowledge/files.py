"""Answers that somebody has already: an NPZ with `probabilities`, rows in the order of the public images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.errors import BadPack


class Files:
    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as held:
                self._rows = held["probabilities"].astype(np.float32)
        except (ValueError, KeyError, OSError):
            raise BadPack(f"{path.name} is no NPZ that holds 'probabilities'") from None

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self._rows[first : first + len(images)]
        if len(rows) < len(images):
            raise BadPack(f"there are {len(self._rows)} answers, and more images")
        return rows


def make(what: str, classes: Sequence[str]) -> Files:
    return Files(Path(what))
