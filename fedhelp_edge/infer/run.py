"""Answers for any number of images: decoded by threads, asked in batches, kept as they come, taken up where they ended.

`answers.jsonl` holds a line a file, the first line names the model: it is what a run that was cut off goes on from, and
what the other files are made of.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fedhelp_edge import lock, unattended
from fedhelp_edge.cores import usable_cores
from fedhelp_edge.data import picture
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError, FileMissingError, ImageSizeError, OtherAnswersError
from fedhelp_edge.infer import decide, images, show
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.images import Item

Row: TypeAlias = dict[str, Any]  # what `predict --format json` says of a file, and for the log its stamp and picture
Progress: TypeAlias = Callable[[int, int], None]

LOG = "answers.jsonl"
_BATCH = 64
_AHEAD = 2 * _BATCH  # images that are being decoded or wait


@dataclass
class Tally:
    """How many rows there were, how many of them are answers, and how many say that a file is bad."""

    images: int = 0
    answered: int = 0
    bad: int = 0

    def counting(self, found: Iterable[Row]) -> Iterator[Row]:
        for row in found:
            self.images += 1
            self.answered += row["answer"] is not None
            self.bad += row["error"] is not None
            yield row


def rows(bundle: Bundle, items: Iterable[Item], *, pictures: bool = False) -> Iterator[Row]:
    """A row for each item, in order; what cannot be decoded is a row that says why."""
    waiting: deque[tuple[Item, Future[list[Decoded] | FedhelpError]]] = deque()
    sizes = [bundle.facts.image, *([show.shown_as(bundle.facts.image)] if pictures else [])]

    def decode(item: Item) -> list[Decoded] | FedhelpError:
        try:
            return [item.decode(size) for size in sizes]
        except FedhelpError as fault:
            return fault
        except MemoryError:
            return ImageSizeError("there is not enough memory to open it")

    items = iter(items)
    with ThreadPoolExecutor(min(usable_cores(), 8)) as pool:
        while True:
            for item in itertools.islice(items, _AHEAD - len(waiting)):
                waiting.append((item, pool.submit(decode, item)))
            if not waiting:
                return
            batch = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
            done = [(item, found.result()) for item, found in batch]
            yield from _asked(bundle, done)


def _asked(bundle: Bundle, done: Sequence[tuple[Item, list[Decoded] | FedhelpError]]) -> Iterator[Row]:
    decoded = [found[0].pixels for _, found in done if not isinstance(found, FedhelpError)]
    answers = iter(decide.answers(bundle, np.stack(decoded)) if decoded else [])
    for item, found in done:
        row: Row = {"file": item.name, "stamp": item.stamp}
        if isinstance(found, FedhelpError):
            nothing: Row = {
                "answer": None,
                "verdict": None,
                "reason": found.cause,
                "probabilities": {},
                "set": [],
                "flags": [],
                "distance": None,
            }
            error = {"code": found.code, "cause": found.cause, "remedy": found.remedy}
            yield {**row, **nothing, "doubt": "", "error": error}
            continue
        answer = next(answers)
        row |= {**answer.to_json(), "doubt": found[0].doubt, "error": None}
        if len(found) > 1:
            row["picture"] = show.picture(bundle.facts, answer, found[1])
        yield row


class Log:
    """The answers of one model in a folder, a line each; a line that a power cut left half-written does not count."""

    def __init__(self, folder: Path, bundle: Bundle, *, pictures: bool) -> None:
        self.path, self._pictures = folder / LOG, pictures
        head = json.dumps({"schema_version": 2, "model": bundle.sha256}).encode() + b"\n"
        if not self.path.exists():
            self.path.write_bytes(head)
        with self.path.open("rb+") as file:
            if file.readline() != head:
                raise OtherAnswersError(f"{folder.name} holds the answers of another model, or no answers")
            whole = file.tell()
            for line in file:
                if line.endswith(b"\n"):
                    whole += len(line)
            file.truncate(whole)
        self._known = {row["file"]: row["stamp"] for row in self.rows() if self._counts(row)}

    def lacks(self, item: Item) -> bool:
        """Whether the item's answer is not there, or was given for another state of the file."""
        return not item.stamp or self._known.get(item.name) != item.stamp

    def add(self, found: Iterable[Row]) -> Iterator[Row]:
        """Keep rows as they pass by; on the disk after each batch."""
        found = iter(found)
        with self.path.open("ab") as file:
            while batch := list(itertools.islice(found, _BATCH)):
                file.write(b"".join(json.dumps(row).encode() + b"\n" for row in batch))
                file.flush()
                os.fsync(file.fileno())
                self._known |= {row["file"]: row["stamp"] for row in batch if self._counts(row)}
                yield from batch

    def rows(self) -> Iterator[Row]:
        """Every file's last row, in the order in which they came."""
        last: dict[str, int] = {}
        for place, row in enumerate(self._lines()):
            last[row["file"]] = place
        kept = frozenset(last.values())
        return (row for place, row in enumerate(self._lines()) if place in kept)

    def _counts(self, row: Row) -> bool:
        """What failed is tried again; so is what lacks the picture that is wanted now."""
        return row["error"] is None and ("picture" in row or not self._pictures)

    def _lines(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    raise OtherAnswersError(f"{self.path.name} is damaged") from None


def into(
    folder: Path, bundle: Bundle, given: Sequence[Path], kind: str, progress: Progress | None = None
) -> tuple[Path, Tally]:
    """Answer all that has no answer in the folder yet, and write the file of this kind."""
    names: set[str] = set()
    total = images.count(given) if progress else 0

    def todo() -> Iterator[Item]:
        for count, item in enumerate(images.items(given, apart=folder), 1):
            names.add(item.name)
            if progress:
                progress(count, max(count, total))
            if log.lacks(item):
                yield item

    with _alone(folder):
        log = Log(folder, bundle, pictures=kind == "html")
        with picture.quietly():
            for _ in log.add(rows(bundle, todo(), pictures=kind == "html")):
                pass
        return finish(folder, bundle, log, names, kind)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A folder for answers in which no other run is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock.held(folder / ".lock", wait=0.0):
        yield


def finish(folder: Path, bundle: Bundle, log: Log, names: set[str], kind: str) -> tuple[Path, Tally]:
    """The file of a kind, made of the rows of these names."""
    tally = Tally()
    wanted = (row for row in log.rows() if row["file"] in names)
    return show.KINDS[kind].keep(folder, bundle, tally.counting(wanted)), tally


def watch(
    folder: Path, bundle: Bundle, drop: Path, kind: str, wait: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Answer whatever comes to lie in a drop folder, until `wait` says that it is enough. A file that still grows, or
    that was written to a moment ago, waits for the next look; so does everything while a folder is away or full."""
    failed: dict[str, str] = {}
    before: dict[str, str] = {}
    log: Log | None = None
    is_over = is_due = False

    def look() -> bool:
        nonlocal log, before, is_due
        if is_over:
            return True
        _check_there(drop)
        known, log = log or Log(folder, bundle, pictures=kind == "html"), None  # read anew after a fault
        now = {item.name: item for item in images.items([drop], apart=folder)}
        new = [
            item
            for item in now.values()
            if known.lacks(item)
            and failed.get(item.name) != item.stamp
            and (before.get(item.name) == item.stamp or time.time_ns() - _written(item) > _STILL)
        ]
        before = {name: item.stamp for name, item in now.items()}
        is_due = is_due or bool(new)
        with picture.quietly():
            added = known.add(rows(bundle, new, pictures=kind == "html"))
            bad = {row["file"]: row["stamp"] for row in added if row["error"]}
        if bad:
            _check_there(drop)  # else it is not the files that are bad
        failed.update(bad)
        if is_due:
            finish(folder, bundle, known, {row["file"] for row in known.rows()}, kind)
            is_due = False
        if new:
            say(f"{len(new)} new, {len(bad)} of them bad")
        log = known
        return False

    def rest(_: float) -> None:
        nonlocal is_over
        is_over = not wait()

    with _alone(folder):
        unattended.keep_on(look, 0.0, say, rest)


def _check_there(drop: Path) -> None:
    if not drop.is_dir():
        raise FileMissingError(f"{drop.name} is not there")


_STILL = 2_000_000_000  # nanoseconds


def _written(item: Item) -> int:
    return int(item.stamp.partition(":")[2] or 0)
