"""`finish`."""

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def finish(home: shell.Home = shell.DEFAULT_HOME, passphrase_file: shell.PassphraseFile = None) -> None:
    """End the federation: no more rounds. Sites can still fetch the last model.

    Example: fedhelp-coordinator finish
    """
    from server_ref.admin import session
    from server_ref.rounds import lifecycle

    with session.unlocked_hub(home, passphrase_file, judge=False) as (hub, _):
        lifecycle.finish(hub)
    console.show("finished: no more rounds")
