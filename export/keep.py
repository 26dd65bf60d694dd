"""What a site keeps: how much each of its nets counts in the model that it diagnoses with.

Only validation images decide. The best net of a few images is a matter of luck. So all nets count, each with a scale
that multiplies its logits. The images move these scales away from the plain average as far as they give reason to.
docs/decisions/keeps.md compares this rule with others, and says how often a site gets less than from training alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report.metrics import Figure
from fedhelp_edge.report.seeds import student_quantile

Floats = NDArray[np.float64]
Logits = Mapping[str, NDArray[np.floating[Any]]]  # by the net's name: images x classes
Ints = NDArray[np.int64]

ALONE = "alone"
MIN_GROUPS = 10  # validation images (of one patient together: one) from which on a gain can be estimated
_FOLDS = 10
_SPREAD = 1.0  # of each scale's logarithm, and of what all have in common: as of a temperature's
_NEGLIGIBLE = 0.01  # the part below which a net is left out: it would cost time and change nothing
_NO_INTERVAL = "one image can lose more than all others together"
_MAX_STEPS, _LONGEST, _ENOUGH = 50, 2.0, 1e-6


@dataclass(frozen=True)
class Gain:
    """How far the kept nets are above the local baseline, a single net, to be expected on other images of this site.

    Each validation image is answered by nets that were weighed without it, and without the others of its patient.
    """

    accuracy: Figure
    log_loss: Figure  # how much smaller it is: without an interval, for rare losses are large


@dataclass(frozen=True)
class Kept:
    """How much each net counts, and what that is worth."""

    scales: Mapping[str, float]  # of the logits, by the net's name; together 1
    weights: Mapping[str, float]  # how much each moves the answers; logits of nets differ in size. Together 1
    temperature: float  # that divides the scaled logits' sum
    images: int  # validation images that decided
    gain: Gain
    of: str = "images"  # or "pixels" of them: what was answered

    def to_json(self) -> dict[str, Any]:
        """As in a bundle's metadata and in the JSON of commands; `report.nets.weighing_lines` puts it into words."""
        weights = {name: round(weight, 4) for name, weight in self.weights.items()}
        gains = {name: {key: _rounded(part) for key, part in asdict(figure).items()}
                 for name, figure in (("accuracy", self.gain.accuracy), ("log_loss", self.gain.log_loss))}  # fmt: skip
        return {"weights": weights, "images": self.images, "of": self.of, "gain": gains}

    def probabilities(self, logits: Logits) -> Floats:
        """The probabilities (images x classes) of the kept nets together."""
        return np.exp(log_softmax(pool(logits, self.scales) / self.temperature))


def keep(logits: Logits, labels: Ints, groups: Ints) -> Kept:
    """Weighs nets by their logits for validation images, with the class and the patient of each.

    A net whose answers contain NaN or infinite values does not count, nor one that hardly would. A net under two names
    counts once: in its first round a site's own net is its local baseline too.
    """
    usable = {name: logits[name] for name in distinct(logits) if np.isfinite(logits[name]).all()}
    if not usable:
        alike = dict.fromkeys(logits, 1 / len(logits))
        return Kept(alike, alike, 1.0, len(labels), _unknown("no net's answers are numbers"))
    stack = _stack(usable)
    scales = _fit(stack, labels)
    spreads = stack.std(2).mean(1) if len(labels) else np.ones(len(stack))
    weights = _parts(scales * spreads)
    counts = weights >= _NEGLIGIBLE
    names = [name for name, does in zip(usable, counts, strict=True) if does]
    by_name = [dict(zip(names, map(float, _parts(each[counts])), strict=True)) for each in (scales, weights)]
    gain = _gain(usable, logits.get(ALONE), labels, groups)
    return Kept(by_name[0], by_name[1], float(1 / scales[counts].sum()), len(labels), gain)


def distinct(logits: Logits) -> list[str]:
    """The names of nets that answer differently: equal answers are those of one net. Without images all are named."""
    names: list[str] = []
    for name, values in logits.items():
        if not (len(values) and any(np.array_equal(values, logits[other]) for other in names)):
            names.append(name)
    return names


def folds(labels: Ints, groups: Ints) -> Ints:
    """The fold of each validation image, to judge it by what the others say.

    A patient is in one fold, and each fold has about as much of each class.
    """
    _, firsts, patients = np.unique(groups, return_index=True, return_inverse=True)
    places = np.empty(len(firsts), np.int64)
    places[np.argsort(labels[firsts], kind="stable")] = np.arange(len(firsts)) % _FOLDS
    return np.asarray(places[patients])


def pool(logits: Logits, scales: Mapping[str, float]) -> Floats:
    """The sum of scaled logits: what a bundle of several nets computes."""
    return np.asarray(sum(scale * logits[name].astype(np.float64) for name, scale in scales.items()))


def log_softmax(logits: Floats) -> Floats:
    """The logarithms of probabilities."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _fit(stack: Floats, labels: Ints, start: Floats | None = None) -> Floats:
    """The scale of each net's logits (nets x images x classes), most likely under a log-normal prior.

    Its centre is the plain average, where the search begins unless `start` is nearer. Fisher's scoring, halved until
    it improves.
    """
    nets = len(stack)
    precision = np.linalg.inv(_SPREAD**2 * (np.eye(nets) + np.ones((nets, nets))))

    def cost(logs: Floats) -> float:
        answers = log_softmax(np.tensordot(np.exp(logs) / nets, stack, 1))
        return float(-answers[np.arange(len(labels)), labels].sum() + logs @ precision @ logs / 2)

    logs = np.zeros(nets) if start is None else np.log(nets * start)
    lowest = cost(logs)
    for _ in range(_MAX_STEPS if len(labels) else 0):
        scales = np.exp(logs) / nets
        probabilities = np.exp(log_softmax(np.tensordot(scales, stack, 1)))
        errors = probabilities.copy()
        errors[np.arange(len(labels)), labels] -= 1
        means = np.einsum("nc,knc->kn", probabilities, stack)
        information = np.einsum("nc,knc,lnc->kl", probabilities, stack, stack) - means @ means.T
        slope = scales * np.einsum("nc,knc->k", errors, stack) + precision @ logs
        step = np.linalg.solve(information * np.outer(scales, scales) + precision, slope)
        step = np.clip(step, -_LONGEST, _LONGEST)
        while (after := cost(logs - step)) > lowest and np.abs(step).max() > _ENOUGH:
            step = step / 2
        if after > lowest:
            break
        logs, before, lowest = logs - step, lowest, after
        if before - after < _ENOUGH:
            break
    return np.asarray(np.exp(logs) / nets)


def _parts(values: Floats) -> Floats:
    """Numbers that together are 1; all alike if nothing tells them apart."""
    total = values.sum()
    return np.asarray(values / total if total else np.full(len(values), 1 / len(values)))


def _stack(logits: Logits) -> Floats:
    return np.stack(list(logits.values())).astype(np.float64)


def _gain(logits: Logits, baseline: NDArray[np.floating[Any]] | None, labels: Ints, groups: Ints) -> Gain:
    """The expected gain, cross-fitted."""
    units = np.unique(groups, return_inverse=True)[1]
    if baseline is None or not np.isfinite(baseline).all():
        return _unknown("there is no local baseline to compare with")
    if units.max(initial=-1) + 1 < MIN_GROUPS:
        return _unknown(f"fewer than {MIN_GROUPS} validation images to measure by")
    right, loss = np.zeros((2, 2, len(labels)))
    stacks = [_stack(logits), _stack({ALONE: baseline})]
    starts = [_fit(stack, labels) for stack in stacks]
    places = folds(labels, groups)
    for number in np.unique(places):
        fold = places == number
        truth = labels[fold]
        for side, (stack, start) in enumerate(zip(stacks, starts, strict=True)):
            answers = log_softmax(np.tensordot(_fit(stack[:, ~fold], labels[~fold], start), stack[:, fold], 1))
            right[side, fold] = answers.argmax(1) == truth
            loss[side, fold] = -answers[np.arange(len(truth)), truth]
    return Gain(_accuracy(right[0] - right[1], units), Figure(float((loss[1] - loss[0]).mean()), reason=_NO_INTERVAL))


def _rounded(part: float | str | None) -> float | str | None:
    return round(part, 4) if isinstance(part, float) else part


def _unknown(reason: str) -> Gain:
    return Gain(Figure(None, reason=reason), Figure(None, reason=reason))


def _accuracy(differences: Floats, units: Ints) -> Figure:
    """The mean over images with Student's interval over units.

    One unit more is imagined that gains, and one that loses (Bonett and Price 2012). So an interval has a width where
    all units agree.
    """
    sums, sizes = np.append(np.bincount(units, differences), [1.0, -1.0]), np.append(np.bincount(units), [1.0, 1.0])
    mean, count = sums.sum() / sizes.sum(), len(sums)
    error = math.sqrt(((sums - mean * sizes) ** 2).sum() * count / (count - 1)) / sizes.sum()
    half = student_quantile(count - 1) * error
    value = float(differences.mean())
    return Figure(value, min(value, float(mean - half)), max(value, float(mean + half)))
