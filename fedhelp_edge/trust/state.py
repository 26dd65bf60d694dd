"""The trusted state: what a site has verified so far. It never goes back, whatever arrives and whatever the clock.

Each `with_…` takes a parcel whose signatures hold, and returns the next state or raises why it is refused. That stops
rollback (older versions), equivocation (two of one version), split views (another log) and freezing (expired rosters).
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
from fedhelp_edge.safe_text import counted
from fedhelp_edge.trust import charter, roster, task
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.roster import Roster, Site
from fedhelp_edge.trust.task import Task

_Ranked = TypeVar("_Ranked", Charter, Roster, Task)


@dataclass(frozen=True)
class TrustedState:
    """The newest verified charter, roster and task, and what is known of the log and of the models."""

    charter: Charter
    roster: Roster | None = None
    task: Task | None = None
    heads: Mapping[int, str] = field(default_factory=dict)  # of the log, by each length that was seen
    models: Mapping[int, str] = field(default_factory=dict)  # by round, the SHA-256 of its merged model

    def latest_time(self, clock: datetime) -> datetime:
        """Returns the latest known time: setting the clock back does not revive an expired roster."""
        return max([clock, *(document.created for document in (self.charter, self.roster, self.task) if document)])

    # --- who may sign what ---------------------------------------------------------------------------------------
    def check_signers(self, statement: Statement, signers: tuple[str, ...]) -> Site | None:
        """Verifier for `parcel.inspect`: refuses keys that may not sign this kind. Returns the site that signed."""
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
        """The round of the newest task, or 0."""
        return self.task.round if self.task else 0

    # --- parcels ------------------------------------------------------------------------------------------------
    def with_charter(self, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> TrustedState:
        """Accepts the next charter. A raised epoch voids roster, task, models and log: a hub was restored."""
        if statement.hash == self.charter.hash:
            return self
        if statement.kind == "charter" and statement.context["version"] < self.charter.version:
            raise RollbackError(f"charter {statement.context['version']}, when {self.charter.version} is known")
        if statement.kind == "charter" and statement.context["version"] == self.charter.version:
            charter.check_threshold(self.charter, signers)  # a stranger must not raise the alarm
            raise EquivocationError(f"another charter of version {self.charter.version}")
        new = charter.read_next(self.charter, statement, signers, payload)
        return TrustedState(new) if new.epoch > self.charter.epoch else replace(self, charter=new)

    def with_roster(self, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> TrustedState:
        """Accepts a newer roster under the newest charter."""
        new = roster.read(statement, signers, payload, self.charter)
        if new.charter != self.charter.hash:
            raise RootChainError("the roster names another charter than the one that is known here")
        return replace(self, roster=self._check_newer(self.roster, new, "roster"))

    def with_task(self, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> TrustedState:
        """Accepts a newer task that names this roster or an earlier one, and a log that did not shrink."""
        if self.roster is None:
            raise TaskRosterError("no roster has arrived yet")
        new = task.read(statement, signers, payload, self.charter, self.roster)
        if self.task and new.hash == self.task.hash:
            return self
        advanced = self.with_log(new.log)
        if (new.epoch, new.roster_version) > self.roster.rank:
            raise TaskRosterError(f"the task names roster {new.roster_version}, but {self.roster.version} is here")
        if (new.epoch, new.roster_version) == self.roster.rank and new.roster != self.roster.hash:
            raise TaskRosterError("the task names another roster of the same version")
        newest = self._check_newer(self.task, new, "task")
        if self.task and new.log.length < self.task.log.length:
            raise LogRollbackError(f"{counted(new.log.length, 'line')}, when the last task had {self.task.log.length}")
        return replace(advanced, task=newest)

    def with_model(self, statement: Statement) -> TrustedState:
        """Accepts the merged model of a round. The same model, sealed again for a new site, is no equivocation."""
        if statement.kind != "global":
            raise ParcelKindError(f"a {statement.kind}, where a merged model is expected")
        round_, model = statement.context["round"], statement.context["base"]
        self._check_epoch(statement.context["epoch"], f"the model of round {round_}")
        if self.models.get(round_, model) != model:
            raise EquivocationError(f"two different models of round {round_}")
        if round_ < max(self.models, default=0) and round_ not in self.models:
            raise RollbackError(f"the model of round {round_}, when that of round {max(self.models)} is known")
        return replace(self, models={**self.models, round_: model})

    def with_log(self, log: Log) -> TrustedState:
        """Accepts the log's state from a receipt. Receipts may come late, so a shorter log is no rollback here."""
        if self.heads.get(log.length, log.head) != log.head:
            raise SplitViewError(f"line {log.length} differs from the one that was seen")
        return replace(self, heads={**self.heads, log.length: log.head})

    def overdue(self, clock: datetime) -> timedelta:
        """Returns how long ago the roster expired, negative while it is valid.

        Above zero callers warn; above the grace period they refuse.
        """
        if self.roster is None:
            raise ExpiredError("no roster has arrived yet")
        return self.latest_time(clock) - self.roster.expires

    def check_fresh(self, clock: datetime, grace: timedelta) -> None:
        """Raises when the roster expired longer ago than `grace`: no task under it is followed (a freeze attack)."""
        if (late := self.overdue(clock)) > grace:
            raise ExpiredError(f"the roster expired {counted(late.days, 'day')} ago")

    def _check_newer(self, old: _Ranked | None, new: _Ranked, what: str) -> _Ranked:
        number = new.rank[1]
        self._check_epoch(new.epoch, f"{what} {number}")
        if old and new.rank < old.rank:
            raise RollbackError(f"{what} {number}, when {old.rank[1]} is known")
        if old and new.rank == old.rank and new.hash != old.hash:
            raise EquivocationError(f"two different parcels are {what} {number}")
        return new

    def _check_epoch(self, epoch: int, what: str) -> None:
        """Raises unless this is the charter's epoch. Only root keys raise it: a stolen coordinator key cannot."""
        if epoch < self.charter.epoch:
            raise RollbackError(f"{what} is from before the federation was restored")
        if epoch > self.charter.epoch:
            raise RootChainError(f"{what} is from an epoch that no charter here has begun")
