"""`join`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import shell

app = shell.app()

Via = Annotated[Path | None, typer.Option("--via", help="A stick, a synced folder or a network share.", readable=False)]
Url = Annotated[str, typer.Option("--url", help="The coordinator's address.")]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", help="Whose certificates to trust besides the usual ones.", readable=False)
]


@app.command()
def join(
    invite: Annotated[str, typer.Argument(help="The invite: a file, or the code.", readable=False)],
    name: Annotated[str, typer.Option("--name", help="What this site calls itself.")] = "",
    via: Via = None,
    url: Url = "",
    ca_file: CaFile = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="Leave keys to file permissions.")] = False,
    json: shell.AsJson = False,
) -> None:
    """Join a federation: make keys here, pin its charter, ask to be let in. Shows eight words to compare by phone.

    Example: fedhelp-edge join clinic-a.invite --via /media/stick
    Example: fedhelp-edge join FH1-TYCPQ-3M406-8QPJF-76ZCQ-X --url https://hub.example.org
    """
    from fedhelp_edge.parcel import keys
    from fedhelp_edge.site import folder, joined, member, outbox
    from fedhelp_edge.trust import words

    place, shown = shell.home(home), ""

    def passphrase() -> str | None:
        nonlocal shown
        if no_passphrase or passphrase_file:
            return shell.asker(passphrase_file)() if passphrase_file else None
        shown = words.passphrase()
        return shown

    said = joined.invited(place, invite, via, url, ca_file)
    member.join(place, said, name, passphrase)
    sent = bool(via or url or said.url)
    if sent:
        outbox.upload(place, joined.carriers(place, shell.asker(passphrase_file), via, url, ca_file))
    spoken = words.of_keys(folder.joined(place).charter.federation, keys.public(place))
    if json:
        return shell.result(federation=said.federation, words=spoken, sent=sent)
    shell.show(f"joining {folder.joined(place).charter.name}", f"words: {' '.join(spoken)}")
    if shown:
        shell.show(f"passphrase: {shown}")
        shell.say("write these five words on paper and keep them away from this computer; nobody can bring them back")
    shell.say("The coordinator will phone and compare the eight words above.")
    shell.say(
        "next: " + ("'fedhelp-edge download', once you were let in" if sent else "'fedhelp-edge upload --via DIR'")
    )
    return None
