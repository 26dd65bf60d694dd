"""One federation on one machine: the same learners, codecs and aggregation, in the same order, as between machines.

The driver merges, measures and saves. With `[round] patience` it stops any method by one rule, training alone too, and
keeps the best round. Validation images decide both. An engine makes the visits to the sites (`lab.visits`). An
interrupted run resumes from its last whole round (`lab.rounds`).
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedhelp_edge import files, lock, update
from fedhelp_edge.codec import CODECS, Codec, update_codec
from fedhelp_edge.data.features import EncoderFacts
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import TargetExistsError, UsageError
from fedhelp_edge.lab import participation as participants
from fedhelp_edge.lab import provenance as origin
from fedhelp_edge.lab import record, rounds, same_sites, visits
from fedhelp_edge.lab.engine import LabEngine, LocalEngine
from fedhelp_edge.lab.partition import SiteImages, findings
from fedhelp_edge.lab.record import FinalTallies
from fedhelp_edge.lab.results import RUN_RECORD
from fedhelp_edge.lab.rounds import LabRound
from fedhelp_edge.lab.transport import Arrays, SealedTransport, send, transfer
from fedhelp_edge.lab.visits import RoundStart, RunContext, SiteState, judge_site, visit_site
from fedhelp_edge.merge import early_stopping
from fedhelp_edge.merge.closing import merger_state
from fedhelp_edge.methods import first_weights, registry
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import accountant
from fedhelp_edge.report.scale import SCALES
from fedhelp_edge.secure_sum.arithmetic import SumFormat
from fedhelp_edge.train import machine
from fedhelp_edge.update import Array, Schema

Progress = Callable[[str], None]


def run(
    plan: Plan,
    sites: Sequence[SiteImages],
    out: Path,
    *,
    compute: Compute,
    pack: Pack | None = None,
    encoder: EncoderFacts | None = None,
    start: Sequence[Mapping[str, Array]] = (),
    transport: SealedTransport | None = None,
    engine: LabEngine = LocalEngine(),  # noqa: B008 - it has no state
    participation: float = 1.0,
    about: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains the plan's method over these sites; returns the figures, which `out/run.json` holds too.

    In each round this part of the sites takes part. The others keep their state, as sites that are away. Where nothing
    is exchanged, all train in each round. `about` joins the provenance: the command line, how images were distributed.
    """
    registry.check_public(plan, pack)
    for site in sites:
        registry.check_tier(plan, site.tier, site.id)
    first = first_weights.match(plan, start)  # weights that are refused leave no folder
    participants.check(participation)
    provenance = {**origin.of_run(plan, sites, pack, start, machine.facts(compute)), "participation": participation}
    provenance |= about
    _check_same_run(plan, provenance, transport is not None, out)
    same_sites.hold(out, sites)
    context = RunContext(plan, pack, compute, uuid.uuid4().hex, first.own, encoder)
    if not (out / RUN_RECORD).exists():
        with lock.exclusive(out / ".lock", wait=0.0):
            _train(context, sites, out, first.travelling, transport, engine, participation, provenance, progress)
    with rounds.intact(out):
        return dict(json.loads((out / RUN_RECORD).read_text(encoding="utf-8")))


def _train(
    context: RunContext, sites: Sequence[SiteImages], out: Path, first: Arrays, transport: SealedTransport | None,
    engine: LabEngine, participation: float, provenance: Mapping[str, Any], progress: Progress | None,
) -> None:  # fmt: skip
    """Trains the rounds that are missing, judges all nets, and writes the answers and the record."""
    plan, pack, method = context.plan, context.pack, METHODS[context.plan.method]
    schema, scale, exchanges = method.up(plan, pack), SCALES[plan.task], method.exchanges
    down, down_schema = CODECS[plan.wire.down], method.down(plan, pack)
    origin.reset_peak_memory()
    merged = dict(transfer(down, first, update.schema_of(first), first).arrays)
    saved = LabRound.last(out)
    merged |= saved.merged()
    facts = saved.facts() or {"seconds": 0.0, "sent": 0, "received": 0, "curve": [], "reports": [], "peak_memory": None}
    examples = {site.id: min(len(site.split("train")), plan.merge.max_examples) for site in sites}

    sums = SumFormat.of(plan, schema) if plan.privacy.is_secure_sum else None

    def wire_schema(codec: Codec) -> Schema:
        return sums.vector_schema if sums else codec.wire_schema(schema)

    def known(report: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
        """What a coordinator knows of the sites' reports: in a secure sum, their sum."""
        return {"sum": [sum(counts) for counts in zip(*report.values(), strict=True)]} if sums else dict(report)

    def drawn(round_: int) -> frozenset[str]:
        ids, part = [site.id for site in sites], participation if exchanges else 1.0  # nobody waits to train alone
        return participants.draw(ids, part, method.sites, plan.seed, round_) if round_ else frozenset()

    def visited_until(number: int) -> frozenset[str]:
        return frozenset().union(*(drawn(round_) for round_ in range(number + 1)))

    def best_judged() -> int:
        """The best round whose nets sites have judged; 0: none, or without patience."""
        judged = facts["reports"][1:] if exchanges else facts["reports"]  # a round's updates report on the model before
        return early_stopping.best(judged) + 1 if judged and plan.round.patience else 0

    def judge(ended: LabRound, merged: Arrays) -> FinalTallies:
        """What the nets that a round left predict."""
        seen, end = visited_until(ended.number), RoundStart(plan.rounds + 1, merged, drawn(ended.number))
        states = ((site, ended.state(site.id, whole=True) if site.id in seen else SiteState()) for site in sites)
        return FinalTallies(sites, scale, engine.visits(judge_site, context, end, states))

    if plan.privacy.hides_sites and len(drawn(1)) < plan.round.quorum:
        cause = f"{len(drawn(1))} sites in a round make less noise than a quorum of {plan.round.quorum}"
        raise UsageError(cause, remedy="let more sites take part, or lower [round] quorum")
    visited = visited_until(saved.number)
    for round_ in range(saved.number + 1, plan.rounds + 1):
        if early_stopping.has_plateaued(facts["reports"], plan.round.patience):
            break
        started = time.monotonic()
        sent_schema = down_schema if round_ > 1 else update.schema_of(merged)  # first weights travel whole
        received = transfer(down, merged, sent_schema, merged, transport)
        start_of_round = RoundStart(round_, received.arrays, drawn(round_ - 1))
        present = [site for site in sites if site.id in drawn(round_)]
        codec, new = update_codec(plan, round_), saved.begin()
        tallies, report = [], {}
        states = ((site, saved.state(site.id) if site.id in visited else SiteState()) for site in present)
        for site, visit in zip(present, engine.visits(visit_site, context, start_of_round, states), strict=True):
            new.add(site.id, visit)
            tallies.append(visit.tallies)
            report[site.id] = list(scale.right([visit.tallies["merged" if exchanges else "own"]]))
            if exchanges:
                arrived, size = send(visit.update, wire_schema(codec), transport)
                new.add_update(site.id, arrived)
                facts["received"] += received.size
                facts["sent"] += size
        for site in sites:
            if site not in present:
                new.carry(site.id, saved)
        if exchanges:
            updates, weights = new.updates(codec, received.arrays), examples
            if sums:  # as at a coordinator, which knows nothing but the sum
                updates, weights = sums.as_one_update(new.updates(CODECS["f32"], {}), received.arrays)
            aggregate = registry.merge(plan, round_, merged, updates, weights, public=pack)
            merged |= {**transfer(down, aggregate, down_schema, merged).arrays, **merger_state(aggregate)}
        facts["reports"].append(known(report))
        facts["seconds"] += time.monotonic() - started
        record.add_to_curve(facts, round_, tallies, scale)
        facts["peak_memory"] = max(facts["peak_memory"] or 0, origin.peak_memory() or 0) or None
        new.save({**_of(down_schema, merged), **merger_state(merged)}, facts, best_judged())
        saved, visited = new, visited | drawn(round_)
        if progress:
            progress(f"round {round_} of {plan.rounds}, {facts['seconds']:.0f} s")
    final, last = judge(saved, _of(down_schema, merged)), saved
    if exchanges:
        facts["curve"][-1]["merged"] = record.mean_figures(final.of("merged", "val"), scale)
    if saved.number < plan.rounds and (best := best_judged()) not in (0, last.number):  # patience ended it
        last = LabRound(out, best)
        merged = last.merged()
        final = judge(last, _of(down_schema, merged))
    visits.forget(context)
    final.save(out / "answers.npz")
    run_record = {
        "method": plan.method,
        "seed": plan.seed,
        "rounds": saved.number,
        "best_round": last.number,  # whose nets all figures are of
        "merged_sha256": model_hash(merged, down_schema, plan.wire.down) if exchanges else None,
        **final.figures(),
        "bytes_up": facts["sent"],
        "bytes_down": facts["received"],
        "seconds": round(facts["seconds"], 1),
        "peak_memory": facts["peak_memory"],
        "privacy": _privacy(plan, saved.number),
        "curve": facts["curve"],
        "findings": [finding.to_json() for finding in findings(sites, plan.classes)],
        "provenance": provenance,
    }
    with files.writing(out / RUN_RECORD, private=False) as file:
        file.write(json.dumps(run_record).encode())
    rounds.remove(out)


def _privacy(plan: Plan, rounds: int) -> dict[str, Any] | None:
    """What noise leaves to be told of a site's images, or of a site, after these rounds; None: there is no noise."""
    if not plan.privacy.has_budget or not METHODS[plan.method].exchanges:
        return None
    return accountant.spent(plan, accountant.epsilon([accountant.round_of(plan, rounds)], plan.privacy.delta))


def _of(schema: Schema, arrays: Arrays) -> dict[str, Array]:
    return {tensor.name: arrays[tensor.name] for tensor in schema.tensors}


def _check_same_run(plan: Plan, provenance: Mapping[str, Any], sealed: bool, out: Path) -> None:
    """Refuses a folder of another run: its rounds and its record belong to other settings or images."""
    inputs = [provenance[name] for name in ("data_sha256", "pack_sha256", "start_sha256", "participation")]
    digest = hashlib.sha256(repr([replace(plan, text=""), inputs, sealed]).encode())
    digest_file = out / "run.sha256"
    known = digest_file.read_text() if digest_file.exists() else ""
    if known not in ("", digest.hexdigest()):
        what = "its plan, images, first weights, --participation or --sealed differ, or another version began it"
        raise TargetExistsError(f"{out.name} holds another run: {what}")
    if not known:
        out.mkdir(parents=True, exist_ok=True)
        files.write_atomic(digest_file, digest.hexdigest().encode(), private=False)


def model_hash(merged: Mapping[str, Array], schema: Schema, codec: str = "f32") -> str:
    """The hash that names a merged model: of its canonical safetensors, as it travels down."""
    file = io.BytesIO()
    update.write(file, CODECS[codec].encode(_of(schema, merged), {}, {})[0])
    return hashlib.sha256(file.getvalue()).hexdigest()
