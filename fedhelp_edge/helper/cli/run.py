"""`run`."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def run(
    via: Annotated[Path, typer.Option("--via", help="The carrier folder shared with the coordinator.", readable=False)],
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two checks.")] = 30.0,
    log_json: shell.LogJson = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Run unattended until all rounds of the plan are answered.

    Example: fedhelp-helper run --via /srv/synced --passphrase-file /run/credentials/helper
    """
    from fedhelp_edge import files, passphrase, unattended
    from fedhelp_edge.exchange.folder import FolderCarrier
    from fedhelp_edge.helper import answering
    from fedhelp_edge.helper import home as homes

    home_dir = shell.home_folder(home)
    files.check_separate(via, home_dir)
    ask = functools.cache(passphrase.provider(passphrase_file, "helper's passphrase"))
    rounds = homes.load_pins(home_dir).plan.rounds

    def look() -> bool:
        outcome = answering.answer(home_dir, FolderCarrier(via), ask)
        if outcome.state == "answered":
            console.say(f"round {outcome.round}: answered")
        return outcome.round >= rounds

    with unattended.exit_on_sigterm():
        unattended.run_repeatedly(look, every, console.say)
    console.show("finished: all rounds are answered")
