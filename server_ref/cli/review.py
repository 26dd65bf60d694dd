"""`review`."""

from typing import Annotated

import typer

from fedhelp_edge import shell

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
    from server_ref.intake import receive
    from server_ref.rounds import close

    if (release and refuse) or (release or refuse) != bool(update):
        raise errors.UsageError("name an update and either --release or --refuse, or nothing to see what waits")
    if not update:
        with session.opened(home) as hub:
            waiting = status.quarantined(hub)
            receive.note_shown(hub, "updates", waiting)
        if json:
            return shell.result(quarantined=waiting)
        for one in waiting:
            claimed = "" if one["examples"] is None else f"  claims {one['examples']} images"
            about = f"{one['site']}  round {one['round']}  {one['hash'][: receive.SHORT]}{claimed}  "
            shell.show(*shell.told(about, one))
            if one["decided"]:
                shell.show(f"    decided on the dashboard: {one['decided']}; the next command carries it out")
        shell.show(f"{len(waiting)} updates in quarantine")
        if first := next((one for one in waiting if not one["decided"]), None):
            decide = f"fedhelp-coordinator review {first['hash'][: receive.SHORT]}"
            shell.say_next(f"phone the site, then '{decide} --release' or '{decide} --refuse'")
        return None
    with session.working(home, passphrase_file, before=lambda hub: close.update_of(hub, update)) as (hub, boss):
        told = close.review(hub, boss, update, release=release)
    if json:
        return shell.result(**told)
    shell.show(f"{told['site']}: {told['state']}")
    return None
