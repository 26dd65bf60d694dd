"""`lock`."""

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def lock(home: shell.Home = shell.DEFAULT_HOME) -> None:
    """Forget the keys that 'unlock' holds. Commands ask for the passphrase again.

    Example: fedhelp-coordinator lock
    """
    from server_ref.admin import agent, session

    with session.open_hub(home) as hub:
        was_unlocked = agent.stop(hub.coordinator_folder)
    console.show("locked" if was_unlocked else "nothing was unlocked")
