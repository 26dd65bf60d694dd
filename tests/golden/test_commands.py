"""Command lines and JSON outputs of an earlier version still work."""

from __future__ import annotations

from typing import Any

import pytest

from tests.golden import api, commands

COMMANDS: dict[str, Any] = api.read("commands")
KEYS: dict[str, Any] = api.read("json-keys")


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    return commands.record()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_keeps_its_options_arguments_and_defaults(command: str, now: dict[str, Any]) -> None:
    assert now[command].items() >= COMMANDS[command].items()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_new_parameters_of_a_command_are_optional(command: str, now: dict[str, Any]) -> None:
    new = now[command].keys() - COMMANDS[command].keys()
    assert not [name for name in new if now[command][name]["required"]]


@pytest.mark.parametrize("command", sorted(KEYS))
def test_a_json_output_keeps_its_keys(command: str) -> None:
    now = commands.json_keys()[command]
    assert {key: now.get(key) for key in KEYS[command]} == KEYS[command]
