"""The views of an image that an encoder looks at: its augmentation, made once.

A plan takes the first `encoder_views` of them:

0  as it is             1  mirrored left to right
2  top left             3  bottom right, mirrored
4  top right            5  bottom left, mirrored
6  bottom left          7  top right, mirrored
8  bottom right         9  top left, mirrored

A corner's view is a square of 7/8 of the image's side, made as large as the image (bilinear).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data.picture import resize

VERSION = 1  # increase it when an image has other views than before
_CORNERS = ((0, 0), (1, 1), (0, 1), (1, 0), (1, 0), (0, 1), (1, 1), (0, 0))  # of views 2 to 9: bottom, right


def views(image: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """The first `count` views of an image (side x side x channels), each of its size."""
    return [_view(image, number) for number in range(count)]


def _view(image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    side = len(image)
    if number >= 2:
        part = side - side // 8
        top, left = (far * (side - part) for far in _CORNERS[number - 2])
        image = resize(image[top : top + part, left : left + part], side)
    return np.ascontiguousarray(image[:, ::-1] if number % 2 else image)
