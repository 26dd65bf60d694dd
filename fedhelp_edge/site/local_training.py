"""Trains a round at a site, and beside it the local baseline: the same net, trained alone with as many steps.

A round is a folder of files that are written once: the learner's state, the update, the baseline's state, and last
`report.json`. Without that file the round is unfinished and resumes at its checkpoint. `report.html` shows the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import encoder as encoders
from fedhelp_edge import files, lock, update
from fedhelp_edge.data import loading
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.features import EncoderFacts
from fedhelp_edge.data.findings import findings
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.errors import KnowledgeMissingError, UpdateError
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.first_weights import Weights
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.net import Net, arrays_of
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import rounds
from fedhelp_edge.report.scale import SCALES
from fedhelp_edge.site import layout
from fedhelp_edge.train import checkpoint, learners, loop, machine, parallel
from fedhelp_edge.train.visit import Visit, visit
from fedhelp_edge.update import Array

Watch = Callable[[str], loop.Progress | None]  # a progress bar for each part of the work

LOCK = "train.lock"
_HASHED_AT_ONCE = 256  # images
_REPORT = "report.json"


@dataclass(frozen=True)
class TrainingContext:
    """A site's plan, images, knowledge and compute, from which learners are made."""

    plan: Plan
    site: str
    tier: str
    images: Images
    pack: Pack | None
    compute: Compute
    first_weights: Mapping[str, Weights] = field(default_factory=dict)  # of own nets, by the net's name
    start: Mapping[str, Any] | None = None  # what a report says of them
    encoder: EncoderFacts | None = None

    def learner(self, method: str = "") -> Learner:
        """Creates the learner of the plan's method, or of another one, for this site."""
        plan = replace(self.plan, method=method or self.plan.method)
        tier = self.tier if METHODS[self.plan.method].home == "tier" or not method else "small"  # the same net
        train = self.images.split("train")
        return learners.create(plan, self.site, tier, train, self.pack, self.compute, self.first_weights, self.encoder)

    def findings(self) -> list[dict[str, Any]]:
        """Returns the findings about these images that a reader of their figures should know."""
        return [finding.to_json() for finding in findings(self.images, self.plan.classes)]

    def inputs(self, previous: Path | None) -> Iterator[str]:
        """Yields hashes of the training images, with labels or masks, and of the state that the last round left."""
        train = self.images.split("train")
        for array in (train.pixels, train.masks):
            if array is not None:
                sha256 = hashlib.sha256()
                for start in range(0, len(train), _HASHED_AT_ONCE):
                    sha256.update(array[start : start + _HASHED_AT_ONCE].tobytes())
                yield sha256.hexdigest()
        yield hashlib.sha256(train.labels.tobytes()).hexdigest()
        for path in sorted((previous / "own").glob("*.state")) if previous else ():
            with files.reading(path) as file:
                yield files.digest(file)

    def sets(self) -> dict[str, loop.Set]:
        return learners.image_sets(self.images.split("train"), self.pack)


@dataclass(frozen=True)
class SiteRound:
    """A round to train: from which model, and in which folder."""

    number: int
    merged: Mapping[str, Array]
    folder: Path
    previous: Path | None = None  # the folder of the site's last round, whose local state this one continues
    merge: LastMerge = NO_MERGE
    noise_key: bytes | None = None  # where the plan protects images by noise
    privacy: Mapping[str, Any] | None = None  # what a report says of it


@contextmanager
def open_context(
    home: Path, plan: Plan, site: str, tier: str, images: Path | None, knowledge: Path | None,
    encoder: Path | None = None, *, device: str = "cpu", threads: int | None = None, watch: Watch = lambda part: None,
) -> Iterator[TrainingContext]:  # fmt: skip
    """Yields the context, with the images decoded and the processes joined. Only rank 0 holds the lock and decides."""
    machine.configure(threads)
    compute = parallel.join(machine.compute(plan.training.precision, device))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with nullcontext() if compute.rank else lock.exclusive(home / LOCK, wait=0):
        opened = find_encoder(home, plan, encoder)
        with parallel.main_process_first(compute):
            own = load_images(
                home, plan, layout.resolve_images(home, None if compute.rank else images), opened, threads=threads,
                watch=watch,
            )  # fmt: skip
            pack = load_pack(home, plan, knowledge, opened, threads=threads, watch=watch) if knowledge else None
        facts = opened.facts(plan) if opened else None
        yield TrainingContext(plan, site, tier, own, pack, compute, encoder=facts)
        parallel.leave(compute)


def find_encoder(home: Path, plan: Plan, named: Path | None = None) -> Encoder | None:
    """Opens the plan's encoder, which is remembered where a person names it."""
    return encoders.find(plan, layout.resolve_encoder(home, plan, named))


def load_images(
    home: Path, plan: Plan, images: Path, encoder: Encoder | None, *, threads: int | None = None,
    watch: Watch = lambda part: None,
) -> Images:  # fmt: skip
    """Loads the site's images as the plan's learners see them. The home keeps what is computed from them."""
    state_dir = home / "images"
    decoded = loading.load(images, plan, state_dir=state_dir)
    bar = watch("looking at the images") if encoder else None
    return encoders.embed_images(decoded, plan, encoder, state_dir, workers=threads, progress=bar)


def load_pack(
    home: Path, plan: Plan, path: Path, encoder: Encoder | None, *, threads: int | None = None,
    watch: Watch = lambda part: None,
) -> Pack:  # fmt: skip
    """Loads a knowledge pack as the plan's learners see it."""
    bar = watch("looking at the public images") if encoder else None
    return encoders.embed_pack(packs.load(path), plan, encoder, home / "images", workers=threads, progress=bar)


def needed_pack(home: Path, plan: Plan, path: Path | None, encoder: Encoder | None) -> Pack | None:
    """Loads a knowledge pack, where the plan's learners are not made without one."""
    if not METHODS[plan.method].public:
        return None
    if path is None or not path.exists():
        where = "'fedhelp-edge download' brings it back; a trial needs it where it was"
        raise KnowledgeMissingError("the knowledge pack is gone with which the round was trained", remedy=where)
    return load_pack(home, plan, path, encoder)


def train_round(context: TrainingContext, round_: SiteRound, watch: Watch) -> dict[str, Any]:
    """Trains one round and returns its report. A finished round is not trained again."""
    folder = round_.folder
    if not (folder / _REPORT).exists():
        report = _train_and_report(context, round_, watch)
        with files.writing(folder / _REPORT) as file:
            file.write(json.dumps(report, indent=1).encode())
    if not (folder / "report.html").exists():
        reports = [read_report(path.parent) for path in folder.parent.glob(f"*/{_REPORT}")]
        so_far = sorted((each for each in reports if each["round"] <= round_.number), key=itemgetter("round"))
        with files.writing(folder / "report.html") as file:
            file.write(rounds.page(context.plan.name, so_far).encode())
    return read_report(folder)


def read_report(round_dir: Path) -> dict[str, Any]:
    """Reads the report of a finished round."""
    return dict(json.loads((round_dir / _REPORT).read_text(encoding="utf-8")))


def _train_and_report(context: TrainingContext, round_: SiteRound, watch: Watch) -> dict[str, Any]:
    check_model(context, round_.merged)
    learner = context.learner()
    own = _visit(learner, context, round_, "own", watch("training"))
    if not (round_.folder / "share.safetensors").exists():
        with files.writing(round_.folder / "share.safetensors") as file:
            update.write(file, own.update)
    scale = SCALES[context.plan.task]
    figure = scale.figures[0]
    val = {name: scale.scores([tally])[figure] for name, tally in own.tallies.items() if name != "merged"}
    if context.plan.training.yardstick and METHODS[context.plan.method].exchanges:
        local = context.learner("local")
        common = {name: round_.merged[name] for name in arrays_of(local.net) if name in round_.merged}  # no other's
        begun = replace(round_, merged=common, noise_key=None)  # it stays here
        baseline = _visit(local, context, begun, "alone", watch("training alone, to compare"))
        val["alone"] = scale.scores([baseline.tallies["own"]])[figure]
    return {
        "round": round_.number, "method": context.plan.method, "tier": context.tier,
        "examples": own.facts["examples"], "loss": own.report.means(), "val": val,
        "seconds": round(own.report.seconds, 1), "cpu_seconds": round(own.report.cpu_seconds, 1),
        "images": own.report.images, "prior": learner.prior,
        "base": {name: count for name, count in own.facts.items() if name != "examples"},
        "figure": figure, "val_images": len(context.images.split("val").cases),
        "left_out": len(context.images.problems), "start": context.start, "findings": context.findings(),
        "privacy": round_.privacy,
    }  # fmt: skip


def _visit(
    learner: Learner, context: TrainingContext, round_: SiteRound, name: str, progress: loop.Progress | None
) -> Visit:
    """Trains a learner's round from the state of its last one. Its own state is in a folder of this name."""
    if state := checkpoint.newest(round_.previous / name) if round_.previous else None:
        learner.load(state[1], round_.number)
    return visit(
        learner, context.sets(), context.images.split("val"), round_.merged, round_.number, round_.merge,
        noise_key=round_.noise_key, checkpoints=round_.folder / name, progress=progress,
    )  # fmt: skip


def follow(context: TrainingContext) -> None:
    """Serves rank 0 in its training until it ends: what every other process does."""
    loop.follow(
        lambda method, tier: replace(context, plan=replace(context.plan, method=method), tier=tier).learner(),
        context.sets(),
    )


def check_model(context: TrainingContext, merged: Mapping[str, Array]) -> None:
    """Raises unless a model that the coordinator sent has the method's tensors, with numbers that training gives."""
    plan, method = context.plan, METHODS[context.plan.method]
    schema = method.down(plan, context.pack)
    if merged.keys() != {tensor.name for tensor in schema.tensors}:
        schema = update.schema_of(method.start(plan))  # the first model, which travels whole
    order = {tensor.name: place for place, tensor in enumerate(schema.tensors)}
    try:
        tensors = update.schema_of(merged).tensors
        update.check_schema(sorted(tensors, key=lambda tensor: order.get(tensor.name, -1)), schema)
        update.check_values(merged)
    except UpdateError as error:
        cause = f"the model that the coordinator sent is none of this plan: {error.cause}"
        raise type(error)(cause, remedy="phone the coordinator: no site can train from it") from error


def predictions(context: TrainingContext, round_dir: Path, split: str) -> dict[str, NDArray[np.float64]]:
    """Returns each net's probabilities (images, classes) for one split, with the prior of its training images."""
    pixels = context.images.split(split).pixels
    return {
        name: loop.probabilities(learner, learner.model, pixels) for name, learner in _load_learners(context, round_dir)
    }


def nets(context: TrainingContext, round_dir: Path, merged: Mapping[str, Array] | None) -> dict[str, Net]:
    """Returns a finished round's nets by name: the site's own, the local baseline, and the merged one if given."""
    learners_of = dict(_load_learners(context, round_dir))
    nets_of = {name: learner.exported for name, learner in learners_of.items()}
    if merged is not None:
        check_model(context, merged)
        _, learner = next(_load_learners(context, round_dir))
        learner.receive(merged, read_report(round_dir)["round"] + 1)
        nets_of["merged"] = learner.net
    return nets_of


def _load_learners(context: TrainingContext, round_dir: Path) -> Iterator[tuple[str, Learner]]:
    """Yields the learners of a finished round with their final state and the prior of their training images."""
    prior = read_report(round_dir)["prior"]
    for name, method in (("own", ""), ("alone", "local")):
        state = checkpoint.newest(round_dir / name)
        if state:
            learner = context.learner(method)
            learner.load(state[1], 1)
            learner.prior = prior
            yield name, learner
