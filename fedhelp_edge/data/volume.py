"""Volumes in overlapping blocks: a net sees a block, and a volume is a group of blocks, which no split divides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

_OVERLAP = 0.25  # of a block's side, at least, that it shares with the next


@dataclass(frozen=True)
class Block:
    """Where a block lies in its volume: slices, rows and columns."""

    volume: str
    sides: tuple[int, ...]  # of the volume
    start: tuple[int, ...]  # of the block

    @property
    def name(self) -> str:
        """Its name among all blocks of a source."""
        return f"{self.volume}@{','.join(map(str, self.start))}"

    def inside(self, block: tuple[int, ...]) -> tuple[slice, ...]:
        """The part of the volume that a block of these sides covers."""
        return tuple(
            slice(at, min(at + side, whole)) for at, side, whole in zip(self.start, block, self.sides, strict=True)
        )

    def covered(self, block: tuple[int, ...]) -> tuple[slice, ...]:
        """The part of the block that lies in the volume: all of it, unless the volume is smaller."""
        return tuple(slice(0, part.stop - part.start) for part in self.inside(block))


def blocks(volume: str, sides: tuple[int, ...], block: tuple[int, ...], step: int = 1) -> list[Block]:
    """Blocks of these sides that cover a volume, as few as overlap by a quarter, at equal distances.

    With a `step` each start is a multiple of it, and the last blocks may stand out of the volume.
    """
    starts = (
        sorted({step * start for start in _starts(-(-whole // step), side // step)})
        for whole, side in zip(sides, block, strict=True)
    )
    return [Block(volume, sides, start) for start in product(*starts)]


def cut(values: NDArray[Any], place: Block, block: tuple[int, ...]) -> NDArray[Any]:
    """A block of a volume (and its channels); what lies outside of the volume is 0."""
    cut_out = np.zeros((*block, *values.shape[3:]), values.dtype)
    cut_out[place.covered(block)] = values[place.inside(block)]
    return cut_out


def _starts(whole: int, side: int) -> list[int]:
    count = 1 + max(0, math.ceil((whole - side) / (side * (1 - _OVERLAP))))
    return [round(index * (whole - side) / (count - 1)) for index in range(count)] if count > 1 else [0]
