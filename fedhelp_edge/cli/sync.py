"""`sync`."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict
from typing import Annotated

import typer

from fedhelp_edge import console, passphrase, shell
from fedhelp_edge.cli.join import CaFile, Url, Via
from fedhelp_edge.cli.train import Device, Threads

app = shell.app()


@app.command()
def sync(
    watch: Annotated[bool, typer.Option("--watch", help="Do it again and again, until it is stopped.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="With --watch: minutes between two times.")] = 15,
    via: Via = None, url: Url = "", ca_file: CaFile = None, threads: Threads = None, device: Device = "cpu",
    home: shell.Home = shell.DEFAULT_HOME, passphrase_file: shell.PassphraseFile = None, json: shell.AsJson = False,
) -> None:  # fmt: skip
    """Fetch what is new, train if a round is open, and send: as far as it can go now. Without a network it waits.

    Example: fedhelp-edge sync --watch
    """
    from fedhelp_edge.errors import FedhelpError, from_os
    from fedhelp_edge.site import status
    from fedhelp_edge.site.sync import sync

    place = shell.home(home)
    ask = functools.cache(passphrase.asker(passphrase_file))
    ways = status.carriers(place, ask, via, url, ca_file)
    last: list[str] = []
    while True:
        try:
            with console.bars() as bar:
                done = sync(place, ways, ask, bar, device=device, threads=threads)
            told = status.status(place)
        except (FedhelpError, OSError) as fault:
            if not watch:
                raise
            known = from_os(fault) if isinstance(fault, OSError) else fault
            lines = [f"error: {known.code}: {known.cause}", f"hint: {known.remedy}"]
        else:
            if json:
                console.result(**asdict(done), state=told["state"], next=told["next"])
            lines = [
                *(f"new: {what}" for what in done.new),
                *(line for one in done.refused for line in console.error_lines(f"refused: {one['file']}: ", one)),
                *([f"trained: round {done.trained}"] if done.trained else []),
                *([f"parcels sent: {len(done.sent)}"] if done.sent else []),
                *([f"not reached now: {done.unreached}"] if done.unreached else []),
                f"round {told['round']}: {told['means']}",
            ]
        if lines != last and not json:
            console.show(*lines)
            last = lines
        if not watch:
            return
        try:
            time.sleep(60 * every)
        except KeyboardInterrupt:  # that is how watching ends
            return
