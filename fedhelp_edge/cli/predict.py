"""`predict`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.cli.train import Threads

app = shell.app()

Model = Annotated[Path, shell.named("The model, MODEL.onnx; its signature lies beside it.")]
Signer = Annotated[str | None, typer.Option("--signer", help="SHA256:..., the key whose signature you trust.")]
_POLL = 2.0  # seconds between two looks into a drop folder


@app.command()
def predict(
    model: Model,
    images: Annotated[list[Path] | None, shell.named("Image files, folders, DICOM or NPZ.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A folder for the answers; a run that was cut off goes on.", readable=False),
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="table, csv, json or html.")] = "table",
    signer: Signer = None,
    watch: Annotated[
        Path | None, typer.Option("--watch", help="A folder to answer whatever comes into it.", readable=False)
    ] = None,
    threads: Threads = None,
    home: shell.Home = shell.DEFAULT_HOME,
) -> None:
    """Diagnose images, offline. Exit code 1 if a file could not be used; "don't know" is an answer.

    Example: fedhelp-edge predict model.onnx images --out answers --format html
    """
    from fedhelp_edge.errors import FileMissingError, NoImagesError, UsageError

    if kind not in ("table", "csv", "json", "html"):
        raise UsageError(f"--format {kind!r} is none of table, csv, json, html")
    if bool(images) == bool(watch) or (watch and not out):
        raise UsageError("name images, or a folder with --watch and another with --out")
    if watch and not watch.is_dir():  # later it is waited for
        raise FileMissingError(f"{watch.name} is not there")
    shell.check_order([model], ".onnx", images or [], "name the model (MODEL.onnx) first, then the images")
    from fedhelp_edge.data import picture
    from fedhelp_edge.infer import bundle, run, show
    from fedhelp_edge.infer import images as sources
    from fedhelp_edge.site import vouch

    made = bundle.ready(model, lambda key: vouch.vouch(shell.home(home), key, signer), threads=threads)
    if doubts := show.doubts(made):
        console.say(f"warning: {doubts}")
    if watch and out:
        console.say(f"waiting for images; Ctrl-C ends it; the answers are in {out}")
        with suppress(KeyboardInterrupt):
            run.watch(out, made, watch, kind, _wait, console.say)
        return
    if out:
        with console.progress("looking at images") as progress:
            path, tally = run.into(out, made, images or [], kind, progress)
    else:
        path, tally = None, run.Tally()
        with picture.quietly():
            found = run.rows(made, sources.items(images or []), pictures=kind == "html")
            for part in show.KINDS[kind].text(made, tally.counting(found)):
                sys.stdout.write(part)
    if not tally.images:
        raise NoImagesError(
            "there is no image in what was named", remedy="name image files, DICOM, an NPZ, or a folder of them"
        )
    where = f"; the answers are in {path}" if path else ""
    console.say(f"{tally.answered} of {tally.images} images answered{where}")
    console.say(show.NOTICE)
    if tally.bad:
        console.say(f"{tally.bad} of {tally.images} files could not be used; their rows say why")
        raise typer.Exit(1)
    return


def _wait() -> bool:
    import time

    time.sleep(_POLL)
    return True
