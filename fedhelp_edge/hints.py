"""The commands that a person is told to type next, complete with the options that they used this time."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

_CARRIED = ("--home", "--plan", "--url", "--via", "--passphrase-file")  # what the next command needs as well


_COMMAND = re.compile(r"\b(fedhelp-(?:edge|coordinator)) ([a-z]+)(?: ([a-z]+))?(?=([^',;]*))")  # and what follows it


_PLAIN = re.compile(r"[\w@%+=:,./\\-]+" if os.name == "nt" else r"[\w@%+=:,./-]+")  # a shell reads it as it is


class Caller:
    """The command line that runs now: its commands, and the options that its next command needs as well."""

    commands: TyperGroup | None = None
    options: Mapping[str, str] = {}


def typed(text: str) -> str:
    """A text whose commands of this program carry the caller's `--home`, `--plan` and the like, where they take them.

    An option that the environment gave is not repeated: the shell still holds it.
    """
    return _COMMAND.sub(_complete, text)


def quoted(word: str | Path) -> str:
    """A word as a shell reads it back. Single quotes stand around whole commands already."""
    word = str(word)
    if _PLAIN.fullmatch(word):
        return word
    if os.name == "nt" or not set(word) & set("\"'\\$`!"):
        return f'"{word}"'
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", word)


def _complete(command: re.Match[str]) -> str:
    program, first, second, rest = command.groups()
    if Caller.commands is None or program != Caller.commands.name or first not in Caller.commands.commands:
        return command[0]
    target: Any = Caller.commands.commands[first]
    name = f"{program} {first}"
    if second in getattr(target, "commands", ()):
        target, name = target.commands[second], f"{name} {second}"
    takes = {option for parameter in target.params for option in parameter.opts} - set(rest.split())
    more = [f"{option} {quoted(value)}" for option, value in Caller.options.items() if option in takes]
    if "--help" in rest:
        more = []
    return " ".join([name, *more]) + command[0].removeprefix(name)


def carried(arguments: Sequence[str]) -> dict[str, str]:
    given = {}
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        if option in _CARRIED:
            given[option] = value if equals else following
    return given
