"""Public images as WebP files in one byte array: half the size of raw pixels, far less if pixels may change.

Their common shape is stored beside them, so the decoded size is known, and checked, before decoding.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge.data import picture
from fedhelp_edge.errors import FedhelpError, ImageBrokenError, ImageKindError

MAX_SIDE = 1024  # pixels; the largest size of a plan
MAX_SIZE = 1 << 31  # bytes of pixels in all
LOSSLESS = 100  # the quality that preserves every pixel


def encode(pixels: NDArray[np.uint8], quality: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Encode images; return all bytes, and the offset where each image ends."""
    data, ends = io.BytesIO(), []
    for image in pixels:
        picture_file = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        picture_file.save(data, "WEBP", lossless=quality == LOSSLESS, quality=quality)
        ends.append(data.tell())
    return np.frombuffer(data.getvalue(), np.uint8), np.array(ends, np.int64)


def decode(data: NDArray[np.uint8], ends: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.uint8]:
    """Decode images of this shape; `ImageBrokenError` if the bytes are anything else."""
    fits = (
        data.dtype == np.uint8 and data.ndim == 1 and ends.dtype == np.int64 and ends.ndim == 1
        and [type(length) for length in shape] == [int] * 3 and shape[2] in (1, 3)
        and min(shape) >= 1 and max(shape) <= MAX_SIDE and len(ends) * int(np.prod(shape)) <= MAX_SIZE
        and ends[-1] == len(data) and (np.diff(ends, prepend=0) > 0).all()
    )  # fmt: skip
    if not fits:
        raise ImageBrokenError("the images have no shape, are too many, or do not follow one another")
    pixels = np.empty((len(ends), *shape), np.uint8)
    start = 0
    with picture.without_warnings():
        for index, end in enumerate(ends.tolist()):
            try:
                pixels[index] = _decode_image(data[start:end].tobytes(), *shape)
            except (FedhelpError, MemoryError) as error:
                raise ImageBrokenError(f"public image {index} is not a WebP of the stated size") from error
            start = end
    return pixels


def _decode_image(data: bytes, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    with picture.translate_errors():
        image = Image.open(io.BytesIO(data), formats=("WEBP",))
        if (image.width, image.height, image.mode, image.n_frames) != (width, height, "RGB", 1):  # type: ignore[attr-defined]
            raise ImageKindError("another size, transparency, or several frames")
        return np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(height, width, channels)
