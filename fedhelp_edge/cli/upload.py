"""`upload`."""

import functools

from fedhelp_edge import console, passphrase, shell
from fedhelp_edge.cli.options import CaFile, Url, Via

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
    """Seal the update of the trained round, and send everything that has no receipt yet.

    Example: fedhelp-edge upload --via /media/stick
    """
    from fedhelp_edge.site import connection, outbox, status, sync

    home_dir = shell.home_folder(home)
    ask = functools.cache(passphrase.provider(passphrase_file))
    carriers = connection.carriers(home_dir, ask, via, url, ca_file)
    sync.seal_if_trained(home_dir, ask)
    sent = outbox.upload(home_dir, carriers)
    if json:
        return console.print_json(sent=sent)
    console.show(f"parcels sent: {len(sent)}")
    console.say_next(
        "'fedhelp-edge download' brings the receipt"
        if sent
        else f"'{status.next_command(home_dir, status.status(home_dir))}'"
    )
    return None
