"""Get a passphrase from a terminal or a private file, and refuse a weak one."""

from __future__ import annotations

import os
import re
import stat
import sys
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import typer

from fedhelp_edge import console, errors

_MIN_CHARACTERS = 10  # characters of a new passphrase that are hard to guess


_COMMON_WORDS = (
    "pass ?phrase|pass ?words?|passwort|mot de passe|secrets?|geheim|fed ?help|edge|co-?ordinator|federation|hospital"
    "|clinic|qwert[yz](uiop)?|azerty|asdf(gh(jkl)?)?|[yz]xcvb(nm)?|let ?me ?in|welcome|admin(istrator)?|change ?me|test"
    "|i ?love ?you|monkey|dragon|master|login|root|(19|20)[0-9]{2}"
)


def provider(file: Path | None, prompt: str = "passphrase", *, twice: bool = False) -> Callable[[], str]:
    """A function that gets the passphrase from the file, else from a prompt, else raises.

    A new passphrase is typed `twice` and must not be weak.
    """

    def ask() -> str:
        if file is None and not sys.stdin.isatty():
            raise errors.PassphraseNeededError("the keys are locked, and there is nobody to ask")
        if file is not None:
            secret = _read_file(file)
        else:
            secret = str(typer.prompt(prompt, hide_input=True, err=True, confirmation_prompt=twice))
        if twice:
            check_strength(secret)
        return secret

    return ask


def choose_new(generate: Callable[[], str], file: Path | None, *, own: bool) -> str:
    """The passphrase of new keys: from a file, typed at a prompt, or generated.

    A generated one is shown and must be typed before it locks anything: a passphrase that nobody has read locks
    everybody out. Without a terminal none is generated, because it would end up in a log, or be lost.
    """
    if file is not None:
        return provider(file, twice=True)()
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise errors.PassphraseNeededError(
            "new keys need a passphrase, and nobody is there to read one",
            remedy="name a file that holds one with --passphrase-file, or add --no-passphrase",
        )
    if own:
        return provider(None, "new passphrase", twice=True)()
    passphrase = generate()
    console.say(f"passphrase: {passphrase}")
    console.say("write these five words on paper and keep them away from this computer; nobody can recover them")
    typed = provider(None, "type the passphrase, to be sure that it is on paper")
    while "-".join(typed().replace("-", " ").split()).lower() != passphrase:
        console.say("this does not match; the passphrase is the five words above, with hyphens")
    return passphrase


def check_strength(passphrase: str) -> None:
    """Raise if a new passphrase is easy to guess: a thief of the key file may try as many as they like.

    Spaces, common words, runs ("aaa", "123") and repetitions do not count.
    """
    rest = unicodedata.normalize("NFKC", passphrase.strip()).casefold()
    rest = next(rest[:size] for size in range(len(rest) + 1) if (rest[:size] * len(rest))[: len(rest)] == rest)
    rest = re.sub(_COMMON_WORDS, " ", rest)
    telling = [char for previous, char in pairwise(f" {rest}") if char != " " and abs(ord(char) - ord(previous)) > 1]
    if len(telling) < _MIN_CHARACTERS or len(set(telling)) < _MIN_CHARACTERS // 2:
        raise errors.WeakPassphraseError("the passphrase is easy to guess")


def _check_private(name: str, status: os.stat_result, what: str) -> None:
    """Raise if other users can read the file of a passphrase or a key. On Windows modes do not tell.

    A file of root may be readable by a group: systemd passes credentials by an access list that shows as group rights.
    """
    if os.name == "nt" or not stat.S_ISREG(status.st_mode):
        return
    mask = 0o007 if status.st_uid == 0 else 0o077
    if status.st_mode & mask or status.st_uid not in (0, os.geteuid()):
        raise errors.KeysModeError(
            f"{name} holds {what}, and other users can read or change it", remedy=f"chmod 600 {name}"
        )


def read_private_line(file: Path, what: str) -> str:
    """The first line of a file that nobody else may read, or ""; `what` it holds is for the message."""
    with file.open(encoding="utf-8") as opened:
        _check_private(file.name, os.fstat(opened.fileno()), what)
        lines = opened.read().splitlines()
    return lines[0] if lines and lines[0].strip() else ""


def _read_file(file: Path) -> str:
    if not (passphrase := read_private_line(file, "a passphrase")):
        raise errors.PassphraseNeededError(f"{file.name} is empty")
    return passphrase
