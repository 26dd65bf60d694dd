"""docs/spec/json-output.json has the shape of all that commands print with --json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

import server_ref.cli
from fedhelp_edge import cli, shell
from tests import command

PROGRAMS = {
    "fedhelp-edge": ("fedhelp_edge.cli", cli.COMMANDS),
    "fedhelp-coordinator": ("server_ref.cli", server_ref.cli.COMMANDS),
}


def reporting() -> Iterator[str]:
    """The commands that have --json."""
    for program, (package, names) in PROGRAMS.items():
        group = shell.command_group(package, names, program, "", "0")
        for name in names:
            found: Any = group.commands[name]
            below = vars(found).get("commands", {})
            for path, one in {name: found, **{f"{name} {sub}": one for sub, one in below.items()}}.items():
                if "--json" in [option for parameter in one.params for option in parameter.opts]:
                    yield f"{program} {path}"


def test_every_command_that_reports_has_a_shape() -> None:
    commands = {name for name in command.SCHEMAS["$defs"] if name.startswith("fedhelp-")}
    assert set(reporting()) | {"fedhelp-edge predict"} == commands  # which says it by --format json


def test_the_shapes_are_schemas() -> None:
    jsonschema.Draft202012Validator.check_schema(command.SCHEMAS)


@pytest.mark.parametrize("name", sorted(command.SCHEMAS["$defs"]))
def test_no_shape_takes_just_anything(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        command.check_schema(name, {})
