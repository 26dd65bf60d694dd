"""Small test objects for training: plans, learners, knowledge, and sets of a few random images."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_edge import plan as plans
from fedhelp_edge.data.features import EncoderFacts
from fedhelp_edge.data.images import ImageSet
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Batch, Compute, Learner, LearnerContext, Phase, SiteFacts
from fedhelp_edge.nets import spec
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Schema

SIDE, WIDTH = 8, 12
HERE = Compute()
EVERYBODY = [
    ("local", "small", {}),
    ("local", "large", {}),
    ("fedavg", "small", {}),
    ("fedavg", "large", {}),
    ("fedprox", "small", {}),
    ("fedprox", "large", {}),
    ("fedmedclip", "small", {"classifier_lr": 0.01}),
    ("fedmedclip", "large", {"class_vectors": "shared", "least_images": 1, "mask_grad": "released", "omega": "half"}),
    ("fccl", "small", {"pretrain": 0}),
    ("fccl", "large", {"pretrain": 0, "intra": 0.0}),
    ("fedgh", "small", {}),
    ("fedgh", "large", {}),
    ("fedmd", "small", {"public_epochs": 0}),
    ("fedmd", "large", {"head": "private"}),
    ("mdhfl", "small", {"loss": "plan"}),
    ("mdhfl", "large", {"loss": "plan", "ccr": True}),
    ("perfedavg", "small", {}),
    ("perfedavg", "large", {"order": "hf"}),
    ("fedsm", "small", {"selector": "resnet8"}),
    ("fedsm", "large", {"selector": "resnet8", "gamma": 0.0}),
    ("scaffold", "small", {}),
    ("scaffold", "large", {}),
    ("pfedbayes", "small", {"zeta": 0.01}),
    ("pfedbayes", "large", {"zeta": 0, "rho": -5}),
    ("pfedme", "small", {}),
    ("pfedme", "large", {"steps": 2}),
    ("fedkemf", "small", {}),
    ("fedkemf", "large", {}),
    ("fedhelp", "small", {}),
    ("fedhelp", "large", {}),
    ("fedhelp", "large", {"schedule": "alternate"}),
    ("fedmic", "small", {}),
    ("fedmic", "large", {}),
    ("fedmic", "large", {"aux_at": "decision"}),
]  # method, tier, settings of the method
ON_FEATURES = frozenset({"fedmedclip", "ridge"})  # the methods that need an encoder


def plan(
    method: str = "fedavg", classes: int = 4, rounds: int = 4, task: str = "classification", **tables: Mapping[str, Any]
) -> Plan:
    """A plan read from TOML: small images, a small "large" net, and the test's settings of each table."""
    settled: dict[str, dict[str, Any]] = {
        "image": {"size": SIDE},
        "nets": {"small": "resnet8", "large": "resnet20"},
        "training": {"batch": 4, "precision": "fp32"},
        "public": {"size": SIDE},
        "fedhelp": {"public_every": 2},
    }
    names = [f"class {number}" for number in range(classes)]
    if method in ON_FEATURES:
        encoder = {"encoder": "tiny.onnx", "encoder_sha256": "0" * 64, "encoder_width": WIDTH}
        settled["ridge"] = {"dimensions": 4}
        settled["nets"] = {"small": "linear", "large": "linear", **encoder}
    lines = [
        f"method = {json.dumps(method)}",
        f"task = {json.dumps(task)}",
        f"classes = {json.dumps(names)}",
        f"rounds = {rounds}",
        "seed = 3",
    ]
    for table in {**settled, **tables}:
        lines.append(f"[{table}]")
        keys = {**settled.get(table, {}), **tables.get(table, {})}
        lines += [f"{key} = {_toml(value)}" for key, value in keys.items()]
    return plans.read("\n".join(lines), registry.METHODS)


def feature_plan(
    method: str, classes: int = 4, width: int = WIDTH, rounds: int = 4, **tables: Mapping[str, Any]
) -> Plan:
    """A plan whose nets work on so many features of an encoder."""
    encoder = {"encoder": "tiny.onnx", "encoder_sha256": "0" * 64, "encoder_width": width}
    nets = {"small": "linear", "large": "linear", **encoder, **tables.get("nets", {})}
    return plan(method, classes, rounds, **{**tables, "nets": nets})


def allows(method: str, **tables: Mapping[str, Any]) -> bool:
    """Whether a method can do what these tables of a plan ask."""
    try:
        plan(method, **tables)
    except BadPlanError:
        return False
    return True


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(entry)}" for name, entry in value.items()) + "}"
    return json.dumps(value)


def learner(
    plan: Plan,
    tier: str = "small",
    pack: Pack | None = None,
    site: str = "site-001",
    compute: Compute = HERE,
    first_weights: Mapping[str, Mapping[str, Array]] = MappingProxyType({}),
) -> Learner:
    """The learner of the plan's method at a site, at the start of the first round."""
    method = registry.METHODS[plan.method]
    module, name = method.learner.split(":")
    examples = tuple(range(1, len(plan.classes) + 1))
    make = getattr(importlib.import_module(module), name)
    site_facts = SiteFacts(site, tier, examples)
    learner: Learner = make(LearnerContext(plan, site_facts, pack, compute, first_weights, encoder(plan)))
    learner.receive(method.start(plan), 1)
    return learner


def encoder(plan: Plan) -> EncoderFacts | None:
    """What a learner knows of the plan's encoder, which has no text."""
    return EncoderFacts(plan.nets.encoder_width) if plan.nets.encoder else None


def pack(images: int = 6, sources: int = 2, classes: int = 5, seed: int = 0) -> Pack:
    """The sources' answers as read from a file: read-only."""
    generator = np.random.Generator(np.random.Philox(seed))
    answers = generator.dirichlet(np.ones(classes), (sources, images)).astype(np.float16)
    labels = np.arange(images, dtype=np.int64) % classes
    for array in (answers, labels):
        array.flags.writeable = False
    pixels = np.zeros((images, SIDE, SIDE, 3), np.uint8)
    return Pack(pixels, labels, tuple(map(str, range(classes))), tuple(map(str, range(sources))), answers)


@dataclass(frozen=True)
class Images(ImageSet):
    """A set of images like a memory-mapped file: read-only."""

    pixels: NDArray[Any]
    labels: NDArray[np.int64]
    names: tuple[str, ...]


def images(count: int, classes: int = 4, channels: int = 3, seed: int = 0, side: int = SIDE, width: int = 0) -> Images:
    """Random pixels; or so many features of each of two views."""
    generator = np.random.Generator(np.random.Philox(seed))
    pixels: NDArray[Any] = generator.integers(0, 256, (count, side, side, channels), np.uint8)
    if width:
        pixels = generator.standard_normal((count, 2, width)).astype(np.float16)
    pixels.flags.writeable = False
    return Images(pixels, np.arange(count, dtype=np.int64) % classes, tuple(f"{n}.png" for n in range(count)))


def sets(plan: Plan, tier: str = "small", count: int = 10) -> dict[str, Images]:
    """What a site has to draw from: its own images, and public ones that fit `pack()`."""
    width = plan.nets.encoder_width
    private = images(count, len(plan.classes), plan.image.channels, seed=1, width=width)
    public = images(6, 5, plan.image.channels, seed=2, width=width)
    needs_public = tier == "small" or registry.METHODS[plan.method].public
    return {"private": private, **({"public": public} if needs_public else {})}


def batch(count: int = 4, classes: int = 4, channels: int = 3, seed: int = 0, width: int = 0) -> Batch:
    """A batch as a step receives it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, width) if width else (count, channels, SIDE, SIDE)
    pixels = torch.randn(*shape, generator=generator)
    return Batch(pixels, torch.arange(count) % classes, torch.arange(count))


def batches(phase: Phase, plan: Plan) -> dict[str, Batch]:
    """One batch of each set that a phase draws from."""
    form = {"channels": plan.image.channels, "width": plan.nets.encoder_width}
    made = {
        "private": batch(**form),
        "private:second": batch(**form, seed=5),
        "public": batch(classes=5, **form, seed=9),
    }
    return {name: made[name] for name in phase.draw}


def same(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    """Whether two states have the same names and the same bits."""
    return list(first) == list(second) and all(first[name].tobytes() == second[name].tobytes() for name in first)


def differing(first: Mapping[str, Array], second: Mapping[str, Array]) -> set[str]:
    """The names of the arrays that are not equal to the bit."""
    assert set(first) == set(second)
    return {name for name in first if first[name].tobytes() != second[name].tobytes()}


def schema(learner: Learner) -> Schema:
    """The schema of a learner's updates."""
    return learner.up_schema


def merged(learner: Learner) -> dict[str, Array]:
    """A merged model with other weights than the learner's."""
    drawn = spec.initial_weights(learner.down_schema, 42)
    return {t.name: drawn[t.name].astype({"F32": "f4", "I64": "i8"}[t.dtype]) for t in learner.down_schema.tensors}
