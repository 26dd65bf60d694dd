"""One site's part of a lab round as a pure function: all that it needs comes in, all that the site keeps goes out.

Neither the process that makes a visit, nor what that process did before, nor how often the visit was begun changes
a bit. A process keeps the learners of some sites, because making a net takes time. It keeps no state in them: each
visit loads the state that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedhelp_edge.codec import update_codec
from fedhelp_edge.data.features import EncoderFacts
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.transport import Arrays
from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS, is_noised
from fedhelp_edge.nets.net import Net
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import noise
from fedhelp_edge.report.scale import Tally
from fedhelp_edge.secure_sum.arithmetic import MASKED, SumFormat, as_array
from fedhelp_edge.train import learners
from fedhelp_edge.train.loop import EpochReport
from fedhelp_edge.train.visit import judge, visit


@dataclass(frozen=True)
class RunContext:
    """What all visits of a run have in common."""

    plan: Plan
    pack: Pack | None
    compute: Compute
    id: str  # of this run among all of a process
    first_weights: Mapping[str, Arrays]  # of own nets, by the net's name
    encoder: EncoderFacts | None = None


@dataclass(frozen=True)
class RoundStart:
    """What every site begins a round from."""

    round: int
    merged: Arrays  # as it arrives
    updates_of: frozenset[str] = frozenset()  # the sites whose updates it was made of

    def last_merge(self, site: str) -> LastMerge:
        """What a site knows of the merge that made this model."""
        return LastMerge(len(self.updates_of), site in self.updates_of)


@dataclass(frozen=True)
class SiteState:
    """What a site keeps from round to round; nothing before the first."""

    learner: Arrays = field(default_factory=dict)  # without what the next merged model overwrites
    memory: Arrays = field(default_factory=dict)  # of its codec


@dataclass(frozen=True)
class SiteVisit:
    """What a visit gives."""

    update: Arrays  # as it travels; empty if the method exchanges nothing
    state: SiteState  # with the learner's whole state
    overwritten: Sequence[str]  # the part of that state which the next merged model overwrites
    facts: Mapping[str, int]
    report: EpochReport
    tallies: Mapping[str, Tally]


def visit_site(run: RunContext, start: RoundStart, site: SiteImages, state: SiteState) -> SiteVisit:
    """A site's part of a round, up to the update that travels."""
    learner = _learner(run, site, state)
    sets = learners.image_sets(site.split("train"), run.pack)
    noise_key = noise.lab_key(run.plan.seed, site.id, start.round) if is_noised(run.plan) else None
    last_merge = start.last_merge(site.id)
    visited = visit(learner, sets, site.split("val"), start.merged, start.round, last_merge, noise_key=noise_key)
    update: Arrays = {}
    memory = state.memory
    if visited.update and run.plan.privacy.is_secure_sum:
        schema = METHODS[run.plan.method].up(run.plan, run.pack)
        privacy = run.plan.privacy
        counts = {**visited.facts, "examples": min(visited.facts["examples"], run.plan.merge.max_examples)}
        if privacy.has_budget:
            counts = {"examples": 1}  # as a site, which tells no counts then
        key = noise.lab_key(run.plan.seed, site.id, start.round) if privacy.hides_sites else b""
        words = SumFormat.of(run.plan, schema).quantise(start.merged, visited.update, counts, key)
        update = {MASKED: as_array(words)}  # masks would cancel
    elif visited.update:
        update, memory = update_codec(run.plan, start.round).encode(visited.update, start.merged, memory)
    return SiteVisit(
        update, SiteState(learner.state(), memory), learner.overwritten(start.round + 1), visited.facts, visited.report,
        visited.tallies,
    )  # fmt: skip


def judge_site(run: RunContext, start: RoundStart, site: SiteImages, state: SiteState) -> dict[tuple[str, str], Tally]:
    """At the end of a run: the tallies of a site's own nets, and of the merged one as it arrives, by split and net.

    A site that never took part has no net of its own but the one that arrives.
    """
    learner = _learner(run, site, state)
    images = {split: site.split(split) for split in ("val", "test")}

    def tallies(nets: Mapping[str, Net]) -> dict[tuple[str, str], Tally]:
        return {(split, name): judge(learner, net, images[split]) for name, net in nets.items() for split in images}

    own = tallies({"own": learner.model, **learner.others()}) if state.learner or not start.merged else {}
    if not start.merged:
        return own
    learner.receive(start.merged, start.round, start.last_merge(site.id))
    return (own or tallies({"own": learner.net, **learner.others()})) | tallies({"merged": learner.net})


_CACHED = 8  # learners in a process, however many sites there are
_learners: dict[tuple[str, str], Learner] = {}  # by run and site, the last used last


def forget(run: RunContext) -> None:
    """Frees the learners that this process keeps for a run."""
    for key in [key for key in _learners if key[0] == run.id]:
        del _learners[key]


def _learner(run: RunContext, site: SiteImages, state: SiteState) -> Learner:
    """The site's learner in this state. What the state lacks will be overwritten by the merged model."""
    learner = _learners.pop((run.id, site.id), None)
    if learner is None or not state.learner:  # a first visit begins from first weights, also when it begins again
        train = site.split("train")
        learner = learners.create(
            run.plan, site.id, site.tier, train, run.pack, run.compute, run.first_weights, run.encoder
        )
    if state.learner:
        learner.load({**learner.state(), **state.learner}, 1)
    _learners[run.id, site.id] = learner
    for oldest in list(_learners)[:-_CACHED]:
        del _learners[oldest]
    return learner
