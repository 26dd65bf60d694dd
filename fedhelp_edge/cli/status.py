"""`status`."""

from fedhelp_edge import console, hints, shell

app = shell.app()


@app.command()
def status(home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False) -> None:
    """Show where this site stands, what to do next, and what the coordinator said of its shares.

    Example: fedhelp-edge status
    """
    from fedhelp_edge.site import status as site_status

    told = site_status.status(shell.home(home))
    if json:
        return console.result(**told)
    who = f"{told['site']} ({told['tier']})" if told["site"] else "not let in yet"
    console.show(f"{told['name']}: {who}", f"round {told['round']}: {told['means']}")
    if told["request"]:
        console.show(*console.error_lines(f"the request to join: {told['request']['state']} ", told["request"]))
    if told["closes"]:
        console.show(f"takes shares until {told['closes']} UTC")
    for one in told["receipts"][:5]:
        console.show(*console.error_lines(f"share of round {one['round']}: {one['state']} ", one))
    if told["outbox"]:
        console.show(f"waiting to be sent, or for a receipt: {len(told['outbox'])}")
    if told["orders_are_old"]:
        console.show(hints.typed("the orders are old: fetch new ones with 'fedhelp-edge download'"))
    console.say_next(site_status.next_typed(shell.home(home), told))
    return None
