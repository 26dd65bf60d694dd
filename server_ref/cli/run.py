"""`run`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import shell

app = shell.app()


@app.command()
def run(
    via: Annotated[Path | None, typer.Option("--via", help="A carrier folder to look into.", readable=False)] = None,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks.")] = 30.0,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Work unattended until the plan's rounds are done: judge, merge when due, open the next round.

    Example: fedhelp-coordinator run --via /srv/synced --passphrase-file /run/credentials/hub
    """
    import time

    from server_ref import carrier, desk, steps

    with desk.opened(home) as hub:
        boss = hub.boss(shell.asker(passphrase_file, "coordinator's passphrase"))
        hub.check()
        if via:
            carrier.check(hub, via)
        while True:
            with desk.writing(hub):
                done, news = steps.step(hub, boss, via)
            for line in news:
                shell.say(line)
            if done:
                break
            time.sleep(every)
    shell.show("finished: all rounds are done")
