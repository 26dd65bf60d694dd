"""`label`."""

from __future__ import annotations

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
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Sort a folder of pictures into the plan's classes, on a page of this computer that nobody else sees.

    Every choice is saved at once in labels.csv in that folder; the same command continues where you stopped.

    Example: fedhelp-edge label pictures --plan plan.toml
    """
    import contextlib
    import webbrowser

    from fedhelp_edge.data.sorting import LABELS_FILE, Sorting
    from fedhelp_edge.page import local_server
    from fedhelp_edge.page.label import LabelApp

    sorting = Sorting(images, _classes(plan, shell.home_folder(home)))
    with local_server.running(LabelApp(sorting), port) as server, contextlib.suppress(KeyboardInterrupt):
        console.say("the page is at", server.link, "only you can open it; Ctrl-C ends it, and nothing is lost")
        if not no_browser:
            webbrowser.open(server.one_time_link)
        server.done.wait()
    counts = dict(zip(sorting.classes, sorting.counts(), strict=True))
    unlabelled = len(sorting.names) - sum(counts.values())
    if json:
        return console.print_json(classes=counts, unlabelled=unlabelled, file=str(images / LABELS_FILE))
    for name, count in counts.items():
        console.show(f"{name:<24}{count:>6}")
    console.show(f"{'no class yet':<24}{unlabelled:>6}")
    folder = hints.quoted(images)
    console.say_next(f"'fedhelp-edge label {folder}' continues" if unlabelled else f"'fedhelp-edge check {folder}'")
    return None


def _classes(plan: Path | None, home: Path) -> tuple[str, ...]:
    """The classes of the named plan, else of the current task's plan."""
    from fedhelp_edge import plan as plans
    from fedhelp_edge.errors import NotYetError
    from fedhelp_edge.methods.registry import METHODS

    if plan:
        return plans.load(plan, METHODS).classes
    from fedhelp_edge.site import inbox, verified

    task = verified.require_state(home).task
    if task is None:
        raise NotYetError("no round is open yet, so the classes are not known", remedy="name a plan with --plan")
    return inbox.plan_of(task).classes
