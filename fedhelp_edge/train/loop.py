"""The one training loop, for every learner and phase.

All randomness comes from Philox streams named by (seed, site, round, phase, epoch, step, purpose). So an interrupted
round resumes from its last checkpoint and ends with the same bits as an uninterrupted one. Several processes draw the
same batches, and each takes its slice of every step (`train.parallel`).
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

from fedhelp_edge.data.images import Images
from fedhelp_edge.errors import DivergedError, UsageError
from fedhelp_edge.methods.base import Batch, Learner, Phase, steps_per_epoch
from fedhelp_edge.methods.losses import pixel_weights
from fedhelp_edge.methods.registry import is_noised
from fedhelp_edge.nets.net import Net, images_at_once, input_tensor
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import accountant
from fedhelp_edge.train import checkpoint, parallel

Progress = Callable[[int, int, float], None]  # steps done, steps in all, images a second


class Set(Protocol):
    """Images to draw from: a site's own, or the public images of the knowledge pack."""

    def __len__(self) -> int: ...

    @property
    def names(self) -> Sequence[str]: ...  # for messages

    def take(
        self, indices: NDArray[np.int64], draw: np.random.Generator | None, rank_slice: slice
    ) -> Mapping[str, NDArray[Any]]:
        """One process's slice of a batch: "images", augmented if there is a `draw`, and "labels".

        Of masks, whose pixels the loss weighs, also "borders", and "class_pixels" of the whole set.
        """


@dataclass
class EpochReport:
    """What a local round did. `losses`, by phase and part of the loss: the sum, and the number of steps."""

    images: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    losses: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)

    def means(self) -> dict[str, dict[str, float]]:
        """By phase, the mean of each part of the loss over its steps."""
        return {
            phase: {name: total / count for name, (total, count) in parts.items()}
            for phase, parts in self.losses.items()
        }


@dataclass(frozen=True)
class RandomStreams:
    """The random streams of one site's round."""

    seed: int | str  # the plan's; or a secret, where nobody may know which images a step takes
    site: str
    round: int

    def stream(self, *purpose: object) -> np.random.Generator:
        """The stream of this purpose: the same numbers on every machine."""
        text = "/".join(map(str, (self.seed, self.site, self.round, *purpose)))
        key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def permutation(self, count: int, *purpose: object) -> NDArray[np.int64]:
        """A random order of `count` images."""
        return self.stream(*purpose).permutation(count)


def train(
    learner: Learner,
    sets: Mapping[str, Set],
    round_: int,
    *,
    noise_key: bytes | None = None,
    checkpoints: Path | None = None,
    every: float = 60.0,
    progress: Progress | None = None,
) -> EpochReport:
    """Trains one round; with noise under its secret key, where the plan protects images so.

    With `checkpoints`, resumes from the newest state in that folder, and saves one every `every` seconds and as each
    phase ends. Of several processes the first calls this, and the others `follow`.
    """
    if is_noised(learner.plan) != bool(noise_key):
        raise ValueError("a plan that protects images by noise needs a key, and no other plan does")
    report, done = _resume(learner, round_, checkpoints)
    if learner.compute.ranks > 1:
        if noise_key:
            cause = "several processes cannot train with noise"
            raise UsageError(cause, remedy="run 'fedhelp-edge train' without torchrun")
        _check_batch_sizes(learner, sets, round_)
        identity = {"method": learner.plan.method, "tier": learner.site.tier}
        parallel.broadcast({**identity, "round": round_, "done": done}, learner.state())
    _run_steps(learner, sets, round_, report, done, checkpoints, every, progress, noise_key)
    return report


def follow(make: Callable[[str, str], Learner], sets: Mapping[str, Set]) -> None:
    """Trains what the first process trains, until that one ends: for every other process.

    `make` makes a learner by method and tier.
    """
    with parallel.worker_errors():
        while message := parallel.receive():
            facts, state = message
            learner = make(facts["method"], facts["tier"])
            learner.load(state, facts["round"])
            with suppress(DivergedError):  # the first process reports it
                _run_steps(learner, sets, facts["round"], EpochReport(), facts["done"], None, math.inf, None)


def _run_steps(
    learner: Learner, sets: Mapping[str, Set], round_: int, report: EpochReport, done: int, checkpoints: Path | None,
    every: float, progress: Progress | None, noise_key: bytes | None = None,
) -> None:  # fmt: skip
    """Runs the steps of a round from step `done` on."""
    plan = learner.plan
    streams = RandomStreams(noise_key.hex() if noise_key else plan.seed, learner.site.id, round_)
    phases = learner.phases(round_, round_ == plan.rounds)
    lengths = [_steps_per_epoch(phase, sets, plan) * phase.epochs for phase in phases]
    total, saved_at, first_step = sum(lengths), time.monotonic(), done
    started, cpu = time.monotonic(), time.process_time()
    spent_before = report.seconds, report.cpu_seconds

    def count_time() -> None:
        report.seconds = spent_before[0] + time.monotonic() - started
        report.cpu_seconds = spent_before[1] + time.process_time() - cpu

    for number in range(done, total):
        phase_index, step = _locate(lengths, number)
        phase = phases[phase_index]
        if step == 0 or number == done:
            learns = learner.trained() if phase.train else {}
            for name, module in learner.kept().items():
                module.train(name in learns)
        drawn = dict(_draw_indices(phase, phase_index, step, sets, plan, streams))
        batches = {
            name: _make_batch(
                learner,
                _set_of(sets, name),
                indices,
                phase.train,
                streams.stream(phase_index, step, name, "augment") if _is_augmented(phase, name) else None,
            )
            for name, indices in drawn.items()
        }
        if noise_key:
            from fedhelp_edge.methods.private_gradients import PrivateGradients  # others load no torch.func

            learner.noise = PrivateGradients(noise_key, number)
        parts = learner.step(phase, batches)
        if infinite := [name for name, part in parts.items() if not math.isfinite(part)]:
            raise _divergence_error(f"part {infinite[0]!r} of the loss is NaN or infinite", sets, drawn)
        _add_losses(report, phase, parts, len(drawn[phase.draw[0]]))
        if progress:
            rate = (number + 1 - first_step) * plan.training.batch / max(time.monotonic() - started, 1e-9)
            progress(number + 1, total, rate)
        if number + 1 == total:
            learner.end()
        if time.monotonic() - saved_at > every or step + 1 == lengths[phase_index]:
            count_time()
            state, facts = learner.state(), {"round": round_, "done": number + 1, "report": vars(report)}
            if not all(np.isfinite(array).all() for array in state.values()):
                raise _divergence_error("the net contains NaN or infinite values", sets, drawn)
            if checkpoints:
                checkpoint.save(checkpoints, number + 1, facts, state)
            saved_at = time.monotonic()
    count_time()


@torch.no_grad()
def probabilities(learner: Learner, net: Net, pixels: Any) -> NDArray[np.float64]:
    """A net's probabilities: N x classes. Where training kept the site's prior out of the logits, it is added here."""
    parts = [*_batch_probabilities(learner, net, pixels)]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, learner.plan.outputs))


@torch.no_grad()
def masks(learner: Learner, net: Net, images: Images) -> Iterator[NDArray[np.uint8]]:
    """The likeliest class of each pixel, for each case: an image, or a volume. Overlapping blocks are added up."""
    if not images.blocks:
        for part in _batch_probabilities(learner, net, images.pixels):
            yield from part.argmax(1).astype(np.uint8)
        return
    block = learner.plan.image.block
    for case in images.cases:
        volume = np.zeros((learner.plan.outputs, *images.blocks[case[0]].sides), np.float32)
        blocks = (images.blocks[index] for index in case)
        for part in _batch_probabilities(learner, net, images.only(case).pixels):
            for probabilities_of, place in zip(part, blocks, strict=False):
                inside, covered = (slice(None), *place.inside(block)), (slice(None), *place.covered(block))
                volume[inside] += probabilities_of[covered]
        yield volume.argmax(0).astype(np.uint8)


def _batch_probabilities(learner: Learner, net: Net, pixels: Any) -> Iterator[NDArray[np.float32]]:
    """A net's probabilities, as many images at once as memory allows."""
    batch = images_at_once(net)
    shift = torch.tensor(learner.prior or 1.0).log().to(learner.compute.device)
    modes = {module: module.training for module in net.modules()}
    net.eval()
    for start in range(0, len(pixels), batch):
        images = input_tensor(np.array(pixels[start : start + batch]), learner.plan.image, learner.compute.device)
        with learner.compute.autocast():
            logits = net(images)
        yield (logits.float() + shift).softmax(1).cpu().numpy()
    for module, training in modes.items():
        module.training = training


def _set_of(sets: Mapping[str, Set], name: str) -> Set:
    """The set that a phase draws from. Of one set several batches can be drawn for a step: `private:second`."""
    return sets[name.partition(":")[0]]


def _is_augmented(phase: Phase, name: str) -> bool:
    """Whether a phase augments the images of a set."""
    return phase.train and phase.augment and name not in phase.unaugmented


def _indices(phase: Phase, sets: Mapping[str, Set]) -> NDArray[np.int64]:
    """Those of the phase's first set that it draws."""
    return np.arange(len(_set_of(sets, phase.draw[0]))) if phase.only is None else phase.only


def _steps_per_epoch(phase: Phase, sets: Mapping[str, Set], plan: Plan) -> int:
    """The number of batches. Where noise protects images, their number decides nothing."""
    if is_noised(plan):
        return accountant.steps_per_epoch(plan)
    return steps_per_epoch(len(_indices(phase, sets)), phase.batch or plan.training.batch)


def _locate(lengths: Sequence[int], number: int) -> tuple[int, int]:
    """The phase of a step, and the step's number within that phase."""
    for index, length in enumerate(lengths):
        if number < length:
            return index, number
        number -= length
    raise IndexError(number)


def _draw_indices(
    phase: Phase, phase_index: int, step: int, sets: Mapping[str, Set], plan: Plan, streams: RandomStreams
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """The indices of a step's images, by set. Where noise protects images, each is drawn on its own."""
    first, *others = phase.draw
    batch, indices = plan.training.batch, _indices(phase, sets)
    if is_noised(plan):
        yield first, indices[streams.stream(phase_index, step, first).random(len(indices)) < plan.privacy.sampling_rate]
    else:
        steps = _steps_per_epoch(phase, sets, plan)
        epoch, within = divmod(step, steps)
        if phase.train:
            indices = indices[streams.permutation(len(indices), phase_index, epoch, first)]
        yield first, np.array_split(indices, steps)[within]
    for name in others if step % phase.every == 0 else ():
        count = len(_set_of(sets, name))
        cycle, within = divmod(step // phase.every, max(1, count // batch))
        yield name, streams.permutation(count, phase_index, cycle, name)[within * batch : (within + 1) * batch]


def _make_batch(
    learner: Learner, images: Set, indices: NDArray[np.int64], train: bool, draw: np.random.Generator | None
) -> Batch:
    """This process's part of a step's images, augmented by `draw`; all of them in a phase that does not train."""
    compute, count = learner.compute, len(indices)
    first, last = (count * rank // compute.ranks for rank in (compute.rank, compute.rank + 1))
    rank_slice = slice(first, last) if train else slice(None)
    taken = images.take(indices, draw, rank_slice)
    arrays = {name: torch.from_numpy(array).to(compute.device) for name, array in taken.items() if name != "images"}
    weight, settings = None, learner.plan.masks
    if "borders" in arrays:
        of_pixels = arrays["labels"], arrays["borders"], arrays["class_pixels"]
        weight = pixel_weights(*of_pixels, settings.beta_0, settings.balance)
    return Batch(
        input_tensor(taken["images"], learner.plan.image, compute.device),
        arrays["labels"],
        torch.from_numpy(indices[rank_slice]).to(compute.device),
        len(taken["labels"]) / count if count else 1.0,
        weight,
    )


def _check_batch_sizes(learner: Learner, sets: Mapping[str, Set], round_: int) -> None:
    """Refuses too many processes: batch norm needs two images at each of them, at every step."""
    batch, ranks = learner.plan.training.batch, learner.compute.ranks
    for phase in learner.phases(round_, round_ == learner.plan.rounds):
        first = len(_indices(phase, sets)) // _steps_per_epoch(phase, sets, learner.plan)
        sizes = [first, *(min(len(_set_of(sets, name)), batch) for name in phase.draw[1:])]
        if phase.train and min(sizes) < 2 * ranks:
            cause = f"{ranks} processes are too many for steps of {min(sizes)} images: each takes two or more"
            raise UsageError(cause, remedy="start fewer processes: torchrun --nproc-per-node")


def _divergence_error(cause: str, sets: Mapping[str, Set], drawn: Mapping[str, NDArray[np.int64]]) -> DivergedError:
    names = [_set_of(sets, name).names[index] for name, indices in drawn.items() for index in indices]
    return DivergedError(f"{cause}; the images were {', '.join(names)}")


def _add_losses(report: EpochReport, phase: Phase, parts: Mapping[str, float], images: int) -> None:
    report.images += images
    losses = report.losses.setdefault(phase.name, {})
    for name, value in parts.items():
        total, count = losses.get(name, (0.0, 0))
        losses[name] = total + value, count + 1


def _resume(learner: Learner, round_: int, checkpoints: Path | None) -> tuple[EpochReport, int]:
    saved = checkpoint.newest(checkpoints) if checkpoints else None
    if not saved or saved[0]["round"] != round_:
        return EpochReport(), 0
    learner.load(saved[1], round_)
    return EpochReport(**saved[0]["report"]), int(saved[0]["done"])
