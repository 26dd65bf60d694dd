"""What a method's merger gets as a round closes, and what a site knows of a merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedhelp_edge.merge.norm_limit import Arrays, UpdateNorm
from fedhelp_edge.plan import MergeSettings, Plan
from fedhelp_edge.update import Array, Schema

if TYPE_CHECKING:
    from fedhelp_edge.data.pack import Pack

SiteUpdates = Mapping[str, Arrays]


@dataclass(frozen=True)
class Closing:
    """A round that closes. Sites are read in the order of their ids, each update when its turn comes."""

    plan: Plan
    settings: MergeSettings  # the plan's, with the method's own weights where the plan leaves them to the method
    schema: Schema
    round: int
    base: Arrays  # the model that the round began with, and the state that the merger left with it
    updates: SiteUpdates
    examples: Mapping[str, int]
    norms: Mapping[str, UpdateNorm] | None = None  # where they are known already
    pack: Callable[[], Pack] | None = None  # loads the knowledge pack; none where there is none


# In the name of an array of a merger's state, which stays with the model for the next merge. No schema has it: it does
# not travel.
STATE = "!"


def merger_state(merged: Arrays) -> dict[str, Array]:
    """The arrays of a merger's result that do not travel."""
    return {name: merged[name] for name in merged if STATE in name}


Merger = Callable[[Closing], dict[str, Array]]


@dataclass(frozen=True)
class LastMerge:
    """What a site knows of the merge that made the model which it received."""

    updates: int = 0  # merged
    own: bool = False  # whether the site's own is among them
    latest: bool = True  # whether that is of the round in which the site trained last; a cancelled one may follow it


NO_MERGE = LastMerge()  # of the first model
