"""The views of an image that an encoder looks at."""

from __future__ import annotations

import numpy as np
import pytest

from fedhelp_edge import plan
from fedhelp_edge.data.picture import resize
from fedhelp_edge.data.views import views
from tests.unit.data import samples

IMAGE = samples.noise(1, 16, 16, 3)[0]


def test_the_first_views_are_the_image_and_its_mirror_image() -> None:
    first, second = views(IMAGE, 2)
    assert np.array_equal(first, IMAGE)
    assert np.array_equal(second, IMAGE[:, ::-1])


def test_the_others_are_each_corner_both_ways() -> None:
    corners = {(top, left): resize(IMAGE[top : top + 14, left : left + 14], 16) for top in (0, 2) for left in (0, 2)}
    expected = {part.tobytes() for corner in corners.values() for part in (corner, corner[:, ::-1])}
    others = views(IMAGE, plan.MAX_VIEWS)[2:]
    assert {view.tobytes() for view in others} == expected
    assert np.array_equal(others[0], corners[0, 0])
    assert np.array_equal(others[1], corners[2, 2][:, ::-1])


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_fewer_views_are_the_first_of_more(count: int) -> None:
    every = views(IMAGE, plan.MAX_VIEWS)
    assert [view.tobytes() for view in views(IMAGE, count)] == [view.tobytes() for view in every[:count]]
