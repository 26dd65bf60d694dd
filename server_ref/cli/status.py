"""`status`."""

from pathlib import Path
from typing import Any

from fedhelp_edge import console, hints, shell

app = shell.app()


@app.command()
def status(home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False) -> None:
    """Show where the federation stands, who is late, and what waits for you.

    Example: fedhelp-coordinator status
    """
    from server_ref.admin import session
    from server_ref.admin import status as admin_status

    with session.opened(home) as hub:
        told = admin_status.status(hub)
        model = hub.store.model(told["model"])
    if json:
        return console.result(**told)
    until = f", until {told['closes']}" if told["state"] == "open" else ""
    console.show(f"{told['name']}: round {told['round']} of {told['rounds']}, {told['state']}{until}")
    for title, found in (("shares in", told["accepted"]), ("missing", told["missing"])):
        if found:
            console.show(f"{title:<12}{', '.join(found)}")
    if claims := [f"{one['id']} {one['examples']}" for one in told["sites"] if one["examples"] is not None]:
        console.show(f"{'claim':<12}{', '.join(claims)} images")
    for one in told["quarantined"]:
        decided = f" (decided: {one['decided']}; the next command carries it out)" if one["decided"] else ""
        console.show(f"quarantine  {one['site']} {one['hash'][:12]}: {one['code']}: {one['cause']}{decided}")
    for one in told["alarms"]:
        console.show(f"ALARM       {one['site']}: {one['cause']}")
    console.show(f"waiting     {told['received']} shares, {told['requests']} requests")
    console.say_next(_next(told, model))
    return None


def _next(told: dict[str, Any], model: Path) -> str:
    if told["requests"]:
        return "'fedhelp-coordinator requests'"
    if any(not one["decided"] for one in told["quarantined"]):
        return "'fedhelp-coordinator review'"
    if told["state"] == "open":
        return "'fedhelp-coordinator aggregate', once the shares are in"
    if told["state"] == "finished":
        new = "'fedhelp-coordinator init --plan FILE --home DIR' makes a hub of another plan"
        return f"{new}; 'fedhelp-coordinator open --start {hints.quoted(model)} --home DIR' begins it from this model"
    return "'fedhelp-coordinator open'"
