"""All imports of the program for the golden record: only this file changes when modules or names do."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

import fedhelp_edge.helper.cli
import server_ref.cli
from fedhelp_edge import cli, errors, shell
from fedhelp_edge import plan as plans
from fedhelp_edge import update as updates
from fedhelp_edge.codec import CODECS
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data import split as splits
from fedhelp_edge.data.augment import augment
from fedhelp_edge.data.images import Images
from fedhelp_edge.lab import partition
from fedhelp_edge.merge import early_stopping as early_stopping
from fedhelp_edge.merge import norm_limit as norm_limit
from fedhelp_edge.merge import outliers as outliers
from fedhelp_edge.merge import rules
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.parcel import age, bech32, canon, keys, parcel, sshsig, statement
from fedhelp_edge.report import metrics
from fedhelp_edge.trust import charter, enrol, log
from fedhelp_edge.trust import key_words as key_words
from tests import command

Array = NDArray[Any]
Arrays = Mapping[str, Array]

RECORD = Path(__file__).parent / "record"
PROGRAMS = {
    "fedhelp-edge": ("fedhelp_edge.cli", cli.COMMANDS),
    "fedhelp-coordinator": ("server_ref.cli", server_ref.cli.COMMANDS),
    "fedhelp-helper": ("fedhelp_edge.helper.cli", fedhelp_edge.helper.cli.COMMANDS),
}
PROJECT = ("fedhelp_edge", "server_ref", "export")
SCHEMAS = command.SCHEMAS


# --- files of the record ------------------------------------------------------------------------------------------
def read(name: str) -> Any:
    return json.loads((RECORD / f"{name}.json").read_text(encoding="utf-8"))


def write(name: str, record: Any) -> None:
    RECORD.mkdir(exist_ok=True)
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (RECORD / f"{name}.json").write_text(text, encoding="utf-8")


def sha256(*parts: bytes | str | Array) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else part.tobytes()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def sha256_of(arrays: Arrays) -> str:
    """Names, number formats, shapes and bits, in their order."""
    return sha256(*(part for name, a in arrays.items() for part in (f"{name} {a.dtype.str} {a.shape}", a)))


def code_of(attempt: Callable[[], object]) -> str:
    """The code of the error that an attempt ends in."""
    try:
        attempt()
    except Exception as error:
        return str(getattr(error, "code", type(error).__name__))
    return "none"


# --- command lines ------------------------------------------------------------------------------------------------
def site(*words: str | Path, home: Path, folder: Path) -> Any:
    return command.run_in_process(*words, home=folder, program=command.SITE, env={"FEDHELP_HOME": str(home)})


def coordinator(*words: str | Path, home: Path, folder: Path) -> Any:
    return command.run_in_process(*words, home=folder, program=command.COORDINATOR, env={"FEDHELP_HOME": str(home)})


def commands(program: str) -> Iterator[tuple[str, Any]]:
    """Each command of a program with its path, as the parser has it."""
    package, names = PROGRAMS[program]
    group: Any = shell.command_group(package, names, program, "", "0")
    yield program, group
    for name in names:
        command_ = group.commands[name]
        yield f"{program} {name}", command_
        for below, subcommand in getattr(command_, "commands", {}).items():
            yield f"{program} {name} {below}", subcommand


@contextmanager
def clock(moment: datetime) -> Iterator[None]:
    """The program takes `moment` for the present time."""

    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(moment.timestamp(), tz or timezone.utc)

    for name in (
        "server_ref.hub.hub",
        "fedhelp_edge.doctor",
        "fedhelp_edge.site.ordered_training",
        "fedhelp_edge.site.status",
    ):
        importlib.import_module(name)
    ours = [module for name, module in sys.modules.items() if name.split(".")[0] in PROJECT]
    patched = [module for module in ours if vars(module).get("datetime") is datetime]
    for module in patched:
        module.datetime = Then  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in patched:
            module.datetime = datetime  # type: ignore[attr-defined]


# --- keys and parcels ---------------------------------------------------------------------------------------------
def test_keys(number: int) -> keys.Keys:
    """The same throw-away keys each time."""
    secret = hashlib.sha256(f"golden test key {number}".encode()).digest()
    sign = Ed25519PrivateKey.from_private_bytes(secret)
    return keys.Keys(sign, bech32.encode("age-secret-key-", secret).upper())


def statement_line(context: Mapping[str, Any], payload: bytes) -> bytes:
    return statement.create(context, hashlib.sha256(payload).hexdigest(), len(payload)).line


def sealed(context: Mapping[str, Any], payload: bytes, signers: Sequence[keys.Keys], folder: Path) -> bytes:
    """The bytes of a parcel that is not encrypted."""
    path = folder / "sealed.fhx"
    parcel.seal(path, context, payload, [key.sign for key in signers])
    data = path.read_bytes()
    path.unlink()
    return data


def check_parcel(path: Path) -> None:
    parcel.inspect(path, parcel.any_signer)


# --- updates and models -------------------------------------------------------------------------------------------
def plan(text: str, **settings: str) -> plans.Plan:
    return plans.read(text, METHODS, settings)


def template() -> str:
    return plans.template(METHODS)


def plan_mistakes(text: str) -> list[list[Any]]:
    try:
        plan(text)
    except errors.BadPlanError as error:
        return [[mistake.line, mistake.where] for mistake in error.mistakes]
    return []


def schema(agreed: plans.Plan) -> updates.Schema:
    """What travels by a plan."""
    return METHODS[agreed.method].up(agreed)


def first_weights(agreed: plans.Plan) -> dict[str, Array]:
    return METHODS[agreed.method].start(agreed)


def net_schema(net: str, classes: int, channels: int, norm: str) -> updates.Schema:
    return spec.schema(net, spec.Form(classes, channels, norm))


def update_bytes(arrays: Arrays) -> bytes:
    file = io.BytesIO()
    updates.write(file, arrays)
    return file.getvalue()


def read_update(data: bytes, expected: updates.Schema) -> dict[str, Array]:
    arrays = updates.read(io.BytesIO(data), expected)
    updates.check_values(arrays)
    return dict(arrays)


def travelled(codec: str, arrays: Arrays, expected: updates.Schema, base: Arrays) -> tuple[dict[str, Array], bytes]:
    """What arrives of arrays through a codec, and the bytes that travel."""
    wire, _ = CODECS[codec].encode({t.name: arrays[t.name] for t in expected.tensors}, base, {})
    data = update_bytes(wire)
    return dict(CODECS[codec].decode(read_update(data, CODECS[codec].wire_schema(expected)), base)), data


def merged(
    base: Arrays, updates_: Mapping[str, Arrays], examples: Mapping[str, int], settings: plans.MergeSettings
) -> dict[str, Array]:
    return rules.merge(base, updates_, examples, settings)


def norm_factors(base: Arrays, updates_: Mapping[str, Arrays]) -> dict[str, dict[str, float]]:
    return norm_limit.scale_factors({site_id: norm_limit.update_norm(base, updates_[site_id]) for site_id in updates_})


def suspicious(base: Arrays, updates_: Mapping[str, Arrays]) -> dict[str, str]:
    norms = {site_id: norm_limit.update_norm(base, updates_[site_id]) for site_id in updates_}
    return {site_id: error.code for site_id, error in outliers.suspicious_updates(base, updates_, norms).items()}


def inflated(examples: Mapping[str, int], released: Mapping[str, int]) -> dict[str, str]:
    return {site_id: error.code for site_id, error in outliers.inflated_claims(examples, released).items()}


# --- images -------------------------------------------------------------------------------------------------------
def images(
    pixels: Array, labels: Sequence[int], parts: Sequence[str], groups: Sequence[str], centres: Sequence[str]
) -> Images:
    names = tuple(f"{centre}/{index:03}.png" for index, centre in enumerate(centres))
    return Images(
        pixels, np.asarray(labels, np.int64), tuple(parts), names, tuple(groups) or ("",) * len(labels), tuple(centres)
    )


def dealt(of: Images, how: str, seed: int, **more: Any) -> list[dict[str, Any]]:
    """What a lab's partition gives each site."""
    return [
        {
            "id": part.id,
            "name": part.name,
            "tier": part.tier,
            "images": list(part.images.names),
            "splits": list(part.images.splits),
        }
        for part in partition.distribute(of, how, seed, **more)
    ]


def pack_bytes(path: Path, pack: packs.Pack) -> bytes:
    packs.save(path, pack)
    return path.read_bytes()


def scores(probabilities: Array, labels: Sequence[int]) -> dict[str, Any]:
    figures = metrics.scores(probabilities, labels)
    return {
        name: [getattr(figures, name).value, getattr(figures, name).low, getattr(figures, name).high]
        for name in ("accuracy", "balanced_accuracy", "auc", "f1", "ece", "brier")
    }


# --- training: what follows needs torch ---------------------------------------------------------------------------
def draw_stream(seed: int, name: str, round_: int, *purpose: object) -> np.random.Generator:
    from fedhelp_edge.train import loop

    return loop.RandomStreams(seed, name, round_).stream(*purpose)


def batches(agreed: plans.Plan, private: Any, public: Any, round_: int, **phase: Any) -> list[dict[str, Any]]:
    """Which images each training step of a round sees, and the hash of their pixels after augmentation."""
    from fedhelp_edge.methods import base as methods
    from fedhelp_edge.train import loop

    seen: list[dict[str, Any]] = []

    class Watching(methods.Learner):
        def phases(self, round_: int, last: bool) -> list[methods.Phase]:
            return [methods.Phase("train", ("private", "public"), **phase)]

        def step(self, phase: methods.Phase, batches: Mapping[str, methods.Batch]) -> dict[str, float]:
            seen.append({name: [b.index.tolist(), sha256(b.images.numpy())] for name, b in batches.items()})
            return {"loss": 0.0}

    who = methods.SiteFacts("site-007", "small", (1,) * len(agreed.classes))
    learner = Watching(methods.LearnerContext(agreed, who))
    loop.train(learner, {"private": private, "public": public}, round_)
    return seen


def lab(agreed: plans.Plan, of: Images, how: str, out: Path, pack: packs.Pack | None, **more: Any) -> dict[str, Any]:
    """A federation on this machine, on one thread."""
    from fedhelp_edge.lab import run
    from fedhelp_edge.train import machine

    machine.configure(1)
    parts = partition.distribute(of, how, agreed.seed, **more)
    return run.run(agreed, parts, out, compute=machine.compute("fp32"), pack=pack)


def journey(folder: Path) -> str:
    """The model of the federation that travels by stick, over the network and in the lab."""
    from tests.journeys import test_the_same_model as same

    return same.by_the_lab(same.drawn(folder), folder / "lab", same.RECORDED_PLAN)


def claim_images(path: Path, more: int) -> None:
    """Let a learner's kept state say that it has seen more images than it did."""
    from fedhelp_edge.train import checkpoint

    facts, state = checkpoint.read(path.read_bytes())
    facts["report"]["images"] += more
    with path.open("wb") as file:
        checkpoint.write(file, facts, state)


@contextmanager
def narrow_nets() -> Iterator[None]:
    """Nets have an eighth of their channels."""
    sizes = {name: replace(size, widths=(2, 4, 8)) for name, size in spec.RESNETS.items() if not size.projected}
    nets = {
        name: replace(spec.NETS[name], schema=partial(spec._resnet_schema, size), width=size.widths[-1])
        for name, size in sizes.items()
    }
    with mock.patch.dict(spec.RESNETS, sizes), mock.patch.dict(spec.NETS, nets):  # type: ignore[arg-type]
        yield


@contextmanager
def cut_off_after_one_step() -> Iterator[None]:
    """Training keeps its state after the first step, and is then stopped as by Ctrl-C."""
    from fedhelp_edge.train import loop

    ticks, save = count(0, 1000), loop.checkpoint.save

    def stop(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    slow = SimpleNamespace(monotonic=lambda: float(next(ticks)), process_time=time.process_time)
    with mock.patch.object(loop, "time", slow), mock.patch.object(loop.checkpoint, "save", stop):
        yield


# --- what was written ---------------------------------------------------------------------------------------------
def unpacked(folder: Path) -> Path:
    """A copy of what an earlier version had written."""
    with tarfile.open(RECORD / "written.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder


__all__ = [
    "age", "augment", "canon", "charter", "early_stopping", "enrol", "errors", "key_words", "log", "packs", "splits",
    "sshsig", "statement",
]  # fmt: skip
