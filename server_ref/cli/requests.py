"""`requests`."""

from fedhelp_edge import shell

app = shell.app()


@app.command()
def requests(
    home: shell.Home = shell.DEFAULT_HOME, passphrase_file: shell.PassphraseFile = None, json: shell.AsJson = False
) -> None:
    """Judge the requests that wait, and show those that a person must decide, with the words to compare by phone.

    Example: fedhelp-coordinator requests
    """
    from server_ref import desk, people

    with desk.working(home, passphrase_file) as (hub, _):
        waiting = people.requests(hub)
    if json:
        return shell.result(requests=waiting)
    for one in waiting:
        shell.show(f"{one['site']}  {one['name']} ({one['tier']}), asks as {one['asked_as']!r}", f"  {one['words']}")
    shell.show(f"{len(waiting)} requests wait")
    if waiting:
        shell.say("Phone the site on a number you know. If the words are the same: 'fedhelp-coordinator approve SITE'")
    return None
