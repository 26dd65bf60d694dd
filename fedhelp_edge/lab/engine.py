"""Where the visits of a lab run are made: in this process, or by Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from fedhelp_edge.errors import UsageError
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.visits import RoundStart, RunContext, SiteState

T = TypeVar("T")
Visit = Callable[[RunContext, RoundStart, SiteImages, SiteState], T]


class LabEngine(Protocol):
    """Makes visits, which are pure functions, in whatever processes it has."""

    def visits(
        self, visit: Visit[T], run: RunContext, start: RoundStart, sites: Iterable[tuple[SiteImages, SiteState]]
    ) -> Iterator[T]:
        """What a visit to each site gives, in the order of the sites. States are read when their turn comes."""


class LocalEngine:
    """Visits the sites one after the other in this process."""

    def visits(
        self, visit: Visit[T], run: RunContext, start: RoundStart, sites: Iterable[tuple[SiteImages, SiteState]]
    ) -> Iterator[T]:
        return (visit(run, start, site, state) for site, state in sites)


ENGINES = ("local", "ray")


def check(name: str, address: str | None, workers: int | None, device: str = "cpu") -> None:
    """Refuses engines that there are not, and settings that do not fit together."""
    if name not in ENGINES:
        raise UsageError(f"an engine is {' or '.join(ENGINES)}, not {name!r}")
    if address and name != "ray":
        raise UsageError("an address is of a Ray cluster", remedy="add --engine ray")
    if device != "cpu" and name == "ray":
        raise UsageError("the workers of Ray train on processors", remedy="leave --device or --engine away")
    if address and workers:
        raise UsageError("a cluster has a number of cores of its own", remedy="leave --threads away")


@contextmanager
def connected(
    name: str, address: str | None = None, workers: int | None = None, device: str = "cpu"
) -> Iterator[LabEngine]:
    """An engine by its name. `ray` starts a Ray on this machine with so many workers, unless there is an address."""
    check(name, address, workers, device)
    if name == "local":
        yield LocalEngine()
        return
    from fedhelp_edge.lab import ray_engine

    with ray_engine.connection(address, workers):
        yield ray_engine.RayEngine()
