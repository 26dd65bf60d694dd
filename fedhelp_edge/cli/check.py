"""`check`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhelp_edge import console, shell

if TYPE_CHECKING:
    from fedhelp_edge.data import Problem, Report
    from fedhelp_edge.plan import Plan

app = shell.app()

_SHOWN = 5  # problems of a kind in the table; --json has all


@app.command()
def check(
    images: Annotated[Path, shell.named("A folder with a folder of images for each class, a table (CSV) or an NPZ.")],
    plan: Annotated[Path | None, typer.Option("--plan", help="The plan that they are for.", readable=False)] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="NAME=CLASS", help="Another name for a class; may be repeated. Remembered."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="OURS=THEIRS,...", help="What a table's columns are called. Remembered."),
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Look for what is wrong with images and labels before training. Exit code 1 if they are not ready.

    Without --plan it is the plan of the round that is ordered here; where none is, the folders' names are the classes.

    A table's columns may be named: --columns 'image=Datei,label=Befund,patient=Fall'.

    Example: fedhelp-edge check images --plan plan.toml
    """
    from fedhelp_edge import data
    from fedhelp_edge import plan as plans
    from fedhelp_edge.methods.registry import TABLES

    names, called = _names(mapping or []), _columns(columns or [])
    agreed = plans.load(plan, TABLES) if plan else _ordered(shell.home(home))
    with console.progress("reading images") as progress:
        kept = shell.home(home) / "images"
        found = data.check(images, agreed, kept=kept, mapping=names, columns=called, progress=progress)
    if json:
        problems = [vars(problem) for problem in found.problems]
        console.result(
            classes=found.classes, images=found.images, problems=problems, ready=found.ready, parts=found.parts,
            groups=sorted(found.groups), findings=[finding.to_json() for finding in found.findings],
        )  # fmt: skip
    else:
        _show(found)
    if not found.ready:
        raise typer.Exit(1)


def _ordered(home: Path) -> Plan | None:
    """The plan of the round that the coordinator ordered."""
    from fedhelp_edge.site import inbox, verified

    known = verified.state(home)
    return inbox.plan_of(known.task) if known and known.task else None


def _names(given: list[str]) -> dict[str, str]:
    """`NAME=CLASS`, each."""
    names = {}
    for text in given:
        name, equals, meant = text.partition("=")
        if not (equals and name.strip() and meant.strip()):
            raise typer.BadParameter(f"--map {text!r} is not of the form NAME=CLASS")
        names[name] = meant
    return names


def _columns(given: list[str]) -> dict[str, str]:
    """`OURS=THEIRS`, one or several with commas between."""
    from fedhelp_edge.data.table import MAPPED

    columns = {}
    for text in ",".join(given).split(",") if given else []:
        ours, equals, theirs = (part.strip() for part in text.partition("="))
        if not (equals and theirs and ours in MAPPED):
            ways = ", ".join(f"{name}=..." for name in MAPPED)
            raise typer.BadParameter(f"--columns {text!r} is none of {ways}")
        columns[ours] = theirs
    return columns


def _groups(sizes: Sequence[int]) -> str:
    number = "1 group" if len(sizes) == 1 else f"{len(sizes)} groups"
    return f"{number} of several images of one patient, lesion or picture,"


def _show(found: Report) -> None:
    from fedhelp_edge import errors
    from fedhelp_edge.data.images import SPLITS

    sums = [sum(part[split] for part in found.parts.values()) for split in SPLITS]
    rows: list[list[object]] = [["class", *SPLITS, "all"]]
    rows += [[name, *map(part.get, SPLITS), sum(part.values())] for name, part in found.parts.items()]
    rows.append(["all", *sums, found.images])
    width = max(len(str(row[0])) for row in rows)
    for name, *counts in rows if found.parts else ():
        console.show(f"{name:<{width}}" + "".join(f"  {count:>6}" for count in counts))
    if found.sizes:
        (small, *_, large) = [f"{across} x {down}" for across, down in (found.sizes[0], found.sizes[-1])]
        console.show(f"images of {small} pixels" + (f" to {large}" if small != large else ""))
    if found.groups:
        console.show(f"{_groups(found.groups)} kept in one part, the largest of {max(found.groups)} images")
    kinds = {kind.code: kind for kind in errors.tree() if kind.code}
    by_code: dict[str, list[Problem]] = defaultdict(list)
    for problem in found.problems:
        by_code[problem.code].append(problem)
    for code, problems in by_code.items():
        console.show("", f"{code} ({len(problems)}): {kinds[code].remedy}")
        for problem in problems[:_SHOWN]:
            console.show(f"  {problem.file}{': ' if problem.file else ''}{problem.cause}")
        if len(problems) > _SHOWN:
            console.show(f"  and {len(problems) - _SHOWN} more; --json names all")
    if found.findings:
        console.show("", *(f"note: {finding.sentence}" for finding in found.findings))
    stops = ", ".join(f"{code} ({len(by_code[code])})" for code in dict.fromkeys(one.code for one in found.stops))
    console.show("", f"not ready: first put right {stops}" if stops else "ready to train")
