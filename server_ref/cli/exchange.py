"""`exchange`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def exchange(
    folder: Annotated[Path, shell.path_argument("The carrier: a stick, a synced folder, a network share.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Take in what sites left in a folder, judge it, and leave what they need.

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
        result.left = admin_exchange.deliver(hub, folder / FROM_COORDINATOR, result)
    if json:
        return console.print_json(**asdict(result), decided=decided)
    new = [received for received in result.taken if received.new]
    console.show(
        f"{len(new)} new parcels taken in, {len(result.taken) - len(new)} known already; {result.left} left for sites"
    )
    for judged in decided:
        console.show(*decisions.describe(judged, "  "))
    for name in result.waiting:
        console.show(f"  {name}: not all there yet; it is looked at again next time")
    for refused in result.refused:
        console.show(*console.error_lines(f"  {refused['file']}: ", refused))
    return None
