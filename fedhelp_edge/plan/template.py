"""A commented plan in which every key has its default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedhelp_edge.plan.reading import MethodSchema
from fedhelp_edge.plan.tables import TABLES, Plan, default_of, name_of


def template(methods: Mapping[str, MethodSchema]) -> str:
    """A commented plan in which every key has its default."""
    parts = [_table_template(Plan, "")]
    tables = {**TABLES, **{name: method.table for name, method in methods.items()}}
    parts += [_table_template(table_class, name) for name, table_class in tables.items()]
    return "\n".join(filter(None, parts))


def _table_template(table_class: Any, table: str) -> str:
    keys = [(name_of(f), default_of(f), f.metadata) for f in fields(table_class) if "note" in f.metadata]
    rows = [(f"{name} = {_toml(default)}", _comment(metadata)) for name, default, metadata in keys]
    width = max((len(row) for row, _ in rows), default=0)
    heading = [f"[{table}]  # {(table_class.__doc__ or '').splitlines()[0]}"] if table else []
    lines = [f"{row.ljust(width)}  # {note}" if note else row for row, note in rows]
    return "\n".join([*heading, *lines, ""]) if rows else ""


def _comment(metadata: Mapping[str, Any]) -> str:
    return "; ".join(
        filter(None, (metadata["note"], " | ".join(metadata["choices"]) if len(metadata["choices"]) > 1 else ""))
    )


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(entry)}" for name, entry in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
