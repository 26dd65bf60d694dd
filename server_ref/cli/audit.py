"""`audit verify`, `audit show`, `audit export`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.safe_text import counted

app = shell.app(no_args_is_help=True, help="The log of every decision: verify it, read it, export a round for audit.")


@app.command()
def verify(
    home: shell.Home = shell.DEFAULT_HOME, passphrase_file: shell.PassphraseFile = None, json: shell.AsJson = False
) -> None:
    """Check that the log is unchanged, the hub is complete, and only your commands made decisions.

    Example: fedhelp-coordinator audit verify
    """
    from server_ref.admin import session

    with session.unlocked_hub(home, passphrase_file, judge=False) as (hub, _):
        log = hub.check()
    if json:
        return console.print_json(length=log.length, head=log.head)
    console.show(f"{counted(log.length, 'line')}, the chain is intact", f"head {log.head}")
    return None


@app.command()
def show(
    last: Annotated[int, typer.Option("--last", min=1, help="How many lines to show.")] = 20,
    home: shell.Home = shell.DEFAULT_HOME,
) -> None:
    """Show the newest lines of the log.

    Example: fedhelp-coordinator audit show --last 50
    """
    from server_ref.admin import session
    from server_ref.hub.tables import log_table

    with session.open_hub(home) as hub:
        lines = [line for line, _ in log_table.lines(hub.database)][-last:]
    for line in lines:
        detail = " ".join(f"{name}={value}" for name, value in sorted(line["detail"].items()) if value != "")
        console.show(f"{line['seq']:>6}  {line['time']}  {line['type']:<16} {line['subject'][:16]:<16}  {detail}")


@app.command()
def export(
    round_: Annotated[int, typer.Argument(metavar="ROUND", help="The round to export.")],
    out: Annotated[Path, typer.Argument(help="A new folder.", readable=False)],
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Export a round for audit: 'fedhelp-edge audit DIR' or plain shell tools check it without any key.

    Example: fedhelp-coordinator audit export 3 round-3
    """
    from server_ref.admin import audit_export, session

    with session.open_hub(home) as hub:
        count = audit_export.export_round(hub, round_, out)
    if json:
        return console.print_json(round=round_, parcels=count, folder=str(out))
    console.show(f"{counted(count, 'parcel')}, the log and the keys are in {out}")
    return None
