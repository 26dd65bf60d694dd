"""`join`."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge import passphrase as fedhelp_edge_passphrase

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
    no_passphrase: shell.NoPassphrase = False,
    own: shell.OwnPassphrase = False,
    json: shell.AsJson = False,
) -> None:
    """Join a federation: make keys here, pin its charter, ask to be let in. Shows eight words to compare by phone.

    Keys that are here already are used. Typed again, it goes on where it stopped.

    Example: fedhelp-edge join clinic-a.invite --via /media/stick
    Example: fedhelp-edge join FH1-TYCPQ-3M406-8QPJF-76ZCQ-X --url https://hub.example.org
    """
    from fedhelp_edge import safe_text
    from fedhelp_edge.parcel import keys
    from fedhelp_edge.site import layout, membership, outbox, status, verified
    from fedhelp_edge.trust import key_words

    place = shell.home(home)
    safe_text.check_name(name)

    @functools.cache
    def passphrase() -> str | None:
        if keys.are_in(place):
            return fedhelp_edge_passphrase.asker(passphrase_file)()
        if no_passphrase:
            console.say("warning: without a passphrase, whoever can read this disk can sign as this site")
            return None
        return fedhelp_edge_passphrase.new_passphrase(key_words.passphrase, passphrase_file, own=own)

    if verified.state(place) is None:
        membership.join(place, status.invited(place, invite, via, url, ca_file), name, passphrase)
    else:
        membership.check_goes_on(place, status.code_of(invite))
    known = verified.state_of_member(place)
    spoken = key_words.of_keys(known.charter.federation, keys.public(place))
    if not json:
        console.show(f"joining {known.charter.name}", f"words: {' '.join(spoken)}")
    # Last of all the way out: whatever happens from here on, the keys, their passphrase and the request are here.
    sent = bool(via or url or any(layout.note(place).get(way) for way in ("via", "url")))
    if sent:
        outbox.upload(place, status.carriers(place, lambda: passphrase() or "", via, url, ca_file))
    if json:
        return console.result(
            federation=known.charter.federation, name=known.charter.name, words=spoken, sent=sent,
            request=next((place / "request").glob("*.fhx")).stem, locked=keys.is_locked(place),
        )  # fmt: skip
    console.say("The coordinator will phone and compare the eight words above.")
    told = status.status(place)
    if told["state"] != status.JOINING or told["request"]:
        console.say_next(f"'{status.next_typed(place, told)}'")
    else:
        console.say_next("'fedhelp-edge download', once you were let in" if sent else "'fedhelp-edge upload --via DIR'")
    return None
