"""`init`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, passphrase, shell

app = shell.app()


@app.command()
def init(
    plan: Annotated[
        Path | None, typer.Option("--plan", help="The plan that you agree to, with your keys in it.", readable=False)
    ] = None,
    federation: Annotated[str, typer.Option("--federation", help="The federation's id, as the coordinator says.")] = "",
    post_quantum: Annotated[
        bool,
        typer.Option("--post-quantum", help="Also safe from a later quantum computer, for a plan with post_quantum."),
    ] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    no_passphrase: shell.NoPassphrase = False,
    json: shell.AsJson = False,
) -> None:
    """Make the helper's keys and print them for the plan. Later, with --plan and --federation, agree to a federation.

    Example: fedhelp-helper init --plan plan.toml --federation fh-0123456789abcdef0123456789abcdef
    """
    from fedhelp_edge import plan as plans
    from fedhelp_edge.errors import UsageError
    from fedhelp_edge.helper import home as homes
    from fedhelp_edge.methods.registry import METHODS

    if bool(plan) != bool(federation):
        raise UsageError("--plan and --federation go together")
    folder = shell.home_folder(home)
    ask = passphrase.provider(passphrase_file, "new passphrase", twice=True)
    if no_passphrase:
        console.say("warning: without a passphrase, anyone who can read this disk can tell the sums of all sites")
    public = homes.create(folder, lambda: None if no_passphrase else ask(), post_quantum=post_quantum)
    if plan:
        homes.pin(folder, plans.load(plan, METHODS), federation)
    if json:
        return console.print_json(
            home=str(folder), helper_key=public.recipient, helper_sign=public.sign, federation=federation or None
        )
    console.show(f'helper_key = "{public.recipient}"', f'helper_sign = "{public.sign}"')
    if plan:
        console.say_next("'fedhelp-helper sum DIR', when the coordinator has closed a round")
    else:
        console.say("These two lines belong into the plan's [privacy]. Send them to the coordinator.")
        console.say_next("'fedhelp-helper init --plan FILE --federation ID', once the coordinator has created its hub")
    return None
