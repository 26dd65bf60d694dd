"""`invites`."""

from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command("invites")
def list_invites(
    cancel: Annotated[
        str, typer.Option("--cancel", help="Cancel this site's invite: nobody can join with it any more.")
    ] = "",
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """List all invites: open, asked (a request waits), used, expired or cancelled.

    Example: fedhelp-coordinator invites --cancel site-003
    """
    from server_ref.admin import invites, session

    if cancel:
        with session.unlocked_hub(home, passphrase_file, judge=False) as (hub, _):
            listed = [invites.cancel(hub, cancel)]
    else:
        with session.open_hub(home) as hub:
            listed = invites.list_all(hub)
    if json:
        return console.print_json(invites=listed)
    for each in listed:
        console.show(f"{each['site']}  {each['name']} ({each['tier']})  {each['state']:<9}  until {each['until']}")
    if not listed:
        console.show("no invites yet")
        console.say_next("'fedhelp-coordinator invite \"Clinic A\" --tier small'")
    return None
