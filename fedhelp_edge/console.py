"""Output of the commands: lines for a person, one JSON object for a program, and progress bars."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from typing import Any

from fedhelp_edge import errors, hints, safe_text
from fedhelp_edge.safe_text import counted

SCHEMA_VERSION = 1
_LEVELS = {"error": "error", "warning": "warning", "waiting": "warning"}  # by the word before the first colon
_CODE = re.compile(r"\bE_[A-Z0-9_]+\b")


class LogFormat:
    """How lines are written: for people, or as JSON objects on stderr for a program that collects logs."""

    is_json = False


def print_json(**values: Any) -> None:
    """Print one JSON object on one line, for a program."""
    import json

    line = json.dumps({"schema_version": SCHEMA_VERSION, **values}, ensure_ascii=True)
    print(line.replace("\x7f", "\\u007f"), flush=True)


def show(*lines: str) -> None:
    """Print each argument as one line to stdout, or to the log of a program.

    All output goes through here or `say`: names and causes that others wrote may hold line ends or terminal escapes.
    """
    if LogFormat.is_json:
        say(*lines)
        return
    for line in lines:
        print(safe_text.visible(line), flush=True)


@contextmanager
def progress(description: str) -> Iterator[Callable[..., None] | None]:
    """A progress bar with the time left; None where stderr is a log, not a terminal."""
    if LogFormat.is_json or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        description = safe_text.visible(description)
        task = bar.add_task(description, total=None)

        def show(done: int, total: int, rate: float | None = None) -> None:
            speed = f", {rate:.0f} images/s" if rate else ""
            bar.update(task, completed=done, total=total, description=f"{description}{speed}")

        yield show


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Callable[..., None] | None]]:
    """A progress bar for each part of long work, one at a time."""
    with ExitStack() as stack:

        def watch(description: str) -> Callable[..., None] | None:
            stack.close()
            return stack.enter_context(progress(description))

        yield watch


def error_lines(prefix: str, outcome: Mapping[str, str]) -> list[str]:
    """Lines about one item of a list: if it was refused, its code, cause and remedy."""
    if not outcome["code"]:
        return [prefix.rstrip()]
    return [
        f"{prefix}{outcome['code']}: {outcome['cause']}",
        f"    hint: {hints.with_caller_options(errors.remedy_of(outcome['code']))}",
    ]


def say(*lines: str) -> None:
    """Print each argument as one line to stderr: for the person, not for a program that reads stdout."""
    for line in lines:
        text = safe_text.visible(line)
        print(_log_object(text) if LogFormat.is_json else text, file=sys.stderr, flush=True)


def _log_object(line: str) -> str:
    """A line of the log as JSON: its time, its level, and its error code if it has one."""
    import json

    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    code = _CODE.search(line)
    level = _LEVELS.get(line.partition(":")[0], "info")
    entry = {"schema_version": SCHEMA_VERSION, "time": now, "level": level, "message": line}
    return json.dumps(entry | ({"code": code[0]} if code else {}))


def say_next(text: str) -> None:
    """Say what to do next. Each command in the text can be typed as it is printed."""
    say(f"next: {hints.with_caller_options(text)}")


def say_findings(findings: Sequence[Mapping[str, Any]]) -> None:
    """Say what limits the figures that were just printed."""
    for finding in findings:
        say(f"note: {finding['sentence']}")


def say_first_weights(net: str, tensors: int, drawn: Sequence[str]) -> None:
    """Say what a file of first weights gave, and which tensors keep their random values."""
    say(f"first weights of {net or 'the net that travels'}: {counted(tensors, 'tensor', 'tensors')} from the file")
    if drawn:
        first = ", ".join(drawn[:3]) + (", ..." if len(drawn) > 3 else "")
        kept = counted(len(drawn), "tensor keeps its random values", "tensors keep their random values")
        say(f"{kept}; the given weights have none of that name and shape: {first}")
