"""`unlock`."""

from typing import Annotated

import typer

from fedhelp_edge import console, passphrase, shell

app = shell.app()


@app.command()
def unlock(
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, max=720, help="For how many minutes.")] = 60,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Type the passphrase once. Commands on this hub do not ask again until 'lock' or until the time is over.

    Example: fedhelp-coordinator unlock --minutes 30
    """
    from server_ref.admin import agent, session

    with session.open_hub(home) as hub:
        agent.check_available(hub.coordinator_folder)
        coordinator_keys = hub.coordinator_keys(passphrase.provider(passphrase_file, "coordinator's passphrase"))
        agent.start(hub.coordinator_folder, coordinator_keys, minutes)
    unit = "minute" if minutes == 1 else "minutes"
    console.show(f"unlocked for {minutes:g} {unit}, for this user of this computer")
    console.say_next("'fedhelp-coordinator lock' when you are done")
