"""A log of what a model answered, and when: a file on this computer, kept only where somebody asks for it.

It holds no image and no name of a patient: of a DICOM file its UID, which the archive knows, of others the file's name.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fedhelp_edge import __version__
from fedhelp_edge.errors import FileKindError
from fedhelp_edge.infer.bundle import AnyBundle

SCHEMA_VERSION = 1
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class EventLog:
    """Appends a line for each answer of one model. Processes may share a file: each line is one write."""

    def __init__(self, path: Path, bundle: AnyBundle) -> None:
        facts = bundle.facts
        self._path = path
        self._model = {"model": bundle.sha256, "federation": facts.federation, "round": facts.round}
        with self._opened() as descriptor:  # a file that cannot be written is told at once
            size = os.lseek(descriptor, 0, os.SEEK_END)
            if size and _last_byte(descriptor, size) != b"\n":  # after a power cut
                os.write(descriptor, b"\n")

    def add(self, row: Mapping[str, Any]) -> None:
        """Log an answer before anybody gets it; after an interruption it may be logged twice."""
        uid, error = row["sop_instance_uid"], row["error"]
        entry = {
            "schema_version": SCHEMA_VERSION, "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "version": __version__, **self._model, "sop_instance_uid": uid, "file": None if uid else row["file"],
            "verdict": row["verdict"], "answer": row.get("answer"), "reason": row["reason"],
            "error": error and error["code"],
        }  # fmt: skip
        with self._opened() as descriptor:
            os.write(descriptor, json.dumps(entry).encode() + b"\n")
            os.fsync(descriptor)

    def logged(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Log rows as they pass through."""
        for row in rows:
            self.add(row)
            yield row

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, made readable by this user alone. Opened for each line, so that programs may rotate logs."""
        descriptor = os.open(self._path, _FLAGS, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileKindError(f"{self._path.name} is not an ordinary file")
            yield descriptor
        finally:
            os.close(descriptor)


def _last_byte(descriptor: int, size: int) -> bytes:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1)
