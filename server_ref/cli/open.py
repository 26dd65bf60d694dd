"""`open`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command("open")
def open_round(
    start: Annotated[
        Path | None,
        typer.Option("--start", help="Start the first round from the weights in this file.", readable=False),
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Open the next round. Sites can then train and send updates.

    Example: fedhelp-coordinator open
    """
    from functools import partial

    from fedhelp_edge.methods import first_weights
    from fedhelp_edge.nets import spec
    from server_ref.admin import session
    from server_ref.hub import models
    from server_ref.rounds import opening

    weights = first_weights.load(start) if start else None
    precheck = partial(opening.check_open, start=weights is not None)
    with session.unlocked_hub(home, passphrase_file, precheck=precheck) as (hub, coordinator_keys):
        if weights is not None:
            model, drawn = spec.warm_start(models.load(hub, hub.newest_round()["model"]), weights)
            console.say_first_weights("", len(model) - len(drawn), drawn)
        task = opening.open_next(hub, coordinator_keys, weights)
    if json:
        return console.print_json(round=task.round, closes=f"{task.closes:%Y-%m-%dT%H:%M:%SZ}", base=task.base)
    console.show(f"round {task.round} is open until {task.closes:%Y-%m-%d %H:%M} UTC")
    console.say_next("'fedhelp-coordinator exchange DIR' or 'fedhelp-coordinator serve' brings the task to the sites")
    return None
