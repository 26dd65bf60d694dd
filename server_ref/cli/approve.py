"""`approve`."""

from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def approve(
    request: Annotated[
        list[str],
        typer.Argument(help="The eight words or the hash from 'requests'; or the site, if only one request waits."),
    ],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Approve a waiting site after you compared its words by phone.

    Example: fedhelp-coordinator approve site-003
    """
    from functools import partial

    from server_ref.admin import session, status
    from server_ref.intake import enrolment

    name = " ".join(request)
    precheck = partial(enrolment.check_request_name, name=name)
    with session.unlocked_hub(home, passphrase_file, precheck=precheck) as (hub, coordinator_keys):
        site = enrolment.approve(hub, coordinator_keys, name)["site"]
        row = next(each for each in status.sites(hub) if each["id"] == site)
    if json:
        return console.print_json(site=site, **{name: row[name] for name in ("name", "tier", "from_round", "words")})
    console.show(f"{site}  {row['name']} takes part from round {row['from_round']}", f"  {row['words']}")
    console.say_next("'fedhelp-coordinator status'")
    return None
