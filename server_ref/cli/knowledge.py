"""`knowledge publish`."""

from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell

app = shell.app(no_args_is_help=True, help="What foundation models said of public images, for every site.")


@app.callback()
def knowledge() -> None:
    pass


@app.command()
def publish(
    pack: Annotated[Path, shell.named("The pack that a site built.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Seal a pack for the sites; rounds that are opened from now on name it.

    Example: fedhelp-coordinator knowledge publish pack.safetensors
    """
    from fedhelp_edge import files
    from fedhelp_edge.data import pack as packs
    from server_ref.admin import session

    found = packs.load(pack)
    with session.working(home, passphrase_file) as (hub, boss), files.reading(pack) as body:
        said = hub.publish_pack(boss, body)
    if json:
        return console.result(sha256=said.sha256, images=len(found), sources=list(found.sources))
    console.show(f"{len(found)} public images, {len(found.sources)} sources, {said.size / 1e6:.1f} MB")
    return None
