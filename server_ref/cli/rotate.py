"""`rotate`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import shell

app = shell.app()


@app.command()
def rotate(
    root_key: Annotated[Path, typer.Option("--root-key", help="The folder of the root key.", readable=False)],
    coordinator: Annotated[bool, typer.Option("--coordinator", help="A new coordinator's key.")] = False,
    root: Annotated[bool, typer.Option("--root", help="A new root key.")] = False,
    new_root_key: Annotated[
        Path | None, typer.Option("--new-root-key", help="A folder for the new root key.", readable=False)
    ] = None,
    root_passphrase_file: Annotated[
        Path | None, typer.Option("--root-passphrase-file", help="The root key's passphrase.", readable=False)
    ] = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option("--new-passphrase-file", help="The new key's passphrase.", readable=False)
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Change the coordinator's key, or the root key. The open round is called off; sites follow by themselves.

    Example: fedhelp-coordinator rotate --coordinator --root-key /media/stick/root
    """
    from fedhelp_edge import errors
    from fedhelp_edge.parcel import keys
    from server_ref import agent, desk, vault

    if root == coordinator or root != bool(new_root_key):
        raise errors.Usage("either --coordinator, or --root with --new-root-key DIR")
    with desk.opened(home) as hub:
        vault.check_root(hub.charter, desk.root_public(root_key))
        locked, old_folder = keys.is_locked(hub.boss_folder), hub.boss_folder
    if new_root_key:
        keys.check_none(new_root_key)
    old_root = desk.root_keys(root_key, root_passphrase_file or passphrase_file)
    new = shell.asker(new_passphrase_file or passphrase_file, "passphrase of the new key", twice=True)
    secret = new() if locked else None
    with desk.working(home, passphrase_file) as (hub, boss):
        agent.end(old_folder)  # it would hold a key that is void
        if new_root_key:
            made = keys.new()
            keys.save(new_root_key, made, secret)
            vault.rotate_root(hub, boss, old_root, made)
        else:
            vault.rotate_coordinator(hub, boss, keys.new(), old_root, secret)
        law = hub.charter
    shell.show(f"charter {law.version}, epoch {law.epoch}")
    if root:
        shell.say("keep the old root key as well: it opens the shares that were archived for it")
    shell.say_next("'fedhelp-coordinator status'" if root else "'fedhelp-coordinator open'")
