"""`download`."""

import functools
from dataclasses import asdict

from fedhelp_edge import console, passphrase, shell
from fedhelp_edge.cli.options import CaFile, Url, Via

app = shell.app()


@app.command()
def download(
    via: Via = None,
    url: Url = "",
    ca_file: CaFile = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Fetch tasks, knowledge, the merged model and receipts, verify them, and open the model.

    Example: fedhelp-edge download --via /media/stick
    """
    from fedhelp_edge.site import connection, inbox, status

    home_dir = shell.home_folder(home)
    ask = functools.cache(passphrase.provider(passphrase_file))
    received = inbox.download(home_dir, connection.carriers(home_dir, ask, via, url, ca_file), ask)
    site_state = status.status(home_dir)
    if json:
        return console.print_json(**asdict(received), state=site_state["state"], next=site_state["next"])
    for name in received.new:
        console.show(f"new: {name}")
    for refusal in received.refused:
        console.show(*console.error_lines(f"refused: {refusal['file']}: ", refusal))
    console.show(f"new parcels: {len(received.new)}")
    console.say_next(f"'{status.next_command(home_dir, site_state)}'")
    return None
