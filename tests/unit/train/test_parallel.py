"""One net trained by several processes on the CPU: they end equal, and as one process would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.errors import UsageError
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.train import checkpoint, loop, parallel
from fedhelp_edge.update import Array
from tests.unit.methods import small
from tests.unit.methods.tiny import tiny_nets as tiny_nets
from tests.unit.train import together

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("tiny_nets")
every_case = pytest.mark.parametrize("case", together.CASES, ids=together.name)


@pytest.fixture(scope="module", params=[2, 3])
def finished_processes(
    request: pytest.FixtureRequest, filled_once: Callable[[str, Callable[[Path], None]], Path]
) -> tuple[Path, int]:
    """The folder with the final states of so many processes."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")

    def train(out: Path) -> None:
        done = subprocess.run([sys.executable, "-m", together.__name__, out, "2", "3"], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()

    return filled_once("together", train) / str(request.param), request.param


def final_state(folder: Path) -> tuple[dict[str, Any], Mapping[str, Array]]:
    saved = checkpoint.newest(folder)
    assert saved is not None
    return saved


@every_case
def test_all_processes_end_with_the_same_bits(case: Any, finished_processes: tuple[Path, int]) -> None:
    out, ranks = finished_processes
    first, *others = (final_state(out / str(rank) / together.name(case))[1] for rank in range(ranks))
    assert len(others) == ranks - 1
    assert all(small.same(other, first) for other in others)


@pytest.mark.parametrize("case", [case for case in together.CASES if case[3] == "group"], ids=together.name)
def test_with_group_norm_several_processes_train_what_one_does(case: Any, finished_processes: tuple[Path, int]) -> None:
    single = together.learner(*case, Compute())
    before, report = single.state(), loop.train(single, together.sets(case[1]), 1)
    (_, state), (losses, _) = (
        final_state(finished_processes[0] / "0" / together.name(case)),
        final_state(finished_processes[0] / "reports" / together.name(case)),
    )
    expected = single.state()
    assert list(state) == list(expected)
    for name, array in expected.items():
        assert np.allclose(state[name], array, rtol=1e-4, atol=1e-5), name
    assert max(np.abs(expected[name] - before[name]).max() for name in before) > 1e-3
    for phase, parts in report.means().items():
        assert losses[phase] == pytest.approx(parts, rel=1e-4)


def test_batch_norm_statistics_are_the_mean_over_the_processes(finished_processes: tuple[Path, int]) -> None:
    case = ("fedavg", "small", {}, "batch")
    single = together.learner(*case, Compute())
    loop.train(single, together.sets("small"), 1)
    shared, expected = final_state(finished_processes[0] / "0" / together.name(case))[1], single.state()
    first = "net/bn1.running_mean"  # of the first layer, which sees the images themselves
    assert np.allclose(shared[first], expected[first], atol=0.02)
    assert np.abs(shared[first]).max() > 0.05


def test_an_infinite_loss_at_one_process_stops_all_and_names_the_whole_step(
    finished_processes: tuple[Path, int],
) -> None:
    message = (finished_processes[0] / "diverged").read_text()
    assert message.count(".png") in (6, 7)


def test_too_many_processes_for_a_sites_images_are_refused() -> None:
    learner = together.learner("fedavg", "small", {}, "batch", Compute(ranks=4))
    with pytest.raises(UsageError, match="4 processes are too many for steps of 6 images"):
        loop.train(learner, together.sets("small"), 1)


@pytest.mark.parametrize(
    "environment", [{}, {"WORLD_SIZE": "4", "RANK": "1"}, {"TORCHELASTIC_RUN_ID": "none"}], ids=str
)
def test_a_single_process_with_or_without_torchrun_is_not_parallel(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WORLD_SIZE": "1", **environment}.items():
        monkeypatch.setenv(name, value)
    assert parallel.join(Compute()) == Compute()
