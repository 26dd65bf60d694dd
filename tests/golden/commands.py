"""Options, arguments and defaults of every command, and the keys of every `--json` answer."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from tests.golden import api


def record() -> dict[str, Any]:
    """The parameters of each command; an argument is identified by its position, because its name is only shown."""
    return {path: _parameters(command) for program in api.PROGRAMS for path, command in api.commands(program)}


def _parameters(command: Any) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    position = 0
    for parameter in command.params:
        option = parameter.param_type_name == "option"
        position += not option
        rows[max(parameter.opts, key=len) if option else f"argument {position}"] = {
            "spelled": sorted([*parameter.opts, *parameter.secondary_opts]) if option else [],
            "bounds": [
                getattr(parameter, end, getattr(getattr(parameter, "type", None), end, None)) for end in ("min", "max")
            ],
            "default": None if callable(parameter.default) else _plain(parameter.default),
            "required": parameter.required,
            "many": parameter.nargs if parameter.nargs != 1 else bool(parameter.multiple) if option else 1,
            "flag": bool(getattr(parameter, "is_flag", False)),
            "environment": parameter.envvar,
        }
    return rows


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def json_keys() -> dict[str, Any]:
    """The paths of keys in every JSON output, with their types; `$refs` are resolved, the first of two types counts."""
    return {
        name: dict(sorted(dict(reversed(_keys(shape, ""))).items()))
        for name, shape in api.SCHEMAS["$defs"].items()
        if name.startswith("fedhelp-") or name == "error"
    }


def _keys(shape: dict[str, Any], path: str) -> list[tuple[str, Any]]:
    if "$ref" in shape:
        name = shape["$ref"].removeprefix("#/$defs/").replace("~1", "/").replace("%20", " ")
        return _keys({**api.SCHEMAS["$defs"][name], **{k: v for k, v in shape.items() if k != "$ref"}}, path)
    rows: list[tuple[str, Any]] = []
    for name, below in shape.get("properties", {}).items():
        needed = name in shape.get("required", ())
        rows += [(f"{path}.{name}", {"type": _type(below), "always": needed}), *_keys(below, f"{path}.{name}")]
    if isinstance(shape.get("items"), dict):
        rows += _keys(shape["items"], f"{path}[]")
    if isinstance(shape.get("additionalProperties"), dict):
        rows += _keys(shape["additionalProperties"], f"{path}.*")
    for kind in ("oneOf", "anyOf", "allOf"):
        for option in shape.get(kind, ()):
            rows += _keys(option, path)
    return rows


def _type(shape: dict[str, Any]) -> Any:
    if "$ref" in shape:
        return "object"
    types = shape.get("type", sorted({type(value).__name__ for value in shape.get("enum", [shape.get("const")])}))
    return sorted(types) if isinstance(types, list) else types


def help_text(program: str) -> str:
    """The help of every command in turn, 80 columns wide."""
    parts = []
    with mock.patch.dict(os.environ, {"COLUMNS": "80"}):
        for path, command in api.commands(program):
            with command.make_context(path, [], resilient_parsing=True) as context:
                parts.append(f"$ {path} --help\n{command.get_help(context).strip()}\n")
    return "\n\n".join(parts)
