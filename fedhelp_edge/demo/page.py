"""The demo's page, for somebody who sees this for the first time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import pages as pages
from fedhelp_edge.report.nets import NAMES, accuracy_text
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html

Record = Mapping[str, Any]
Pictures = Mapping[str, Sequence[tuple[str, NDArray[np.uint8]]]]

_SIDE = 96  # pixels on the screen
_STYLE = """
img { image-rendering: pixelated; margin-right: .3em }
figcaption { font-size: .9em }
.answer { display: inline-block; width: 13em; vertical-align: top }
code { white-space: pre-wrap }
"""
_PARCEL_KINDS = {
    "enrol": "requests to join, with a site's public keys",
    "update": "shares of the sites",
    "global": "merged models",
    "knowledge": "public images, and what two nets say of them",
    "task": "orders for a round",
    "charter": "the charter, which names the federation",
    "roster": "rosters of the sites",
    "receipt": "receipts",
}
_LOG_STEPS = {
    "received": "the coordinator's front signs a receipt; it holds no key that could open the parcel",
    "accepted": "opened with the round's key: names, shapes and numbers are as the order says",
    "merge": "averaged with the others' shares; the model's statement names every share that is in it",
}


def render(
    record: Record, curves: Mapping[str, Sequence[Record]], pictures: Pictures, life: Record, answers: Sequence[Record]
) -> str:
    return pages.page(
        "Four sites, one model, and every image stayed at home",
        pages.paragraph(
            "A hospital has many images, three clinics have few. Each trains on its own images and sends only a share: "
            "the numbers of a small net, signed and encrypted. A coordinator averages the shares and hands the better "
            f"model back. This page tells what happened in {record['rounds']} rounds on this computer."
        ),
        *_participants(record, pictures),
        *_comparison(record),
        *_sample_answers(answers),
        *_rounds(curves),
        *_parcels(record["parcels"]),
        *_parcel_life(life),
        *_next_commands(),
        style=_STYLE,
    )


def _participants(record: Record, pictures: Pictures) -> list[Html]:
    about = (
        "The images are yours, shared out among the four." if record["given"] else
        "The images are drawn, and show nobody: stained cells, which each site stains, lights and focuses in its own "
        "way. A site sees its own alone."
    )  # fmt: skip
    sections = [pages.heading("Who takes part"), pages.paragraph(about)]
    for site in record["sites"]:
        thumbnails = [pages.picture(pixels, name, _SIDE, _SIDE) for name, pixels in pictures[site["name"]]]
        names = ", ".join(name for name, _ in pictures[site["name"]])
        caption = f"{site['name']}: {site['images']} images to learn from ({names})"
        sections.append(Html(f"<figure>{''.join(thumbnails)}<figcaption>{visible_html(caption)}</figcaption></figure>"))
    right = " and ".join(f"{fraction:.0%}" for fraction in record["sources"].values())
    sections.append(pages.paragraph(
        "Clinics also learn from public images, of which two larger nets once said what they see; the numbers travel, "
        "the nets do not. Here these two stand in for foundation models: they were trained for seconds on drawn cuts "
        f"of tissue and are right about {right} of the public images."
    ))  # fmt: skip
    return sections


def _comparison(record: Record) -> list[Html]:
    rows = [
        (
            site["name"],
            site["images"],
            *(accuracy_text(site[net], site["test"]) for net in ("alone", "together", "kept")),
            NAMES[site["net"]],
        )
        for site in record["sites"]
    ]
    return [
        pages.heading("Each alone, and together"),
        pages.table(
            ("", "images to learn from", "trained alone", "this site's own net", "kept", "which it keeps"), rows
        ),
        pages.paragraph(
            "What part of its test images a site gets right, with their number and the 95 % interval that so few "
            "allow; nobody learned from these. Trained alone is the same net with as many steps on the same images, "
            "without the others. What a site keeps is whichever does best on images that it set aside for choosing. "
            "The figures come out alike on one machine, and differ between machines."
        ),
    ]


def _sample_answers(answers: Sequence[Record]) -> list[Html]:
    parts = [
        pages.heading("Diagnosing, offline"),
        pages.paragraph(
            "Test images of Clinic A, and what its model says of them. Beside each picture: where it speaks for the "
            "likeliest class (orange) and against it (blue). A model that is not sure says so."
        ),
    ]
    for answer in answers:
        verdict = answer["answer"] or f"does not know: {answer['reason']}"
        picture = answer["picture"]
        source = f'src="data:image/jpeg;base64,{picture["jpeg"]}" alt="{visible_html(picture["alt"])}"'
        caption = visible_html(f"{answer['true']}; the model says: {verdict}")
        parts.append(Html(f'<figure class="answer"><img {source} width="{2 * _SIDE}" height="{_SIDE}"/>'
                          f"<figcaption>{caption}</figcaption></figure>"))  # fmt: skip
    return parts


def _rounds(curves: Mapping[str, Sequence[Record]]) -> list[Html]:
    lines: dict[str, pages.Points] = {}
    for name, reports in curves.items():
        base = reports[0]["base"]
        start = (0.0, base["correct"] / base["val"] if base.get("val") else None)
        lines[name] = [start, *((float(report["round"]), report["val"]["own"]) for report in reports)]
    names = list(lines)
    return [
        pages.heading("From round to round"),
        pages.paragraph(
            "The part of each site's own images, kept to choose by, that its net gets right after a round."
        ),
        pages.chart(lines, "round", "right"),
        pages.table(
            ("round", *names),
            [
                (int(points[0][0]), *(_percent(point[1]) for point in points))
                for points in zip(*lines.values(), strict=True)
            ],
        ),
    ]


def _parcels(parcels: Sequence[Record]) -> list[Html]:
    rows = []
    for kind, what in _PARCEL_KINDS.items():
        sizes = [parcel["size"] for parcel in parcels if parcel["kind"] == kind]
        rows.append((what, len(sizes), f"{sum(sizes) / 1e6:.2f}"))
    rows_of_parcels = [
        (parcel["made"], parcel["kind"], parcel["from"], f"{parcel['size']:,}", parcel["hash"][:12])
        for parcel in parcels
    ]
    full_table = pages.table(("made", "kind", "from", "bytes", "file"), rows_of_parcels)
    return [
        pages.heading("What travelled"),
        pages.paragraph(
            "All of it, and nothing else, went through the folder carrier, as it would over a USB stick, a synced "
            "folder or the network. A share is as large for a site with ten images as for one with a million."
        ),
        pages.table(("", "parcels", "MB"), rows),
        Html(f"<details><summary>Every parcel</summary>{full_table}</details>"),
    ]


def _parcel_life(life: Record) -> list[Html]:
    stages = [
        (f"{life['site']} seals its share: signed with its key, encrypted for {life['recipients']} "
                       "readers (the round's key, and an archive that lies locked away)", life["made"]),
        *((_LOG_STEPS.get(what, what), time) for time, what in life["log"]),
    ]  # fmt: skip
    checked = life["audit"]
    return [
        pages.heading("The life of one parcel"),
        pages.paragraph(f"{life['hash']}.fhx, {life['size']:,} bytes"),
        pages.table(("what happens", "UTC"), [(what, time[11:19]) for what, time in stages]),
        pages.paragraph("What was tried with it on its way, for real, and what came of it:"),
        pages.table(("what if", "then"), list(life["tried"].items())),
        pages.paragraph(
            f"Afterwards, without any key: {checked['shares']} shares are in the round's model, each signed by its "
            f"site, and all {checked['lines']} lines of the coordinator's log hold together."
        ),
    ]


def _next_commands() -> list[Html]:
    commands = {
        "fedhelp-edge status --home sites/clinic-a": "where a clinic stands",
        "fedhelp-edge evaluate --home sites/clinic-a --out measured": "all figures of its net, with intervals",
        "fedhelp-edge predict models/clinic-a.onnx images/clinic-a/test": "ask its model about its test images",
        "fedhelp-edge audit audit/round-1": "check a round, without any key",
        "fedhelp-coordinator status --home hub": "what the coordinator sees",
        "fedhelp-edge check images/clinic-a": "what training looks at first in your own images",
    }
    rows = [
        f"<li><code>{visible_html(command)}</code><br/>{visible_html(what)}</li>" for command, what in commands.items()
    ]
    return [
        pages.heading("Look closer"),
        pages.paragraph("In the folder of this page:"),
        Html(f"<ul>{''.join(rows)}</ul>"),
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
