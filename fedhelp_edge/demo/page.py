"""The page of the demo, for people who see a federation for the first time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import pages as pages
from fedhelp_edge.report.nets import NAMES, accuracy_text
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import counted, visible_html

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
    "update": "updates from the sites",
    "global": "merged models",
    "knowledge": "the knowledge pack: public images, and what nets predict for them",
    "task": "tasks, one for each round",
    "charter": "the charter, which names the federation",
    "roster": "rosters of the sites",
    "receipt": "receipts",
}
_LOG_STEPS = {
    "received": "the coordinator's web server signs a receipt; it has no key that could open the parcel",
    "accepted": "opened with the round's key: names, shapes and numbers match the task",
    "merge": "averaged with the other updates; the model's statement names every update in it",
}


def render(
    record: Record, curves: Mapping[str, Sequence[Record]], pictures: Pictures, life: Record, answers: Sequence[Record]
) -> str:
    """Render the page from the demo's record, the sites' learning curves, sample images and sample answers."""
    return pages.page(
        "Four sites, one model, and no image left its site",
        pages.paragraph(
            "A hospital has many images, three clinics have few. Each trains on its own images and sends only an "
            "update: the weights of a small net, signed and encrypted. A coordinator averages the updates and returns "
            f"the better model. This page shows {counted(record['rounds'], 'round')} that ran here."
        ),
        *_participants(record, pictures),
        *_comparison(record),
        *_sample_answers(answers, record),
        *_rounds(curves, record),
        *_parcels(record["parcels"]),
        *_parcel_life(life),
        *_next_commands(record),
        style=_STYLE,
    )


def _participants(record: Record, pictures: Pictures) -> list[Html]:
    about = (
        "The images are yours, divided among the four sites." if record["given"] else
        "The images are drawn and show no patient: stained cells. Each site stains, lights and focuses them in its own "
        "way. A site sees only its own images."
    )  # fmt: skip
    sections = [pages.heading("Who takes part"), pages.paragraph(about)]
    for site in record["sites"]:
        thumbnails = [pages.picture(pixels, name, _SIDE, _SIDE) for name, pixels in pictures[site["name"]]]
        names = ", ".join(dict.fromkeys(name for name, _ in pictures[site["name"]]))
        caption = f"{site['name']}: {site['images']} training images ({names})"
        sections.append(Html(f"<figure>{''.join(thumbnails)}<figcaption>{visible_html(caption)}</figcaption></figure>"))
    right = " and ".join(f"{fraction:.0%}" for fraction in record["sources"].values())
    sections.append(pages.paragraph(
        "Clinics also learn from public images, in which a net outlined the cells once. Its answers travel, the net "
        "does not. Here it stands in for a foundation model: it was trained for seconds on other drawn cells, and has "
        f"{right} of the public pixels right."
        if _has_masks(record) else
        "Clinics also learn from public images, which two larger nets classified once. Their predictions travel, the "
        "nets do not. Here the two stand in for foundation models: they were trained for seconds on drawn tissue, and "
        f"classify {right} of the public images correctly."
    ))  # fmt: skip
    return sections


def _has_masks(record: Record) -> bool:
    return bool(record["task"] == "segmentation")


def _comparison(record: Record) -> list[Html]:
    figure = "dice" if _has_masks(record) else "accuracy"
    what = (
        "The mean Dice on a site's test images, with their number. It is 1 where outlines are those of the masks, and "
        "0 where none meets its own."
        if _has_masks(record)
        else "The accuracy on a site's test images, with their number and the 95 % interval."
    )
    rows = [
        (
            site["name"],
            site["images"],
            *(_in_lines(accuracy_text(site[net], site["test"], figure)) for net in ("alone", "together", "kept")),
            NAMES[site["net"]],
        )
        for site in record["sites"]
    ]
    return [
        pages.heading("Trained alone and trained together"),
        pages.table(
            ("", "training images", "local baseline", "this site's own net", "what it keeps", "which net that is"), rows
        ),
        pages.paragraph(
            f"{what} No site trained on them. "
            "The local baseline is the same net, trained for as many steps on the same images by the site alone. A "
            "site keeps its nets together, weighed by its validation images. The figures repeat on one machine, and "
            "differ between machines."
        ),
    ]


def _in_lines(accuracy: str) -> str:
    """An accuracy above its number of images and its interval: no line breaks within one of them."""
    return accuracy.replace(" (", "\n(").replace(", ", ",\n")


def _sample_answers(answers: Sequence[Record], record: Record) -> list[Html]:
    width = _SIDE if _has_masks(record) else 2 * _SIDE
    parts = [
        pages.heading("Diagnosing, offline"),
        pages.paragraph(
            "Test images of Clinic A and the outlines that its model draws. A model that is not sure says so."
            if _has_masks(record)
            else "Test images of Clinic A and the answers of its model. Beside each image: the evidence for the "
            "likeliest class (orange) and against it (blue). A model that is not sure says so."
        ),
    ]
    for answer in answers:
        verdict = answer["answer"] or f"does not know: {answer['reason']}"
        picture = answer["picture"]
        source = f'src="data:image/jpeg;base64,{picture["jpeg"]}" alt="{visible_html(picture["alt"])}"'
        caption = visible_html(f"{answer['true']}; the model says: {verdict}")
        parts.append(Html(f'<figure class="answer"><img {source} width="{width}" height="{_SIDE}"/>'
                          f"<figcaption>{caption}</figcaption></figure>"))  # fmt: skip
    return parts


def _rounds(curves: Mapping[str, Sequence[Record]], record: Record) -> list[Html]:
    figure = "Dice" if _has_masks(record) else "accuracy"
    lines: dict[str, pages.Points] = {}
    for name, reports in curves.items():
        base = reports[0]["base"]
        start = (0.0, base["correct"] / base["val"] if base.get("val") else None)
        lines[name] = [start, *((float(report["round"]), report["val"]["own"]) for report in reports)]
    names = list(lines)
    return [
        pages.heading("From round to round"),
        pages.paragraph(f"The {figure} of each site's own net on its validation images after each round."),
        pages.chart(lines, "round", "Dice" if _has_masks(record) else "right", whole=True),
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
            "All of this, and nothing else, went through the folder carrier, as it would over a USB stick, a synced "
            "folder or the network. An update has the same size for ten images as for a million."
        ),
        pages.table(("", "parcels", "MB"), rows),
        Html(f"<details><summary>Every parcel</summary>{full_table}</details>"),
    ]


def _parcel_life(life: Record) -> list[Html]:
    stages = [
        (f"{life['site']} seals its update: signed with its key, encrypted for {life['recipients']} "
                       "readers (the round's key, and an archive key that is locked away)", life["made"]),
        *((_LOG_STEPS.get(what, what), time) for time, what in life["log"]),
    ]  # fmt: skip
    checked = life["audit"]
    return [
        pages.heading("The life of one parcel"),
        pages.paragraph(f"{life['hash']}.fhx, {life['size']:,} bytes"),
        pages.table(("what happens", "UTC"), [(what, time[11:19]) for what, time in stages]),
        pages.paragraph("Attacks on this parcel that the demo really tried, and their outcome:"),
        pages.table(("attack", "outcome"), list(life["tried"].items())),
        pages.paragraph(
            f"The audit afterwards, without any key: the round's model contains {checked['shares']} updates, each "
            f"signed by its site. All {checked['lines']} lines of the coordinator's log form one chain."
        ),
    ]


def _next_commands(record: Record) -> list[Html]:
    test, check = "images/clinic-a/test", "images/clinic-a"
    if _has_masks(record):
        test, check = "images/clinic-a/images/test", "images/clinic-a --plan plan.toml"
    commands = {
        "fedhelp-edge status --home sites/clinic-a": "the state of a clinic",
        "fedhelp-edge evaluate --home sites/clinic-a --out measured": "all figures of its net, with intervals",
        f"fedhelp-edge predict models/clinic-a.onnx {test}": "diagnose its test images with its model",
        "fedhelp-edge audit audit/round-1": "check a round, without any key",
        "fedhelp-coordinator status --home hub": "the state of the coordinator",
        f"fedhelp-edge check {check}": "check your own images before training",
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
