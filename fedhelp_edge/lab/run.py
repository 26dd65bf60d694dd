"""One federation on one machine: the same learners, codecs and aggregation, in the same order, as between machines.

A run saves the merged model and every learner's state after each round. An interrupted run resumes from there.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedhelp_edge import files, update
from fedhelp_edge.codec import CODECS, encoder
from fedhelp_edge.data.findings import findings
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import TargetExistsError
from fedhelp_edge.lab import first_weights, record
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.record import FinalTallies
from fedhelp_edge.lab.transport import Arrays, SealedTransport, transfer
from fedhelp_edge.merge import early_stopping
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.report.scale import SCALES
from fedhelp_edge.train import checkpoint, learners
from fedhelp_edge.train.visit import Visit, visit
from fedhelp_edge.update import Array, Schema

Progress = Callable[[str], None]


def run(
    plan: Plan,
    sites: Sequence[SiteImages],
    out: Path,
    *,
    compute: Compute,
    pack: Pack | None = None,
    start: Sequence[Mapping[str, Array]] = (),
    transport: SealedTransport | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains the plan's method over these sites; returns the figures, which `out/run.json` holds too."""
    done, method = out / "run.json", METHODS[plan.method]
    schema, scale, exchanges = method.up(plan), SCALES[plan.task], method.exchanges(plan)
    down = CODECS[plan.wire.down]
    first = first_weights.match(plan, start)  # weights that are refused leave no folder
    _check_same_run(plan, sites, pack, start, transport is not None, out)
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    merged = dict(transfer(down, first.travelling, update.schema_of(first.travelling), first.travelling).arrays)
    learner_of = {
        site.id: learners.create(plan, site.id, site.tier, site.split("train"), pack, compute, first.own)
        for site in sites
    }
    last_round, facts, memory_of = _resume(out, learner_of)
    if last_round:
        merged = {**merged, **update.load(out / f"round-{last_round:06}" / "merged.safetensors")}
    examples = {site.id: min(len(site.split("train")), plan.merge.max_examples) for site in sites}
    for round_ in range(last_round + 1, plan.rounds + 1):
        if exchanges and early_stopping.has_plateaued(facts["reports"], plan.round.patience):
            break  # a round's updates report on the model that it began with
        started = time.monotonic()
        visits: dict[str, Visit] = {}
        updates: dict[str, Arrays] = {}
        sent_schema = method.down(plan) if round_ > 1 else update.schema_of(merged)  # first weights travel whole
        for site in sites:
            received = transfer(down, merged, sent_schema, merged, transport=transport)
            sets = learners.image_sets(site.split("train"), pack)
            visited = visit(
                learner_of[site.id], sets, site.split("val"), received.arrays, round_, _last_merge(round_, sites)
            )
            visits[site.id] = replace(visited, update={})  # one update is enough in memory: the one that arrived
            if exchanges:
                sent = transfer(
                    encoder(plan, round_), visited.update, schema, merged, memory_of.get(site.id, {}), transport
                )
                updates[site.id], memory_of[site.id] = sent.arrays, sent.memory
                facts["received"] += received.size
                facts["sent"] += sent.size
        if exchanges:
            aggregate = registry.merge(plan, round_, merged, updates, examples)
            merged = {**merged, **transfer(down, aggregate, method.down(plan), merged).arrays}
            facts["reports"].append({id_: [v.facts["val"], v.facts["correct"]] for id_, v in visits.items()})
        facts["seconds"] += time.monotonic() - started
        record.add_to_curve(facts["curve"], round_, list(visits.values()), scale)
        shared = {t.name: merged[t.name] for t in method.down(plan).tensors}
        _save_round(out, round_, learner_of, memory_of, shared, facts)
        if progress:
            progress(f"{plan.method} seed {plan.seed}: round {round_} of {plan.rounds}, {facts['seconds']:.0f} s")
    shared = {t.name: merged[t.name] for t in method.down(plan).tensors}
    rounds = len(facts["curve"])
    final = FinalTallies(sites, learner_of, scale, shared if exchanges else None, _last_merge(rounds + 1, sites))
    if exchanges:
        facts["curve"][-1]["merged"] = record.mean_figures(final.of("merged", "val"), scale)
    final.save(out / "answers.npz")
    site_images = [site.images for site in sites]
    run_record = {
        "method": plan.method,
        "seed": plan.seed,
        "rounds": rounds,
        "merged_sha256": model_hash(merged, method.down(plan), plan.wire.down) if exchanges else None,
        **final.figures(),
        "bytes_up": facts["sent"],
        "bytes_down": facts["received"],
        "seconds": round(facts["seconds"], 1),
        "curve": facts["curve"],
        "findings": [finding.to_json() for finding in findings(site_images[0], plan.classes, *site_images[1:])],
    }
    with files.writing(done, private=False) as file:
        file.write(json.dumps(run_record).encode())
    for folder in out.glob("round-*"):
        shutil.rmtree(folder)
    return run_record


def _last_merge(round_: int, sites: Sequence[SiteImages]) -> LastMerge:
    """What each site knows of the merge before this round: all sites take part in all rounds."""
    return LastMerge(len(sites), True) if round_ > 1 else NO_MERGE


def _check_same_run(
    plan: Plan,
    sites: Sequence[SiteImages],
    pack: Pack | None,
    start: Sequence[Mapping[str, Array]],
    sealed: bool,
    out: Path,
) -> None:
    """Refuses a folder of another run: its rounds and its record belong to other settings or images."""
    digest = hashlib.sha256(repr(replace(plan, text="")).encode())
    for site in sites:
        digest.update(f"{site.id} {site.tier} {site.images.splits} {site.images.labels.tobytes().hex()}".encode())
    if pack:
        digest.update(pack.pixels.tobytes() + pack.labels.tobytes() + pack.probabilities.tobytes())
    for name, array in sorted(item for weights in start for item in weights.items()):
        digest.update(name.encode() + array.tobytes())
    if sealed:
        digest.update(b"sealed")
    digest_file = out / "run.sha256"
    if digest_file.exists() and digest_file.read_text() != digest.hexdigest():
        what = "its plan, images, first weights or --sealed differ, or another version began it"
        raise TargetExistsError(f"{out.name} holds another run: {what}")
    if not digest_file.exists():
        out.mkdir(parents=True, exist_ok=True)
        digest_file.write_text(digest.hexdigest())


def model_hash(merged: Mapping[str, Array], schema: Schema, codec: str = "f32") -> str:
    """The hash that names a merged model: of its canonical safetensors, as it travels down."""
    file = io.BytesIO()
    update.write(file, CODECS[codec].encode({t.name: merged[t.name] for t in schema.tensors}, {}, {})[0])
    return hashlib.sha256(file.getvalue()).hexdigest()


def _save_round(
    out: Path, round_: int, learner_of: Mapping[str, Learner], memory_of: Mapping[str, Arrays], merged: Arrays,
    facts: Mapping[str, Any],
) -> None:  # fmt: skip
    """Saves a round, which counts once its folder has its name, and removes the round before.

    The facts grow with rounds and sites. So they are saved once, in the state of the first site.
    """
    folder, temporary = out / f"round-{round_:06}", out / f".round-{round_:06}"
    shutil.rmtree(temporary, ignore_errors=True)
    first = next(iter(learner_of))
    for site, learner in learner_of.items():
        checkpoint.save(temporary / site, round_, facts if site == first else {}, learner.state())
        if memory_of.get(site):
            _write_arrays(temporary / site / "memory.safetensors", memory_of[site])
    _write_arrays(temporary / "merged.safetensors", merged)
    temporary.rename(folder)
    shutil.rmtree(out / f"round-{round_ - 1:06}", ignore_errors=True)


def _resume(out: Path, learner_of: Mapping[str, Learner]) -> tuple[int, dict[str, Any], dict[str, Arrays]]:
    """Restores the last whole round; returns its number, the facts until then, and each site's memory of its codec."""
    rounds = sorted(out.glob("round-*"))
    facts: dict[str, Any] = {"seconds": 0.0, "sent": 0, "received": 0, "curve": [], "reports": []}
    memory_of: dict[str, Arrays] = {}
    if not rounds:
        return 0, facts, memory_of
    for site, learner in learner_of.items():
        saved = checkpoint.newest(rounds[-1] / site)
        if saved is None:
            raise FileNotFoundError(2, "a saved state is missing", str(rounds[-1] / site))
        facts = saved[0] or facts
        learner.load(saved[1], 1)
        if (memory := rounds[-1] / site / "memory.safetensors").exists():
            memory_of[site] = update.load(memory)
    return int(rounds[-1].name[-6:]), facts, memory_of


def _write_arrays(path: Path, arrays: Arrays) -> None:
    with files.writing(path) as file:
        update.write(file, arrays)
