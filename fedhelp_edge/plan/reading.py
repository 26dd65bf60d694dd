"""Reads a plan. All mistakes in it are reported at once, each with its line."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from fedhelp_edge import files
from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.plan.tables import TABLES, Plan, default_of, name_of

LIMIT = 64 << 10  # bytes
_MAX_DOTS = 256  # in one line
_LINE_SEARCH_BUDGET = 1 << 20  # characters, to find the lines of mistakes
_MOVED = {("fedhelp", "public_size"): ("public", "size")}  # keys of earlier versions; running federations have them


@dataclass(frozen=True, order=True)
class Mistake:
    line: int  # 0: not known
    where: str
    cause: str

    def __str__(self) -> str:
        return (f"line {self.line}: " if self.line else "") + f"{self.where}: {self.cause}"


class MethodSchema(Protocol):
    """What a plan needs to know of a method."""

    @property
    def table(self) -> type: ...  # its settings

    def mistakes(self, plan: Plan) -> Iterator[tuple[str, str, str]]:
        """What the plan asks that the method cannot do: table, key, and what to change."""


def load(path: Path, methods: Mapping[str, MethodSchema], settings: Mapping[str, str] | None = None) -> Plan:
    """Load a plan from a file."""
    with files.reading(path) as file:
        data = file.read(LIMIT + 1)
    try:
        return read(data.decode("utf-8-sig"), methods, settings)
    except UnicodeDecodeError as error:
        raise BadPlanError([Mistake(0, "plan", "not UTF-8 text")]) from error


def read(text: str, methods: Mapping[str, MethodSchema], settings: Mapping[str, str] | None = None) -> Plan:
    """Read a plan; raise `BadPlanError` with all mistakes in it.

    `settings` override the text: `{"fedhelp.lambda_j": "0.4"}`, each value as TOML writes it (or a bare word).
    """
    if len(text.encode()) > LIMIT:
        raise BadPlanError([Mistake(0, "plan", f"longer than {LIMIT // 1024} KiB")])
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MAX_DOTS:  # a key of that many parts takes a parser minutes
            raise BadPlanError([Mistake(number, "TOML", f"more than {_MAX_DOTS} dots")])
    try:
        raw = tomllib.loads(text)
    except ValueError as error:  # also for a number of too many digits
        line_match = re.search(r"at line (\d+)", str(error))
        cause = re.sub(r" \(at .*\)$", "", str(error)).lower()
        raise BadPlanError(
            [Mistake(int(line_match[1]) if line_match else text.count("\n") + 1, "TOML", cause)]
        ) from error
    except RecursionError as error:
        raise BadPlanError([Mistake(0, "TOML", "nested too deeply")]) from error
    problems: list[tuple[str, str, str]] = []
    moved = _move_keys(raw)
    for setting, value in (settings or {}).items():
        given_table, _, given_name = setting.rpartition(".")
        table, key_name = _MOVED.get((given_table, given_name), (given_table, given_name))
        target = raw.setdefault(table, {}) if table else raw
        if not isinstance(target, dict):
            raise BadPlanError([Mistake(0, setting, "no such key")])
        target[key_name] = _parse_value(value)
        moved[table, key_name] = given_table, given_name

    _fill_in(raw)

    def report(table: str, name: str, cause: str) -> None:
        problems.append((*moved.get((table, name), (table, name)), cause))

    top_keys = {name: value for name, value in raw.items() if not isinstance(value, dict)}
    given_tables = {name: value for name, value in raw.items() if isinstance(value, dict)}
    for name in given_tables.keys() - TABLES.keys() - methods.keys():
        report(name, "", "no such table" + _suggestion(name, [*TABLES, *methods]))
    named = [name for name in methods if name in given_tables or name == top_keys.get("method", Plan.method)]
    plan_tables, method_tables = (
        {name: _read_table(kind, given_tables.get(name, {}), name, report) for name, kind in kinds.items()}
        for kinds in (TABLES, {name: methods[name].table for name in named})
    )
    plan: Plan = _read_table(Plan, top_keys, "", report, **plan_tables, tables=method_tables, text=text)
    if plan.method in methods:
        for conflict in methods[plan.method].mistakes(plan):
            report(*conflict)
    else:
        report("", "method", f"{plan.method!r} is not one of {', '.join(methods)}" + _suggestion(plan.method, methods))
    for conflict in plan.conflicts():
        report(*conflict)
    if "classes" not in raw:
        report("", "classes", "name the classes of the model")
    if problems:
        lines = _line_numbers(text)
        raise BadPlanError(
            sorted(Mistake(_line_of(lines, *location), _key_path(*location), cause) for *location, cause in problems)
        )
    return plan


def _move_keys(raw: dict[str, Any]) -> dict[tuple[str, str], tuple[str, str]]:
    """Moves keys of earlier versions to where they are now; returns where the moved ones were."""
    moved: dict[tuple[str, str], tuple[str, str]] = {}
    for (old_table, old_name), (table, name) in _MOVED.items():
        old, new = raw.get(old_table), raw.setdefault(table, {})
        if isinstance(old, dict) and old_name in old and isinstance(new, dict) and name not in new:
            new[name] = old.pop(old_name)
            moved[table, name] = old_table, old_name
    return moved


def _fill_in(raw: dict[str, Any]) -> None:
    """Fills in the keys whose defaults depend on others: on the task, and on the number of channels."""
    defaults: dict[str, dict[str, Any]] = {}
    image = raw.get("image")
    if raw.get("task") == "segmentation":
        is_volume = isinstance(image, dict) and image.get("depth", 1) != 1
        defaults = {"nets": {"small": "unet8", "large": "unet16" if is_volume else "unet32"}, "training": {"batch": 8}}
        if raw.get("method", Plan.method) == "fedhelp" or "fedhelp" in raw:
            defaults["fedhelp"] = {"top": 1}
    if isinstance(image, dict) and image.get("channels") == 1:
        defaults["image"] = {"mean": [0.5], "std": [0.25]}
    for table, values in defaults.items():
        if isinstance(given := raw.setdefault(table, {}), dict):
            raw[table] = {**values, **given}


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text


def _line_of(lines: Mapping[tuple[str, str], int], table: str, name: str) -> int:
    return next((lines[location] for location in ((table, name), (table, ""), (name, "")) if location in lines), 0)


def _key_path(table: str, name: str) -> str:
    return f"[{table}] {name}".strip() if table else name


def _read_table(
    table_class: Any, raw: Mapping[str, Any], table: str, report: Callable[..., None], **preset: Any
) -> Any:
    """Read one table and pass its mistakes to `report`. A wrong value gets its default, so that the rest is checked."""
    keys = {name_of(plan_field): plan_field for plan_field in fields(table_class) if "note" in plan_field.metadata}
    for name in raw.keys() - keys.keys():
        report(table, name, "no such key" + _suggestion(name, keys))
    values = dict(preset)
    for name in raw.keys() & keys.keys():
        plan_field = keys[name]
        value, mistake = _convert(raw[name], default_of(plan_field), plan_field.metadata)
        if mistake:
            report(table, name, mistake)
        else:
            values[plan_field.name] = value
    settings = table_class(**values)
    for name, mistake in getattr(settings, "mistakes", tuple)():
        report(table, name, mistake)
    return settings


def _convert(value: Any, default: Any, metadata: Mapping[str, Any]) -> tuple[Any, str]:
    """The value in the type of its default, or the reason why not."""
    if isinstance(default, tuple):
        if not isinstance(value, list):
            return None, "should be a list"
        items = [_convert(item, default[0], metadata) for item in value]
        return tuple(item for item, _ in items), next((mistake for _, mistake in items if mistake), "")
    if isinstance(default, Mapping):
        if not isinstance(value, dict):
            return None, "should be a table in braces"
        entries = {name: _convert(entry, "", metadata) for name, entry in value.items()}
        mistakes = (mistake for _, mistake in entries.values() if mistake)
        return {name: entry for name, (entry, _) in entries.items()}, next(mistakes, "")
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        type_names = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
        return None, f"should be {type_names[type(default)]}"
    if metadata["choices"] and value not in metadata["choices"]:
        return None, f"{value!r} is not one of {', '.join(metadata['choices'])}" + _suggestion(
            value, metadata["choices"]
        )
    if isinstance(value, int | float) and not metadata.get("low", value) <= value <= metadata.get("high", value):
        return None, f"should be from {metadata['low']:g} to {metadata['high']:g}"
    return value, ""


def _suggestion(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; do you mean {close[0]!r}?" if close else ""


def _line_numbers(text: str) -> dict[tuple[str, str], int]:
    """The line number of each key, as far as the budget goes: each attempt at a long list costs.

    A TOML statement is the shortest run of lines that parses on its own.
    """
    numbers: dict[tuple[str, str], int] = {}
    table, start, pending, characters_read = "", 1, "", 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        pending += line
        characters_read += len(pending)
        if characters_read > _LINE_SEARCH_BUDGET:
            break
        try:
            value = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        if re.match(r"\s*\[", pending) and len(value) == 1:
            table = next(iter(value))
            numbers.setdefault((table, ""), start)
        else:
            for name in value:
                numbers.setdefault((table, name), start)
        start, pending = number + 1, ""
    return numbers
