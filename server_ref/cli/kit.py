"""`kit`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def kit(
    platform: Annotated[str, typer.Option("--platform", help="win_amd64, manylinux_2_28_x86_64 or macosx_14_0_arm64.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder, on a stick or to copy to one.", readable=False)],
    train: Annotated[bool, typer.Option("--train", help="Include training: several times as large.")] = False,
    invite: Annotated[
        Path | None, typer.Option("--invite", help="The site's invite, to put into the kit.", readable=False)
    ] = None,
    python: Annotated[
        str, typer.Option("--python", help="The Python version of the site's computer, such as 3.12.")
    ] = "",
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Do not sign the kit with the hub's key.")] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Make a kit, from which a site installs everything without internet: wheels, installer, invite, leaflet.

    Where the hub is here, the coordinator's key signs the kit, so that a joined site can check it.

    Example: fedhelp-coordinator kit --platform win_amd64 --out /media/stick/kit --invite clinic-a.invite
    """
    from fedhelp_edge.parcel.kit import NAMESPACE
    from fedhelp_edge.parcel.sshsig import sign
    from server_ref.admin import session
    from server_ref.hub.database import DATABASE
    from server_ref.kit import build

    build.check_request(platform, out, python, invite)
    signer = None
    if not unsigned and (shell.home_folder(home) / DATABASE).exists():
        with session.open_hub(home) as hub:
            keys = session.load_coordinator_keys(hub, passphrase_file)
        signer = partial(sign, private_key=keys.sign, namespace=NAMESPACE)
    built = build.build_kit(platform, out, console.say, python=python, train=train, invite=invite, sign=signer)
    if json:
        return console.print_json(**vars(built), folder=str(out))
    kind = "train and diagnose" if train else "diagnose"
    console.show(
        f"{built.wheels} wheels, {built.size / 1e6:.0f} MB, to {kind} on {platform}",
        f"fingerprint  {built.fingerprint}",
    )
    console.say(f"next: print {out / 'leaflet.html'}")
    console.say("and send the fingerprint by another way than the stick: on paper or by phone")
    return None
