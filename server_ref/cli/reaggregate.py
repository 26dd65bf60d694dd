"""`reaggregate`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def reaggregate(
    without: Annotated[str, typer.Option("--without", help="The site whose updates are left out.")],
    root_key: Annotated[Path | None, typer.Option("--root-key", help="The root key's folder.", readable=False)] = None,
    root_passphrase_file: Annotated[
        Path | None, typer.Option("--root-passphrase-file", help="The root key's passphrase.", readable=False)
    ] = None,
    archive_key: Annotated[Path | None, typer.Option("--archive-key", hidden=True, readable=False)] = None,
    archive_passphrase_file: Annotated[
        Path | None, typer.Option("--archive-passphrase-file", hidden=True, readable=False)
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Merge all rounds again without one site. The next round starts from the result.

    Example: fedhelp-coordinator reaggregate --without site-003 --root-key /media/stick/root
    """
    from fedhelp_edge import errors
    from server_ref.admin import session
    from server_ref.hub import members
    from server_ref.rounds import lifecycle
    from server_ref.rounds import reaggregate as rounds_reaggregate

    root_key = root_key or archive_key  # the option's former name
    if root_key is None:
        raise errors.UsageError("name the folder of the root key with --root-key")
    with session.open_hub(home) as hub:
        rounds_reaggregate.check_contributed(hub, members.find(hub, without).id)
    root_secret = root_passphrase_file or archive_passphrase_file or passphrase_file
    root_keys = session.load_root_keys(root_key, root_secret)
    with session.unlocked_hub(home, passphrase_file) as (hub, coordinator_keys):
        outcome = rounds_reaggregate.without_site(hub, coordinator_keys, members.find(hub, without).id, root_keys)
        finished = lifecycle.is_finished(hub)
    if json:
        return console.print_json(**outcome)
    console.show(
        f"merged again without {outcome['without']}: round {outcome['round']} has the model {outcome['merged_sha256']}"
    )
    console.say_next("'fedhelp-coordinator status'" if finished else "'fedhelp-coordinator open'")
    return None
