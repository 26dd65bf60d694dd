"""`doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def doctor(
    model: Annotated[Path | None, shell.path_argument("A model (.onnx), to check its answers on this machine.")] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Check this machine, and say what to put right. Exit code 1 if something fails.

    Example: fedhelp-edge doctor
    """
    from fedhelp_edge import doctor
    from fedhelp_edge import doctor as machine_check

    results = []
    for check in machine_check.run_checks(shell.home_folder(home), model):
        results.append(check)
        if not json:
            console.show(f"{check.state.upper():<5} {check.name:<10} {check.detail}")
            if check.remedy:
                console.show(f"      {'':<10} -> {check.remedy}")
    state = doctor.verdict(results)
    if json:
        console.print_json(checks=[vars(check) for check in results], state=state)
    elif state == doctor.PASS:
        console.show("this machine is ready")
    if state == doctor.FAIL:
        raise typer.Exit(1)
