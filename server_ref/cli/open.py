"""`open`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command("open")
def open_round(
    start: Annotated[
        Path | None, typer.Option("--start", help="First weights, before the first round.", readable=False)
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Open the next round: from now on sites can train and send.

    Example: fedhelp-coordinator open
    """
    from functools import partial

    from fedhelp_edge import update
    from fedhelp_edge.nets import spec
    from server_ref.admin import session
    from server_ref.rounds import open, state

    given = None
    if start:
        with start.open("rb") as file:
            given = dict(update.Arrays(file, update.read_header(file)))
    ready = partial(open.check_open, start=given is not None)
    with session.working(home, passphrase_file, before=ready) as (hub, boss):
        if given is not None:
            console.say_drawn(spec.begin_from(hub.model(state.newest(hub)["model"]), given)[1])
        order = open.open_next(hub, boss, given)
    if json:
        return console.result(round=order.round, closes=f"{order.closes:%Y-%m-%dT%H:%M:%SZ}", base=order.base)
    console.show(f"round {order.round} is open until {order.closes:%Y-%m-%d %H:%M} UTC")
    console.say_next("'fedhelp-coordinator exchange DIR' or 'fedhelp-coordinator serve' brings it to the sites")
    return None
