"""`check`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.cli import options
from fedhelp_edge.safe_text import counted

if TYPE_CHECKING:
    from fedhelp_edge.data.check import CheckReport
    from fedhelp_edge.data.images import Problem
    from fedhelp_edge.plan import Plan

app = shell.app()

_MAX_SHOWN = 5  # problems of a kind in the table; --json has all


@app.command()
def check(
    images: Annotated[
        Path, shell.path_argument("A folder with a folder of images for each class, a table (CSV) or an NPZ.")
    ],
    plan: Annotated[
        Path | None, typer.Option("--plan", help="The plan that the images are for.", readable=False)
    ] = None,
    masks: options.Masks = None,
    mapping: options.ClassNames = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="OURS=THEIRS,...", help="Names of a table's columns. Remembered."),
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Find problems in images and labels before training. Exit code 1 if they are not ready.

    Without --plan the plan of the current task counts; without a task the names of the folders are the classes.

    For segmentation IMAGES has two folders, images and masks. Or --masks names that of the masks, and is remembered.

    A table may have other column names: --columns 'image=Datei,label=Befund,patient=Fall'. In place of files it may
    name DICOM studies, by accession number or UID.

    Example: fedhelp-edge check images --plan plan.toml
    """
    from fedhelp_edge import plan as plans
    from fedhelp_edge.data.check import check
    from fedhelp_edge.methods.registry import METHODS

    names, column_names = options.parse_class_names(mapping), _parse_columns(columns or [])
    agreed_plan = plans.load(plan, METHODS) if plan else _task_plan(shell.home_folder(home))
    with console.progress("reading images") as progress:
        cache_dir = shell.home_folder(home) / "images"
        report = check(
            images,
            agreed_plan,
            state_dir=cache_dir,
            masks=masks,
            mapping=names,
            columns=column_names,
            progress=progress,
        )
    if json:
        problems = [vars(problem) for problem in report.problems]
        console.print_json(
            classes=report.classes, images=report.images, problems=problems, ready=report.ready, parts=report.counts,
            groups=sorted(report.groups), studies=report.studies, patients=report.patients,
            findings=[finding.to_json() for finding in report.findings],
        )  # fmt: skip
    else:
        _print_report(report)
    if not report.ready:
        raise typer.Exit(1)


def _task_plan(home: Path) -> Plan | None:
    """The plan of the current task, if there is one."""
    from fedhelp_edge.site import inbox, verified

    state = verified.state(home)
    return inbox.plan_of(state.task) if state and state.task else None


def _parse_columns(texts: list[str]) -> dict[str, str]:
    """Parse `OURS=THEIRS` texts, one or several with commas between."""
    from fedhelp_edge.data.table import COLUMN_OPTIONS

    columns = {}
    for text in ",".join(texts).split(",") if texts else []:
        ours, equals, theirs = (part.strip() for part in text.partition("="))
        if not (equals and theirs and ours in COLUMN_OPTIONS):
            forms = ", ".join(f"{name}=..." for name in COLUMN_OPTIONS)
            raise typer.BadParameter(f"--columns {text!r} is none of {forms}")
        columns[ours] = theirs
    return columns


def _groups_text(sizes: Sequence[int]) -> str:
    return f"{counted(len(sizes), 'group')} of several images of one patient, lesion or picture,"


def _print_report(report: CheckReport) -> None:
    from fedhelp_edge import errors
    from fedhelp_edge.data.images import SPLITS

    sums = [report.splits[split] for split in SPLITS]  # a mask may show several classes
    rows: list[list[object]] = [["class", *SPLITS, "all"]]
    rows += [[name, *map(part.get, SPLITS), sum(part.values())] for name, part in report.counts.items()]
    rows.append(["all", *sums, report.images])
    width = max(len(str(row[0])) for row in rows)
    for name, *counts in rows if report.counts else ():
        console.show(f"{name:<{width}}" + "".join(f"  {count:>6}" for count in counts))
    if report.sizes:
        (small, *_, large) = [f"{across} x {down}" for across, down in (report.sizes[0], report.sizes[-1])]
        console.show(f"images of {small} pixels" + (f" to {large}" if small != large else ""))
    if report.studies:
        patients = f" of {counted(report.patients, 'patient')}" if report.patients else ""
        console.show(f"from {counted(report.studies, 'study', 'studies')}{patients}")
    if report.groups:
        console.show(f"{_groups_text(report.groups)} kept in one part, the largest of {max(report.groups)} images")
    kinds = {kind.code: kind for kind in errors.tree() if kind.code}
    by_code: dict[str, list[Problem]] = defaultdict(list)
    for problem in report.problems:
        by_code[problem.code].append(problem)
    for code, problems in by_code.items():
        console.show("", f"{code} ({len(problems)}): {kinds[code].remedy}")
        for problem in problems[:_MAX_SHOWN]:
            console.show(f"  {problem.file}{': ' if problem.file else ''}{problem.cause}")
        if len(problems) > _MAX_SHOWN:
            console.show(f"  and {len(problems) - _MAX_SHOWN} more; --json names all")
    if report.findings:
        console.show("", *(f"note: {finding.sentence}" for finding in report.findings))
    blocking = ", ".join(
        f"{code} ({len(by_code[code])})" for code in dict.fromkeys(blocker.code for blocker in report.blocking)
    )
    console.show("", f"not ready: first put right {blocking}" if blocking else "ready to train")
