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
from pynetdicom import AE

from fedhelp_edge.errors import PacsOfflineError

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_KINDS = ("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7")  # Comprehensive SR, secondary capture
_SILENCE = 60  # seconds


@dataclass(frozen=True)
class Archive:
    """Where results go: AET@HOST:PORT."""

    aet: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None


def send(archive: Archive, own_aet: str, folders: list[Path], refused: Callable[[int], None]) -> int:
    """Send folders of results, and delete each file that the archive confirms; return how many folders are done.

    `refused` hears the status of each file that the archive does not take. Raise `PacsOfflineError` if it cannot be
    reached.
    """
    node = AE(own_aet)
    node.acse_timeout = node.dimse_timeout = node.network_timeout = node.connection_timeout = _SILENCE
    for kind in _KINDS:
        node.add_requested_context(kind, _SYNTAXES)
    tls: Any = (archive.tls, archive.host) if archive.tls else None
    association = node.associate(archive.host, archive.port, ae_title=archive.aet, tls_args=tls)
    if not association.is_established:
        raise PacsOfflineError(
            "the archive refuses this node" if association.is_rejected else "the archive does not answer"
        )
    done = 0
    try:
        for folder in folders:
            for path in sorted(folder.iterdir()):
                if _is_stored(association, path, refused):
                    path.unlink()
            if any(folder.iterdir()):
                os.utime(folder)  # others come first
            else:
                folder.rmdir()
                done += 1
    finally:
        association.release()
    return done


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
