"""`sync`."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict
from typing import Annotated

import typer

from fedhelp_edge import console, passphrase, shell
from fedhelp_edge.cli.options import CaFile, Device, Start, Threads, Url, Via

app = shell.app()


@app.command()
def sync(
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until stopped.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="With --watch: minutes between two runs.")] = 15,
    via: Via = None, url: Url = "", ca_file: CaFile = None, start: Start = None, threads: Threads = None,
    device: Device = "cpu", home: shell.Home = shell.DEFAULT_HOME, passphrase_file: shell.PassphraseFile = None,
    log_json: shell.LogJson = False, json: shell.AsJson = False,
) -> None:  # fmt: skip
    """Download, train if a round is open, and upload, as far as possible now. Parcels wait while there is no network.

    Example: fedhelp-edge sync --watch
    """
    from fedhelp_edge.errors import FedhelpError, from_os
    from fedhelp_edge.site import connection, layout, status
    from fedhelp_edge.site.sync import sync

    home_dir = shell.home_folder(home)
    ask = functools.cache(passphrase.provider(passphrase_file))
    carriers = connection.carriers(home_dir, ask, via, url, ca_file)
    last: list[str] = []
    while True:
        try:
            with console.progress_bars() as bar:
                outcome = sync(home_dir, carriers, ask, bar, start=start, device=device, threads=threads)
            site_state, taken = status.status(home_dir), (home_dir / layout.START).exists()
        except (FedhelpError, OSError) as error:
            if not watch:
                raise
            shown_error = from_os(error) if isinstance(error, OSError) else error
            cause = "; ".join(shown_error.log_lines) if log_json else shown_error.cause
            lines = [f"error: {shown_error.code}: {cause}", f"hint: {shown_error.remedy}"]
        else:
            if json:
                console.print_json(**asdict(outcome), state=site_state["state"], next=site_state["next"])
            lines = [
                *(f"new: {name}" for name in outcome.new),
                *(
                    line
                    for refusal in outcome.refused
                    for line in console.error_lines(f"refused: {refusal['file']}: ", refusal)
                ),
                *([f"trained: round {outcome.trained}"] if outcome.trained else []),
                *(["the first weights wait for a round: name them again"] if start and not taken else []),
                *([f"parcels sent: {len(outcome.sent)}"] if outcome.sent else []),
                *([f"cannot be reached now: {outcome.unreached}"] if outcome.unreached else []),
                f"round {site_state['round']}: {site_state['means']}",
            ]
        if lines != last and (log_json or not json):
            console.show(*lines)
            last = lines
        if not watch:
            return
        try:
            time.sleep(60 * every)
        except KeyboardInterrupt:  # Ctrl-C ends watching
            return
