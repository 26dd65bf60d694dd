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
    from server_ref.intake import enrolment

    with session.working(home, passphrase_file) as (hub, _):
        waiting = status.requests(hub)
        enrolment.note_shown(hub, "requests", waiting)
    if json:
        return console.result(requests=waiting)
    for one in waiting:
        alarm = "  ALARM: another request with other keys is on the same invite" if one["contested"] else ""
        console.show(f"{one['site']}  {one['name']} ({one['tier']}), asks as {one['asked_as']!r}{alarm}")
        console.show(f"  {one['hash'][: enrolment.SHORT]}  {one['words']}")
    console.show(f"{len(waiting)} requests wait")
    if waiting:
        first = waiting[0]["hash"][: enrolment.SHORT]
        console.say("Phone the site on a number you know, and let it read its words to you. If they are the same:")
        console.say_next(f"'fedhelp-coordinator approve {first}', by the hash before the words")
    return None
