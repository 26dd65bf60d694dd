"""Show the numbers of a volume as grey, at the plan's distances, whatever file they come from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import plan
from fedhelp_edge.data import budget, picture, resample
from fedhelp_edge.data.grid import Grid
from fedhelp_edge.data.source_row import Decoded, DicomIdentity
from fedhelp_edge.errors import ImageBrokenError, VolumeKindError

COPIES = 4  # of a volume in memory at most
_SHADED = (0.5, 99.5)  # percentiles that become black and white
_SAMPLE = 1 << 22  # voxels, for the percentiles
_BYTES = (0.0, 255.0)


@dataclass(frozen=True)
class Voxels:
    """A volume as its file has it: slices x rows x columns, in the patient's directions."""

    values: NDArray[Any]
    grid: Grid
    is_inverse: bool = False  # small numbers are bright
    doubt: str = ""  # why it may be the wrong image
    group: str = ""
    identity: DicomIdentity | None = None
    is_hounsfield: bool = False

    def decoded(self, image: plan.ImageSettings) -> Decoded:
        """What a net sees: slices x rows x columns x channels, at the plan's distances."""
        with picture.translate_errors(), budget.memory(COPIES * self.values.nbytes):
            low, high = self.limits()
            grey = resample.to_sides(shade(self.values, low, high), self.grid.sides_at(image))
            pixels = np.repeat(grey[..., None], image.channels, 3) if image.channels > 1 else grey[..., None]
        return Decoded(pixels, grey.shape[2], grey.shape[1], self.group, self.doubt, self.identity, grid=self.grid)

    def limits(self) -> tuple[float, float]:
        """What is black and what is white. Bytes stay as they are; of others some outliers become either."""
        if self.values.dtype.kind not in "iuf":
            raise VolumeKindError("its voxels are colours or complex numbers")
        if self.values.dtype == np.uint8 and not self.is_inverse:
            return _BYTES
        low, high = _range(self.values)
        if not math.isfinite(low):
            raise ImageBrokenError("none of its voxels has a number")
        return (high, low) if self.is_inverse else (low, high)


def shade(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Numbers as grey: `low` is black and `high` white, whichever is larger."""
    if (low, high) == _BYTES and values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if low == high:
        return np.zeros(values.shape, np.uint8)
    return picture.map_bands(
        lambda band: np.nan_to_num(np.clip((band.astype(np.float64) - low) / (high - low), 0, 1)), values
    )


def _range(values: NDArray[Any]) -> tuple[float, float]:
    sample = values.ravel(order="K")[:: max(1, values.size // _SAMPLE) | 1]
    known = sample[np.isfinite(sample)]
    low, high = np.percentile(known, _SHADED) if known.size else (np.nan, np.nan)
    if not high > low and known.size:
        low, high = known.min(), known.max()
    return float(low), float(high)
