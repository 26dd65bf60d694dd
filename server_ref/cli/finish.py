"""`finish`."""

from fedhelp_edge import shell

app = shell.app()


@app.command()
def finish(home: shell.Home = shell.DEFAULT_HOME, passphrase_file: shell.PassphraseFile = None) -> None:
    """End the federation: no further rounds; the last model stays and is still handed out.

    Example: fedhelp-coordinator finish
    """
    from server_ref import desk, rounds

    with desk.working(home, passphrase_file, judge=False) as (hub, _):
        rounds.finish(hub)
    shell.show("finished: no further rounds")
