"""Complete the commands in a hint with the options that the person used this time."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

_CARRIED_OPTIONS = (
    "--home",
    "--plan",
    "--url",
    "--via",
    "--passphrase-file",
)  # options that the next command needs as well


_COMMAND = re.compile(
    r"\b(fedhelp-(?:edge|coordinator|helper)) ([a-z]+)(?: ([a-z]+))?(?=([^',;]*))"
)  # and the words after it


_PLAIN_WORD = re.compile(
    r"[\w@%+=:,./\\-]+" if os.name == "nt" else r"[\w@%+=:,./-]+"
)  # words that need no quotes in a shell


class CurrentCommand:
    """The command line that runs now: its commands, and the options that the next command needs as well."""

    commands: TyperGroup | None = None
    options: Mapping[str, str] = {}


def with_caller_options(text: str) -> str:
    """Add the caller's `--home`, `--plan` and the like to the commands in a text that take them.

    An option from the environment is not repeated: the shell still has it.
    """
    return _COMMAND.sub(_complete_command, text)


def quoted(word: str | Path) -> str:
    """Quote a word for the shell, without single quotes: those enclose whole commands already."""
    word = str(word)
    if _PLAIN_WORD.fullmatch(word):
        return word
    if os.name == "nt" or not set(word) & set("\"'\\$`!"):
        return f'"{word}"'
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", word)


def _complete_command(command: re.Match[str]) -> str:
    program, first, second, rest = command.groups()
    if (
        CurrentCommand.commands is None
        or program != CurrentCommand.commands.name
        or first not in CurrentCommand.commands.commands
    ):
        return command[0]
    target: Any = CurrentCommand.commands.commands[first]
    name = f"{program} {first}"
    if second in getattr(target, "commands", ()):
        target, name = target.commands[second], f"{name} {second}"
    accepted = {option for parameter in target.params for option in parameter.opts} - set(rest.split())
    missing = [f"{option} {quoted(value)}" for option, value in CurrentCommand.options.items() if option in accepted]
    if "--help" in rest:
        missing = []
    return " ".join([name, *missing]) + command[0].removeprefix(name)


def carried_options(arguments: Sequence[str]) -> dict[str, str]:
    """The options of a command line that its next command needs as well."""
    options = {}
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        if option in _CARRIED_OPTIONS:
            options[option] = value if equals else following
    return options
