"""The floor: what a site has verified so far, and never goes back below, whoever brings it news and whatever its clock.

Each method takes news that was verified by signature and gives the new floor, or says why the news is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from fedhelp_edge.errors import (
    EquivocationError,
    ExpiredError,
    LogRollbackError,
    ParcelKindError,
    RollbackError,
    RootChainError,
    SplitViewError,
    TaskRosterError,
)
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import charter, roster, task
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.roster import Roster, Site
from fedhelp_edge.trust.task import Task

_Ranked = TypeVar("_Ranked", Charter, Roster, Task)


@dataclass(frozen=True)
class Floor:
    charter: Charter
    roster: Roster | None = None
    task: Task | None = None
    heads: Mapping[int, str] = field(default_factory=dict)  # of the log, at each length seen
    models: Mapping[int, str] = field(default_factory=dict)  # the merged model of each round, by its hash

    def now(self, clock: datetime) -> datetime:
        """The time to judge by: a clock that is set back revives no old orders."""
        return max([clock, *(news.created for news in (self.charter, self.roster, self.task) if news)])

    # --- who may sign what ---------------------------------------------------------------------------------------
    def trust(self, said: Statement, keys: tuple[str, ...]) -> Site | None:
        """For `parcel.look`: return, or raise what is wrong. The roster's key decides, never the armor's."""
        if said.kind in ("update", "rotate", "receipt") and self.roster is None:
            raise ExpiredError("no roster has arrived yet")
        match said.kind:
            case "charter":
                if not set(keys) & set(self.charter.roots):
                    roster.refuse(said, keys, self.charter, self.roster)
            case "update" if self.roster:
                return roster.of_site(said, keys, self.roster, said.context["round"])
            case "rotate" if self.roster:  # the new key signs too, and is nobody's yet
                return roster.of_site(said, keys[:1], self.roster, self.round)
            case "receipt" if self.roster and said.context["sender"] == "front":
                roster.of_front(said, keys, self.charter, self.roster)
            case "enrol":
                pass  # its proof is inside: the invite's code
            case _:
                roster.of_coordinator(said, keys, self.charter, self.roster)
        return None

    @property
    def round(self) -> int:
        return self.task.round if self.task else 0

    # --- news ----------------------------------------------------------------------------------------------------
    def with_charter(self, said: Statement, keys: tuple[str, ...], holds: dict[str, Any]) -> Floor:
        """A raised epoch voids all that was known: orders, models and log begin anew."""
        if said.hash == self.charter.hash:
            return self
        if said.kind == "charter" and said.context["version"] < self.charter.version:
            raise RollbackError(f"charter {said.context['version']}, when {self.charter.version} is known")
        if said.kind == "charter" and said.context["version"] == self.charter.version:
            charter.check_signed(self.charter, keys)  # whoever is nobody raises no alarm
            raise EquivocationError(f"another charter of version {self.charter.version}")
        new = charter.follow(self.charter, said, keys, holds)
        return Floor(new) if new.epoch > self.charter.epoch else replace(self, charter=new)

    def with_roster(self, said: Statement, keys: tuple[str, ...], holds: dict[str, Any]) -> Floor:
        new = roster.read(said, keys, holds, self.charter)
        if new.charter != self.charter.hash:
            raise RootChainError("the roster rests on another charter than the one that is here")
        return replace(self, roster=self._newer(self.roster, new, "roster"))

    def with_task(self, said: Statement, keys: tuple[str, ...], holds: dict[str, Any]) -> Floor:
        if self.roster is None:
            raise TaskRosterError("no roster has arrived yet")
        new = task.read(said, keys, holds, self.charter, self.roster)
        if self.task and new.hash == self.task.hash:
            return self
        known = self.with_log(new.log)
        if (new.epoch, new.roster_version) > self.roster.rank:
            raise TaskRosterError(f"the task rests on roster {new.roster_version}, but {self.roster.version} is here")
        if (new.epoch, new.roster_version) == self.roster.rank and new.roster != self.roster.hash:
            raise TaskRosterError("the task rests on another roster of the same number")
        newest = self._newer(self.task, new, "task")
        if self.task and new.log.length < self.task.log.length:
            raise LogRollbackError(f"{new.log.length} lines, when the last task had {self.task.log.length}")
        return replace(known, task=newest)

    def with_model(self, said: Statement) -> Floor:
        """A merged model. Other readers are no equivocation: a newcomer gets the same model, sealed again."""
        if said.kind != "global":
            raise ParcelKindError(f"a {said.kind}, where a merged model is wanted")
        round_, model = said.context["round"], said.context["base"]
        self._of_this_epoch(said.context["epoch"], f"the model of round {round_}")
        if self.models.get(round_, model) != model:
            raise EquivocationError(f"two different models of round {round_}")
        if round_ < max(self.models, default=0) and round_ not in self.models:
            raise RollbackError(f"the model of round {round_}, when that of round {max(self.models)} is known")
        return replace(self, models={**self.models, round_: model})

    def with_log(self, log: Log) -> Floor:
        """What a receipt says of the log. It may come late, so a shorter log is no rollback; only a later task's is."""
        if self.heads.get(log.length, log.head) != log.head:
            raise SplitViewError(f"line {log.length} is another one than was seen")
        return replace(self, heads={**self.heads, log.length: log.head})

    def overdue(self, clock: datetime) -> timedelta:
        """How long ago the roster ended; below zero while it holds. Beyond nothing: warn. Beyond the grace: refuse."""
        if self.roster is None:
            raise ExpiredError("no roster has arrived yet")
        return self.now(clock) - self.roster.expires

    def check_fresh(self, clock: datetime, grace: timedelta) -> None:
        """Raise when the roster is so old that no order under it should be followed any more."""
        if (late := self.overdue(clock)) > grace:
            raise ExpiredError(f"the roster ended {late.days} days ago")

    def _newer(self, old: _Ranked | None, new: _Ranked, what: str) -> _Ranked:
        number = new.rank[1]
        self._of_this_epoch(new.epoch, f"{what} {number}")
        if old and new.rank < old.rank:
            raise RollbackError(f"{what} {number}, when {old.rank[1]} is known")
        if old and new.rank == old.rank and new.hash != old.hash:
            raise EquivocationError(f"two different parcels are {what} {number}")
        return new

    def _of_this_epoch(self, epoch: int, what: str) -> None:
        """Only the root keys raise the epoch: whoever stole the coordinator's cannot put orders beyond its reach."""
        if epoch < self.charter.epoch:
            raise RollbackError(f"{what} is from before the federation was restored")
        if epoch > self.charter.epoch:
            raise RootChainError(f"{what} is from an epoch that no charter here has begun")
