"""`exchange`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell
from fedhelp_edge.safe_text import counted

app = shell.app()


@app.command()
def exchange(
    folder: Annotated[Path, shell.path_argument("The carrier folder: a stick, a synced folder or a network share.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Collect what sites left in a folder, check it, and leave what they need.

    Example: fedhelp-coordinator exchange /media/stick
    """
    from fedhelp_edge.exchange.folder import FROM_COORDINATOR, TO_COORDINATOR
    from server_ref.admin import decisions, session
    from server_ref.admin import exchange as admin_exchange

    with session.unlocked_hub(home, passphrase_file, judge=False) as (hub, coordinator_keys):
        admin_exchange.check_carrier(hub, folder)
        result = admin_exchange.ExchangeResult()
        admin_exchange.collect(hub, folder / TO_COORDINATOR, result)
        decided = decisions.apply_and_judge(hub, coordinator_keys)
        advanced = decisions.advance_round(hub, coordinator_keys)
        result.left = admin_exchange.deliver(hub, folder / FROM_COORDINATOR, result)
    console.say(*advanced)
    if json:
        return console.print_json(**asdict(result), decided=decided)
    new = [received for received in result.taken if received.new]
    received = counted(len(new), "new parcel")
    console.show(f"{received} received, {len(result.taken) - len(new)} already known; {result.left} left for sites")
    for judged in decided:
        console.show(*decisions.describe(judged, "  "))
    for name in result.waiting:
        console.show(f"  {name}: still being copied; the next exchange reads it again")
    for refused in result.refused:
        console.show(*console.error_lines(f"  {refused['file']}: ", refused))
    return None
