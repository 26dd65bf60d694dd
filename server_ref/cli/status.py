"""`status`."""

from pathlib import Path
from typing import Any

from fedhelp_edge import console, hints, shell
from fedhelp_edge.safe_text import counted

app = shell.app()


@app.command()
def status(home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False) -> None:
    """Show the state of the federation, the missing sites, and what waits for you.

    Example: fedhelp-coordinator status
    """
    from server_ref.admin import session
    from server_ref.admin import status as admin_status
    from server_ref.hub.tables import rounds_table

    with session.open_hub(home) as hub:
        summary = admin_status.summary(hub)
        best = summary["best_round"]
        model = hub.database.model_path(rounds_table.require(hub.database, best)["model"] if best else summary["model"])
    if json:
        return console.print_json(**summary)
    until = f", until {summary['closes']}" if summary["state"] == "open" else ""
    console.show(f"{summary['name']}: {admin_status.round_text(summary)}{until}")
    if best:
        console.show(f"{'best':<12}{admin_status.best_round_text(best)}")
    for title, names in (("accepted", summary["accepted"]), ("missing", summary["missing"])):
        if names:
            console.show(f"{title:<12}{', '.join(names)}")
    if claims := [f"{row['id']} {row['examples']}" for row in summary["sites"] if row["examples"] is not None]:
        console.show(f"{'claim':<12}{', '.join(claims)} images")
    for row in summary["quarantined"]:
        decided = f" (decided: {row['decided']}; the next command carries it out)" if row["decided"] else ""
        console.show(f"quarantine  {row['site']} {row['hash'][:12]}: {row['code']}: {row['cause']}{decided}")
    if summary["decided"]:
        console.show(f"decided     {summary['decided']}, on the dashboard; the next command carries it out")
    if held := summary["held"]:
        console.show(f"held        the sum of round {held['round']}: {held['code']}: {held['cause']}")
    for row in summary["alarms"]:
        console.show(f"ALARM       {row['site']}: {row['cause']}")
    updates, requests = counted(summary["received"], "update"), counted(summary["requests"], "request")
    console.show(f"waiting     {updates}, {requests}")
    console.say_next(_next_command(summary, model))
    return None


def _next_command(summary: dict[str, Any], model: Path) -> str:
    if summary["requests"]:
        return "'fedhelp-coordinator requests'"
    if summary["held"] or any(not update["decided"] for update in summary["quarantined"]):
        return "'fedhelp-coordinator review'"
    if summary["state"] == "open":
        return "'fedhelp-coordinator aggregate', once the updates are in"
    if summary["state"] == "summing":
        return "'fedhelp-coordinator aggregate', once an exchange has brought the helper's answer"
    if summary["state"] == "finished":
        new_hub = "'fedhelp-coordinator init --plan FILE --home DIR' creates a hub with another plan"
        return (
            f"{new_hub}; 'fedhelp-coordinator open --start {hints.quoted(model)} --home DIR' starts it from this model"
        )
    return "'fedhelp-coordinator open'"
