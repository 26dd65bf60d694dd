"""`exchange`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def exchange(
    folder: Annotated[Path, shell.named("The carrier: a stick, a synced folder, a network share.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Take in what sites left in a folder, judge it, and leave what they need.

    Example: fedhelp-coordinator exchange /media/stick
    """
    from fedhelp_edge.exchange.folder import FROM, TO
    from server_ref.admin import decisions, session
    from server_ref.admin import exchange as admin_exchange

    with session.working(home, passphrase_file, judge=False) as (hub, boss):
        admin_exchange.check(hub, folder)
        found = admin_exchange.Exchanged()
        admin_exchange.take_in(hub, folder / TO, found)
        decided = decisions.judge(hub, boss)
        found.left = admin_exchange.leave(hub, folder / FROM, found)
    if json:
        return console.result(**asdict(found), decided=decided)
    new = [answer for answer in found.taken if answer.new]
    console.show(
        f"{len(new)} new parcels taken in, {len(found.taken) - len(new)} known already; {found.left} left for sites"
    )
    for one in decided:
        console.show(*decisions.in_words(one, "  "))
    for name in found.waiting:
        console.show(f"  {name}: not all there yet; it is looked at again next time")
    for refused in found.refused:
        console.show(*console.error_lines(f"  {refused['file']}: ", refused))
    return None
