"""`requests`."""

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def requests(
    home: shell.Home = shell.DEFAULT_HOME, passphrase_file: shell.PassphraseFile = None, json: shell.AsJson = False
) -> None:
    """Judge the requests that wait, and show those that a person must decide, with the words to compare by phone.

    Example: fedhelp-coordinator requests
    """
    from server_ref.admin import session, status
    from server_ref.intake import shown

    with session.unlocked_hub(home, passphrase_file) as (hub, _):
        waiting = status.join_requests(hub)
        shown.record(hub, "requests", waiting)
    if json:
        return console.print_json(requests=waiting)
    for request in waiting:
        alarm = "  ALARM: another request with other keys is on the same invite" if request["contested"] else ""
        console.show(
            f"{request['site']}  {request['name']} ({request['tier']}), asks as {request['asked_as']!r}{alarm}"
        )
        console.show(f"  {request['hash'][: shown.SHOWN_DIGITS]}  {request['words']}")
    console.show(f"{len(waiting)} requests wait")
    if waiting:
        first_hash = waiting[0]["hash"][: shown.SHOWN_DIGITS]
        console.say("Phone the site on a number you know, and let it read its words to you. If they are the same:")
        console.say_next(f"'fedhelp-coordinator approve {first_hash}', by the hash before the words")
    return None
