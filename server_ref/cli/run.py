"""`run`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def run(
    via: Annotated[
        Path | None, typer.Option("--via", help="A carrier folder to exchange files with sites.", readable=False)
    ] = None,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two checks.")] = 30.0,
    metrics: shell.Metrics = None,
    log_json: shell.LogJson = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Run unattended until all rounds are done: check updates, merge when due, open the next round.

    Example: fedhelp-coordinator run --via /srv/synced --passphrase-file /run/credentials/hub
    """
    from functools import partial

    from fedhelp_edge import files, prometheus, unattended
    from server_ref.admin import monitoring, session
    from server_ref.admin import unattended as admin_unattended

    metrics_address = prometheus.parse_address("--metrics", metrics) if metrics else None
    with unattended.exit_on_sigterm(), session.open_hub(home) as hub:
        coordinator_keys = session.load_coordinator_keys(hub, passphrase_file)
        hub.check()
        if via:
            files.check_separate(via, hub.home)

        def look() -> bool:
            news: list[str] = []
            try:
                with session.write_lock(hub):
                    return admin_unattended.step(hub, coordinator_keys, via, news)[0]
            finally:
                for line in news:
                    console.say(line)

        with prometheus.serving(metrics_address, partial(monitoring.hub_metrics, hub.home)):
            unattended.run_repeatedly(look, every, console.say)
    console.show("finished: all rounds are done")
