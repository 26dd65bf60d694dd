"""What a site has spent of its images' privacy. A spend is on disk before the training that it pays for begins.

The same training spends once, however often it is begun. Its record is named by the hash of all that it depends on, and
its noise follows from that hash. Training a round again on other images is another spend, with other noise.

A record may be lost with a disk. So each round of the federation counts, up to the newest: a round without a record
counts as trained once. A restored backup can only forget that a round was trained more than once. The copy of the
records beside the home has that.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedhelp_edge import files, records
from fedhelp_edge.errors import PrivacySpentError, SpendDamagedError
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import accountant, noise
from fedhelp_edge.privacy.accountant import NoisySteps
from fedhelp_edge.site import layout
from fedhelp_edge.trust.task import Task

_ATTEMPT = "noise.txt"  # in a round's folder: the name of its spend


@dataclass(frozen=True)
class _Spend:
    """A training that was paid for."""

    federation: str
    round: int
    steps: NoisySteps


def pay(home: Path, task: Task, plan: Plan, inputs: Iterable[object], arithmetic: str) -> bytes:
    """Records what training the task's round spends, unless that was done; returns the key of its noise.

    `inputs` are all that the update depends on, and `arithmetic` what its last bits do. A training that was begun from
    other inputs begins again. One that was begun by other arithmetic goes on: nobody has seen a part of it.
    Raises `PrivacySpentError` where the budget does not allow it.
    """
    round_dir = layout.round_dir(home, task)
    training = _digest(task.hash, *inputs)
    attempt = _attempt(round_dir)
    if not attempt.startswith(training):
        attempt = f"{training}-{_digest(arithmetic)[:16]}"
    name = f"{task.epoch:04}-{task.round:06}-{attempt}"
    _spend(home, name, task, plan)
    if _attempt(round_dir) != attempt:
        shutil.rmtree(round_dir, ignore_errors=True)
        round_dir.mkdir(parents=True)
        files.write_atomic(round_dir / _ATTEMPT, attempt.encode())
    return noise.derive_key(_secret(home), name)


def pay_update(home: Path, task: Task, plan: Plan) -> None:
    """Records what the round's update spends where noise hides the site, unless that was done.

    An update that is made or sealed again spends no more: a round has one sum, and the noise is new each time.
    """
    _spend(home, f"{task.epoch:04}-{task.round:06}-update", task, plan)


def _spend(home: Path, name: str, task: Task, plan: Plan) -> None:
    spends = _spends(home)
    if name in spends:
        return
    spend = _Spend(task.federation, task.round, accountant.round_of(plan))
    total = _epsilon([*spends.values(), spend], task.federation, plan, task.round)
    if total > plan.privacy.epsilon:
        cause = f"round {task.round} would bring epsilon to {total:.3g}, and the budget is {plan.privacy.epsilon:g}"
        raise PrivacySpentError(cause)
    records.write(home, layout.PRIVACY_SPENT, name, asdict(spend))


def spent(home: Path, federation: str, plan: Plan, rounds: int) -> dict[str, Any]:
    """What was spent until the newest round that was trained, or `rounds` if that is more; and the budget."""
    return accountant.spent(plan, _epsilon(_spends(home).values(), federation, plan, rounds))


def _epsilon(spends: Iterable[_Spend], federation: str, plan: Plan, rounds: int) -> float:
    own = [spend for spend in spends if spend.federation == federation]
    trained = {spend.round for spend in own}
    missing = max([rounds, *trained]) - len(trained)
    steps = Counter({accountant.round_of(plan): missing})
    steps.update(spend.steps for spend in own)
    of_all = (NoisySteps(s.noise_multiplier, s.sampling_rate, s.steps * count) for s, count in steps.items())
    return accountant.epsilon(of_all, plan.privacy.delta)


def _spends(home: Path) -> dict[str, _Spend]:
    """All spends by name, as either copy of the records has them."""
    return {path.stem: _read(path) for path in records.paths(home, layout.PRIVACY_SPENT)}


def _read(path: Path) -> _Spend:
    try:
        fields = json.loads(path.read_bytes())
        return _Spend(**{**fields, "steps": NoisySteps(**fields["steps"])})
    except (ValueError, TypeError, KeyError) as error:
        raise SpendDamagedError(f"the record {path.name} of a training is damaged") from error


def _attempt(round_dir: Path) -> str:
    path = round_dir / _ATTEMPT
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _secret(home: Path) -> bytes:
    """The site's secret for its noise. It lies beside the images, and whoever has it may have them."""
    path = home / layout.NOISE_KEY
    if not path.exists():
        files.write_atomic(path, secrets.token_bytes(noise.KEY_BYTES))
    secret = path.read_bytes()
    if len(secret) != noise.KEY_BYTES:
        path.unlink()
        return _secret(home)
    return secret


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
