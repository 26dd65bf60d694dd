"""`init`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, passphrase, shell

app = shell.app()


@app.command()
def init(
    plan: Annotated[Path, typer.Option("--plan", help="The federation's plan.", readable=False)],
    url: Annotated[str, typer.Option("--url", help="The URL where sites reach this hub.")] = "",
    root_key: Annotated[
        Path | None, typer.Option("--root-key", help="A folder for the root key, outside the hub.", readable=False)
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Protect the keys by file permissions only.")
    ] = False,
    json: shell.AsJson = False,
) -> None:
    """Create a hub with its keys, the federation's charter and the first model.

    Example: fedhelp-coordinator init --plan plan.toml --url https://hub.example --root-key /media/stick/root
    """
    from fedhelp_edge import plan as plans
    from fedhelp_edge.methods.registry import METHODS
    from server_ref.hub import create
    from server_ref.hub import hub as hubs

    parsed_plan = plans.load(plan, METHODS)
    folder = shell.home_folder(home)
    create.check_new(folder, root_key)
    new_passphrase = None if no_passphrase else passphrase.provider(passphrase_file, "new passphrase", twice=True)()
    if no_passphrase:
        console.say("warning: without a passphrase, anyone who can read this disk can give tasks to every site")
    hub = create.new_hub(folder, parsed_plan, new_passphrase, root=root_key, url=url)
    root = root_key or folder / hubs.ROOT
    if json:
        return console.print_json(federation=hub.federation, home=str(folder), root_key=str(root))
    console.show(f"federation {hub.federation} of {parsed_plan.name}", f"hub        {folder}", f"root key   {root}")
    keep = "Lock the root key away, off this computer" if root_key else "Move the root key to a stick and lock it away"
    console.say(
        f"{keep}. You need it only to restore this hub,",
        "to change its keys, or to merge rounds again without a site.",
    )
    console.say_next("'fedhelp-coordinator invite \"Clinic A\" --tier small'")
    return None
