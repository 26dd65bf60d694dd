"""`invites`."""

from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command("invites")
def list_invites(
    cancel: Annotated[str, typer.Option("--cancel", help="Let nobody in by the invite of this site any more.")] = "",
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Show every invite: open, asked (a request waits), used, expired or cancelled.

    Example: fedhelp-coordinator invites --cancel site-003
    """
    from server_ref.admin import invites, session

    if cancel:
        with session.working(home, passphrase_file, judge=False) as (hub, _):
            found = [invites.cancel(hub, cancel)]
    else:
        with session.opened(home) as hub:
            found = invites.listed(hub)
    if json:
        return console.result(invites=found)
    for one in found:
        console.show(f"{one['site']}  {one['name']} ({one['tier']})  {one['state']:<9}  until {one['until']}")
    if not found:
        console.show("no invites yet")
        console.say_next("'fedhelp-coordinator invite \"Clinic A\" --tier small'")
    return None
