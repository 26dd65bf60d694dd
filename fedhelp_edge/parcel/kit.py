"""Check a kit before anything of it is run: that it is whole, and who signed it.

The installer names a list by its hash, and the list names every other file. So whoever has compared the installer's
SHA-256 with the leaflet, or knows the key that signed it, knows everything that will run.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import FedhelpError, KitDamagedError
from fedhelp_edge.parcel import sshsig

INSTALLER, SIGNATURE, CHECKSUMS = "install.py", "install.py.sig", "SHA256SUMS"
NAMESPACE = "kit.v1.fedhelp-edge"
_LIST_HASH = re.compile(r'^LIST_SHA256 = "([0-9a-f]{64})?"', re.MULTILINE)
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  ((?:wheels/)?[A-Za-z0-9_][^/\\:]{0,199})")
_SIZE_LIMIT = 1 << 20  # bytes of the installer, and of the list


@dataclass(frozen=True)
class InspectedKit:
    fingerprint: str
    size: int  # bytes of the listed files
    signer: str  # the public key whose signature is valid, or ""


def inspect(folder: Path) -> InspectedKit:
    """Check every file of a kit; raise if one is missing or altered. Nothing of it is run."""
    installer = _read(folder / INSTALLER)
    list_hash = _LIST_HASH.search(installer.decode("utf-8", "replace"))
    checksums = _read(folder / CHECKSUMS)
    if not list_hash or hashlib.sha256(checksums).hexdigest() != list_hash[1]:
        raise KitDamagedError(f"{CHECKSUMS} is not the list that {INSTALLER} names")
    size = 0
    for line in checksums.decode("utf-8", "replace").splitlines():
        entry = _CHECKSUM_LINE.fullmatch(line)
        if not entry:
            raise KitDamagedError(f"{CHECKSUMS} names a file that no kit has")
        size += _check_file(folder / entry[2], entry[1])
    return InspectedKit(fingerprint(installer), size, _verified_signer(folder / SIGNATURE, installer))


def fingerprint(installer: bytes) -> str:
    """The first half of the installer's SHA-256, short enough to compare by eye or phone."""
    digest = hashlib.sha256(installer).hexdigest()[:32]
    return " ".join(digest[start : start + 4] for start in range(0, len(digest), 4))


def with_list_hash(installer: str, digest: str) -> str:
    """The text of an installer that names the list with this hash."""
    return _LIST_HASH.sub(f'LIST_SHA256 = "{digest}"', installer)


def _check_file(path: Path, digest: str) -> int:
    try:
        with files.reading(path) as file:
            if files.digest(file) == digest:
                return file.tell()
    except (FedhelpError, OSError) as error:
        raise KitDamagedError(f"{path.name} cannot be read") from error
    raise KitDamagedError(f"{path.name} is not what the list says")


def _verified_signer(path: Path, installer: bytes) -> str:
    if not path.exists():
        return ""
    signature = sshsig.parse(_read(path).decode("ascii", "replace"))
    if signature.namespace != NAMESPACE:
        raise KitDamagedError(f"{path.name} was made for something else")
    signature.verify(installer)
    return sshsig.public_line(signature.key)


def _read(path: Path) -> bytes:
    try:
        with files.reading(path) as file:
            data = file.read(_SIZE_LIMIT + 1)
    except (FedhelpError, OSError) as error:
        raise KitDamagedError(f"{path.name} cannot be read") from error
    if len(data) > _SIZE_LIMIT:
        raise KitDamagedError(f"{path.name} is too large for a kit")
    return data
