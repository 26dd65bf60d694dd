"""`approve`."""

from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def approve(
    request: Annotated[
        list[str], typer.Argument(help="The eight words or the hash that 'requests' shows; or the site, if one waits.")
    ],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Approve a waiting site, once its words were compared by phone.

    Example: fedhelp-coordinator approve site-003
    """
    from server_ref.admin import session, status
    from server_ref.intake import enrolment

    name = " ".join(request)
    with session.working(home, passphrase_file, before=lambda hub: enrolment.check_asked(hub, name)) as (hub, boss):
        site = enrolment.approve(hub, boss, name)["site"]
        known = next(one for one in status.sites(hub) if one["id"] == site)
    if json:
        return console.result(site=site, **{name: known[name] for name in ("name", "tier", "from_round", "words")})
    console.show(f"{site}  {known['name']} takes part from round {known['from_round']}", f"  {known['words']}")
    console.say_next("'fedhelp-coordinator status'")
    return None
