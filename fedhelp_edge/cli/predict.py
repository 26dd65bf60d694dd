"""`predict`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.cli.options import AnyKind, EventLogFile, Model, Signer, Threads
from fedhelp_edge.safe_text import counted

app = shell.app()

_POLL = 2.0  # seconds between two looks into a drop folder


@app.command()
def predict(
    model: Model,
    images: Annotated[list[Path] | None, shell.path_argument("Image files, folders, DICOM or NPZ.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A folder for the answers; an interrupted run continues.", readable=False),
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="table, csv, json, html or dicom.")] = "table",
    signer: Signer = None,
    watch: Annotated[
        Path | None, typer.Option("--watch", help="Answer every image that arrives in this folder.", readable=False)
    ] = None,
    any_kind: AnyKind = False,
    event_log: EventLogFile = None,
    threads: Threads = None,
    home: shell.Home = shell.DEFAULT_HOME,
) -> None:
    """Diagnose images, offline. Exit code 1 if a file cannot be used; "don't know" is an answer.

    A model for masks draws outlines: --out gets a mask and a picture of each image.

    Example: fedhelp-edge predict model.onnx images --out answers --format html
    """
    from fedhelp_edge.errors import FileMissingError, NoImagesError, UsageError

    if kind not in ("table", "csv", "json", "html", "dicom"):
        raise UsageError(f"--format {kind!r} is none of table, csv, json, html, dicom")
    if kind == "dicom" and not out:
        raise UsageError("--format dicom writes files: name a folder for them with --out")
    if bool(images) == bool(watch) or (watch and not out):
        raise UsageError("name images, or a folder with --watch and another with --out")
    if watch and not watch.is_dir():  # later it is waited for
        raise FileMissingError(f"{watch.name} is not there")
    shell.check_order([model], ".onnx", images or [], "name the model (MODEL.onnx) first, then the images")
    from fedhelp_edge.data import picture
    from fedhelp_edge.infer import answer_formats, answering, bundle
    from fedhelp_edge.infer import inputs as sources
    from fedhelp_edge.infer.event_log import EventLog
    from fedhelp_edge.site import signer_check

    loaded_model = bundle.load_any_checked(
        model,
        lambda key: signer_check.model_warning(shell.home_folder(home), key, signer),
        threads=threads,
        any_kind=any_kind,
    )
    if doubts := answer_formats.trust_warning(loaded_model):
        console.say(f"warning: {doubts}")
    events = EventLog(event_log, loaded_model) if event_log else None
    if watch and out:
        console.say(f"waiting for images; Ctrl-C ends it; the answers are in {out}")
        with suppress(KeyboardInterrupt):
            answering.watch_folder(out, loaded_model, watch, kind, _wait, console.say, events)
        return
    if out:
        with console.progress("looking at images") as progress:
            path, tally = answering.write_answers(out, loaded_model, images or [], kind, progress, events)
    else:
        path, tally = None, answering.Tally()
        with picture.without_warnings():
            items = sources.list_items(images or [], loaded_model.facts.image)
            rows = answering.answers(loaded_model, items, kind, events=events)
            for text in answering.formats_of(loaded_model)[kind].text(loaded_model, tally.counted(rows)):
                sys.stdout.write(text)
    if not tally.images:
        raise NoImagesError(
            "there is no image among the named files", remedy="name image files, DICOM, an NPZ, or a folder of them"
        )
    where = f"; the answers are in {path}" if path else ""
    console.say(f"{tally.answered} of {counted(tally.images, 'image')} answered{where}")
    console.say(answer_formats.NOTICE)
    if tally.bad:
        console.say(f"{tally.bad} of {counted(tally.images, 'file')} could not be used: see the errors in the answers")
        raise typer.Exit(1)
    return


def _wait() -> bool:
    import time

    time.sleep(_POLL)
    return True
