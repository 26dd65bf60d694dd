"""`backup`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell

app = shell.app()


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The backup, a new file.", readable=False)],
    home: shell.Home = shell.DEFAULT_HOME,
) -> None:
    """Write the whole hub, without the root key, to one file. The hub can keep working meanwhile.

    Example: fedhelp-coordinator backup /media/stick/hub-2026-11.tar
    """
    from server_ref.admin import recovery, session

    with session.open_hub(home) as hub, session.write_lock(hub):
        recovery.backup(hub, file)
    console.show(f"backup: {file} ({file.stat().st_size / 1e6:.1f} MB)")
    again = f"'fedhelp-coordinator restore {hints.quoted(file)} --root-key DIR --home DIR'"
    console.say_next(f"test the backup: {again} restores it to another folder; delete that folder afterwards")
