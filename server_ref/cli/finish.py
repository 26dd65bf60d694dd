"""`finish`."""

from fedhelp_edge import shell

app = shell.app()


@app.command()
def finish(home: shell.Home = shell.DEFAULT_HOME) -> None:
    """End the federation: no further rounds; the last model stays and is still handed out.

    Example: fedhelp-coordinator finish
    """
    from server_ref import desk, rounds

    with desk.opened(home) as hub, desk.writing(hub):
        rounds.finish(hub)
    shell.show("finished: no further rounds")
