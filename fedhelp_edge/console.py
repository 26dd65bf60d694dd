"""Output of the commands: lines for a person, one JSON object for a program, and progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from fedhelp_edge import errors, hints, safe_text
from fedhelp_edge.safe_text import counted

SCHEMA_VERSION = 1


def print_json(**values: Any) -> None:
    """Print one JSON object on one line, for a program."""
    line = json.dumps({"schema_version": SCHEMA_VERSION, **values}, ensure_ascii=True)
    print(line.replace("\x7f", "\\u007f"), flush=True)


def show(*lines: str) -> None:
    """Print each argument as one line to stdout.

    All output goes through here or `say`: names and causes that others wrote may hold line ends or terminal escapes.
    """
    for line in lines:
        print(safe_text.visible(line), flush=True)


@contextmanager
def progress(description: str) -> Iterator[Callable[..., None] | None]:
    """A progress bar with the time left; None where stderr is not a terminal."""
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
        print(safe_text.visible(line), file=sys.stderr, flush=True)


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
