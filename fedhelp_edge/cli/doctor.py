"""`doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def doctor(
    model: Annotated[Path | None, shell.named("A model (.onnx), to see whether it answers here as it should.")] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Check this machine, and say what to put right. Exit code 1 if something fails.

    Example: fedhelp-edge doctor
    """
    from fedhelp_edge import doctor

    found = []
    for check in doctor.checks(shell.home(home), model):
        found.append(check)
        if not json:
            console.show(f"{check.state.upper():<5} {check.name:<10} {check.detail}")
            if check.remedy:
                console.show(f"      {'':<10} -> {check.remedy}")
    state = doctor.verdict(found)
    if json:
        console.result(checks=[vars(check) for check in found], state=state)
    elif state == doctor.PASS:
        console.show("this machine is ready")
    if state == doctor.FAIL:
        raise typer.Exit(1)
