"""One federation on one machine: the same learners, codecs and merging, in the same order, as between machines.

A run keeps, after each round, the merged model and every learner's state, and goes on from there when it was cut off.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_edge import files, update
from fedhelp_edge.codec import CODECS
from fedhelp_edge.data.findings import findings
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import TargetExistsError
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.transport import SealedTransport, transfer
from fedhelp_edge.merge import early_stopping, rules
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import resnet, spec
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics
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
    """Train the plan's method over these sites, and say how good everybody became. `out/run.json` has the same."""
    done, method = out / "run.json", METHODS[plan.method]
    schema = method.schema(plan)
    merged = method.start(plan)
    if start:
        merged, _ = spec.warm_start(merged, start)  # what is refused takes no folder
    _check_same_run(plan, sites, pack, start, transport is not None, out)
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    full_schema = update.Update(merged).schema()
    merged = dict(transfer(plan.wire.down, merged, full_schema, merged)[0])  # a model is what everybody holds of it
    learner_of = {site.id: learners.create(plan, site.id, site.tier, site.of("train"), pack, compute) for site in sites}
    spare_nets = {
        name: copy.deepcopy(learner.net) for name, learner in learner_of.items()
    }  # for the merged model to be judged in
    last_round, facts = _resume(out, learner_of)
    if last_round:
        merged = {**merged, **_load_arrays(out / f"round-{last_round:06}" / "merged.safetensors")}
    examples = {site.id: min(len(site.of("train")), plan.merge.max_examples) for site in sites}
    for round_ in range(last_round + 1, plan.rounds + 1):
        if method.exchanges and plan.round.patience:
            if early_stopping.has_plateaued(facts["reports"], plan.round.patience):
                break  # a round's shares tell how good the model was that it began with
            facts["reports"].append(_validation_counts(sites, learner_of, spare_nets, merged))
        started = time.monotonic()
        shares: dict[str, Mapping[str, Array]] = {}
        for site in sites:
            learner = learner_of[site.id]
            sent_schema = (
                full_schema if round_ == 1 else schema
            )  # first weights are everybody's, also where they then stay at home
            base, size = transfer(plan.wire.down, merged, sent_schema, merged, transport)
            facts["received"] += size if method.exchanges else 0
            learner.receive(base, round_)
            loop.train(learner, learners.image_sets(site.of("train"), pack), round_)
            if method.exchanges:
                shares[site.id], size = transfer(plan.wire.up, learner.give().arrays, schema, merged, transport)
                facts["sent"] += size
        if shares:
            aggregate = rules.merge(merged, shares, examples, plan.merge)
            merged = {**merged, **transfer(plan.wire.down, aggregate, schema, merged)[0]}
        facts["seconds"] += time.monotonic() - started
        shared = {t.name: merged[t.name] for t in schema.tensors}
        facts["curve"].append(_curve_point(sites, learner_of, spare_nets, shared, round_))
        _save_round(out, round_, learner_of, shared, facts)
        if progress:
            progress(f"{plan.method} seed {plan.seed}: round {round_} of {plan.rounds}, {facts['seconds']:.0f} s")
    record = _record(plan, sites, learner_of, spare_nets, merged if method.exchanges else None, schema, facts, out)
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
    """A folder holds one run: with other settings or images it would go on from, or answer with, another's."""
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
        raise TargetExistsError(f"{out.name} holds a run of another plan, on other images, or not sealed alike")
    if not digest_file.exists():
        out.mkdir(parents=True, exist_ok=True)
        digest_file.write_text(digest.hexdigest())


def model_hash(merged: Mapping[str, Array], schema: Schema, codec: str = "f32") -> str:
    """What names a merged model: the hash of its canonical safetensors, as it travels down."""
    file = io.BytesIO()
    update.write(file, CODECS[codec].encode({t.name: merged[t.name] for t in schema.tensors}, {}, {})[0])
    return hashlib.sha256(file.getvalue()).hexdigest()


def _curve_point(
    sites: Sequence[SiteImages],
    learner_of: Mapping[str, Learner],
    spare_nets: Mapping[str, torch.nn.Module],
    shared: Mapping[str, Array],
    round_: int,
) -> dict[str, Any]:
    """A round's point in the curves, on the images kept to choose by: of the sites' own nets, and of the merged one."""
    figures: dict[str, list[dict[str, float | None]]] = {"own": [], "merged": []}
    for site in sites:
        learner, val = learner_of[site.id], site.of("val")
        figures["own"].append(_figures(loop.probabilities(learner, learner.model, val.pixels), val.labels))
        if shared:
            net = _load_merged(learner, spare_nets[site.id], shared)
            figures["merged"].append(_figures(loop.probabilities(learner, net, val.pixels), val.labels))
    return {"round": round_, **{name: _mean(rows) for name, rows in figures.items() if rows}}


def _validation_counts(
    sites: Sequence[SiteImages],
    learner_of: Mapping[str, Learner],
    spare_nets: Mapping[str, torch.nn.Module],
    merged: Mapping[str, Array],
) -> dict[str, list[int]]:
    """By site its validation images, and how many the model that a round begins with gets right: what shares claim."""
    counts: dict[str, list[int]] = {}
    for site in sites:
        val = site.of("val")
        learner = learner_of[site.id]
        probabilities = loop.probabilities(learner, _load_merged(learner, spare_nets[site.id], merged), val.pixels)
        counts[site.id] = [len(val), int((probabilities.argmax(1) == val.labels).sum())]
    return counts


def _load_merged(learner: Learner, spare_net: torch.nn.Module, shared: Mapping[str, Array]) -> torch.nn.Module:
    """A spare of a learner's net, with the merged weights and what the learner keeps to itself."""
    resnet.load(spare_net, {**resnet.arrays(learner.net), **shared})
    return spare_net


def _save_round(
    out: Path, round_: int, learner_of: Mapping[str, Learner], merged: Mapping[str, Array], facts: Mapping[str, Any]
) -> None:
    """A round is there once its folder has its name; the one before is then no longer needed."""
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
    """The last round that is whole, and what is known of the run until then."""
    rounds = sorted(out.glob("round-*"))
    facts: dict[str, Any] = {"seconds": 0.0, "sent": 0, "received": 0, "curve": [], "reports": []}
    if not rounds:
        return 0, facts
    for name, learner in learner_of.items():
        saved = checkpoint.newest(rounds[-1] / name)
        if saved is None:
            raise FileNotFoundError(2, "a kept state is gone", str(rounds[-1] / name))
        facts, state = saved
        learner.load(state, 1)
    return int(rounds[-1].name[-6:]), facts


def _load_arrays(path: Path) -> dict[str, Array]:
    with files.reading(path) as file:
        return dict(update.FileArrays(file, update.read_header(file)))


def _record(
    plan: Plan,
    parts: Sequence[SiteImages],
    learner_of: Mapping[str, Learner],
    spare_nets: Mapping[str, torch.nn.Module],
    merged: Mapping[str, Array] | None,
    schema: Schema,
    facts: Mapping[str, Any],
    out: Path,
) -> dict[str, Any]:
    """The figures, and every answer on val and test beside them, from which comparisons and averages are made later."""
    sites: list[dict[str, Any]] = []
    merged_figures: list[dict[str, float | None]] = []
    answers: dict[str, NDArray[np.float64]] = {}
    for site in parts:
        learner = learner_of[site.id]
        predictions: dict[str, NDArray[np.float64]] = {}
        for split in ("val", "test"):
            images = site.of(split)
            predictions[f"{split}_labels"] = images.labels.astype(np.float64)
            predictions[f"{split}_own"] = loop.probabilities(learner, learner.model, images.pixels)
        if merged is not None:
            net = _load_merged(learner, spare_nets[site.id], {t.name: merged[t.name] for t in schema.tensors})
            for split in ("val", "test"):
                predictions[f"{split}_merged"] = loop.probabilities(learner, net, site.of(split).pixels)
            merged_figures.append(_figures(predictions["test_merged"], site.of("test").labels))
        answers |= {f"{site.id}/{name}": values for name, values in predictions.items()}
        figures = _figures(predictions["test_own"], site.of("test").labels)
        sizes = {"n_train": len(site.of("train")), "n_test": len(site.of("test"))}
        sites.append({"name": site.name, "tier": site.tier, **sizes, **figures})
    (out / "answers.npz").unlink(missing_ok=True)
    with files.writing(out / "answers.npz", private=False) as file:
        np.savez_compressed(file, **answers)  # type: ignore[arg-type]  # typeshed takes a name for allow_pickle
    return {
        "method": plan.method,
        "seed": plan.seed,
        "rounds": len(facts["curve"]),
        "merged_sha256": model_hash(merged, schema, plan.wire.down) if merged is not None else None,
        "sites": sites,
        "mean": _mean(sites),
        "merged": _mean(merged_figures) if merged_figures else None,
        "bytes_up": facts["sent"],
        "bytes_down": facts["received"],
        "seconds": round(facts["seconds"], 1),
        "curve": facts["curve"],
        "findings": [
            finding.to_json()
            for finding in findings(parts[0].images, plan.classes, *(site.images for site in parts[1:]))
        ],
    }


_FIGURES = ("accuracy", "balanced_accuracy", "auc")


def _figures(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float | None]:
    scores = metrics.scores(probabilities, labels)
    return {name: getattr(scores, name).value for name in _FIGURES}


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    values = {name: [row[name] for row in rows if row[name] is not None] for name in _FIGURES}
    return {name: float(np.mean(known)) if known else None for name, known in values.items()}
