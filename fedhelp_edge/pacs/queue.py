"""The node's queue: folders and files, each of which appears at once, so that the node may be killed at any instant.

    waiting/KEY.dcm        received and confirmed, but not answered
    results/KEY.MODEL/     answered; the results that are not sent yet
    done/MODEL/AB/KEY      answered, and so never again; files that stay, empty or with the SET of a volume's image
    failed/KEY.dcm         this program failed on it; for its makers

KEY is a hash of the image's SOP Instance UID, MODEL the start of the model's hash. `SeriesQueue` explains SET.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedhelp_edge import files, lock

_MODEL = 16  # digits of a model's hash
_FOLDERS = ("waiting", "making", "results", "done", "failed")


class Queue:
    """The images and results of one node."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self._model, self._adding = folder, model[:_MODEL], threading.Lock()
        self.waiting, self.making, self.results, self.done, self.failed = (folder / name for name in _FOLDERS)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the queue for one node, and finish what an earlier one was killed at."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock.exclusive(self.folder / ".lock", wait=0.0):
            shutil.rmtree(self.making, ignore_errors=True)
            for folder in (self.waiting, self.making, self.results, self.done / self._model, self.failed):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.waiting, self.results, self.failed):
                for leftover in folder.glob(".*.part"):
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            for path in self.waiting.iterdir():
                if self._is_answered(path.stem):
                    self._finish(path.stem)
            yield

    def add(self, uid: str, data: Iterable[bytes | memoryview], series: str = "") -> bool:
        """Keep an image on the disk until it is answered; False if it is here, or was answered before."""
        key = _key(uid)
        with self._adding:
            if self._waiting(key).exists() or self._is_answered(key):
                return False
            _write(self._waiting(key), data)
        return True

    def gather(self) -> None:
        """Let what has arrived wait for its answer; an image does so by itself."""

    def remember(self, image: Path) -> None:
        """Remember what is about to be answered; of an image the marker says it."""

    def oldest(self) -> Path | None:
        """The image that has waited longest."""
        with os.scandir(self.waiting) as entries:
            times = [(entry.stat().st_mtime_ns, entry.path) for entry in entries if not entry.name.startswith(".")]
        return Path(min(times)[1]) if times else None

    def longest_wait(self) -> float:
        """How many seconds the oldest image has waited."""
        with suppress(FileNotFoundError):  # answered meanwhile
            if oldest := self.oldest():
                return max(0.0, time.time() - oldest.stat().st_mtime)
        return 0.0

    def sizes(self) -> dict[str, int]:
        """How many images wait, have results to be sent, and were put aside."""
        folders = {"waiting": self.waiting, "answered": self.results, "failed": self.failed}
        return {name: sum(entry.name[0] != "." for entry in folder.iterdir()) for name, folder in folders.items()}

    def answered(self, image: Path, names: Iterable[str]) -> None:
        """Keep an image's results, which lie in `making`, until they are sent; the image itself is not needed again."""
        target = self._results(image.stem)
        partial = target.with_name(f".{target.name}.part")
        shutil.rmtree(partial, ignore_errors=True)  # of an attempt that failed
        partial.mkdir(mode=0o700)
        for name in names:
            (self.making / name).replace(partial / name)
        files.sync_folder(partial)
        partial.replace(target)
        files.sync_folder(self.results)
        self._finish(image.stem)

    def give_up(self, image: Path) -> None:
        """Put an image aside that this program fails on."""
        image.replace(self.failed / image.name)

    def to_send(self) -> list[Path]:
        """The folders of results, the oldest first."""
        with os.scandir(self.results) as entries:
            folders = [(entry.stat().st_mtime_ns, entry.name) for entry in entries if not entry.name.startswith(".")]
        # an image that still waits may be answered again after a crash, unless its results are still here
        return [
            self.results / name for _, name in sorted(folders) if not self._waiting(name.partition(".")[0]).exists()
        ]

    def _waiting(self, key: str) -> Path:
        return self.waiting / f"{key}.dcm"

    def _results(self, key: str) -> Path:
        return self.results / f"{key}.{self._model}"

    def _marker(self, key: str) -> Path:
        return self.done / self._model / key[:2] / key

    def _is_answered(self, key: str) -> bool:
        return self._marker(key).exists() or self._results(key).exists()

    def _finish(self, key: str) -> None:
        marker = self._marker(key)
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
        files.sync_folder(marker.parent)
        files.sync_folder(marker.parent.parent)
        self._remove(self._waiting(key))

    def _remove(self, image: Path) -> None:
        image.unlink(missing_ok=True)


class SeriesQueue(Queue):
    """The queue of a model for volumes, whose unit is a series.

    It has folders of its own, so that a model for pictures may have used the same queue:

        arriving/SERIES/KEY.dcm   received and confirmed; more may come
        series/SET/KEY.dcm        a whole series that is not answered; SET is a hash of the keys of its images

    A series is whole once no image of it has come for `quiet` seconds. One with fewer images than `stated` by a file of
    it waits ten times as long.
    """

    def __init__(self, folder: Path, model: str, quiet: float, stated: Callable[[Path], int]) -> None:
        super().__init__(folder, model)
        self.waiting, self.arriving, self._quiet, self._stated = folder / "series", folder / "arriving", quiet, stated

    @contextmanager
    def opened(self) -> Iterator[None]:
        with super().opened():
            self.arriving.mkdir(exist_ok=True, mode=0o700)
            for leftover in self.arriving.glob("*/.*.part"):
                leftover.unlink()
            for series in self.arriving.iterdir():
                os.utime(series)  # nothing could come while there was no node
            yield

    def add(self, uid: str, data: Iterable[bytes | memoryview], series: str = "") -> bool:
        """Keep an image on the disk until its series is answered; False if it is here."""
        path = self.arriving / _key(series) / f"{_key(uid)}.dcm"
        with self._adding:
            if path.exists():
                return False
            path.parent.mkdir(exist_ok=True, mode=0o700)
            files.sync_folder(self.arriving)
            _write(path, data)
        return True

    def gather(self) -> None:
        """Let each whole series wait for its answer, unless it was answered, alone or in a larger one."""
        for folder in [*self.arriving.iterdir()]:
            with self._adding:
                images = sorted(folder.glob("*.dcm"))
                age = time.time() - folder.stat().st_mtime
                lacks_some = any(self._stated(image) > len(images) for image in images[:1])
                patience = 10 * self._quiet if lacks_some else self._quiet
                if 0 <= age < patience:
                    continue
                whole = self._waiting(_key("".join(image.stem for image in images)))
                answers = {self._answer_of(image.stem) for image in images}
                is_known = len(answers) == 1 and "" not in answers
                if not images or is_known or whole.exists() or self._is_answered(whole.name):
                    shutil.rmtree(folder)
                else:
                    folder.replace(whole)
                    files.sync_folder(self.waiting)

    def remember(self, image: Path) -> None:
        """Remember for each image of a series in which set it is answered. A part of that set is not answered again."""
        for path in image.iterdir():
            marker = self._marker(path.stem)
            marker.parent.mkdir(exist_ok=True)
            marker.write_text(image.name)

    def give_up(self, image: Path) -> None:
        shutil.rmtree(self.failed / image.name, ignore_errors=True)  # of an earlier attempt
        super().give_up(image)

    def _answer_of(self, key: str) -> str:
        """The set in which an image was answered, "" for none."""
        marker = self._marker(key)
        return marker.read_text() if marker.exists() else ""

    def _waiting(self, key: str) -> Path:
        return self.waiting / key

    def _remove(self, image: Path) -> None:
        shutil.rmtree(image, ignore_errors=True)


def _key(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _write(path: Path, data: Iterable[bytes | memoryview]) -> None:
    with files.writing(path, replace=True) as file:
        for chunk in data:
            file.write(chunk)
