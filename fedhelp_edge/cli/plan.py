"""`plan new`, `plan check`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell
from fedhelp_edge.safe_text import counted

app = shell.app(no_args_is_help=True, help="Write and check the plan of a federation.")


@app.command()
def new(file: Annotated[Path, shell.path_argument("Where to write it.")] = Path("plan.toml")) -> None:
    """Write a plan with every key, its default and its meaning.

    Example: fedhelp-edge plan new plan.toml
    """
    from fedhelp_edge import files, plan
    from fedhelp_edge.methods.registry import METHODS

    with files.writing(file, private=False) as out:
        out.write(plan.template(METHODS).encode())
    console.show(f"{file}: a plan with all defaults")
    console.say_next(f"change name and classes, then run 'fedhelp-edge plan check {hints.quoted(file)}'")


@app.command()
def check(file: Annotated[Path, shell.path_argument("The plan.")], json: shell.AsJson = False) -> None:
    """Read a plan and name all its mistakes at once, with their lines.

    Example: fedhelp-edge plan check plan.toml
    """
    from fedhelp_edge import plan
    from fedhelp_edge.errors import BadPlanError
    from fedhelp_edge.methods.registry import METHODS

    try:
        agreed = plan.load(file, METHODS)
    except BadPlanError as error:
        if json:
            console.print_json(ok=False, mistakes=[vars(mistake) for mistake in error.mistakes])
            raise typer.Exit(1) from error
        raise
    if json:
        console.print_json(ok=True, mistakes=[], name=agreed.name, method=agreed.method, classes=list(agreed.classes))
    else:
        console.show(
            f"{file}: no mistakes; {agreed.method}, {counted(len(agreed.classes), 'class', 'classes')},"
            f" at most {counted(agreed.rounds, 'round')}"
        )
        for sentence in METHODS[agreed.method].advise(agreed):
            console.say(f"note: {sentence}")
