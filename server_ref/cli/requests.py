"""`requests`."""

from fedhelp_edge import console, shell
from fedhelp_edge.safe_text import counted

app = shell.app()


@app.command()
def requests(
    home: shell.Home = shell.DEFAULT_HOME, passphrase_file: shell.PassphraseFile = None, json: shell.AsJson = False
) -> None:
    """Show the requests to join that a person must approve, with the words to compare by phone.

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
        alarm = "  ALARM: another request with other keys uses the same invite" if request["contested"] else ""
        console.show(
            f"{request['site']}  {request['name']} ({request['tier']}), asks as {request['asked_as']!r}{alarm}"
        )
        console.show(f"  {request['hash'][: shown.SHOWN_DIGITS]}  {request['words']}")
    console.show(counted(len(waiting), "request waits", "requests wait"))
    if waiting:
        first_hash = waiting[0]["hash"][: shown.SHOWN_DIGITS]
        console.say(
            "Phone the site on a number that you know. Ask its staff to read their eight words to you. If they match:"
        )
        console.say_next(f"'fedhelp-coordinator approve {first_hash}', with the hash before the words")
    return None
