"""`status`."""

from fedhelp_edge import shell

app = shell.app()


@app.command()
def status(home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False) -> None:
    """Show where this site stands, what to do next, and what the coordinator said of its shares.

    Example: fedhelp-edge status
    """
    from fedhelp_edge.site import status as site_status

    told = site_status.status(shell.home(home))
    if json:
        return shell.result(**told)
    who = f"{told['site']} ({told['tier']})" if told["site"] else "not let in yet"
    shell.show(f"{told['name']}: {who}", f"round {told['round']}: {told['means']}")
    if told["request"]:
        shell.show(*shell.told(f"the request to join: {told['request']['state']} ", told["request"]))
    if told["closes"]:
        shell.show(f"takes shares until {told['closes']} UTC")
    for one in told["receipts"][:5]:
        shell.show(*shell.told(f"share of round {one['round']}: {one['state']} ", one))
    if told["outbox"]:
        shell.show(f"waiting to be sent, or for a receipt: {len(told['outbox'])}")
    if told["orders_are_old"]:
        shell.show(shell.typed("the orders are old: fetch new ones with 'fedhelp-edge download'"))
    shell.say_next(site_status.next_typed(shell.home(home), told))
    return None
