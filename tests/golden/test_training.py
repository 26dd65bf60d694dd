"""On a recorded machine training gives the recorded bits; on other machines nearly the same results.

Another processor, or version of torch, makes the sums in a net in another order. Between AVX2 and AVX512 the answers of
these runs differ by at most 0.00012, and are compared within TOLERANCE. The number of bytes on the wire must be equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.golden import api, training  # noqa: E402 - torch may be missing

MACHINES: list[dict[str, Any]] = api.read("training")
TOLERANCE = 0.005  # of a probability


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("run", training.RUNS, ids=training.name_of)
def test_a_training_run_gives_the_recorded_models(run: tuple[str, ...]) -> None:
    now, here = training.train(*run), training.here(MACHINES)
    if here is not None:
        assert now == here["runs"][training.name_of(run)]
    for other in MACHINES:
        recorded = other["runs"][training.name_of(run)]
        assert now["bytes"] == recorded["bytes"]
        assert now["answers"].keys() == recorded["answers"].keys()
        for name, answers in recorded["answers"].items():
            np.testing.assert_allclose(now["answers"][name], answers, atol=TOLERANCE)
