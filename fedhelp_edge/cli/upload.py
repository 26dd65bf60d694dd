"""`upload`."""

import functools

from fedhelp_edge import console, passphrase, shell
from fedhelp_edge.cli.join import CaFile, Url, Via

app = shell.app()


@app.command()
def upload(
    via: Via = None,
    url: Url = "",
    ca_file: CaFile = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Seal the share of the round that was trained, and send what was not yet received.

    Example: fedhelp-edge upload --via /media/stick
    """
    from fedhelp_edge.site import outbox, status

    place = shell.home(home)
    ask = functools.cache(passphrase.asker(passphrase_file))
    ways = status.carriers(place, ask, via, url, ca_file)
    status.seal(place, ask)
    sent = outbox.upload(place, ways)
    if json:
        return console.result(sent=sent)
    console.show(f"parcels sent: {len(sent)}")
    console.say_next(
        "'fedhelp-edge download' brings the receipt" if sent else f"'{status.next_typed(place, status.status(place))}'"
    )
    return None
