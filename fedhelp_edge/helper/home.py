"""A helper's folder: its keys, the federation and the plan that it agreed to, and what it has answered.

keys.age, keys.pub       its two keys
pinned.json, plan.toml   the federation, and the plan byte for byte; no task under another plan is answered
charter/ roster/ task/   what the coordinator published, verified
answers/0001-000003.json the set that was answered in a round, by epoch and round; for ever
answers/0001-000003.fhx  the newest answer

Beside the folder lies a second copy of the records, `HOME-answers`. A folder that is restored from a backup may lack
the newest record; the copy beside it has it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedhelp_edge import files, records
from fedhelp_edge import plan as plans
from fedhelp_edge.errors import KeysExistError, NotYetError, SetAnsweredError, TargetExistsError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import age, keys
from fedhelp_edge.parcel.keys import PublicKeys
from fedhelp_edge.plan import Plan
from fedhelp_edge.secure_sum.sets import fewest_sites, smallest_group

ANSWERS, _PINNED, _PLAN = "answers", "pinned.json", "plan.toml"


@dataclass(frozen=True)
class Pins:
    """What a helper agreed to."""

    federation: str
    plan: Plan

    @property
    def fewest(self) -> int:
        """Sites in a set, at least."""
        return fewest_sites(self.plan)


def create(home: Path, passphrase: Callable[[], str | None], *, post_quantum: bool = False) -> PublicKeys:
    """Make the helper's keys, unless it has some, and return the public ones."""
    if not keys.exist(home):
        keys.save(home, keys.generate(post_quantum=post_quantum), passphrase())
    public = keys.load_public(home)
    if post_quantum and not age.is_post_quantum(public.recipient):
        raise KeysExistError(f"the keys in {home.name} are not post-quantum")
    return public


def pin(home: Path, plan: Plan, federation: str) -> None:
    """Agree to a federation and its plan, once."""
    public, privacy = keys.load_public(home), plan.privacy
    if (privacy.helper_key, privacy.helper_sign) != (public.recipient, public.sign):
        raise TargetExistsError("the plan names another helper's keys", remedy="see yours with 'fedhelp-helper init'")
    if (home / _PINNED).exists():
        pinned = load_pins(home)
        if (pinned.federation, pinned.plan.text) != (federation, plan.text):
            remedy = "name another folder with --home: a helper of two federations has two folders and two keys"
            raise TargetExistsError(f"{home.name} has agreed to another federation or plan", remedy=remedy)
        return
    files.write_atomic(home / _PLAN, plan.text.encode())
    files.write_atomic(home / _PINNED, json.dumps({"federation": federation}).encode())


def load_pins(home: Path) -> Pins:
    """The federation and the plan that the helper agreed to."""
    if not (home / _PINNED).exists():
        remedy = "'fedhelp-helper init --plan plan.toml --federation ID', with the id that the coordinator tells you"
        raise NotYetError("this helper has agreed to no federation yet", remedy=remedy)
    federation = json.loads((home / _PINNED).read_bytes())["federation"]
    return Pins(federation, plans.read((home / _PLAN).read_bytes().decode(), METHODS))


# --- what was answered -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AnsweredSet:
    """The set of a round whose sum of masks the helper has sent, or is about to send."""

    epoch: int
    round: int
    base: str
    sites: tuple[str, ...]
    seeds: str  # the hash of the list of their hashes

    @property
    def name(self) -> str:
        return f"{self.epoch:04}-{self.round:06}"


def hash_of(seeds: Sequence[bytes]) -> str:
    """The hash of a list of seeds' parcels."""
    return hashlib.sha256("\n".join(hashlib.sha256(seed).hexdigest() for seed in seeds).encode()).hexdigest()


def answered_sets(home: Path) -> list[AnsweredSet]:
    """All sets that were answered, as either copy of the records has them."""
    return sorted({_read(path) for path in records.paths(home, ANSWERS)}, key=lambda a: a.name)


def check_new(home: Path, asked: AnsweredSet, fewest: int) -> None:
    """Refuse a set whose sum, together with the sums that were answered before, would show fewer than `fewest` sites.

    In one round there is one set. Sums from one base model can be added and subtracted.
    """
    answered_before = answered_sets(home)
    for answered in answered_before:
        if answered.name > asked.name:
            raise SetAnsweredError(f"round {answered.round} was answered already, and this is round {asked.round}")
        if answered.name == asked.name and answered != asked:
            raise SetAnsweredError(f"another set of round {asked.round} was answered already")
    smallest = smallest_group([each.sites for each in (*answered_before, asked) if each.base == asked.base])
    if len(smallest) < fewest:
        alone = ", ".join(smallest)
        raise SetAnsweredError(f"with the sums answered before, from the same model, this one would show {alone} alone")


def record(home: Path, answered: AnsweredSet) -> None:
    """Record a set before its answer leaves this computer, in both places."""
    records.write(home, ANSWERS, answered.name, asdict(answered))


def _read(path: Path) -> AnsweredSet:
    try:
        fields = json.loads(path.read_bytes())
        answered = AnsweredSet(**{**fields, "sites": tuple(fields["sites"])})
        if answered.name != path.stem:
            raise ValueError(path.stem)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "copy it from the folder beside it, or from a backup; without it nothing is answered"
        raise SetAnsweredError(f"the record {path.name} of an answer is damaged", remedy=remedy) from error
    return answered
