"""What the commands print: lines for a person, one JSON object for a program, and progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from fedhelp_edge import errors, hints, safe_text

SCHEMA_VERSION = 1


def print_json(**values: Any) -> None:
    """One line, one object: what a program reads."""
    line = json.dumps({"schema_version": SCHEMA_VERSION, **values}, ensure_ascii=True)
    print(line.replace("\x7f", "\\u007f"), flush=True)


def show(*lines: str) -> None:
    """Print the result, each argument as one line, whatever it holds. All that is printed goes through here or `say`,
    for names and causes that others wrote may hold line ends and signs that steer a terminal."""
    for line in lines:
        print(safe_text.visible(line), flush=True)


@contextmanager
def progress(description: str) -> Iterator[Callable[..., None] | None]:
    """A bar with the time left, for whoever watches a terminal; None where nobody does."""
    if not sys.stderr.isatty():
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
    """A bar for each part of long work, the last one at a time."""
    with ExitStack() as stack:

        def watch(description: str) -> Callable[..., None] | None:
            stack.close()
            return stack.enter_context(progress(description))

        yield watch


def error_lines(prefix: str, outcome: Mapping[str, str]) -> list[str]:
    """What became of something among others; if it was refused, its code and cause, and below them what to do."""
    if not outcome["code"]:
        return [prefix.rstrip()]
    return [
        f"{prefix}{outcome['code']}: {outcome['cause']}",
        f"    hint: {hints.with_caller_options(errors.remedy_of(outcome['code']))}",
    ]


def say(*lines: str) -> None:
    """To the person, not to the program that reads stdout: each argument one line, as `show` prints it."""
    for line in lines:
        print(safe_text.visible(line), file=sys.stderr, flush=True)


def say_next(text: str) -> None:
    """What to do after this command. Each command in the text works as it is printed, in the shell that printed it."""
    say(f"next: {hints.with_caller_options(text)}")


def say_findings(findings: Sequence[Mapping[str, Any]]) -> None:
    """What figures that were just printed cannot tell, or tell too well."""
    for finding in findings:
        say(f"note: {finding['sentence']}")


def say_missing_tensors(names: Sequence[str]) -> None:
    """Of first weights that somebody gave: what of the net they lack."""
    if names:
        first = ", ".join(names[:3])
        say(f"{len(names)} tensors keep their drawn values, for those given lack them or differ in shape: {first}")
