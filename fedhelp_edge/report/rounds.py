"""A site's report of a round: what it trained, how good the nets are, and the rounds so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedhelp_edge.report import epsilon, pages
from fedhelp_edge.report.nets import NAMES, accuracy_text
from fedhelp_edge.report.scale import FIGURE_NAMES

RoundReport = Mapping[str, Any]  # what a round's report.json holds
_ALONE = {
    False: "The net trained alone had as many steps on the same images, without the federation.",
    True: "The net trained alone had the same images, without the federation and without noise. It stays here.",
}


def page(federation: str, rounds: Sequence[RoundReport]) -> str:
    """The page of the last of these rounds."""
    last = rounds[-1]
    nets = [net for net in NAMES if net in last["val"]]
    losses, figure = _losses(last), FIGURE_NAMES[_figure(last)]
    return pages.page(
        f"{federation}: round {last['round']}",
        pages.paragraph(
            f"{last['method']} at a {last['tier']} site: {last['examples']} training images, "
            f"{last['images']} seen in {last['seconds']} s ({last['cpu_seconds']} s of CPU time)."
        ),
        *([pages.paragraph(epsilon.sentence(last["privacy"]))] if last.get("privacy") else ()),
        *_start(last.get("start")),
        *pages.findings(last.get("findings", ())),
        pages.heading(f"{figure[0].upper()}{figure[1:]} on validation images"),
        pages.table(("net", f"{figure}, validation"), [(NAMES[net], _accuracy(last, net)) for net in nets]),
        pages.paragraph(_ALONE[bool(last.get("privacy"))])
        if "alone" in nets
        else pages.paragraph("No net was trained alone for comparison."),
        pages.heading("Parts of the loss, mean over the steps"),
        pages.table(("phase", "part", "loss"), [(*part, _three_digits(loss)) for part, loss in losses.items()]),
        pages.heading("From round to round"),
        pages.chart(
            {NAMES[net]: [(round_["round"], round_["val"].get(net)) for round_ in rounds] for net in nets},
            "round", figure, whole=True,
        ),
        pages.chart(
            {" ".join(part): [(round_["round"], _losses(round_).get(part)) for round_ in rounds] for part in losses},
            "round", "loss",
        ),
        pages.table(
            ("round", *(NAMES[net] for net in nets), "seconds", "images"),
            [
                (round_["round"], *(_accuracy(round_, net) for net in nets), round_["seconds"], round_["images"])
                for round_ in rounds
            ],
        ),
    )  # fmt: skip


def _start(start: Mapping[str, Any] | None) -> list[pages.Html]:
    if start is None:
        return []
    net, digest = start["net"] or "the net that travels", start["sha256"][:12]
    return [pages.paragraph(f"The first weights of {net} came from a file (SHA-256 {digest}…).")]


def _losses(round_: RoundReport) -> dict[tuple[str, str], float]:
    return {(phase, part): loss for phase, parts in round_["loss"].items() for part, loss in parts.items()}


def _accuracy(round_: RoundReport, net: str) -> str:
    return accuracy_text(round_["val"].get(net), round_.get("val_images", 0), _figure(round_))


def _figure(round_: RoundReport) -> str:
    """What `val` is; an old report does not say."""
    return str(round_.get("figure", "accuracy"))


def _three_digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
