"""`clock`."""

from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def clock(
    accept: Annotated[
        bool, typer.Option("--accept", help="Record in the log that this machine's clock is right.")
    ] = False,
    home: shell.Home = shell.DEFAULT_HOME,
) -> None:
    """Check this machine's clock against the hub's log; accept it after a jump or a long pause.

    Example: fedhelp-coordinator clock --accept
    """
    from server_ref.admin import session

    with session.open_hub(home) as hub, session.write_lock(hub):
        if accept:
            hub.check()
            hub.accept_clock()
        hub.check_clock()
        now = hub.now
    console.show(f"the clock agrees with the log; it is {now:%Y-%m-%d %H:%M} UTC")
    console.say_next("'fedhelp-coordinator status'")
