"""`restore`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, passphrase, shell

app = shell.app()


@app.command()
def restore(
    file: Annotated[Path, shell.path_argument("The backup.")],
    root_key: Annotated[Path, typer.Option("--root-key", help="The root key's folder.", readable=False)],
    root_passphrase_file: Annotated[
        Path | None, typer.Option("--root-passphrase-file", help="The root key's passphrase.", readable=False)
    ] = None,
    from_older_version: Annotated[
        bool,
        typer.Option(
            "--from-older-version", help="An older version made the backup, without the coordinator's memory."
        ),
    ] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Restore a hub from its backup. This cancels the open round. Sites follow by themselves.

    Example: fedhelp-coordinator restore hub-2026-11.tar --root-key /media/stick/root
    """
    from server_ref.admin import recovery, session

    recovery.check_restore(shell.home_folder(home), file)
    root = session.load_root_keys(root_key, root_passphrase_file or passphrase_file)
    ask_passphrase = passphrase.provider(passphrase_file, "coordinator's passphrase")
    hub = recovery.restore(shell.home_folder(home), file, root, ask_passphrase, older=from_older_version)
    console.show(f"restored: {hub.federation}, epoch {hub.charter.epoch}, round {hub.newest_round()['round']}")
    console.say_next("'fedhelp-coordinator status'")
