"""`aggregate`."""

from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell

app = shell.app()


@app.command()
def aggregate(
    now: Annotated[bool, typer.Option("--now", help="Before the deadline, if there is a quorum.")] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Close the open round, merge its shares and publish the better model.

    Example: fedhelp-coordinator aggregate
    """
    from server_ref.admin import session
    from server_ref.rounds import close
    from server_ref.rounds import state as rounds_state

    with session.working(home, passphrase_file, before=rounds_state.current) as (hub, boss):
        told = close.aggregate(hub, boss, now=now)
        done = rounds_state.is_finished(hub)
    if json:
        return console.result(**told)
    console.show(f"round {told['round']}: {len(told['accepted'])} shares merged", f"model {told['merged_sha256']}")
    for one in told["claims"]:
        part = "" if one["part"] is None else f", {one['part']:.1%} of the model"
        console.show(
            f"  {one['site']} claims {one['examples']} images{part}; {one['correct']} of {one['val']} right before"
        )
    for state in ("quarantined", "refused"):
        for one in told[state]:
            console.show(*console.error_lines(f"  {one['site']} {state}: ", one))
    if done:
        console.say_next("'fedhelp-coordinator status': all rounds are done")
    else:
        console.say_next("'fedhelp-coordinator open'")
    console.say(hints.typed("'fedhelp-coordinator exchange DIR' or 'fedhelp-coordinator serve' hands the model out"))
    return None
