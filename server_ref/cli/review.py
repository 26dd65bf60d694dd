"""`review`."""

from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def review(
    update: Annotated[str, typer.Argument(help="The update's hash; or its site, if one of it waits.")] = "",
    release: Annotated[bool, typer.Option("--release", help="Let the update in.")] = False,
    refuse: Annotated[bool, typer.Option("--refuse", help="Keep it out for good.")] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Show the updates that are in quarantine, each with its reason; decide on one.

    Example: fedhelp-coordinator review site-003 --release
    """
    from fedhelp_edge import errors
    from server_ref.admin import session, status
    from server_ref.intake import enrolment
    from server_ref.rounds import review as rounds_review

    if (release and refuse) or (release or refuse) != bool(update):
        raise errors.UsageError("name an update and either --release or --refuse, or nothing to see what waits")
    if not update:
        with session.opened(home) as hub:
            waiting = status.quarantined(hub)
            enrolment.note_shown(hub, "updates", waiting)
        if json:
            return console.result(quarantined=waiting)
        for one in waiting:
            claimed = "" if one["examples"] is None else f"  claims {one['examples']} images"
            about = f"{one['site']}  round {one['round']}  {one['hash'][: enrolment.SHORT]}{claimed}  "
            console.show(*console.error_lines(about, one))
            if one["decided"]:
                console.show(f"    decided on the dashboard: {one['decided']}; the next command carries it out")
        console.show(f"{len(waiting)} updates in quarantine")
        if first := next((one for one in waiting if not one["decided"]), None):
            decide = f"fedhelp-coordinator review {first['hash'][: enrolment.SHORT]}"
            console.say_next(f"phone the site, then '{decide} --release' or '{decide} --refuse'")
        return None
    with session.working(home, passphrase_file, before=lambda hub: rounds_review.update_of(hub, update)) as (hub, boss):
        told = rounds_review.review(hub, boss, update, release=release)
    if json:
        return console.result(**told)
    console.show(f"{told['site']}: {told['state']}")
    return None
