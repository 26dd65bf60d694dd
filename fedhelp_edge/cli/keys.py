"""`keys new`, `show`, `words`, `backup`, `restore`, `rotate`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, passphrase, shell

app = shell.app(no_args_is_help=True, help="Make, show, back up and restore the keys of this site.")


@app.command()
def new(
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    no_passphrase: shell.NoPassphrase = False,
    own: shell.OwnPassphrase = False,
) -> None:
    """Make the keys of this site. They never leave it. `join` makes them too, if there are none.

    Example: fedhelp-edge keys new
    """
    from fedhelp_edge.parcel import keys
    from fedhelp_edge.trust import key_words

    folder = shell.home_folder(home)
    keys.check_absent(folder)
    if no_passphrase:
        chosen = None
        console.say("warning: without a passphrase, whoever can read this disk can sign as this site")
    elif passphrase_file or own or sys.stdin.isatty():
        chosen = passphrase.choose_new(key_words.new_passphrase, passphrase_file, own=own)
    else:
        chosen = key_words.new_passphrase()
        console.show(f"passphrase: {chosen}")  # shown before it locks anything
    path = keys.save(folder, keys.generate(), chosen)
    console.show(f"keys made: {path}")
    console.say_next("'fedhelp-edge keys backup FILE' writes a copy to a stick")


@app.command()
def show(home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False) -> None:
    """Show the public keys, which others may know.

    Example: fedhelp-edge keys show
    """
    from fedhelp_edge.parcel import keys, sshsig

    folder = shell.home_folder(home)
    public_keys = keys.load_public(folder)
    fingerprint = sshsig.fingerprint(public_keys.sign)
    if json:
        console.print_json(
            sign=public_keys.sign,
            recipient=public_keys.recipient,
            fingerprint=fingerprint,
            locked=keys.is_locked(folder),
        )
    else:
        lock = "a passphrase" if keys.is_locked(folder) else "file permissions alone"
        console.show(
            f"signs with    {public_keys.sign}",
            f"fingerprint   {fingerprint}",
            f"receives at   {public_keys.recipient}",
        )
        console.show(f"guarded by    {lock}")


@app.command()
def words(
    home: shell.Home = shell.DEFAULT_HOME,
    federation: Annotated[
        str, typer.Option(help="The federation's id (fh-...); default: this site's.", show_default=False)
    ] = "",
    json: shell.AsJson = False,
) -> None:
    """Show the eight words of this site's keys, to compare by phone.

    Example: fedhelp-edge keys words
    """
    from fedhelp_edge.parcel import keys
    from fedhelp_edge.site import verified
    from fedhelp_edge.trust import key_words

    home_dir = shell.home_folder(home)
    state = None if federation else verified.state(home_dir)
    key_phrase = key_words.of_keys(state.charter.federation if state else federation, keys.load_public(home_dir))
    if json:
        console.print_json(words=key_phrase)
    else:
        console.show(" ".join(key_phrase))


@app.command()
def backup(
    file: Annotated[Path, shell.path_argument("Where to write it, best on a stick stored elsewhere.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Write the keys to one text file, encrypted with their passphrase. You can also print it and type it in again.

    Example: fedhelp-edge keys backup /media/stick/keys-backup.txt
    """
    from fedhelp_edge.parcel import keys

    folder = shell.home_folder(home)
    locked = keys.is_locked(folder)
    prompt = "passphrase" if locked else "passphrase for the backup"
    secret = ""

    def ask() -> str:
        nonlocal secret
        secret = passphrase.provider(passphrase_file, prompt, twice=not locked)()
        return secret

    loaded = keys.load(folder, ask)
    keys.write_backup(file, loaded, secret or ask())
    console.show(f"backup written: {file}")
    console.say_next(
        f"'fedhelp-edge keys restore {hints.quoted(file)} --home DIR' restores the keys, with the same passphrase"
    )


@app.command()
def restore(
    file: Annotated[Path, shell.path_argument("The backup.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
) -> None:
    """Restore the keys from a backup, with the backup's passphrase.

    Example: fedhelp-edge keys restore /media/stick/keys-backup.txt
    """
    from fedhelp_edge.parcel import keys

    folder = shell.home_folder(home)
    keys.check_absent(folder)
    typed = passphrase.provider(passphrase_file)()
    path = keys.save(folder, keys.read_backup(file, typed), typed)
    console.show(f"keys restored: {path}")


@app.command()
def rotate(
    home: shell.Home = shell.DEFAULT_HOME, passphrase_file: shell.PassphraseFile = None, json: shell.AsJson = False
) -> None:
    """Make new keys for a site that has joined. The site uses them once the roster names them.

    Example: fedhelp-edge keys rotate
    """
    import functools

    from fedhelp_edge.site import membership

    request = membership.request_new_keys(
        shell.home_folder(home), functools.cache(passphrase.provider(passphrase_file))
    )
    if json:
        return console.print_json(request=request.stem)
    console.show("new keys made, under the same passphrase")
    console.say_next("'fedhelp-edge upload' requests them; a later 'fedhelp-edge download' starts to use them")
    console.say("then export your models again, because the old keys signed them")
    return None
