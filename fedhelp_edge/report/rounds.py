"""The report of a round at a site: what was trained, what it is worth, and how it went so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedhelp_edge.report import pages
from fedhelp_edge.report.nets import NAMES, part_right

Round = Mapping[str, Any]  # what a round's report.json holds


def report(name: str, rounds: Sequence[Round]) -> str:
    """The page of the last of these rounds; `name` is the federation's."""
    last = rounds[-1]
    nets = [net for net in NAMES if net in last["val"]]
    losses = _losses(last)
    return pages.page(
        f"{name}: round {last['round']}",
        pages.paragraph(
            f"{last['method']} at a {last['tier']} site: {last['examples']} images to learn from, "
            f"{last['images']} seen in {last['seconds']} s ({last['cpu_seconds']} s of processor time)."
        ),
        *pages.notes(last.get("findings", ())),
        pages.heading("Accuracy on validation images"),
        pages.table(("net", "accuracy, validation"), [(NAMES[net], _right(last, net)) for net in nets]),
        pages.paragraph("Trained alone is the same net with as many steps on the same images, without the others.")
        if "alone" in nets
        else pages.paragraph("No net was trained alone beside it."),
        pages.heading("Loss, its parts in the mean over the steps"),
        pages.table(("phase", "part", "loss"), [(*part, _number(loss)) for part, loss in losses.items()]),
        pages.heading("From round to round"),
        pages.chart(
            {NAMES[net]: [(one["round"], one["val"].get(net)) for one in rounds] for net in nets}, "round", "accuracy"
        ),
        pages.chart(
            {" ".join(part): [(one["round"], _losses(one).get(part)) for one in rounds] for part in losses},
            "round", "loss",
        ),
        pages.table(
            ("round", *(NAMES[net] for net in nets), "seconds", "images"),
            [
                (one["round"], *(_right(one, net) for net in nets), one["seconds"], one["images"])
                for one in rounds
            ],
        ),
    )  # fmt: skip


def _losses(one: Round) -> dict[tuple[str, str], float]:
    return {(phase, part): loss for phase, parts in one["loss"].items() for part, loss in parts.items()}


def _right(one: Round, net: str) -> str:
    return part_right(one["val"].get(net), one.get("val_images", 0))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
