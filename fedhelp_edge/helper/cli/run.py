"""`run`."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def run(
    via: Annotated[
        Path | None, typer.Option("--via", help="The carrier folder shared with the coordinator.", readable=False)
    ] = None,
    url: shell.Url = "",
    ca_file: shell.CaFile = None,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two checks.")] = 30.0,
    log_json: shell.LogJson = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Run unattended until all rounds of the plan are answered.

    Example: fedhelp-helper run --via /srv/synced --passphrase-file /run/credentials/helper
    """
    from fedhelp_edge import passphrase, unattended
    from fedhelp_edge.errors import NotYetError, RefusedThereError, RoundClosedError, SetAnsweredError, SetRefusedError
    from fedhelp_edge.helper import answering, carrier
    from fedhelp_edge.helper import home as homes

    home_dir = shell.home_folder(home)
    ask = functools.cache(passphrase.provider(passphrase_file, "helper's passphrase"))
    way = carrier.choose(home_dir, via, url, ca_file, ask)
    rounds = homes.load_pins(home_dir).plan.rounds
    reported = ""

    def look() -> bool:
        nonlocal reported
        try:
            outcome = answering.answer(home_dir, way, ask)
        except (
            NotYetError,
            SetRefusedError,
            SetAnsweredError,
            RefusedThereError,
        ) as error:  # the next round may differ
            if isinstance(error, RefusedThereError) and error.there != RoundClosedError.code:
                raise
            if reported != (reported := f"not answered: {error.code}: {error.cause}"):
                console.say(reported)
            return False
        if outcome.state == "answered":
            console.say(f"round {outcome.round}: answered")
        return outcome.round >= rounds

    with unattended.exit_on_sigterm():
        unattended.run_repeatedly(look, every, console.say)
    console.show("finished: all rounds are answered")
