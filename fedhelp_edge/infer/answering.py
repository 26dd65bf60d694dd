"""Answer any number of images: decode in threads, run in batches, save at once, resume after an interruption.

`answers.jsonl` has a line for each file; its first line names the model. An interrupted run resumes from it, and the
other files are made from it.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from fedhelp_edge import files, lock, unattended
from fedhelp_edge.cores import usable_cores
from fedhelp_edge.data import picture
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError, FileMissingError, ImageSizeError, OtherAnswersError
from fedhelp_edge.infer import answer_formats, decide, inputs, mask_formats, trained_kinds
from fedhelp_edge.infer.bundle import AnyBundle, Bundle, MaskBundle
from fedhelp_edge.infer.event_log import EventLog
from fedhelp_edge.infer.inputs import InputItem

LoggedRow: TypeAlias = dict[
    str, Any
]  # what `predict --format json` says of a file, and for the log its stamp and picture
Progress: TypeAlias = Callable[[int, int], None]


class WriteResults(Protocol):
    """Writes further files for each image; returns their names."""

    @property
    def side(self) -> int:
        """The size at which it wants to see an image, 0 for none."""

    def __call__(
        self, item: InputItem, row: LoggedRow, answer: decide.Answer | None, shown: Decoded | None
    ) -> list[str]: ...


LOG_FILE = "answers.jsonl"
_REQUIRED_KEYS = {"html": ("picture",), "dicom": ("dicom",)}
_BATCH = 64
_MAX_PENDING = 2 * _BATCH  # images that are being decoded or wait


@dataclass
class Tally:
    """Numbers of rows, of answers among them, and of unusable files."""

    images: int = 0
    answered: int = 0
    bad: int = 0

    def counted(self, all_rows: Iterable[LoggedRow]) -> Iterator[LoggedRow]:
        """Count rows as they pass through."""
        for row in all_rows:
            self.images += 1
            self.answered += row["verdict"] == "answered"
            self.bad += row["error"] is not None
            yield row


def answer_items(
    bundle: Bundle, items: Iterable[InputItem], *, pictures: bool = False, results: WriteResults | None = None
) -> Iterator[LoggedRow]:
    """Yield a row for each item, in order; an unusable file gives a row with its error.

    With `pictures` a row has a picture for a page; with `results` the names of the DICOM files that were written.
    """
    pending: deque[tuple[InputItem, Future[list[Decoded] | FedhelpError]]] = deque()
    side = results.side if results else answer_formats.SIDE if pictures else 0
    sizes = [bundle.facts.image, *([answer_formats.display_size(bundle.facts.image, side)] if side else [])]

    def decode(item: InputItem) -> list[Decoded] | FedhelpError:
        try:
            decoded = [item.decode(size) for size in sizes]
            return [replace(decoded[0], doubt=trained_kinds.doubt(bundle, decoded[0])), *decoded[1:]]
        except FedhelpError as error:
            return error
        except MemoryError:
            return ImageSizeError("there is not enough memory to open it")

    items = iter(items)
    with ThreadPoolExecutor(min(usable_cores(), 8)) as pool:
        while True:
            for item in itertools.islice(items, _MAX_PENDING - len(pending)):
                pending.append((item, pool.submit(decode, item)))
            if not pending:
                return
            batch = [pending.popleft() for _ in range(min(_BATCH, len(pending)))]
            decoded = [(item, future.result()) for item, future in batch]
            yield from _answer_batch(bundle, decoded, results)


def _answer_batch(
    bundle: Bundle, batch: Sequence[tuple[InputItem, list[Decoded] | FedhelpError]], results: WriteResults | None = None
) -> Iterator[LoggedRow]:
    pixels = [result[0].pixels for _, result in batch if not isinstance(result, FedhelpError)]
    answers = iter(decide.answer_images(bundle, np.stack(pixels)) if pixels else [])
    for item, result in batch:
        row: LoggedRow = {"file": item.name, "stamp": item.stamp}
        row |= answer_formats.identity_keys(item.identify() if isinstance(result, FedhelpError) else result[0].identity)
        if isinstance(result, FedhelpError):
            no_answer: LoggedRow = {
                "answer": None,
                "verdict": None,
                "reason": result.cause,
                "probabilities": {},
                "set": [],
                "flags": [],
                "distance": None,
            }
            error = {"code": result.code, "cause": result.cause, "remedy": result.remedy}
            row |= {**no_answer, "doubt": "", "error": error}
            yield row | ({"dicom": results(item, row, None, None)} if results else {})
            continue
        answer = next(answers)
        row |= {**answer.to_json(), "doubt": result[0].doubt, "error": None}
        if results:
            row["dicom"] = results(item, row, answer, result[1] if results.side else None)
        elif len(result) > 1:
            row["picture"] = answer_formats.render_picture(bundle.facts, answer, result[1])
        yield row


def answers(
    bundle: AnyBundle, items: Iterable[InputItem], kind: str, folder: Path | None = None,
    events: EventLog | None = None,
) -> Iterator[LoggedRow]:  # fmt: skip
    """Yield a row for each item, with what a format needs. Files of answers are written into the folder."""
    rows = _answers(bundle, items, kind, folder)
    return events.logged(rows) if events else rows


def _answers(bundle: AnyBundle, items: Iterable[InputItem], kind: str, folder: Path | None) -> Iterator[LoggedRow]:
    dicom_folder = folder if kind == "dicom" else None
    if isinstance(bundle, MaskBundle):
        from fedhelp_edge.infer import mask_answering  # and all that reads masks

        if dicom_folder is None:
            return mask_answering.answer_items(bundle, items, folder, pictures=kind == "html")
        from fedhelp_edge.infer.dicom_masks import MaskWriter  # it needs an extra

        return mask_answering.answer_items(bundle, items, folder, results=MaskWriter(dicom_folder, bundle))
    if dicom_folder is None:
        return answer_items(bundle, items, pictures=kind == "html")
    from fedhelp_edge.infer.dicom_results import ResultWriter

    return answer_items(bundle, items, results=ResultWriter(dicom_folder, bundle))


def formats_of(bundle: AnyBundle) -> Mapping[str, answer_formats.TableFormat]:
    """The formats of a model's answers."""
    return mask_formats.FORMATS if isinstance(bundle, MaskBundle) else answer_formats.FORMATS


class AnswerLog:
    """The answers of one model in a folder, one line each; a half-written last line (after a power cut) is dropped."""

    def __init__(self, folder: Path, bundle: AnyBundle, kind: str) -> None:
        self.path, self._required = folder / LOG_FILE, {*answer_formats.IDENTITY_KEYS, *_REQUIRED_KEYS.get(kind, ())}
        header = json.dumps({"schema_version": 2, "model": bundle.sha256}).encode() + b"\n"
        if not self.path.exists():
            self.path.write_bytes(header)
        with self.path.open("rb+") as file:
            if file.readline() != header:
                raise OtherAnswersError(f"{folder.name} holds the answers of another model, or no answers")
            length = file.tell()
            for line in file:
                if line.endswith(b"\n"):
                    length += len(line)
            file.truncate(length)
        self._known = {row["file"]: row["stamp"] for row in self.rows() if self._is_settled(row)}

    def needs(self, item: InputItem) -> bool:
        """Whether the item has no answer for the present state of its file."""
        return not item.stamp or self._known.get(item.name) != item.stamp

    def add(self, new_rows: Iterable[LoggedRow]) -> Iterator[LoggedRow]:
        """Save rows as they pass through; each batch is synced to disk."""
        new_rows = iter(new_rows)
        with self.path.open("ab") as file:
            while batch := list(itertools.islice(new_rows, _BATCH)):
                file.write(b"".join(json.dumps(row).encode() + b"\n" for row in batch))
                file.flush()
                os.fsync(file.fileno())
                self._known |= {row["file"]: row["stamp"] for row in batch if self._is_settled(row)}
                yield from batch

    def rows(self) -> Iterator[LoggedRow]:
        """The last row of every file, in the order of writing."""
        last: dict[str, int] = {}
        for line_number, row in enumerate(self._lines()):
            last[row["file"]] = line_number
        newest = frozenset(last.values())
        return (row for line_number, row in enumerate(self._lines()) if line_number in newest)

    def _is_settled(self, row: LoggedRow) -> bool:
        """Whether a row need not be computed again: failed ones, and those that lack what the format needs, must."""
        return row["error"] is None and self._required <= row.keys()

    def _lines(self) -> Iterator[LoggedRow]:
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise OtherAnswersError(f"{self.path.name} is damaged") from error


def write_answers(
    folder: Path, bundle: AnyBundle, paths: Sequence[Path], kind: str, progress: Progress | None = None,
    events: EventLog | None = None,
) -> tuple[Path, Tally]:  # fmt: skip
    """Answer every image without an answer in the folder, and write the answers in this format."""
    names: set[str] = set()
    total = inputs.count_items(paths) if progress else 0

    def todo() -> Iterator[InputItem]:
        for count, item in enumerate(inputs.list_items(paths, bundle.facts.image, answers_dir=folder), 1):
            names.add(item.name)
            if progress:
                progress(count, max(count, total))
            if log.needs(item):
                yield item

    with _exclusive(folder):
        log = AnswerLog(folder, bundle, kind)
        with picture.without_warnings():
            for _ in log.add(answers(bundle, todo(), kind, folder, events)):
                pass
        return write_file(folder, bundle, log, names, kind)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder of answers against other runs, and remove what killed ones left half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock.exclusive(folder / ".lock", wait=0.0):
        for partial in (*folder.glob(files.PARTIALS), *(folder / mask_formats.FOLDER).rglob(files.PARTIALS)):
            partial.unlink()
        yield


def write_file(folder: Path, bundle: AnyBundle, log: AnswerLog, names: set[str], kind: str) -> tuple[Path, Tally]:
    """Write the rows of these names in a format."""
    tally = Tally()
    selected = (row for row in log.rows() if row["file"] in names)
    format_ = formats_of(bundle)[answer_formats.LISTS.get(kind, kind)]
    return format_.write(folder, bundle, tally.counted(selected)), tally


class _Watcher:
    """Answers the new files of a drop folder, turn by turn."""

    def __init__(
        self, folder: Path, bundle: AnyBundle, drop_folder: Path, kind: str, report: Callable[[str], None],
        events: EventLog | None,
    ) -> None:  # fmt: skip
        self.events = events
        self.folder, self.bundle, self.drop_folder, self.kind, self.report = folder, bundle, drop_folder, kind, report
        self.failed: dict[str, str] = {}  # name -> stamp of unusable files
        self.earlier: dict[str, str] = {}  # name -> stamp of all files in the last turn
        self.log: AnswerLog | None = None
        self.is_due = False  # rows were added that are not yet in the file

    def answer_new(self) -> None:
        """Answer the new files, and write all answers if there are new ones. After an error the next turn resumes."""
        _check_exists(self.drop_folder)
        log = self.log or AnswerLog(self.folder, self.bundle, self.kind)
        self.log = None  # after an error it is read again
        listed = inputs.list_items([self.drop_folder], self.bundle.facts.image, answers_dir=self.folder)
        present = {item.name: item for item in listed}
        new = [item for item in present.values() if log.needs(item) and self._is_ready(item)]
        self.earlier = {name: item.stamp for name, item in present.items()}
        self.is_due = self.is_due or bool(new)
        with picture.without_warnings():
            added = log.add(answers(self.bundle, new, self.kind, self.folder, self.events))
            failed = {row["file"]: row["stamp"] for row in added if row["error"]}
        if failed:
            _check_exists(self.drop_folder)  # if it has disappeared, the files are not to blame
        self.failed.update(failed)
        if self.is_due:
            write_file(self.folder, self.bundle, log, {row["file"] for row in log.rows()}, self.kind)
            self.is_due = False
        if new:
            self.report(f"{len(new)} new, {len(failed)} of them bad")
        self.log = log

    def _is_ready(self, item: InputItem) -> bool:
        """Whether a file is new since it failed, and complete: unchanged since the last turn, or for some time."""
        is_settled = self.earlier.get(item.name) == item.stamp or time.time_ns() - _modified_ns(item) > _SETTLED_NS
        return is_settled and self.failed.get(item.name) != item.stamp


def watch_folder(
    folder: Path,
    bundle: AnyBundle,
    drop_folder: Path,
    kind: str,
    wait: Callable[[], bool],
    report: Callable[[str], None],
    events: EventLog | None = None,
) -> None:
    """Answer the images of a drop folder until `wait` returns False.

    A file that was written to a moment ago waits for the next turn, because it may still grow. So does every file while
    a folder is missing or full.
    """
    watcher, is_over = _Watcher(folder, bundle, drop_folder, kind, report, events), False

    def turn() -> bool:
        if not is_over:
            watcher.answer_new()
        return is_over

    def rest(_: float) -> None:
        nonlocal is_over
        is_over = not wait()

    with _exclusive(folder):
        unattended.run_repeatedly(turn, 0.0, report, rest)


def _check_exists(drop_folder: Path) -> None:
    if not drop_folder.is_dir():
        raise FileMissingError(f"{drop_folder.name} does not exist")


_SETTLED_NS = 2_000_000_000  # nanoseconds


def _modified_ns(item: InputItem) -> int:
    return int(item.stamp.partition(":")[2] or 0)
