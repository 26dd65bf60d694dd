"""`rotate`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, passphrase, shell

app = shell.app()


@app.command()
def rotate(
    root_key: Annotated[Path, typer.Option("--root-key", help="The root key's folder.", readable=False)],
    coordinator: Annotated[bool, typer.Option("--coordinator", help="Replace the coordinator's key.")] = False,
    root: Annotated[bool, typer.Option("--root", help="Replace the root key.")] = False,
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
    """Replace the coordinator's key or the root key. The first cancels the open round. Sites follow by themselves.

    After an interruption type the same command again: it continues, or shows what was done.

    Example: fedhelp-coordinator rotate --coordinator --root-key /media/stick/root
    """
    from fedhelp_edge import errors
    from fedhelp_edge.parcel import keys
    from server_ref.admin import agent, recovery, session
    from server_ref.rounds import lifecycle

    if root == coordinator or root != bool(new_root_key):
        raise errors.UsageError("use either --coordinator, or --root with --new-root-key DIR")
    with session.open_hub(home) as hub:
        done = recovery.is_rotation_done(hub, new_root_key)
        if not done:
            recovery.check_root_key(hub.charter, session.read_root_public_keys(root_key))
            if new_root_key:
                recovery.check_root_folder(hub, new_root_key)
        locked, old_folder = keys.is_locked(hub.coordinator_folder), hub.coordinator_folder
    if done:
        current_passphrase_file = passphrase_file if root else new_passphrase_file or passphrase_file
        with session.unlocked_hub(home, current_passphrase_file, judge=False) as (hub, coordinator_keys):
            charter = hub.charter
            console.show(f"charter {charter.version}, epoch {charter.epoch}")
            recovery.finish_rotation(hub, coordinator_keys, reported=True)
    else:
        old_root_keys = session.load_root_keys(root_key, root_passphrase_file or passphrase_file)
        ask_new = passphrase.provider(new_passphrase_file or passphrase_file, "passphrase of the new key", twice=True)
        secret = ask_new() if locked else None
        with session.unlocked_hub(home, passphrase_file) as (hub, coordinator_keys):
            agent.stop(old_folder)  # the agent would hold a void key
            new_keys = keys.generate()
            if new_root_key:
                recovery.rotate_root(hub, coordinator_keys, old_root_keys, new_keys, new_root_key, secret)
            else:
                recovery.rotate_coordinator(hub, coordinator_keys, new_keys, old_root_keys, secret)
                coordinator_keys = new_keys
            charter = hub.charter
            console.show(f"charter {charter.version}, epoch {charter.epoch}")
            recovery.finish_rotation(hub, coordinator_keys, reported=True)
    with session.open_hub(home) as hub:
        finished = lifecycle.is_finished(hub)
    if root:
        console.say("keep the old root key as well: it decrypts the updates that were archived for it")
    console.say_next("'fedhelp-coordinator status'" if root or finished else "'fedhelp-coordinator open'")
