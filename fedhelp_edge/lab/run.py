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
from fedhelp_edge.lab.partition import Part
from fedhelp_edge.lab.transport import Post, through
from fedhelp_edge.merge import early_stopping, rules
from fedhelp_edge.methods.base import Bench, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import resnet, spec
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics
from fedhelp_edge.train import checkpoint, learners, loop
from fedhelp_edge.update import Array, Schema

Progress = Callable[[str], None]


def run(
    plan: Plan,
    parts: Sequence[Part],
    out: Path,
    *,
    bench: Bench,
    pack: Pack | None = None,
    start: Mapping[str, Array] | None = None,
    post: Post | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the plan's method over these sites, and say how good everybody became. `out/run.json` has the same."""
    done, method = out / "run.json", METHODS[plan.method]
    schema = method.schema(plan)
    merged = method.start(plan)
    if start:
        merged, _ = spec.begin_from(merged, start)  # what is refused takes no folder
    _same_run(plan, parts, pack, start, post is not None, out)
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    whole = update.Share(merged).schema()
    merged = dict(through(plan.wire.down, merged, whole, merged)[0])  # a model is what everybody holds of it
    made = {part.id: learners.learner(plan, part.id, part.tier, part.of("train"), pack, bench) for part in parts}
    spare = {name: copy.deepcopy(one.net) for name, one in made.items()}  # for the merged model to be judged in
    first, facts = _resume(out, made)
    if first:
        merged = {**merged, **_load(out / f"round-{first:06}" / "merged.safetensors")}
    examples = {part.id: min(len(part.of("train")), plan.merge.max_examples) for part in parts}
    for round_ in range(first + 1, plan.rounds + 1):
        if method.exchanges and plan.round.patience:
            if early_stopping.is_spent(facts["reports"], plan.round.patience):
                break  # a round's shares tell how good the model was that it began with
            facts["reports"].append(_report(parts, made, spare, merged))
        begun = time.monotonic()
        shares: dict[str, Mapping[str, Array]] = {}
        for part in parts:
            one = made[part.id]
            told = whole if round_ == 1 else schema  # first weights are everybody's, also where they then stay at home
            base, size = through(plan.wire.down, merged, told, merged, post)
            facts["received"] += size if method.exchanges else 0
            one.receive(base, round_)
            loop.train(one, learners.sets(part.of("train"), pack), round_)
            if method.exchanges:
                shares[part.id], size = through(plan.wire.up, one.give().arrays, schema, merged, post)
                facts["sent"] += size
        if shares:
            new = rules.merge(merged, shares, examples, plan.merge)
            merged = {**merged, **through(plan.wire.down, new, schema, merged)[0]}
        facts["seconds"] += time.monotonic() - begun
        common = {t.name: merged[t.name] for t in schema.tensors}
        facts["curve"].append(_step(parts, made, spare, common, round_))
        _keep(out, round_, made, common, facts)
        if progress:
            progress(f"{plan.method} seed {plan.seed}: round {round_} of {plan.rounds}, {facts['seconds']:.0f} s")
    record = _record(plan, parts, made, spare, merged if method.exchanges else None, schema, facts, out)
    with files.writing(done, private=False) as file:
        file.write(json.dumps(record).encode())
    for folder in out.glob("round-*"):
        shutil.rmtree(folder)
    return record


def _same_run(
    plan: Plan, parts: Sequence[Part], pack: Pack | None, start: Mapping[str, Array] | None, sealed: bool, out: Path
) -> None:
    """A folder holds one run: with other settings or images it would go on from, or answer with, another's."""
    digest = hashlib.sha256(repr(replace(plan, text="")).encode())
    for part in parts:
        digest.update(f"{part.id} {part.tier} {part.images.splits} {part.images.labels.tobytes().hex()}".encode())
    if pack:
        digest.update(pack.pixels.tobytes() + pack.labels.tobytes() + pack.probabilities.tobytes())
    for name, array in sorted((start or {}).items()):
        digest.update(name.encode() + array.tobytes())
    if sealed:
        digest.update(b"sealed")
    note = out / "run.sha256"
    if note.exists() and note.read_text() != digest.hexdigest():
        raise TargetExistsError(f"{out.name} holds a run of another plan, on other images, or not sealed alike")
    if not note.exists():
        out.mkdir(parents=True, exist_ok=True)
        note.write_text(digest.hexdigest())


def model_hash(merged: Mapping[str, Array], schema: Schema, codec: str = "f32") -> str:
    """What names a merged model: the hash of its canonical safetensors, as it travels down."""
    file = io.BytesIO()
    update.write(file, CODECS[codec].encode({t.name: merged[t.name] for t in schema.tensors}, {}, {})[0])
    return hashlib.sha256(file.getvalue()).hexdigest()


def _step(
    parts: Sequence[Part],
    made: Mapping[str, Learner],
    spare: Mapping[str, torch.nn.Module],
    common: Mapping[str, Array],
    round_: int,
) -> dict[str, Any]:
    """A round's point in the curves, on the images kept to choose by: of the sites' own nets, and of the merged one."""
    said: dict[str, list[dict[str, float | None]]] = {"own": [], "merged": []}
    for part in parts:
        one, val = made[part.id], part.of("val")
        said["own"].append(_figures(loop.probabilities(one, one.model, val.pixels), val.labels))
        if common:
            net = _merged(one, spare[part.id], common)
            said["merged"].append(_figures(loop.probabilities(one, net, val.pixels), val.labels))
    return {"round": round_, **{name: _mean(rows) for name, rows in said.items() if rows}}


def _report(
    parts: Sequence[Part],
    made: Mapping[str, Learner],
    spare: Mapping[str, torch.nn.Module],
    merged: Mapping[str, Array],
) -> dict[str, list[int]]:
    """By site its validation images, and how many the model that a round begins with gets right: what shares claim."""
    report: dict[str, list[int]] = {}
    for part in parts:
        val = part.of("val")
        one = made[part.id]
        said = loop.probabilities(one, _merged(one, spare[part.id], merged), val.pixels)
        report[part.id] = [len(val), int((said.argmax(1) == val.labels).sum())]
    return report


def _merged(one: Learner, spare: torch.nn.Module, common: Mapping[str, Array]) -> torch.nn.Module:
    """A spare of a learner's net, with the merged weights and what the learner keeps to itself."""
    resnet.load(spare, {**resnet.arrays(one.net), **common})
    return spare


def _keep(
    out: Path, round_: int, made: Mapping[str, Learner], merged: Mapping[str, Array], facts: Mapping[str, Any]
) -> None:
    """A round is there once its folder has its name; the one before is then no longer needed."""
    folder, part = out / f"round-{round_:06}", out / f".round-{round_:06}"
    shutil.rmtree(part, ignore_errors=True)
    for name, one in made.items():
        one.optimisers = {}  # new in each round
        checkpoint.save(part / name, round_, facts, one.state())
    with files.writing(part / "merged.safetensors") as file:
        update.write(file, merged)
    part.rename(folder)
    shutil.rmtree(out / f"round-{round_ - 1:06}", ignore_errors=True)


def _resume(out: Path, made: Mapping[str, Learner]) -> tuple[int, dict[str, Any]]:
    """The last round that is whole, and what is known of the run until then."""
    rounds = sorted(out.glob("round-*"))
    facts: dict[str, Any] = {"seconds": 0.0, "sent": 0, "received": 0, "curve": [], "reports": []}
    if not rounds:
        return 0, facts
    for name, one in made.items():
        found = checkpoint.newest(rounds[-1] / name)
        if found is None:
            raise FileNotFoundError(2, "a kept state is gone", str(rounds[-1] / name))
        facts, state = found
        one.load(state, 1)
    return int(rounds[-1].name[-6:]), facts


def _load(path: Path) -> dict[str, Array]:
    with files.reading(path) as file:
        return dict(update.Arrays(file, update.read_header(file)))


def _record(
    plan: Plan,
    parts: Sequence[Part],
    made: Mapping[str, Learner],
    spare: Mapping[str, torch.nn.Module],
    merged: Mapping[str, Array] | None,
    schema: Schema,
    facts: Mapping[str, Any],
    out: Path,
) -> dict[str, Any]:
    """The figures, and every answer on val and test beside them, from which comparisons and averages are made later."""
    sites: list[dict[str, Any]] = []
    common: list[dict[str, float | None]] = []
    answers: dict[str, NDArray[np.float64]] = {}
    for part in parts:
        one = made[part.id]
        held: dict[str, NDArray[np.float64]] = {}
        for split in ("val", "test"):
            images = part.of(split)
            held[f"{split}_labels"] = images.labels.astype(np.float64)
            held[f"{split}_own"] = loop.probabilities(one, one.model, images.pixels)
        if merged is not None:
            net = _merged(one, spare[part.id], {t.name: merged[t.name] for t in schema.tensors})
            for split in ("val", "test"):
                held[f"{split}_merged"] = loop.probabilities(one, net, part.of(split).pixels)
            common.append(_figures(held["test_merged"], part.of("test").labels))
        answers |= {f"{part.id}/{name}": values for name, values in held.items()}
        figures = _figures(held["test_own"], part.of("test").labels)
        sizes = {"n_train": len(part.of("train")), "n_test": len(part.of("test"))}
        sites.append({"name": part.name, "tier": part.tier, **sizes, **figures})
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
        "merged": _mean(common) if common else None,
        "bytes_up": facts["sent"],
        "bytes_down": facts["received"],
        "seconds": round(facts["seconds"], 1),
        "curve": facts["curve"],
        "findings": [
            finding.to_json()
            for finding in findings(parts[0].images, plan.classes, *(part.images for part in parts[1:]))
        ],
    }


_FIGURES = ("accuracy", "balanced_accuracy", "auc")


def _figures(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float | None]:
    found = metrics.scores(probabilities, labels)
    return {name: getattr(found, name).value for name in _FIGURES}


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    values = {name: [row[name] for row in rows if row[name] is not None] for name in _FIGURES}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}
