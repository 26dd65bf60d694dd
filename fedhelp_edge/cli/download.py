"""`download`."""

import functools
from dataclasses import asdict

from fedhelp_edge import console, passphrase, shell
from fedhelp_edge.cli.join import CaFile, Url, Via

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
    """Fetch orders, knowledge, the merged model and receipts, verify them, and open the model.

    Example: fedhelp-edge download --via /media/stick
    """
    from fedhelp_edge.site import inbox, status

    place = shell.home(home)
    ask = functools.cache(passphrase.asker(passphrase_file))
    taken = inbox.download(place, status.carriers(place, ask, via, url, ca_file), ask)
    told = status.status(place)
    if json:
        return console.result(**asdict(taken), state=told["state"], next=told["next"])
    for what in taken.new:
        console.show(f"new: {what}")
    for one in taken.refused:
        console.show(*console.error_lines(f"refused: {one['file']}: ", one))
    console.show(f"new parcels: {len(taken.new)}")
    console.say_next(f"'{status.next_typed(place, told)}'")
    return None
