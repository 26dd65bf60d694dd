"""`revoke`."""

from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell

app = shell.app()


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site's id or name.")],
    since_round: Annotated[
        int, typer.Option("--since-round", min=0, help="The first round whose updates from this site are not trusted.")
    ] = 0,
    reason: Annotated[str, typer.Option("--reason", help="The reason; every site can read it.")] = "",
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Exclude a site, for example after a stolen PC. The hub refuses what it sends from now on.

    Example: fedhelp-coordinator revoke site-003 --since-round 7 --reason "PC stolen"
    """
    from functools import partial

    from server_ref.admin import session
    from server_ref.hub import members
    from server_ref.hub.hub import ROOT
    from server_ref.rounds import reaggregate

    precheck = partial(members.find, name=site)
    with session.unlocked_hub(home, passphrase_file, precheck=precheck) as (hub, coordinator_keys):
        member = members.revoke(hub, coordinator_keys, site, since_round, reason)
        has_contributed = bool(since_round) and reaggregate.contributed(hub, member.id)
        root = hub.home / ROOT
    if json:
        return console.print_json(site=member.id, since_round=since_round)
    console.show(f"{member.id}  {member.name} is revoked")
    if has_contributed:
        root_folder = hints.quoted(root) if root.is_dir() else "DIR"
        again = f"'fedhelp-coordinator reaggregate --without {member.id} --root-key {root_folder}'"
        console.say_next(f"{again} merges the rounds again without this site")
    return None
