"""Cache the decoded images of a source in one file, which later runs map into memory.

The file holds the pixels image by image, then an index (JSON), then the index's length in 8 bytes. It is written
atomically. When files are added or change, a new file is written, for which only those are decoded.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, plan
from fedhelp_edge.cores import usable_cores
from fedhelp_edge.data import picture
from fedhelp_edge.data.pseudonyms import Pseudonyms
from fedhelp_edge.data.source_row import Decoded, DecodeJob, ImageSource
from fedhelp_edge.errors import (
    FedhelpError,
    ImageBrokenError,
    ImageKindError,
    ImageSizeError,
    MaskGridError,
    MaskKindError,
    MaskLabelError,
    MaskSizeError,
    VolumeKindError,
)

# errors that every further run would meet
_PERMANENT = (
    ImageBrokenError, ImageKindError, ImageSizeError, VolumeKindError, MaskKindError, MaskLabelError, MaskSizeError,
    MaskGridError,
)  # fmt: skip
_PERMANENT_CODES = tuple(kind.code for kind in _PERMANENT)
PIXELS, MASK = "pixels", "mask"  # the parts of a record that has both
_LENGTH_SIZE = 8  # bytes of the index's length
_STALE_SECONDS = 3600  # seconds after which a partial file is a leftover


RowKey: TypeAlias = tuple[str, str]  # name and stamp
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """The result of decoding one row."""

    at: int = 0  # index of the image in the file; meaningless if there is a `code`
    sha256: str = ""  # of the pixels
    width: int = 0
    height: int = 0
    group: str = ""  # a keyed hash of the patient's number
    doubt: str = ""
    code: str = ""
    cause: str = ""
    kind: Sequence[str] = ()  # of a DICOM file: an ImageKind
    sex: str = ""
    age: str = ""
    study: str = ""  # a keyed hash of its UID
    mask: str = ""  # SHA-256 of the mask
    mask_pixels: Sequence[int] = ()  # that have each class, the background first


@dataclass(frozen=True)
class ImageStore:
    """The decoded images of a source."""

    pixels: NDArray[Any]  # uint8; or records of an image and its mask
    entries: Sequence[Entry]  # one for each requested row


def decode_rows(
    source: ImageSource,
    indices: Sequence[int],
    image: plan.ImageSettings,
    folder: Path,
    *,
    pseudonyms: Pseudonyms,
    outputs: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImageStore:
    """Decode these rows of a source, or read them from `folder`, the cache of this source at this image size.

    With `outputs`, the classes of a mask and its background, each image has a mask.
    """
    keys: list[RowKey] = [(source.rows[i].name, source.rows[i].stamp) for i in indices]
    record = _record((*image.block, image.channels), has_mask=outputs > 0)
    pixels, index = _load_newest(folder, record)
    missing = {key: i for key, i in zip(keys, indices, strict=True) if key not in index}
    failed: dict[RowKey, Entry] = {}
    if missing:
        reused = {key: index[key] for key in keys if key in index}
        with (
            picture.without_warnings(),
            closing(_decode_all(source, list(missing.values()), workers, progress)) as results,
        ):
            new = zip(missing, results, strict=True)
            path, failed = _write(folder, record, outputs, pixels, reused, new, pseudonyms)
        if path:
            pixels, index = _load(path, record)
    return ImageStore(pixels, [index.get(key) or failed[key] for key in keys])


def decoded_images(cache_dir: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the decoded images of each source that has been decoded here, at whatever size."""
    for path in sorted((cache_dir / "decoded").glob("*/*.images")):
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged, or replaced while we look
            length, index = _read_index(path)
            if (count := int(index["count"])) and "sides" in index:
                sides = tuple(index["sides"])
                records = _map(path, _record(sides, has_mask=index["masks"]), count)
                yield (records[PIXELS] if index["masks"] else records).reshape(-1, *sides[-3:])  # slices of volumes
            elif count:
                numbers = (
                    path.stat().st_size - _LENGTH_SIZE - length
                ) // count  # of an image: side x side, once or three times
                channels = 1 if math.isqrt(numbers) ** 2 == numbers else 3
                side = math.isqrt(numbers // channels)
                yield np.memmap(path, np.uint8, "r", shape=(count, side, side, channels))


def _record(sides: tuple[int, ...], *, has_mask: bool) -> np.dtype[Any]:
    """What a file holds of an image: its pixels of these sides and channels, and its mask."""
    pixels = (np.uint8, sides)
    return np.dtype([(PIXELS, *pixels), (MASK, np.uint8, sides[:-1])]) if has_mask else np.dtype(pixels)


def _decode_all(
    source: ImageSource, indices: Sequence[int], workers: int | None, progress: Progress | None
) -> Generator[Decoded | FedhelpError]:
    """Decode these rows in threads and yield the results in order: decoders release Python's lock."""

    def decode(job: DecodeJob) -> Decoded | FedhelpError:
        try:
            return job()
        except FedhelpError as error:
            return error

    workers = workers or min(usable_cores(), 16)
    jobs = source.jobs(indices)
    pending: deque[Future[Decoded | FedhelpError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for count in range(1, len(indices) + 1):
            for job in itertools.islice(jobs, 4 * workers - len(pending)):
                pending.append(pool.submit(decode, job))
            yield pending.popleft().result()
            if progress:
                progress(count, len(indices))


def _write(
    folder: Path,
    record: np.dtype[Any],
    outputs: int,
    old_pixels: NDArray[Any],
    reused: Mapping[RowKey, Entry],
    results: Iterator[tuple[RowKey, Decoded | FedhelpError]],
    pseudonyms: Pseudonyms,
) -> tuple[Path | None, dict[RowKey, Entry]]:
    """Write a file of reused and new entries, if there are new ones; return its path, and temporary failures."""
    failed: dict[RowKey, Entry] = {}
    for key, result in results:
        if isinstance(result, Decoded) or result.code in _PERMANENT_CODES:
            results = itertools.chain([(key, result)], results)
            break
        failed[key] = Entry(code=result.code, cause=result.cause)
    else:
        return None, failed
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    superseded_files = list(folder.glob("*.images"))
    path = folder / f"{os.urandom(8).hex()}.images"
    with files.writing(path) as out:
        index: dict[RowKey, Entry] = {}
        count = 0
        for key, entry in reused.items():
            if not entry.code:
                out.write(old_pixels[entry.at].tobytes())
                entry, count = replace(entry, at=count), count + 1
            index[key] = entry
        for key, result in results:
            if isinstance(result, Decoded):
                data = result.pixels.tobytes()
                out.write(data)
                kind, study = (
                    (identity.kind, identity.study_instance_uid) if (identity := result.identity) else ((), "")
                )
                sha256 = hashlib.sha256(result.copied or data).hexdigest()
                entry = Entry(
                    count, sha256, result.width, result.height, pseudonyms.patient(result.group), result.doubt,
                    kind=kind, sex=result.sex, age=result.age, study=pseudonyms.study(study),
                )  # fmt: skip
                if result.mask is not None:
                    out.write(mask := result.mask.tobytes())
                    pixels_of = np.bincount(result.mask.ravel(), minlength=outputs)
                    entry = replace(entry, mask=hashlib.sha256(mask).hexdigest(), mask_pixels=pixels_of.tolist())
                index[key] = entry
                count += 1
            else:
                target = index if result.code in _PERMANENT_CODES else failed
                target[key] = Entry(code=result.code, cause=result.cause)
        rows = [[*key, {name: value for name, value in vars(entry).items() if value}] for key, entry in index.items()]
        sides = (record[PIXELS] if record.names else record).shape
        layout = {"sides": sides, "masks": bool(record.names)} if record.names or len(sides) > 3 else {}
        tail = json.dumps({"count": count, "rows": rows, **layout}).encode("ascii")
        out.write(tail + len(tail).to_bytes(_LENGTH_SIZE, "little"))
    for superseded in superseded_files:
        with suppress(OSError):  # Windows locks an open file; the next write removes it
            superseded.unlink()
    return path, failed


def _load_newest(folder: Path, record: np.dtype[Any]) -> tuple[NDArray[Any], dict[RowKey, Entry]]:
    """Pixels and index of the newest intact file; empty if there is none."""
    for path in sorted(folder.glob("*.images"), key=_age):
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged or deleted: decode again
            return _load(path, record)
    return np.empty(0, record), {}


def _load(path: Path, record: np.dtype[Any]) -> tuple[NDArray[Any], dict[RowKey, Entry]]:
    length, index = _read_index(path)
    size, count = path.stat().st_size - _LENGTH_SIZE, int(index["count"])
    if count * record.itemsize + length != size:
        raise ValueError("its size differs from its index")
    pixels = _map(path, record, count) if count else np.empty(0, record)
    return pixels, {(name, stamp): Entry(**values) for name, stamp, values in index["rows"]}


def _map(path: Path, record: np.dtype[Any], count: int) -> NDArray[Any]:
    return np.memmap(path, record.base, "r", shape=(count, *record.shape))


def _read_index(path: Path) -> tuple[int, Any]:
    """The length of a file's index, and the index."""
    with files.reading(path) as file:
        size = file.seek(-_LENGTH_SIZE, os.SEEK_END)
        length = int.from_bytes(file.read(), "little")
        file.seek(size - length)
        return length, json.loads(file.read(length))


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def remove_leftovers(folder: Path) -> None:
    """Remove the partial files of killed runs."""
    for leftover in folder.glob(".*.part"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()
