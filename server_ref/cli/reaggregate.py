"""`reaggregate`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import shell

app = shell.app()


@app.command()
def reaggregate(
    without: Annotated[str, typer.Option("--without", help="The site whose shares are taken out.")],
    archive_key: Annotated[Path, typer.Option("--archive-key", help="The folder of the root key.", readable=False)],
    archive_passphrase_file: Annotated[
        Path | None, typer.Option("--archive-passphrase-file", help="The root key's passphrase.", readable=False)
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Merge all rounds again from the archive, without one site; the next round begins from the result.

    Example: fedhelp-coordinator reaggregate --without site-003 --archive-key /media/stick/root
    """
    from fedhelp_edge.parcel import keys
    from server_ref import desk, rounds

    archive = keys.load(archive_key, shell.asker(archive_passphrase_file or passphrase_file, "root key's passphrase"))
    with desk.working(home, passphrase_file) as (hub, boss):
        told = rounds.undo(hub, boss, hub.site(without).id, archive)
    if json:
        return shell.result(**told)
    shell.show(f"merged again without {told['without']}: the model of round {told['round']} is {told['merged_sha256']}")
    shell.say_next("'fedhelp-coordinator open'")
    return None
