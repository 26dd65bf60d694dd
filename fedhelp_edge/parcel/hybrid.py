"""age's post-quantum recipients, `age1pq1…`: HPKE with ML-KEM-768 and X25519 together (C2SP age.md, mlkem768x25519).

Both halves must be broken to open a file. The ordinary `age` opens such files from version 1.3 on.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from fedhelp_edge.errors import HeaderError, RecipientTypeError
from fedhelp_edge.parcel import bech32

_MLKEM_KEY, _X25519 = 1184, 32
_SHARE_SIZE = 1120  # bytes: ML-KEM's ciphertext, and X25519's share
_RECIPIENT, _IDENTITY = "age1pq", "age-secret-key-pq-"
_INFO = b"age-encryption.org/mlkem768x25519"
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def new_identity() -> str:
    """Generate an `AGE-SECRET-KEY-PQ-1…`."""
    return bech32.encode(_IDENTITY, os.urandom(32)).upper()


def recipient_of(identity: str) -> str:
    """The `age1pq1…` that belongs to an identity."""
    mlkem, x25519 = _private_keys(identity)
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    return bech32.encode(_RECIPIENT, public)


def wrap(file_key: bytes, recipient: str) -> tuple[bytes, bytes]:
    """Encrypt a file key; returns the share and the wrapped key."""
    wrapped = _SUITE.encrypt(file_key, public_key(recipient), info=_INFO)
    return wrapped[:_SHARE_SIZE], wrapped[_SHARE_SIZE:]


def unwrap(share: bytes, wrapped: bytes, identity: str) -> bytes:
    """The file key; raises `cryptography.exceptions.InvalidTag` if this identity does not open it."""
    mlkem, x25519 = _private_keys(identity)
    try:  # HPKE tells a share of low order from a wrong key by nothing
        x25519.exchange(X25519PublicKey.from_public_bytes(share[-_X25519:]))
    except ValueError as error:
        raise HeaderError("a key share of low order") from error
    return _SUITE.decrypt(share + wrapped, MLKEM768X25519PrivateKey(mlkem, x25519), info=_INFO)


def public_key(recipient: str) -> MLKEM768X25519PublicKey:
    """The keys of a recipient. Refuses one of low order."""
    raw = bech32.decode(_RECIPIENT, recipient)
    if raw is None or len(raw) != _MLKEM_KEY + _X25519:
        raise RecipientTypeError("not an age1pq1... recipient")
    try:
        x25519 = X25519PublicKey.from_public_bytes(raw[_MLKEM_KEY:])
        X25519PrivateKey.generate().exchange(x25519)
        return MLKEM768X25519PublicKey(MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_KEY]), x25519)
    except ValueError as error:
        raise RecipientTypeError("an age1pq1... recipient that no identity has") from error


def _private_keys(identity: str) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    seed = bech32.decode(_IDENTITY, identity.lower()) if identity.isupper() else None
    if seed is None or len(seed) != 32:
        raise RecipientTypeError("not an AGE-SECRET-KEY-PQ-1... identity")
    expanded = hashlib.shake_256(seed).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])
