"""Decoded once: all pixels of a source in one file, which later runs map into memory.

The file is the pixels, row after row, then an index (JSON), then the index's length in 8 bytes. It appears whole or not
at all. When files are added or change, a new one is written in which only what is new was decoded.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, plan
from fedhelp_edge.cores import usable_cores
from fedhelp_edge.data import picture
from fedhelp_edge.data.source_row import Decoded, Job, Source
from fedhelp_edge.errors import FedhelpError, ImageBrokenError, ImageKindError, ImageSizeError

_LASTING = tuple(
    kind.code for kind in (ImageBrokenError, ImageKindError, ImageSizeError)
)  # what another run would meet again
_TAIL = 8  # bytes of the index's length
_STALE = 3600  # seconds after which a part that nobody writes to any more is rubbish


Key: TypeAlias = tuple[str, str]  # name and stamp
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """What decoding found out about a row."""

    at: int = 0  # which image of the file, unless `code` says why there is none
    sha256: str = ""  # of the pixels
    width: int = 0
    height: int = 0
    group: str = ""
    doubt: str = ""
    code: str = ""
    cause: str = ""


@dataclass(frozen=True)
class Store:
    pixels: NDArray[np.uint8]
    entries: Sequence[Entry]  # one for each wanted row


def decoded(
    source: Source,
    wanted: Sequence[int],
    image: plan.Image,
    place: Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Store:
    """The pixels of the wanted rows, kept in the folder `place`, which is this source's and this image size's own."""
    keys: list[Key] = [(source.rows[i].name, source.rows[i].stamp) for i in wanted]
    pixels, known = _newest(place, image)
    todo = {key: i for key, i in zip(keys, wanted, strict=True) if key not in known}
    failed: dict[Key, Entry] = {}
    if todo:
        kept = {key: known[key] for key in keys if key in known}
        with picture.quietly(), closing(_all(source, list(todo.values()), workers, progress)) as results:
            path, failed = _write(place, pixels, kept, zip(todo, results, strict=True))
        if path:
            pixels, known = _load(path, image)
    return Store(pixels, [known.get(key) or failed[key] for key in keys])


def _all(
    source: Source, wanted: Sequence[int], workers: int | None, progress: Progress | None
) -> Generator[Decoded | FedhelpError]:
    """Every wanted row decoded, in order, by threads: decoders let go of Python's lock."""

    def one(job: Job) -> Decoded | FedhelpError:
        try:
            return job()
        except FedhelpError as fault:
            return fault

    workers = workers or min(usable_cores(), 16)
    jobs = source.jobs(wanted)
    waiting: deque[Future[Decoded | FedhelpError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for count in range(1, len(wanted) + 1):
            for job in itertools.islice(jobs, 4 * workers - len(waiting)):
                waiting.append(pool.submit(one, job))
            yield waiting.popleft().result()
            if progress:
                progress(count, len(wanted))


def _write(
    place: Path,
    old: NDArray[np.uint8],
    kept: Mapping[Key, Entry],
    results: Iterator[tuple[Key, Decoded | FedhelpError]],
) -> tuple[Path | None, dict[Key, Entry]]:
    """A new file of what was kept and what is new, if anything is; and what failed for a reason that may pass."""
    failed: dict[Key, Entry] = {}
    for key, result in results:
        if isinstance(result, Decoded) or result.code in _LASTING:
            results = itertools.chain([(key, result)], results)
            break
        failed[key] = Entry(code=result.code, cause=result.cause)
    else:
        return None, failed
    place.mkdir(parents=True, exist_ok=True)
    _tidy(place)
    before = list(place.glob("*.images"))
    path = place / f"{os.urandom(8).hex()}.images"
    with files.writing(path) as out:
        index: dict[Key, Entry] = {}
        count = 0
        for key, entry in kept.items():
            if not entry.code:
                out.write(old[entry.at].tobytes())
                entry, count = replace(entry, at=count), count + 1
            index[key] = entry
        for key, result in results:
            if isinstance(result, Decoded):
                data = result.pixels.tobytes()
                out.write(data)
                sha256 = hashlib.sha256(data).hexdigest()
                index[key] = Entry(count, sha256, result.width, result.height, result.group, result.doubt)
                count += 1
            else:
                into = index if result.code in _LASTING else failed
                into[key] = Entry(code=result.code, cause=result.cause)
        rows = [[*key, {name: value for name, value in vars(entry).items() if value}] for key, entry in index.items()]
        tail = json.dumps({"count": count, "rows": rows}).encode("ascii")
        out.write(tail + len(tail).to_bytes(_TAIL, "little"))
    for superseded in before:
        with suppress(OSError):  # Windows keeps what a program has open; the next one that is written removes it
            superseded.unlink()
    return path, failed


def _newest(place: Path, image: plan.Image) -> tuple[NDArray[np.uint8], dict[Key, Entry]]:
    """The pixels and the index of the latest whole file, or nothing."""
    for path in sorted(place.glob("*.images"), key=_age):
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged or gone: decode again
            return _load(path, image)
    return np.empty((0, image.size, image.size, image.channels), np.uint8), {}


def _load(path: Path, image: plan.Image) -> tuple[NDArray[np.uint8], dict[Key, Entry]]:
    with files.reading(path) as file:
        size = file.seek(-_TAIL, os.SEEK_END)
        length = int.from_bytes(file.read(), "little")
        file.seek(size - length)
        found = json.loads(file.read(length))
    shape = (int(found["count"]), image.size, image.size, image.channels)
    if np.prod(shape, dtype=np.int64) + length != size:
        raise ValueError("another size than its index says")
    pixels = np.memmap(path, np.uint8, "r", shape=shape) if shape[0] else np.empty(shape, np.uint8)
    return pixels, {(name, stamp): Entry(**values) for name, stamp, values in found["rows"]}


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _tidy(place: Path) -> None:
    """Remove what a run that was killed has left."""
    for part in place.glob(".*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()
