"""SSHSIG signatures (OpenSSH PROTOCOL.sshsig) with Ed25519 and SHA-512: what `ssh-keygen -Y sign` and `-Y verify` use.

The key inside a signature proves nothing: `verify` takes the key that the caller trusts. A signature has one encoding;
another line length, padding or order of fields is refused even where `ssh-keygen` would accept it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhelp_edge.errors import SigAlgError, SigBadError, SigFormatError, SigNamespaceError

BEGIN, END = "-----BEGIN SSH SIGNATURE-----\n", "-----END SSH SIGNATURE-----\n"
ARMOR_LIMIT = 4096  # bytes of one armor
_COLUMNS = 70
_KEY_TYPE, _HASH_NAME = b"ssh-ed25519", b"sha512"

# y coordinates of the points of small order on edwards25519: a key there lets anybody forge.
_P = 2**255 - 19
_Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = {0, 1, _P - 1, _Y8, _P - _Y8}


@dataclass(frozen=True)
class Signature:
    """The fields of an armor; nothing is verified yet."""

    key: bytes
    namespace: str
    signature: bytes

    def verify(self, message: bytes) -> None:
        """Raise `SigBadError` unless `message` was signed by the key inside, in the namespace inside."""
        _verify(self, _signed_data(message, self.namespace))


def sign(message: bytes, private_key: Ed25519PrivateKey, namespace: str) -> str:
    """Sign `message`; the armor is valid for `namespace` alone."""
    key = private_key.public_key().public_bytes_raw()
    return _format_armor(Signature(key, namespace, private_key.sign(_signed_data(message, namespace))))


def verify(message: bytes, armor: str, public_key: Ed25519PublicKey, namespace: str) -> None:
    """Raise unless `armor` is the signature of `public_key` over `message` for `namespace`."""
    signature = parse(armor)
    if signature.namespace != namespace:
        raise SigNamespaceError(f"made for {signature.namespace!r}, not for {namespace!r}")
    if signature.key != public_key.public_bytes_raw():
        raise SigBadError("signed by another key")
    signature.verify(message)


# A command reads its chain of trust several times. What these two return follows from their arguments alone, and an
# error is not remembered.
@lru_cache(1024)
def _verify(signature: Signature, signed_data: bytes) -> None:
    try:
        _load_public_key(signature.key).verify(signature.signature, signed_data)
    except InvalidSignature as error:
        raise SigBadError("the signature is not valid") from error


@lru_cache(1024)
def parse(armor: str) -> Signature:
    """Parse an armor strictly, without verifying the signature."""
    if len(armor) > ARMOR_LIMIT or not (armor.startswith(BEGIN) and armor.endswith(END)):
        raise SigFormatError("not an SSH signature")
    try:
        blob = base64.b64decode(armor[len(BEGIN) : -len(END)].replace("\n", "").encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise SigFormatError("not base64") from error
    fields = _WireReader(blob)
    if fields.take(6) != b"SSHSIG" or fields.take(4) != struct.pack(">I", 1):
        raise SigFormatError("not SSHSIG, version 1")
    key, namespace, reserved, hash_name, signature = (fields.string() for _ in range(5))
    key_fields, signature_fields = _WireReader(key), _WireReader(signature)
    if key_fields.string() != _KEY_TYPE or signature_fields.string() != _KEY_TYPE or hash_name != _HASH_NAME:
        raise SigAlgError("only Ed25519 with SHA-512 is accepted")
    try:
        parsed = Signature(key_fields.string(), namespace.decode("ascii"), signature_fields.string())
    except UnicodeDecodeError as error:
        raise SigFormatError("a namespace outside ASCII") from error
    if len(parsed.key) != 32 or len(parsed.signature) != 64 or reserved or not parsed.namespace.isprintable():
        raise SigFormatError("a field has the wrong length")
    if _format_armor(parsed) != armor:
        raise SigFormatError("not in canonical form")
    return parsed


def public_line(key: Ed25519PublicKey | bytes) -> str:
    """A public key as OpenSSH writes it, without a comment: the form in which this kit names keys everywhere."""
    raw = key if isinstance(key, bytes) else key.public_bytes_raw()
    return f"{_KEY_TYPE.decode()} {base64.b64encode(_ssh_string(_KEY_TYPE) + _ssh_string(raw)).decode()}"


def public_raw(line: str) -> bytes:
    """The 32 bytes of a key written by `public_line`; any other form is refused."""
    _, _, encoded = line.partition(" ")
    try:
        raw = base64.b64decode(encoded.encode("ascii"), validate=True)[-32:]
    except (binascii.Error, UnicodeEncodeError):
        raw = b""
    if len(raw) != 32 or public_line(raw) != line:
        raise SigAlgError("not an Ed25519 public key as OpenSSH writes it")
    _load_public_key(raw)
    return raw


def fingerprint(line: str) -> str:
    """The fingerprint SHA256:… that `ssh-keygen -l` prints."""
    blob = base64.b64decode(line.split(" ")[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _load_public_key(raw: bytes) -> Ed25519PublicKey:
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _P or y in _SMALL_ORDER:
        raise SigBadError("a public key of small order or in a non-canonical encoding")
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise SigBadError("not a public key") from error


def _signed_data(message: bytes, namespace: str) -> bytes:
    digest = hashlib.sha512(message).digest()
    return b"SSHSIG" + b"".join(map(_ssh_string, (namespace.encode("ascii"), b"", _HASH_NAME, digest)))


def _format_armor(signature: Signature) -> str:
    key_blob = _ssh_string(_KEY_TYPE) + _ssh_string(signature.key)
    signature_blob = _ssh_string(_KEY_TYPE) + _ssh_string(signature.signature)
    fields = map(_ssh_string, (key_blob, signature.namespace.encode("ascii"), b"", _HASH_NAME, signature_blob))
    encoded = base64.b64encode(b"SSHSIG" + struct.pack(">I", 1) + b"".join(fields)).decode("ascii")
    return BEGIN + "".join(encoded[start : start + _COLUMNS] + "\n" for start in range(0, len(encoded), _COLUMNS)) + END


def _ssh_string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class _WireReader:
    """Reads SSH wire fields one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def take(self, count: int) -> bytes:
        if self._position + count > len(self._data):
            raise SigFormatError("a field is cut short")
        self._position += count
        return self._data[self._position - count : self._position]

    def string(self) -> bytes:
        return self.take(struct.unpack(">I", self.take(4))[0])
