"""Options, arguments and defaults of every command, and the keys of every `--json` answer."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from tests.golden import api


def record() -> dict[str, Any]:
    """Of each command its parameters; an argument is known by its place, for its name is only shown."""
    return {path: _parameters(found) for program in api.PROGRAMS for path, found in api.commands(program)}


def _parameters(found: Any) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    place = 0
    for one in found.params:
        option = one.param_type_name == "option"
        place += not option
        rows[max(one.opts, key=len) if option else f"argument {place}"] = {
            "spelled": sorted([*one.opts, *one.secondary_opts]) if option else [],
            "bounds": [getattr(one, end, getattr(getattr(one, "type", None), end, None)) for end in ("min", "max")],
            "default": None if callable(one.default) else _plain(one.default),
            "required": one.required,
            "many": one.nargs if one.nargs != 1 else bool(one.multiple) if option else 1,
            "flag": bool(getattr(one, "is_flag", False)),
            "environment": one.envvar,
        }
    return rows


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def json_keys() -> dict[str, Any]:
    """The paths of keys in every answer, with their types; `$refs` are followed."""
    return {
        name: dict(sorted(_keys(shape, "")))
        for name, shape in api.SCHEMAS["$defs"].items()
        if name.startswith("fedhelp-") or name == "error"
    }


def _keys(shape: dict[str, Any], at: str) -> list[tuple[str, Any]]:
    if "$ref" in shape:
        name = shape["$ref"].removeprefix("#/$defs/").replace("~1", "/").replace("%20", " ")
        return _keys({**api.SCHEMAS["$defs"][name], **{k: v for k, v in shape.items() if k != "$ref"}}, at)
    rows: list[tuple[str, Any]] = []
    for name, below in shape.get("properties", {}).items():
        needed = name in shape.get("required", ())
        rows += [(f"{at}.{name}", {"type": _type(below), "always": needed}), *_keys(below, f"{at}.{name}")]
    if isinstance(shape.get("items"), dict):
        rows += _keys(shape["items"], f"{at}[]")
    if isinstance(shape.get("additionalProperties"), dict):
        rows += _keys(shape["additionalProperties"], f"{at}.*")
    for kind in ("oneOf", "anyOf", "allOf"):
        for one in shape.get(kind, ()):
            rows += _keys(one, at)
    return rows


def _type(shape: dict[str, Any]) -> Any:
    if "$ref" in shape:
        return "object"
    found = shape.get("type", sorted({type(value).__name__ for value in shape.get("enum", [shape.get("const")])}))
    return sorted(found) if isinstance(found, list) else found


def help_text(program: str) -> str:
    """The help of every command, one after the other, 80 columns wide."""
    parts = []
    with mock.patch.dict(os.environ, {"COLUMNS": "80"}):
        for path, found in api.commands(program):
            with found.make_context(path, [], resilient_parsing=True) as context:
                parts.append(f"$ {path} --help\n{found.get_help(context).strip()}\n")
    return "\n\n".join(parts)
