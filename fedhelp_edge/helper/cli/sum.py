"""`sum`."""

from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell
from fedhelp_edge.safe_text import counted

app = shell.app()


@app.command()
def sum(
    folder: Annotated[Path, shell.path_argument("The carrier folder: a stick, a synced folder or a network share.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Answer the set that the coordinator left in a folder: leave the signed sum of its masks there.

    Example: fedhelp-helper sum /media/stick
    """
    from dataclasses import asdict

    from fedhelp_edge import files, passphrase
    from fedhelp_edge.exchange.folder import FolderCarrier
    from fedhelp_edge.helper import answering

    home_dir = shell.home_folder(home)
    files.check_separate(folder, home_dir)
    ask = passphrase.provider(passphrase_file, "helper's passphrase")
    outcome = answering.answer(home_dir, FolderCarrier(folder), ask)
    if json:
        return console.print_json(**asdict(outcome))
    for refusal in outcome.refused:
        console.show(*console.error_lines(f"refused: {refusal['file']}: ", refusal))
    if outcome.state == "nothing":
        console.show("no set waits for an answer")
        return None
    console.show(f"round {outcome.round}: the sum of {counted(len(outcome.sites), 'mask')} is in {folder}")
    console.show(f"  sites: {', '.join(outcome.sites)}")
    console.say_next("the coordinator runs 'fedhelp-coordinator exchange DIR', then 'fedhelp-coordinator aggregate'")
    return None
