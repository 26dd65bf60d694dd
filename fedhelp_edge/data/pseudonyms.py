"""Name patients and studies by keyed hashes: equal names stay equal, and nobody without the key can guess one.

A number of a patient has few digits: without a key, whoever has its hash tries them all. The key never leaves the site.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import TargetExistsError

KEY_FILE = "patients.key"
_KEY_SIZE = 32  # bytes


@dataclass(frozen=True, repr=False)
class Pseudonyms:
    """Hashes under one key."""

    key: bytes

    def patient(self, name: str) -> str:
        """A hash of a patient's number; "" of none."""
        return self._digest("patient", name)[:8].hex() if name else ""

    def study(self, uid: str) -> str:
        """A hash of the UID of a study; "" of none."""
        return self._digest("study", uid)[:8].hex() if uid else ""

    def uid(self, uid: str) -> str:
        """A UID in the place of another one."""
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16], 'big')}"

    @property
    def fingerprint(self) -> str:
        """Tells one key from another."""
        return self._digest("fingerprint", "").hex()

    def _digest(self, kind: str, name: str) -> bytes:
        return hmac.digest(self.key, f"{kind}:{name}".encode("utf-8", "surrogatepass"), hashlib.sha256)


def load(folder: Path) -> Pseudonyms:
    """The pseudonyms of a site by the key in a folder, which is made the first time."""
    path = folder / KEY_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(TargetExistsError), files.writing(path) as file:  # another command may have made it by now
            file.write(secrets.token_bytes(_KEY_SIZE))
    return Pseudonyms(path.read_bytes())
