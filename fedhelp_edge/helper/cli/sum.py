"""`sum`."""

import functools
from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell
from fedhelp_edge.safe_text import counted

app = shell.app()


@app.command()
def sum(
    folder: Annotated[
        Path | None, shell.path_argument("The carrier folder: a stick, a synced folder or a network share.")
    ] = None,
    url: shell.Url = "",
    ca_file: shell.CaFile = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Answer the set that the coordinator named: give it the signed sum of the set's masks.

    Example: fedhelp-helper sum /media/stick
    """
    from dataclasses import asdict

    from fedhelp_edge import passphrase
    from fedhelp_edge.helper import answering, carrier

    home_dir = shell.home_folder(home)
    ask = functools.cache(passphrase.provider(passphrase_file, "helper's passphrase"))
    outcome = answering.answer(home_dir, carrier.choose(home_dir, folder, url, ca_file, ask), ask)
    if json:
        return console.print_json(**asdict(outcome))
    for refusal in outcome.refused:
        console.show(*console.error_lines(f"refused: {refusal['file']}: ", refusal))
    if outcome.state == "nothing":
        console.show("no set waits for an answer")
        return None
    place = f"is in {folder}" if folder else "is at the coordinator"
    console.show(f"round {outcome.round}: the sum of {counted(len(outcome.sites), 'mask')} {place}")
    console.show(f"  sites: {', '.join(outcome.sites)}")
    before = "'fedhelp-coordinator exchange DIR', then " if folder else ""
    console.say_next(f"the coordinator runs {before}'fedhelp-coordinator aggregate'")
    return None
