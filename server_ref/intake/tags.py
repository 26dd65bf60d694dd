"""Tags of opened updates: the front can write where they lie, and a file that it changed does not fit its tag.

A tag is AES-256-GMAC under a key that follows from the key which opens the update, and from the update's hash. The
front knows no such key. It takes a twelfth of SHA-256's time. Who has the key could write another file to a tag, and
could do worse with it: open each update of the round.
"""

from __future__ import annotations

import hmac
import os
from mmap import mmap

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12  # drawn anew for each tag: a late update may be opened against two models


def tag(identity: str, hash_: str, data: bytes) -> str:
    """The tag of what the update `hash_` opened to with this identity."""
    nonce = os.urandom(_NONCE_BYTES)
    return (nonce + _cipher(identity, hash_).encrypt(nonce, b"", data)).hex()


def fits(tag_: str, identity: str, hash_: str, data: bytes | mmap) -> bool:
    """Whether a file's content is what got this tag."""
    sealed = bytes.fromhex(tag_)
    try:
        _cipher(identity, hash_).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], memoryview(data))
    except InvalidTag:
        return False
    return True


def _cipher(identity: str, hash_: str) -> AESGCM:
    return AESGCM(hmac.digest(identity.encode(), f"opened update {hash_}".encode(), "sha256"))
