"""`restore`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import shell

app = shell.app()


@app.command()
def restore(
    file: Annotated[Path, shell.named("The backup.")],
    root_key: Annotated[Path, typer.Option("--root-key", help="The folder of the root key.", readable=False)],
    root_passphrase_file: Annotated[
        Path | None, typer.Option("--root-passphrase-file", help="The root key's passphrase.", readable=False)
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Bring a hub back from its backup. The open round is called off; sites follow by themselves.

    Example: fedhelp-coordinator restore hub-2026-11.tar --root-key /media/stick/root
    """
    from server_ref import desk, rounds, vault

    vault.check_place(shell.home(home), file)
    root = desk.root_keys(root_key, root_passphrase_file or passphrase_file)
    hub = vault.restore(shell.home(home), file, root, shell.asker(passphrase_file, "coordinator's passphrase"))
    shell.show(f"restored: {hub.federation}, epoch {hub.charter.epoch}, round {rounds.newest(hub)['round']}")
    shell.say_next("'fedhelp-coordinator status'")
