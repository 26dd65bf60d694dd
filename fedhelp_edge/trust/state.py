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
class TrustedState:
    charter: Charter
    roster: Roster | None = None
    task: Task | None = None
    heads: Mapping[int, str] = field(default_factory=dict)  # of the log, at each length seen
    models: Mapping[int, str] = field(default_factory=dict)  # the merged model of each round, by its hash

    def now(self, clock: datetime) -> datetime:
        """The time to judge by: a clock that is set back revives no old orders."""
        return max([clock, *(document.created for document in (self.charter, self.roster, self.task) if document)])

    # --- who may sign what ---------------------------------------------------------------------------------------
    def check_signers(self, statement: Statement, signers: tuple[str, ...]) -> Site | None:
        """For `parcel.look`: return, or raise what is wrong. The roster's key decides, never the armor's."""
        if statement.kind in ("update", "rotate", "receipt") and self.roster is None:
            raise ExpiredError("no roster has arrived yet")
        match statement.kind:
            case "charter":
                if not set(signers) & set(self.charter.roots):
                    roster.refuse_signer(statement, signers, self.charter, self.roster)
            case "update" if self.roster:
                return roster.check_sender(statement, signers, self.roster, statement.context["round"])
            case "rotate" if self.roster:  # the new key signs too, and is nobody's yet
                return roster.check_sender(statement, signers[:1], self.roster, self.round)
            case "receipt" if self.roster and statement.context["sender"] == "front":
                roster.check_front(statement, signers, self.charter, self.roster)
            case "enrol":
                pass  # its proof is inside: the invite's code
            case _:
                roster.check_coordinator(statement, signers, self.charter, self.roster)
        return None

    @property
    def round(self) -> int:
        return self.task.round if self.task else 0

    # --- news ----------------------------------------------------------------------------------------------------
    def with_charter(self, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> TrustedState:
        """A raised epoch voids all that was known: orders, models and log begin anew."""
        if statement.hash == self.charter.hash:
            return self
        if statement.kind == "charter" and statement.context["version"] < self.charter.version:
            raise RollbackError(f"charter {statement.context['version']}, when {self.charter.version} is known")
        if statement.kind == "charter" and statement.context["version"] == self.charter.version:
            charter.check_threshold(self.charter, signers)  # whoever is nobody raises no alarm
            raise EquivocationError(f"another charter of version {self.charter.version}")
        new = charter.read_next(self.charter, statement, signers, payload)
        return TrustedState(new) if new.epoch > self.charter.epoch else replace(self, charter=new)

    def with_roster(self, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> TrustedState:
        new = roster.read(statement, signers, payload, self.charter)
        if new.charter != self.charter.hash:
            raise RootChainError("the roster rests on another charter than the one that is here")
        return replace(self, roster=self._check_newer(self.roster, new, "roster"))

    def with_task(self, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> TrustedState:
        if self.roster is None:
            raise TaskRosterError("no roster has arrived yet")
        new = task.read(statement, signers, payload, self.charter, self.roster)
        if self.task and new.hash == self.task.hash:
            return self
        with_newer_log = self.with_log(new.log)
        if (new.epoch, new.roster_version) > self.roster.rank:
            raise TaskRosterError(f"the task rests on roster {new.roster_version}, but {self.roster.version} is here")
        if (new.epoch, new.roster_version) == self.roster.rank and new.roster != self.roster.hash:
            raise TaskRosterError("the task rests on another roster of the same number")
        newest = self._check_newer(self.task, new, "task")
        if self.task and new.log.length < self.task.log.length:
            raise LogRollbackError(f"{new.log.length} lines, when the last task had {self.task.log.length}")
        return replace(with_newer_log, task=newest)

    def with_model(self, statement: Statement) -> TrustedState:
        """A merged model. Other readers are no equivocation: a newcomer gets the same model, sealed again."""
        if statement.kind != "global":
            raise ParcelKindError(f"a {statement.kind}, where a merged model is wanted")
        round_, model = statement.context["round"], statement.context["base"]
        self._check_epoch(statement.context["epoch"], f"the model of round {round_}")
        if self.models.get(round_, model) != model:
            raise EquivocationError(f"two different models of round {round_}")
        if round_ < max(self.models, default=0) and round_ not in self.models:
            raise RollbackError(f"the model of round {round_}, when that of round {max(self.models)} is known")
        return replace(self, models={**self.models, round_: model})

    def with_log(self, log: Log) -> TrustedState:
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

    def _check_newer(self, old: _Ranked | None, new: _Ranked, what: str) -> _Ranked:
        number = new.rank[1]
        self._check_epoch(new.epoch, f"{what} {number}")
        if old and new.rank < old.rank:
            raise RollbackError(f"{what} {number}, when {old.rank[1]} is known")
        if old and new.rank == old.rank and new.hash != old.hash:
            raise EquivocationError(f"two different parcels are {what} {number}")
        return new

    def _check_epoch(self, epoch: int, what: str) -> None:
        """Only the root keys raise the epoch: whoever stole the coordinator's cannot put orders beyond its reach."""
        if epoch < self.charter.epoch:
            raise RollbackError(f"{what} is from before the federation was restored")
        if epoch > self.charter.epoch:
            raise RootChainError(f"{what} is from an epoch that no charter here has begun")
