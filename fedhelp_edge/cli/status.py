"""`status`."""

from fedhelp_edge import console, hints, shell

app = shell.app()


@app.command()
def status(home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False) -> None:
    """Show the state of this site, the next step, and the receipts for its updates.

    Example: fedhelp-edge status
    """
    from fedhelp_edge.site import status as site_status

    site_state = site_status.status(shell.home_folder(home))
    if json:
        return console.print_json(**site_state)
    site_name = f"{site_state['site']} ({site_state['tier']})" if site_state["site"] else "not admitted yet"
    console.show(f"{site_state['name']}: {site_name}", f"round {site_state['round']}: {site_state['means']}")
    if site_state["request"]:
        console.show(
            *console.error_lines(f"the request to join: {site_state['request']['state']} ", site_state["request"])
        )
    if site_state["closes"]:
        console.show(f"takes updates until {site_state['closes']} UTC")
    for receipt in site_state["receipts"][:5]:
        console.show(*console.error_lines(f"update of round {receipt['round']}: {receipt['state']} ", receipt))
    if merged := site_state["merged"]:
        from fedhelp_edge.report.scale import FIGURE_NAMES

        rate, figure = merged["correct"] / merged["val"], FIGURE_NAMES[merged["figure"]]
        console.show(f"the merged model of round {merged['round']}: {figure} {rate:.2f} on your validation images")
        if merged["fallen_from"] is not None:
            console.show(f"WORSE: those before it had {merged['fallen_from']:.2f}. Phone the coordinator")
    if kept := site_state["kept"]:
        from fedhelp_edge.report import nets

        console.show(f"the last export was of round {kept['round']}", *nets.weighing_lines(kept["weighing"]))
    if site_state["privacy"]:
        from fedhelp_edge.report import epsilon

        console.show(epsilon.sentence(site_state["privacy"]))
    if site_state["outbox"]:
        console.show(f"waiting to be sent or for a receipt: {len(site_state['outbox'])}")
    if site_state["orders_are_old"]:
        console.show(hints.with_caller_options("the roster is old: fetch a new one with 'fedhelp-edge download'"))
    console.say_next(site_status.next_command(shell.home_folder(home), site_state))
    return None
