"""The one training loop, for every learner and phase.

All chance comes from Philox streams named by (seed, site, round, phase, epoch, step, purpose): a round that was cut off
goes on from its last checkpoint and ends with the same bits as one that was not. Several processes draw alike, and each
takes its slice of every step (`train.parallel`).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhelp_edge.data.augment import augment
from fedhelp_edge.errors import DivergedError, UsageError
from fedhelp_edge.methods.base import Batch, Learner, Phase
from fedhelp_edge.plan import Image
from fedhelp_edge.train import checkpoint, parallel

Progress = Callable[[int, int, float], None]  # steps done, steps in all, images a second


class Set(Protocol):
    """Images to draw from: a site's part, or the public images of the knowledge."""

    @property
    def pixels(self) -> Any: ...  # len, and uint8 arrays by index

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def names(self) -> Sequence[str]: ...  # to tell a person which


@dataclass
class Report:
    """What a round was: of each phase, each part of the loss, as its sum and the steps that had it."""

    images: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    losses: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)

    def means(self) -> dict[str, dict[str, float]]:
        return {
            phase: {name: total / count for name, (total, count) in parts.items()}
            for phase, parts in self.losses.items()
        }


@dataclass(frozen=True)
class Draw:
    """The streams of one site's round."""

    seed: int
    site: str
    round: int

    def stream(self, *purpose: object) -> np.random.Generator:
        text = "/".join(map(str, (self.seed, self.site, self.round, *purpose)))
        key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def order(self, count: int, *purpose: object) -> NDArray[np.int64]:
        return self.stream(*purpose).permutation(count)


def train(
    learner: Learner,
    sets: Mapping[str, Set],
    round_: int,
    *,
    kept: Path | None = None,
    every: float = 60.0,
    progress: Progress | None = None,
) -> Report:
    """One round's training. With `kept`, its state is saved there every so many seconds and as a phase ends, and taken
    up from there. Where there are several processes, this is the first, and the others `follow`."""
    report, done = _resume(learner, round_, kept)
    if learner.bench.ranks > 1:
        _enough(learner, sets, round_)
        who = {"method": learner.plan.method, "tier": learner.site.tier}
        parallel.tell({**who, "round": round_, "done": done}, learner.state())
    _go_on(learner, sets, round_, report, done, kept, every, progress)
    return report


def follow(make: Callable[[str, str], Learner], sets: Mapping[str, Set]) -> None:
    """What each process but the first does: train what the first trains, until that has ended. `make` a learner by its
    method and tier."""
    with parallel.helping():
        while told := parallel.heard():
            facts, state = told
            learner = make(facts["method"], facts["tier"])
            learner.load(state, facts["round"])
            with suppress(DivergedError):  # at the first too, which says so
                _go_on(learner, sets, facts["round"], Report(), facts["done"], None, math.inf, None)


def _go_on(
    learner: Learner, sets: Mapping[str, Set], round_: int, report: Report, done: int, kept: Path | None, every: float,
    progress: Progress | None,
) -> None:  # fmt: skip
    """The steps of a round from number `done` on."""
    plan, draw = learner.plan, Draw(learner.plan.seed, learner.site.id, round_)
    phases = learner.phases(round_, round_ == plan.rounds)
    lengths = [_steps(phase, sets, plan.training.batch) * phase.epochs for phase in phases]
    total, saved, first = sum(lengths), time.monotonic(), done
    begun, cpu = time.monotonic(), time.process_time()
    before = report.seconds, report.cpu_seconds

    def spend() -> None:
        report.seconds = before[0] + time.monotonic() - begun
        report.cpu_seconds = before[1] + time.process_time() - cpu

    for number in range(done, total):
        place, step = _place(lengths, number)
        phase = phases[place]
        if step == 0 or number == done:
            for module in learner.kept().values():
                module.train(phase.train)
        chosen = dict(_chosen(phase, place, step, sets, plan.training.batch, draw))
        batches = {
            name: _batch(learner, sets[name], places, draw.stream(place, step, name, "augment"), phase.train)
            for name, places in chosen.items()
        }
        parts = learner.step(phase, batches)
        if odd := [name for name, part in parts.items() if not math.isfinite(part)]:
            raise _diverged(f"its part {odd[0]!r} of the loss is no number", sets, chosen)
        _tally(report, phase, parts, len(chosen[phase.draw[0]]))
        if progress:
            rate = (number + 1 - first) * plan.training.batch / max(time.monotonic() - begun, 1e-9)
            progress(number + 1, total, rate)
        if time.monotonic() - saved > every or step + 1 == lengths[place]:
            spend()
            state, facts = learner.state(), {"round": round_, "done": number + 1, "report": vars(report)}
            if not all(np.isfinite(array).all() for array in state.values()):
                raise _diverged("the net holds what is no number", sets, chosen)
            if kept:
                checkpoint.save(kept, number + 1, facts, state)
            saved = time.monotonic()
    spend()


def tensor(pixels: NDArray[np.uint8], image: Image, device: str = "cpu") -> Tensor:
    """Raw pixels as a net sees them: B x channels x side x side, normalised by the plan."""
    raw = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)  # a view: channels last already
    mean = torch.tensor(image.mean, device=device).view(-1, 1, 1) * 255
    std = torch.tensor(image.std, device=device).view(-1, 1, 1) * 255
    return raw.float().sub_(mean).div_(std)


@torch.no_grad()
def probabilities(learner: Learner, net: torch.nn.Module, pixels: Any, batch: int = 256) -> NDArray[np.float64]:
    """What a net says of images: N x classes. A net that was trained apart from the site's prior answers with it."""
    shift = torch.tensor(learner.prior or 1.0).log().to(learner.bench.device)
    net.eval()
    parts = []
    for at in range(0, len(pixels), batch):
        images = tensor(np.array(pixels[at : at + batch]), learner.plan.image, learner.bench.device)
        with learner.bench.autocast():
            logits = net(images)
        parts.append((logits.float() + shift).softmax(1).cpu().numpy())
    net.train()
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, len(learner.plan.classes)))


def _steps(phase: Phase, sets: Mapping[str, Set], batch: int) -> int:
    """Batches of nearly equal size, so that none is too small for batch norm and no image is left out."""
    count = len(sets[phase.draw[0]].pixels)
    return max(1, min(math.ceil(count / batch), count // 2))  # no image alone


def _place(lengths: Sequence[int], number: int) -> tuple[int, int]:
    for place, length in enumerate(lengths):
        if number < length:
            return place, number
        number -= length
    raise IndexError(number)


def _chosen(
    phase: Phase, place: int, step: int, sets: Mapping[str, Set], batch: int, draw: Draw
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Which images of each set make up a step."""
    first, *others = phase.draw
    steps = _steps(phase, sets, batch)
    epoch, within = divmod(step, steps)
    count = len(sets[first].pixels)
    order = draw.order(count, place, epoch, first) if phase.train else np.arange(count)
    yield first, np.array_split(order, steps)[within]
    for name in others if step % phase.every == 0 else ():
        count = len(sets[name].pixels)
        around, turn = divmod(step // phase.every, max(1, count // batch))
        yield name, draw.order(count, place, around, name)[turn * batch : (turn + 1) * batch]


def _batch(learner: Learner, images: Set, chosen: NDArray[np.int64], stream: np.random.Generator, train: bool) -> Batch:
    """This process's part of a step's images; all of them where nothing is learned."""
    bench, count = learner.bench, len(chosen)
    own = slice(count * bench.rank // bench.ranks, count * (bench.rank + 1) // bench.ranks) if train else slice(None)
    places = chosen[own]
    pixels = images.pixels[places]
    pixels = augment(pixels, stream, own, count) if train else pixels
    labels = torch.from_numpy(images.labels[places]).to(bench.device)
    index = torch.from_numpy(places).to(bench.device)
    return Batch(tensor(pixels, learner.plan.image, bench.device), labels, index, len(places) / count)


def _enough(learner: Learner, sets: Mapping[str, Set], round_: int) -> None:
    """Batch norm needs two images at every process, at every step."""
    batch, ranks = learner.plan.training.batch, learner.bench.ranks
    for phase in learner.phases(round_, round_ == learner.plan.rounds):
        first, *others = (len(sets[name].pixels) for name in phase.draw)
        sizes = [first // _steps(phase, sets, batch), *(min(count, batch) for count in others)]
        if phase.train and min(sizes) < 2 * ranks:
            cause = f"{ranks} processes are too many for steps of {min(sizes)} images: each takes two or more"
            raise UsageError(cause, remedy="start fewer processes: torchrun --nproc-per-node")


def _diverged(what: str, sets: Mapping[str, Set], chosen: Mapping[str, NDArray[np.int64]]) -> DivergedError:
    named = [sets[name].names[place] for name, places in chosen.items() for place in places]
    return DivergedError(f"{what}; the images were {', '.join(named)}")


def _tally(report: Report, phase: Phase, parts: Mapping[str, float], images: int) -> None:
    report.images += images
    losses = report.losses.setdefault(phase.name, {})
    for name, value in parts.items():
        total, count = losses.get(name, (0.0, 0))
        losses[name] = total + value, count + 1


def _resume(learner: Learner, round_: int, kept: Path | None) -> tuple[Report, int]:
    found = checkpoint.newest(kept) if kept else None
    if not found or found[0]["round"] != round_:
        return Report(), 0
    learner.load(found[1], round_)
    return Report(**found[0]["report"]), int(found[0]["done"])
