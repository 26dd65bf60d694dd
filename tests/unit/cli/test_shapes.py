"""docs/spec/json-output.json has a schema for every output with --json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

import fedhelp_edge.helper.cli
import server_ref.cli
from fedhelp_edge import cli, shell
from tests import command

PROGRAMS = {
    "fedhelp-edge": ("fedhelp_edge.cli", cli.COMMANDS),
    "fedhelp-coordinator": ("server_ref.cli", server_ref.cli.COMMANDS),
    "fedhelp-helper": ("fedhelp_edge.helper.cli", fedhelp_edge.helper.cli.COMMANDS),
}


def reporting() -> Iterator[str]:
    """The commands that have --json."""
    for program, (package, names) in PROGRAMS.items():
        group = shell.command_group(package, names, program, "", "0")
        for name in names:
            command: Any = group.commands[name]
            below = vars(command).get("commands", {})
            for path, subcommand in {
                name: command,
                **{f"{name} {sub}": subcommand for sub, subcommand in below.items()},
            }.items():
                if "--json" in [option for parameter in subcommand.params for option in parameter.opts]:
                    yield f"{program} {path}"


def test_every_command_with_json_output_has_a_schema() -> None:
    commands = {name for name in command.SCHEMAS["$defs"] if name.startswith("fedhelp-")}
    assert set(reporting()) | {"fedhelp-edge predict"} == commands  # its option is --format json


def test_the_schemas_are_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(command.SCHEMAS)


@pytest.mark.parametrize("name", sorted(command.SCHEMAS["$defs"]))
def test_no_schema_accepts_anything(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        command.check_schema(name, {})
