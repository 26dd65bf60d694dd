"""`label`."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell

app = shell.app()


@app.command()
def label(
    images: Annotated[Path, shell.path_argument("A folder of pictures.")],
    plan: Annotated[Path | None, typer.Option("--plan", help="The plan with the classes.", readable=False)] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the link.")] = False,
    reader: Annotated[
        str | None, typer.Option("--reader", help="Label as a second reader, who does not see the first one's choices.")
    ] = None,
    deidentified: Annotated[
        Path | None,
        typer.Option("--deidentified", metavar="OUT", help="Open no page: write de-identified copies of DICOM images."),
    ] = None,
    burned_in: Annotated[
        bool, typer.Option("--burned-in", help="Also copy images that may have text in their pixels.")
    ] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Sort a folder of pictures into the plan's classes, on a page of this computer that nobody else sees.

    Every choice is saved at once in labels.csv in that folder; the same command continues where you stopped.

    With --deidentified OUT it copies DICOM images for somebody who labels them elsewhere, without names of patients.

    Example: fedhelp-edge label pictures --plan plan.toml
    """
    import contextlib
    import webbrowser

    from fedhelp_edge.data.sorting import Sorting
    from fedhelp_edge.errors import UsageError
    from fedhelp_edge.page import local_server
    from fedhelp_edge.page.label import LabelApp
    from fedhelp_edge.site import inbox

    if deidentified:
        return _write_copies(images, deidentified, shell.home_folder(home), burned_in=burned_in, json=json)
    if reader is not None and not re.fullmatch("[A-Za-z0-9_-]{1,32}", reader):
        raise UsageError(f"--reader {reader!r} may have up to 32 letters, digits, - and _")
    classes = inbox.agreed_plan(shell.home_folder(home), plan).classes
    first = Sorting(images, classes) if reader else None
    sorting = Sorting(images, classes, reader or "")
    with local_server.running(LabelApp(sorting, first), port) as server, contextlib.suppress(KeyboardInterrupt):
        console.say("the page is at", server.link, "only you can open it; Ctrl-C ends it, and nothing is lost")
        if not no_browser:
            webbrowser.open(server.one_time_link)
        server.done.wait()
    counts = dict(zip(sorting.classes, sorting.counts(), strict=True))
    unlabelled = len(sorting.names) - sum(counts.values())
    unsure = sum(map(sorting.is_unsure, sorting.names))
    agreement = asdict(sorting.agreement(first)) if first else None
    if json:
        return console.print_json(
            classes=counts, unlabelled=unlabelled, unsure=unsure, agreement=agreement, file=str(sorting.file)
        )
    for name, count in counts.items():
        console.show(f"{name:<24}{count:>6}")
    console.show(f"{'no class yet':<24}{unlabelled:>6}" + (f", {unsure} of them unsure" if unsure else ""))
    if agreement:
        kappa = "" if agreement["kappa"] is None else f", Cohen's kappa {agreement['kappa']:.2f}"
        console.show(f"the same class as in labels.csv: {agreement['same']} of {agreement['images']}{kappa}")
    folder, again = hints.quoted(images), f" --reader {reader}" if reader else ""
    is_done = unlabelled == unsure
    console.say_next(f"'fedhelp-edge check {folder}'" if is_done else f"'fedhelp-edge label {folder}{again}' continues")
    return None


def _write_copies(images: Path, target: Path, home: Path, *, burned_in: bool, json: bool) -> None:
    from fedhelp_edge import errors
    from fedhelp_edge.data import deidentify, pseudonyms

    if not images.is_dir():
        raise errors.FileMissingError(f"{images.name} is no folder")
    if target.exists():
        raise errors.TargetExistsError(f"{target.name} is there already")
    copied, problems = deidentify.write_copies(images, target, pseudonyms.load(home / "images"), burned_in=burned_in)
    if json:
        console.print_json(
            classes={}, unlabelled=copied, unsure=0, agreement=None, file=str(target), copied=copied,
            problems=[vars(problem) for problem in problems],
        )  # fmt: skip
    else:
        for problem in problems:
            console.show(f"{problem.code}: {problem.file}: {problem.cause}", f"  {errors.remedy_of(problem.code)}")
        console.show(f"de-identified copies: {copied}, not copied: {len(problems)}")
        if copied:
            console.say_next(
                f"look at the copies before they leave, then 'fedhelp-edge label {hints.quoted(target)}' there"
            )
    if problems:
        raise typer.Exit(1)
