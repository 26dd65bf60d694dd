"""`rotate`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, passphrase, shell

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

    Typed again after it was cut off, it goes on, or says what was done.

    Example: fedhelp-coordinator rotate --coordinator --root-key /media/stick/root
    """
    from fedhelp_edge import errors
    from fedhelp_edge.parcel import keys
    from server_ref.admin import agent, recovery, session
    from server_ref.rounds import state

    if root == coordinator or root != bool(new_root_key):
        raise errors.UsageError("either --coordinator, or --root with --new-root-key DIR")
    with session.opened(home) as hub:
        done = recovery.is_in_force(hub, new_root_key)
        if not done:
            recovery.check_root(hub.charter, session.root_public(root_key))
            if new_root_key:
                recovery.check_free(hub, new_root_key)
        locked, old_folder = keys.is_locked(hub.boss_folder), hub.boss_folder
    if done:
        now = passphrase_file if root else new_passphrase_file or passphrase_file
        with session.working(home, now, judge=False) as (hub, boss):
            law = hub.charter
            console.show(f"charter {law.version}, epoch {law.epoch}")
            recovery.settle(hub, boss, told=True)
    else:
        old_root = session.root_keys(root_key, root_passphrase_file or passphrase_file)
        new = passphrase.asker(new_passphrase_file or passphrase_file, "passphrase of the new key", twice=True)
        secret = new() if locked else None
        with session.working(home, passphrase_file) as (hub, boss):
            agent.end(old_folder)  # it would hold a key that is void
            made = keys.new()
            if new_root_key:
                recovery.rotate_root(hub, boss, old_root, made, new_root_key, secret)
            else:
                recovery.rotate_coordinator(hub, boss, made, old_root, secret)
                boss = made
            law = hub.charter
            console.show(f"charter {law.version}, epoch {law.epoch}")
            recovery.settle(hub, boss, told=True)
    with session.opened(home) as hub:
        over = state.is_finished(hub)
    if root:
        console.say("keep the old root key as well: it opens the shares that were archived for it")
    console.say_next("'fedhelp-coordinator status'" if root or over else "'fedhelp-coordinator open'")
