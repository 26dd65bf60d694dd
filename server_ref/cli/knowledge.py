"""`knowledge publish`."""

from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell

app = shell.app(
    no_args_is_help=True, help="Knowledge packs: predictions of foundation models on public images, for every site."
)


@app.callback()
def knowledge() -> None:
    pass


@app.command()
def publish(
    pack: Annotated[Path, shell.path_argument("The knowledge pack, as a site built it.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Publish a knowledge pack to the sites. Rounds that you open from now on use it.

    Example: fedhelp-coordinator knowledge publish pack.safetensors
    """
    from fedhelp_edge import files
    from fedhelp_edge.data import pack as packs
    from server_ref.admin import session

    loaded = packs.load(pack)
    with session.unlocked_hub(home, passphrase_file) as (hub, coordinator_keys), files.reading(pack) as body:
        statement = hub.publish_knowledge(coordinator_keys, body, loaded)
    if json:
        return console.print_json(sha256=statement.sha256, images=len(loaded), sources=list(loaded.sources))
    console.show(f"{len(loaded)} public images, {len(loaded.sources)} sources, {statement.size / 1e6:.1f} MB")
    return None
