"""`join`."""

import functools
from typing import Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge import passphrase as passphrases
from fedhelp_edge.cli.options import CaFile, Url, Via

app = shell.app()


@app.command()
def join(
    invite: Annotated[str, typer.Argument(help="The invite: a file, or the code.", readable=False)],
    name: Annotated[str, typer.Option("--name", help="The name of this site.")] = "",
    via: Via = None,
    url: Url = "",
    ca_file: CaFile = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    no_passphrase: shell.NoPassphrase = False,
    own: shell.OwnPassphrase = False,
    json: shell.AsJson = False,
) -> None:
    """Join a federation: make keys, pin the charter, ask for admission. Shows eight words to compare by phone.

    Existing keys are used. The same command again continues where it stopped.

    Example: fedhelp-edge join clinic-a.invite --via /media/stick
    Example: fedhelp-edge join FH1-TYCPQ-3M406-8QPJF-76ZCQ-X --url https://hub.example.org
    """
    from fedhelp_edge import safe_text
    from fedhelp_edge.parcel import keys
    from fedhelp_edge.site import connection, membership, outbox, status, verified
    from fedhelp_edge.trust import key_words

    home_dir = shell.home_folder(home)
    safe_text.check_name(name)

    @functools.cache
    def passphrase() -> str | None:
        if keys.exist(home_dir):
            return passphrases.provider(passphrase_file)()
        if no_passphrase:
            console.say("warning: without a passphrase, whoever can read this disk can sign as this site")
            return None
        return passphrases.choose_new(key_words.new_passphrase, passphrase_file, own=own)

    if verified.state(home_dir) is None:
        membership.join(home_dir, membership.resolve_invite(home_dir, invite, via, url, ca_file), name, passphrase)
    else:
        membership.check_resumable(home_dir, membership.invite_code(invite))
    state = verified.require_state(home_dir)
    words = key_words.of_keys(state.charter.federation, keys.load_public(home_dir))
    if not json:
        console.show(f"joining {state.charter.name}", f"words: {' '.join(words)}")
    # Sending is last: whatever fails from here on, the keys, their passphrase and the request are saved.
    sent = bool(via or url or any(connection.read(home_dir).get(option) for option in ("via", "url")))
    if sent:
        outbox.upload(home_dir, connection.carriers(home_dir, lambda: passphrase() or "", via, url, ca_file))
    if json:
        return console.print_json(
            federation=state.charter.federation, name=state.charter.name, words=words, sent=sent,
            request=next((home_dir / "request").glob("*.fhx")).stem, locked=keys.is_locked(home_dir),
        )  # fmt: skip
    console.say("The coordinator will phone you to compare the eight words above.")
    site_state = status.status(home_dir)
    if site_state["state"] != status.JOINING or site_state["request"]:
        console.say_next(f"'{status.next_command(home_dir, site_state)}'")
    else:
        console.say_next(
            "'fedhelp-edge download', once you are admitted" if sent else "'fedhelp-edge upload --via DIR'"
        )
    return None
