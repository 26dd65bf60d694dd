"""Where the visits of a lab run are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.visits import RoundStart, RunContext, SiteState

T = TypeVar("T")
Visit = Callable[[RunContext, RoundStart, SiteImages, SiteState], T]


class Engine(Protocol):
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
