"""`review`."""

from typing import Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.safe_text import counted

app = shell.app()


@app.command()
def review(
    update: Annotated[str, typer.Argument(help="The update's hash; or its site, if only one waits; or sum.")] = "",
    release: Annotated[bool, typer.Option("--release", help="Release the update: the round accepts it.")] = False,
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse the update for good.")] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """List what waits for a decision with the reasons, or decide on an update or on a round's secure sum.

    Example: fedhelp-coordinator review site-003 --release
    """
    from functools import partial

    from fedhelp_edge import errors
    from server_ref.admin import session, status
    from server_ref.intake import shown
    from server_ref.rounds import review as rounds_review

    if (release and refuse) or (release or refuse) != bool(update):
        raise errors.UsageError("name an update with --release or --refuse, or nothing to list what waits")
    if not update:
        with session.open_hub(home) as hub:
            waiting = status.quarantined_updates(hub)
            shown.record(hub, "updates", waiting)
            held = status.held_sum(hub)
        if json:
            return console.print_json(quarantined=waiting, sum=held)
        for row in waiting:
            claimed = "" if row["examples"] is None else f"  claims {counted(row['examples'], 'image')}"
            prefix = f"{row['site']}  round {row['round']}  {row['hash'][: shown.SHOWN_DIGITS]}{claimed}  "
            console.show(*console.error_lines(prefix, row))
            if row["decided"]:
                console.show(f"    decided on the dashboard: {row['decided']}; the next command carries it out")
        if held:
            console.show(*console.error_lines(f"the sum of round {held['round']}  ", held))
        console.show(f"{counted(len(waiting), 'update')} in quarantine")
        if first := next((row for row in waiting if not row["decided"]), None):
            command = f"fedhelp-coordinator review {first['hash'][: shown.SHOWN_DIGITS]}"
            console.say_next(f"phone the site, then '{command} --release' or '{command} --refuse'")
        elif held:
            command = "fedhelp-coordinator review sum"
            console.say_next(f"phone the sites, then '{command} --release' or '{command} --refuse'")
        return None
    precheck = partial(rounds_review.check, name=update, release=release)
    with session.unlocked_hub(home, passphrase_file, precheck=precheck) as (hub, coordinator_keys):
        decided = rounds_review.decide(hub, coordinator_keys, update, release=release)
    if json:
        return console.print_json(**decided)
    console.show(f"{decided['site']}: {decided['state']}")
    if update == "sum":
        console.say_next("'fedhelp-coordinator aggregate'" if release else "'fedhelp-coordinator open'")
    return None
