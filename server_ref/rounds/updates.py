"""The opened updates of a round, read from disk one tensor at a time and verified by their tags."""

from __future__ import annotations

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


class RoundUpdates(Mapping[str, Mapping[str, Array]]):
    """By site, an opened update, whose file is mapped only while it is used and only if it is the one that was judged.

    `fits` tells whether the content of a site's file is what got this tag. `reopen` opens the parcel of a site again if
    its file is gone or changed, and returns the new file's tag.
    """

    def __init__(
        self,
        opened_files: Mapping[str, tuple[Path, str]],
        header: update.TensorHeader,
        fits: Callable[[str, str, mmap.mmap], bool],
        reopen: Callable[[str], str],
    ) -> None:
        self._files, self._header, self._fits, self._reopen = dict(opened_files), header, fits, reopen
        self._verified: dict[str, tuple[int, ...]] = {}  # by site, the file whose tag was verified

    def subset(self, sites: Iterable[str]) -> RoundUpdates:
        subset = RoundUpdates({site: self._files[site] for site in sites}, self._header, self._fits, self._reopen)
        subset._verified = self._verified
        return subset

    def __getitem__(self, site: str) -> update.FileArrays:
        path, tag = self._files[site]
        if (mapped := self._map(site)) is None:
            new_tag = self._reopen(site)
            self._files[site] = path, tag or new_tag
            if (mapped := self._map(site)) is None:
                raise HubDamagedError(f"the update of {site} does not open to the tensors that were judged")
        return update.FileArrays(mapped, self._header)

    def _map(self, site: str) -> mmap.mmap | None:
        path, tag = self._files[site]
        with suppress(FileNotFoundError, FileKindError, ValueError):  # an empty file cannot be mapped
            with files.reading(path, follow=False) as file:  # the map outlives the open file
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                status = os.fstat(file.fileno())
            fingerprint = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
            if self._verified.get(site) == fingerprint:
                return mapped
            if tag and self._fits(site, tag, mapped):
                self._verified[site] = fingerprint
                return mapped
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
