"""A real Ray with two workers on this machine, and visits whose worker is killed."""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.lab import ray_engine
from fedhelp_edge.lab.visits import RoundStart, RunContext, SiteState
from fedhelp_edge.methods.base import Learner


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray that this process is connected to. Its eight processes work also while they wait."""
    if not find_spec("ray"):
        pytest.skip("ray is not installed")
    with ray_engine.connection(workers=2):
        import ray

        yield ray.get_runtime_context().gcs_address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for the processes that it has ended
        gc.collect()


class MortalEngine(ray_engine.RayEngine):
    """Kills one worker in the middle of a visit, once; a file in `folder` counts each visit that begins."""

    def __init__(self, folder: Path, site: str, round_: int) -> None:
        super().__init__()
        self._victim = folder, site, round_

    def visits(self, visit: Any, run: RunContext, start: RoundStart, sites: Any) -> Iterator[Any]:
        return super().visits(partial(_counted, visit, *self._victim), run, start, sites)


def _counted(
    visit: Any, folder: Path, victim: str, round_: int, run: RunContext, start: RoundStart, site: Any, state: SiteState
) -> Any:
    earlier = len(list(folder.glob(f"{start.round}-{site.id}-*")))
    (folder / f"{start.round}-{site.id}-{earlier}").touch(exist_ok=False)
    if (site.id, start.round, earlier) == (victim, round_, 0):
        Learner.go = _die  # type: ignore[method-assign]  # as the first step is taken
    return visit(run, start, site, state)


def _die(*arguments: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
