"""`plan new`, `plan check`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell
from fedhelp_edge.safe_text import counted

app = shell.app(no_args_is_help=True, help="Write and check the plan of a federation.")


@app.command()
def new(
    file: Annotated[Path, shell.path_argument("Where to write it.")] = Path("plan.toml"),
    kind: Annotated[
        str | None, typer.Option("--for", help="skin, xray or cells: what our results support, with the reasons.")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option("--encoder", help="With --for: the encoder of the plan, an ONNX file.", readable=False),
    ] = None,
) -> None:
    """Write a plan with every key, its default and its meaning; or, with --for, one for a kind of images.

    Example: fedhelp-edge plan new plan.toml --for xray --encoder encoder.onnx
    """
    from fedhelp_edge import errors, files

    if kind is None and encoder is not None:
        raise errors.UsageError("--encoder goes with --for", remedy="add --for skin, --for xray or --for cells")
    text = _template() if kind is None else _recipe(kind, encoder)
    with files.writing(file, private=False) as out:
        out.write(text.encode())
    console.show(f"{file}: a plan with all defaults" if kind is None else f"{file}: a plan for {kind}, with reasons")
    if kind and encoder is None:
        console.say("this plan has no encoder, a frozen net that makes training fast; its comments say how to get one")
    console.say_next(f"change name and classes, then run 'fedhelp-edge plan check {hints.quoted(file)}'")


def _template() -> str:
    from fedhelp_edge import plan
    from fedhelp_edge.methods.registry import METHODS

    return plan.template(METHODS)


def _recipe(kind: str, encoder: Path | None) -> str:
    from fedhelp_edge import recipes
    from fedhelp_edge.encoder import onnx_file

    return recipes.plan(kind, onnx_file.plan_values(onnx_file.read(encoder), encoder) if encoder else None)


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
    notes = list(METHODS[agreed.method].notes(agreed))
    if json:
        console.print_json(
            ok=True, mistakes=[], name=agreed.name, method=agreed.method, classes=list(agreed.classes), notes=notes
        )
    else:
        console.show(
            f"{file}: no mistakes; {agreed.method}, {counted(len(agreed.classes), 'class', 'classes')},"
            f" at most {counted(agreed.rounds, 'round')}"
        )
        for sentence in notes:
            console.say(f"note: {sentence}")
