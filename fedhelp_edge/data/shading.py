"""Show the numbers of a volume as grey, at the plan's distances, whatever file they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import plan
from fedhelp_edge.data import picture, resample
from fedhelp_edge.data.grid import Grid
from fedhelp_edge.data.source_row import Decoded, DicomIdentity
from fedhelp_edge.errors import VolumeKindError

COPIES = 4  # of a volume in memory at most
_SHADED = (0.5, 99.5)  # percentiles that become black and white
_SAMPLE = 1 << 22  # voxels, for the percentiles


def decoded(
    turned: NDArray[Any], grid: Grid, image: plan.ImageSettings, *, is_inverse: bool = False, doubt: str = "",
    group: str = "", identity: DicomIdentity | None = None,
) -> Decoded:  # fmt: skip
    """A whole volume: slices x rows x columns x channels. Its numbers are already in the patient's directions."""
    grey = resample.to_sides(_shade(turned, is_inverse=is_inverse), grid.sides_at(image))
    pixels = np.repeat(grey[..., None], image.channels, 3) if image.channels > 1 else grey[..., None]
    return Decoded(pixels, grey.shape[2], grey.shape[1], group, doubt, identity, grid=grid)


def _shade(voxels: NDArray[Any], *, is_inverse: bool) -> NDArray[np.uint8]:
    """The voxels as 0 to 255. Bytes stay as they are; of others some outliers become black or white."""
    if voxels.dtype.kind not in "iuf":
        raise VolumeKindError("its voxels are colours or complex numbers")
    if voxels.dtype == np.uint8 and not is_inverse:
        return np.ascontiguousarray(voxels)
    sample = voxels.ravel(order="K")[:: max(1, voxels.size // _SAMPLE) | 1]
    known = sample[np.isfinite(sample)]
    low, high = np.percentile(known, _SHADED) if known.size else (0.0, 0.0)
    if not high > low and known.size:
        low, high = float(known.min()), float(known.max())
    if not high > low:
        return np.zeros(voxels.shape, np.uint8)
    if is_inverse:
        low, high = high, low
    return picture.map_bands(
        lambda band: np.nan_to_num(np.clip((band.astype(np.float64) - low) / (high - low), 0, 1)), voxels
    )
