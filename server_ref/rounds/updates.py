"""The opened updates of a round, read from disk one tensor at a time and verified by their hash."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from fedhelp_edge import files, update
from fedhelp_edge.errors import (
    FileKindError,
    HubDamagedError,
)
from fedhelp_edge.update import Array


# --- close ------------------------------------------------------------------------------
class RoundUpdates(Mapping[str, Mapping[str, Array]]):
    """The opened shares of a round, each read from its file when its turn comes, and only if it is what was judged.

    What is gone or was changed is opened anew by `again`, from the parcel that the site sent; it gives the file's hash.
    """

    def __init__(
        self, opened_files: Mapping[str, tuple[Path, str]], header: update.TensorHeader, reopen: Callable[[str], str]
    ) -> None:
        self._files, self._header, self._again = dict(opened_files), header, reopen
        self._known: dict[str, tuple[int, ...]] = {}  # the files that were hashed

    def only(self, sites: Iterable[str]) -> RoundUpdates:
        subset = RoundUpdates({site: self._files[site] for site in sites}, self._header, self._again)
        subset._known = self._known
        return subset

    def __getitem__(self, site: str) -> update.FileArrays:
        path, sha256 = self._files[site]
        if (mapped := self._map(site)) is None:
            self._files[site] = path, self._again(site)
            if self._files[site][1] != (sha256 or self._files[site][1]) or (mapped := self._map(site)) is None:
                raise HubDamagedError(f"the share of {site} does not open to the numbers that were judged")
        return update.FileArrays(mapped, self._header)

    def _map(self, site: str) -> mmap.mmap | None:
        path, sha256 = self._files[site]
        with suppress(FileNotFoundError, FileKindError, ValueError):  # an empty file cannot be mapped
            with files.reading(path, follow=False) as file:  # a map outlives the file, and goes with its last reader
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                status = os.fstat(file.fileno())
            fingerprint = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
            if self._known.get(site) == fingerprint:
                return mapped
            if hashlib.sha256(mapped).hexdigest() == sha256:
                self._known[site] = fingerprint
                return mapped
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
