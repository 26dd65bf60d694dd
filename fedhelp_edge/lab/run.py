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
from fedhelp_edge.codec import CODECS
from fedhelp_edge.data.findings import findings
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import TargetExistsError
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.record import Evaluator
from fedhelp_edge.lab.transport import SealedTransport, transfer
from fedhelp_edge.merge import early_stopping, rules
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import checkpoint, learners, loop
from fedhelp_edge.update import Array, Schema

Progress = Callable[[str], None]


def run(
    plan: Plan,
    sites: Sequence[SiteImages],
    out: Path,
    *,
    compute: Compute,
    pack: Pack | None = None,
    start: Mapping[str, Array] | None = None,
    transport: SealedTransport | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains the plan's method over these sites; returns the figures, which `out/run.json` holds too."""
    done, method = out / "run.json", METHODS[plan.method]
    schema = method.schema(plan)
    merged = method.start(plan)
    if start:
        merged, _ = spec.warm_start(merged, start)  # weights that are refused leave no folder
    _check_same_run(plan, sites, pack, start, transport is not None, out)
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    full_schema = update.Update(merged).schema()
    merged = dict(transfer(plan.wire.down, merged, full_schema, merged)[0])  # as every site decodes it
    learner_of = {
        site.id: learners.create(plan, site.id, site.tier, site.split("train"), pack, compute) for site in sites
    }
    evaluator = Evaluator(sites, learner_of)
    last_round, facts = _resume(out, learner_of)
    if last_round:
        merged = {**merged, **update.load(out / f"round-{last_round:06}" / "merged.safetensors")}
    examples = {site.id: min(len(site.split("train")), plan.merge.max_examples) for site in sites}
    for round_ in range(last_round + 1, plan.rounds + 1):
        if method.exchanges and plan.round.patience:
            if early_stopping.has_plateaued(facts["reports"], plan.round.patience):
                break  # a round's updates report on the model that it began with
            facts["reports"].append(evaluator.validation_counts(merged))
        started = time.monotonic()
        updates: dict[str, Mapping[str, Array]] = {}
        for site in sites:
            learner = learner_of[site.id]
            sent_schema = full_schema if round_ == 1 else schema  # first weights travel whole
            base, size = transfer(plan.wire.down, merged, sent_schema, merged, transport)
            facts["received"] += size if method.exchanges else 0
            learner.receive(base, round_)
            loop.train(learner, learners.image_sets(site.split("train"), pack), round_)
            if method.exchanges:
                updates[site.id], size = transfer(plan.wire.up, learner.give().arrays, schema, merged, transport)
                facts["sent"] += size
        if updates:
            aggregate = rules.merge(merged, updates, examples, plan.merge)
            merged = {**merged, **transfer(plan.wire.down, aggregate, schema, merged)[0]}
        facts["seconds"] += time.monotonic() - started
        shared = {t.name: merged[t.name] for t in schema.tensors}
        facts["curve"].append(evaluator.curve_point(shared, round_))
        _save_round(out, round_, learner_of, shared, facts)
        if progress:
            progress(f"{plan.method} seed {plan.seed}: round {round_} of {plan.rounds}, {facts['seconds']:.0f} s")
    shared = {t.name: merged[t.name] for t in schema.tensors}
    first, *others = (site.images for site in sites)
    record = {
        "method": plan.method,
        "seed": plan.seed,
        "rounds": len(facts["curve"]),
        "merged_sha256": model_hash(merged, schema, plan.wire.down) if method.exchanges else None,
        **evaluator.record(shared if method.exchanges else None, out / "answers.npz"),
        "bytes_up": facts["sent"],
        "bytes_down": facts["received"],
        "seconds": round(facts["seconds"], 1),
        "curve": facts["curve"],
        "findings": [finding.to_json() for finding in findings(first, plan.classes, *others)],
    }
    with files.writing(done, private=False) as file:
        file.write(json.dumps(record).encode())
    for folder in out.glob("round-*"):
        shutil.rmtree(folder)
    return record


def _check_same_run(
    plan: Plan,
    sites: Sequence[SiteImages],
    pack: Pack | None,
    start: Mapping[str, Array] | None,
    sealed: bool,
    out: Path,
) -> None:
    """Refuses a folder of another run: its rounds and its record belong to other settings or images."""
    digest = hashlib.sha256(repr(replace(plan, text="")).encode())
    for site in sites:
        digest.update(f"{site.id} {site.tier} {site.images.splits} {site.images.labels.tobytes().hex()}".encode())
    if pack:
        digest.update(pack.pixels.tobytes() + pack.labels.tobytes() + pack.probabilities.tobytes())
    for name, array in sorted((start or {}).items()):
        digest.update(name.encode() + array.tobytes())
    if sealed:
        digest.update(b"sealed")
    digest_file = out / "run.sha256"
    if digest_file.exists() and digest_file.read_text() != digest.hexdigest():
        raise TargetExistsError(f"{out.name} holds another run: its plan, images, first weights or --sealed differ")
    if not digest_file.exists():
        out.mkdir(parents=True, exist_ok=True)
        digest_file.write_text(digest.hexdigest())


def model_hash(merged: Mapping[str, Array], schema: Schema, codec: str = "f32") -> str:
    """The hash that names a merged model: of its canonical safetensors, as it travels down."""
    file = io.BytesIO()
    update.write(file, CODECS[codec].encode({t.name: merged[t.name] for t in schema.tensors}, {}, {})[0])
    return hashlib.sha256(file.getvalue()).hexdigest()


def _save_round(
    out: Path, round_: int, learner_of: Mapping[str, Learner], merged: Mapping[str, Array], facts: Mapping[str, Any]
) -> None:
    """Saves a round, which counts once its folder has its name, and removes the round before."""
    folder, temporary = out / f"round-{round_:06}", out / f".round-{round_:06}"
    shutil.rmtree(temporary, ignore_errors=True)
    for name, learner in learner_of.items():
        learner.optimisers = {}  # new in each round
        checkpoint.save(temporary / name, round_, facts, learner.state())
    with files.writing(temporary / "merged.safetensors") as file:
        update.write(file, merged)
    temporary.rename(folder)
    shutil.rmtree(out / f"round-{round_ - 1:06}", ignore_errors=True)


def _resume(out: Path, learner_of: Mapping[str, Learner]) -> tuple[int, dict[str, Any]]:
    """Restores the last whole round; returns its number and the facts until then."""
    rounds = sorted(out.glob("round-*"))
    facts: dict[str, Any] = {"seconds": 0.0, "sent": 0, "received": 0, "curve": [], "reports": []}
    if not rounds:
        return 0, facts
    for name, learner in learner_of.items():
        saved = checkpoint.newest(rounds[-1] / name)
        if saved is None:
            raise FileNotFoundError(2, "a saved state is missing", str(rounds[-1] / name))
        facts, state = saved
        learner.load(state, 1)
    return int(rounds[-1].name[-6:]), facts
