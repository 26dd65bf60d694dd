"""Send results to an archive by C-STORE. What it has confirmed is deleted here; all else is tried again."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fedhelp_edge.errors import PacsOfflineError
from fedhelp_edge.pacs.connection import Entity

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
KINDS = (
    "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.66.4",  # segmentation
)


@dataclass(frozen=True)
class Archive:
    """Where results go: AET@HOST:PORT."""

    aet: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Sender:
    """Sends results to an archive, which may be silent for `silence` seconds."""

    def __init__(self, archive: Archive, own_aet: str, silence: float) -> None:
        self._archive, self._entity = archive, Entity(own_aet, silence)
        for kind in KINDS:
            self._entity.add_requested_context(kind, _SYNTAXES)

    def end(self) -> None:
        """End a sending that is under way, and refuse later ones."""
        self._entity.end()

    def send(self, folders: list[Path], refused: Callable[[int], None]) -> int:
        """Send folders of results, and delete each file that the archive confirms; return how many folders are done.

        `refused` hears the status of each file that the archive does not take. Raise `PacsOfflineError` if it cannot be
        reached.
        """
        archive = self._archive
        tls: Any = (archive.tls, archive.host) if archive.tls else None
        association = self._entity.associate(archive.host, archive.port, ae_title=archive.aet, tls_args=tls)
        if not association.is_established:
            raise PacsOfflineError(
                "the archive refuses this node" if association.is_rejected else "the archive does not answer"
            )
        try:
            done = sum(_send_folder(association, folder, refused) for folder in folders)
        except BaseException:
            association.abort()  # a release would wait for the archive's answer
            raise
        association.release()
        return done


def _send_folder(association: Any, folder: Path, refused: Callable[[int], None]) -> bool:
    """Whether the archive has taken all that is in a folder."""
    os.utime(folder)  # others come first the next time, also if this one fails
    for path in sorted(folder.iterdir()):
        if _is_stored(association, path, refused):
            path.unlink()
    if any(folder.iterdir()):
        return False
    folder.rmdir()
    return True


def _is_stored(association: Any, path: Path, refused: Callable[[int], None]) -> bool:
    """Whether the archive confirms a file."""
    try:
        status = association.send_c_store(pydicom.dcmread(path)).get("Status")
    except (RuntimeError, ValueError) as error:  # the association has ended, or lacks a context for this kind
        if not association.is_established:
            raise PacsOfflineError("the archive ended the connection") from error
        status = 0x0122
    if status is None:
        raise PacsOfflineError("the archive ended the connection")
    if status == 0 or status >> 12 == 0xB:  # stored, perhaps with a warning
        return True
    refused(status)
    return False
