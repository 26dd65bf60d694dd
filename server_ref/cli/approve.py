"""`approve`."""

from typing import Annotated

import typer

from fedhelp_edge import shell

app = shell.app()


@app.command()
def approve(
    site: Annotated[str, typer.Argument(help="The site's id, as 'requests' shows it.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Let a site in whose request waits, once its words were compared by phone.

    Example: fedhelp-coordinator approve site-003
    """
    from server_ref import desk, intake

    with desk.working(home, passphrase_file) as (hub, boss):
        intake.approve(hub, boss, site)
        known = hub.site(site)
    if json:
        return shell.result(site=known.id, name=known.name, tier=known.tier, from_round=known.from_round)
    shell.show(f"{known.id}  {known.name} takes part from round {known.from_round}")
    return None
