"""age v1 files (C2SP age.md): encryption that the ordinary `age` tool opens, in constant memory.

Recipients are X25519 (`age1…`), post-quantum (`age1pq1…`) or one passphrase (scrypt). No plaintext is released
before its last chunk has been verified: a seekable source is read twice, a pipe is first spooled as ciphertext. Where
the format leaves a reader a choice this one is strict: one spelling of base64, one of the header, nothing after it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import BinaryIO, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedhelp_edge.errors import (
    HeaderError,
    MacError,
    MissingPackageError,
    NoMatchError,
    PayloadError,
    RecipientTypeError,
)
from fedhelp_edge.parcel import armor as text_form
from fedhelp_edge.parcel import bech32

CHUNK_SIZE = 65536
CACHE_LIMIT = (
    2 << 20
)  # bytes: so much is kept in memory once it was verified; what is larger is decrypted a second time
TAG_SIZE = 16
MAX_STANZAS = 1024
HEADER_LIMIT = 256 * 1024  # bytes; 1,024 recipients need 110 KiB
WORK_FACTOR = 16  # 64 MiB: old PCs have no more to spare
WORK_FACTOR_LIMIT = 20

_MAGIC = b"age-encryption.org/v1\n"
_HYBRID = b"mlkem768x25519"
_HYBRID_SHARE = 1120  # bytes
_X25519_INFO = b"age-encryption.org/v1/X25519"
_SCRYPT_SALT = b"age-encryption.org/v1/scrypt"
_LINE_LENGTH = 64
_ARGUMENT = re.compile(rb"[\x21-\x7e]+")
_DECIMAL = re.compile(rb"[1-9][0-9]*")


@dataclass(frozen=True)
class Passphrase:
    """A passphrase as recipient or identity. `work_factor` is log2 of scrypt's N when encrypting."""

    text: str = field(repr=False)
    work_factor: int = field(default_factory=lambda: WORK_FACTOR)


def new_identity(*, post_quantum: bool = False) -> str:
    """Generate an `AGE-SECRET-KEY-1…`, or an `AGE-SECRET-KEY-PQ-1…`."""
    if post_quantum:
        return str(_hybrid().new_identity())
    return bech32.encode("age-secret-key-", X25519PrivateKey.generate().private_bytes_raw()).upper()


def recipient_of(identity: str) -> str:
    """The `age1…` or `age1pq1…` that belongs to an identity."""
    if is_post_quantum(identity):
        return str(_hybrid().recipient_of(identity))
    return bech32.encode("age", _private_key(identity).public_key().public_bytes_raw())


def is_post_quantum(key: str | Passphrase) -> bool:
    """Whether a recipient or an identity is post-quantum."""
    return isinstance(key, str) and key.startswith(("age1pq1", "AGE-SECRET-KEY-PQ-1"))


def check_recipient(recipient: str) -> None:
    """Raise `RecipientType` unless this is an `age1…` or `age1pq1…` string to which one can encrypt."""
    if is_post_quantum(recipient):
        _hybrid().public_key(recipient)
        return
    _shared_secret(_probe_key(), _public_key(recipient))


@cache
def _probe_key() -> X25519PrivateKey:
    return X25519PrivateKey.generate()


def encrypt(source: BinaryIO, sink: BinaryIO, recipients: Sequence[str | Passphrase], *, armor: bool = False) -> None:
    """Encrypt `source` to each of the `recipients`, or to one passphrase."""
    if armor:
        with text_form.ArmorWriter(sink) as binary:
            return encrypt(source, cast(BinaryIO, binary), recipients)
    has_passphrase = any(isinstance(recipient, Passphrase) for recipient in recipients)
    if not 1 <= len(recipients) <= (1 if has_passphrase else MAX_STANZAS):
        raise RecipientTypeError(f"encrypt to 1 to {MAX_STANZAS} keys, or to one passphrase alone")
    if len({is_post_quantum(recipient) for recipient in recipients}) > 1:
        raise RecipientTypeError("a file for a key that is not post-quantum is not post-quantum: encrypt to one kind")
    file_key = os.urandom(16)
    header = _MAGIC + b"".join(_wrap_file_key(file_key, recipient) for recipient in recipients) + b"---"
    sink.write(header + b" " + _b64(_mac(file_key, header)) + b"\n")
    nonce = os.urandom(16)
    sink.write(nonce)
    cipher = ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))
    chunk, counter = _read_full(source, CHUNK_SIZE), 0
    while True:
        next_chunk = _read_full(source, CHUNK_SIZE) if len(chunk) == CHUNK_SIZE else b""
        sink.write(cipher.encrypt(_nonce(counter, last=not next_chunk), chunk, None))
        if not next_chunk:
            return None
        chunk, counter = next_chunk, counter + 1


def encrypted_size(plain_size: int, recipients: Sequence[str]) -> int:
    """The length in bytes of the binary file for these recipients, known before it is written."""
    stanzas = (
        _format_stanza(
            [_HYBRID, _b64(bytes(_HYBRID_SHARE))] if is_post_quantum(recipient) else [b"X25519", b"x" * 43], bytes(32)
        )
        for recipient in recipients
    )
    header = len(_MAGIC) + sum(map(len, stanzas)) + len("--- \n") + 43
    return header + 16 + plain_size + TAG_SIZE * max(1, -(-plain_size // CHUNK_SIZE))


def decrypt(source: BinaryIO, sink: BinaryIO, identities: Iterable[str | Passphrase], *, armor: bool = False) -> None:
    """Decrypt `source` into `sink`, which receives nothing unless the whole file is valid."""
    with tempfile.SpooledTemporaryFile(max_size=16 * CHUNK_SIZE) as spool:
        seekable = cast(BinaryIO, spool)
        if armor:
            text_form.decode(source, seekable)
        elif not source.seekable():
            shutil.copyfileobj(source, seekable, CHUNK_SIZE)
        else:
            seekable = source
        if seekable is not source:
            seekable.seek(0)
        shutil.copyfileobj(verified_reader(seekable, identities), sink, CHUNK_SIZE)


def verified_reader(
    source: BinaryIO, identities: Iterable[str | Passphrase], *, on_chunk: Callable[[bytes], object] | None = None
) -> DecryptingReader:
    """The plaintext of the rest of a seekable `source`, verified to its end; `on_chunk` is called with each chunk."""
    header, stanzas, mac = _read_header(source)
    file_key = _unwrap_file_key(stanzas, identities)
    if not hmac.compare_digest(_mac(file_key, header), mac):
        raise MacError("the header was altered")
    nonce = _read_full(source, 16)
    if len(nonce) < 16:
        raise HeaderError("the file ends before its content")
    start = source.tell()
    size = source.seek(0, os.SEEK_END) - start
    plaintext = DecryptingReader(source, ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload")), start, size)
    for chunk in plaintext.chunks():
        if on_chunk:
            on_chunk(chunk)
        if size <= CACHE_LIMIT:
            plaintext.cache.append(chunk)
    return plaintext


def can_open(source: BinaryIO, identities: Iterable[str | Passphrase]) -> bool:
    """Whether one of the identities opens the header of a seekable age file; the position of `source` is restored."""
    start = source.tell()
    try:
        _unwrap_file_key(_read_header(source)[1], identities)
    except NoMatchError:
        return False
    finally:
        source.seek(start)
    return True


class DecryptingReader(io.RawIOBase):
    """The plaintext of a verified age file as a read-only, seekable file. Of a large one, one chunk is in memory."""

    def __init__(self, source: BinaryIO, cipher: ChaCha20Poly1305, start: int, size: int) -> None:
        self._source, self._cipher, self._start, self._end = source, cipher, start, start + size
        self._last = max(0, -(-size // (CHUNK_SIZE + TAG_SIZE)) - 1)
        self._cached_index, self._chunk, self._position = -1, b"", 0
        self.cache: list[bytes] = []
        self.size = size - TAG_SIZE * (self._last + 1)
        if self.size < 0 or (self._last and size % (CHUNK_SIZE + TAG_SIZE) == TAG_SIZE):
            raise PayloadError("the content is cut short or has an empty last part")

    def chunks(self) -> Iterator[bytes]:
        return (self._decrypt(index) for index in range(self._last + 1))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self.size)[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer has no len
        index, offset = divmod(self._position, CHUNK_SIZE)
        if self._position >= self.size:
            return 0
        if index != self._cached_index:
            self._chunk, self._cached_index = self._decrypt(index), index
        count = min(len(buffer), len(self._chunk) - offset)
        memoryview(buffer)[:count] = memoryview(self._chunk)[offset : offset + count]
        self._position += count
        return count

    def _decrypt(self, index: int) -> bytes:
        start = self._start + index * (CHUNK_SIZE + TAG_SIZE)
        self._source.seek(start)
        if index < len(self.cache):
            return self.cache[index]
        ciphertext = _read_full(self._source, min(CHUNK_SIZE + TAG_SIZE, self._end - start))
        try:
            return self._cipher.decrypt(_nonce(index, last=index == self._last), ciphertext, None)
        except InvalidTag as error:
            raise PayloadError("the content was altered, cut short or lengthened") from error


# --- the header ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Stanza:
    arguments: list[bytes]
    body: bytes


def _format_stanza(arguments: list[bytes], body: bytes) -> bytes:
    encoded = _b64(body)
    lines = [encoded[start : start + _LINE_LENGTH] for start in range(0, len(encoded) + 1, _LINE_LENGTH)]
    return b"-> " + b" ".join(arguments) + b"\n" + b"".join(line + b"\n" for line in lines)


def _read_header(source: BinaryIO) -> tuple[bytes, list[_Stanza], bytes]:
    """The bytes under the MAC, the stanzas and the MAC. `source` is left at the first byte after the header."""
    start = source.tell()
    remaining = HEADER_LIMIT

    def line() -> bytes:
        nonlocal remaining
        text = source.readline(remaining)
        remaining -= len(text)
        if not text.endswith(b"\n"):
            raise HeaderError("the header is cut short or too long")
        return text[:-1]

    if line() + b"\n" != _MAGIC:
        raise HeaderError("not an age file, version 1")
    stanzas: list[_Stanza] = []
    while (text := line()).startswith(b"-> "):
        arguments = text[3:].split(b" ")
        if not all(map(_ARGUMENT.fullmatch, arguments)):
            raise HeaderError("a recipient line is malformed")
        body = b""
        while len(encoded := line()) == _LINE_LENGTH:
            body += encoded
        if len(encoded) > _LINE_LENGTH:
            raise HeaderError("a line is too long")
        stanzas.append(_Stanza(arguments, _unb64(body + encoded)))
        if len(stanzas) > MAX_STANZAS:
            raise HeaderError(f"more than {MAX_STANZAS} recipients")
    if not stanzas or not text.startswith(b"--- "):
        raise HeaderError("the header does not end as it should")
    mac = _unb64(text[4:])
    if len(mac) != 32:
        raise HeaderError("the header's MAC has the wrong length")
    end = source.tell()
    source.seek(start)
    header = _read_full(source, end - start - len(text) - 1) + b"---"
    source.seek(end)
    return header, stanzas, mac


def _wrap_file_key(file_key: bytes, recipient: str | Passphrase) -> bytes:
    if isinstance(recipient, Passphrase):
        salt = os.urandom(16)
        key = _scrypt(recipient.text, salt, recipient.work_factor)
        arguments = [b"scrypt", _b64(salt), str(recipient.work_factor).encode()]
    elif is_post_quantum(recipient):
        share, wrapped = _hybrid().wrap(file_key, recipient)
        return _format_stanza([_HYBRID, _b64(share)], wrapped)
    else:
        public_key = _public_key(recipient)
        ephemeral = X25519PrivateKey.generate()
        ephemeral_share = ephemeral.public_key().public_bytes_raw()
        key = _hkdf(
            _shared_secret(ephemeral, public_key), ephemeral_share + public_key.public_bytes_raw(), _X25519_INFO
        )
        arguments = [b"X25519", _b64(ephemeral_share)]
    return _format_stanza(arguments, ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None))


def _unwrap_file_key(stanzas: list[_Stanza], identities: Iterable[str | Passphrase]) -> bytes:
    stanza_types = [stanza.arguments[0] for stanza in stanzas]
    if b"scrypt" in stanza_types and len(stanzas) > 1:
        raise HeaderError("a passphrase must be the only recipient")
    for identity in identities:
        for stanza, stanza_type in zip(stanzas, stanza_types, strict=True):
            with suppress(InvalidTag):
                if stanza_type == _HYBRID and isinstance(identity, str) and is_post_quantum(identity):
                    share = _stanza_argument(stanza, arguments=2, length=_HYBRID_SHARE)
                    return bytes(_hybrid().unwrap(share, stanza.body, identity))
                if stanza_type == b"X25519" and isinstance(identity, str) and not is_post_quantum(identity):
                    key = _x25519_key(stanza, _private_key(identity))
                elif stanza_type == b"scrypt" and isinstance(identity, Passphrase):
                    key = _scrypt_key(stanza, identity)
                else:
                    continue
                return ChaCha20Poly1305(key).decrypt(bytes(12), stanza.body, None)
    raise NoMatchError("no key here opens it")


def _x25519_key(stanza: _Stanza, private_key: X25519PrivateKey) -> bytes:
    ephemeral_share = _stanza_argument(stanza, arguments=2, length=32)
    try:
        secret = private_key.exchange(X25519PublicKey.from_public_bytes(ephemeral_share))
    except ValueError as error:
        raise HeaderError("a key share of low order") from error
    return _hkdf(secret, ephemeral_share + private_key.public_key().public_bytes_raw(), _X25519_INFO)


def _scrypt_key(stanza: _Stanza, passphrase: Passphrase) -> bytes:
    salt = _stanza_argument(stanza, arguments=3, length=16)
    work_factor = stanza.arguments[2]
    if not _DECIMAL.fullmatch(work_factor) or len(work_factor) > 2 or int(work_factor) > WORK_FACTOR_LIMIT:
        raise HeaderError(f"the passphrase's work factor is malformed or above {WORK_FACTOR_LIMIT}")
    return _scrypt(passphrase.text, salt, int(work_factor))


def _stanza_argument(stanza: _Stanza, arguments: int, length: int) -> bytes:
    """The bytes of the first argument. The stanza must have its one form: its body is one wrapped file key."""
    if len(stanza.arguments) != arguments or len(stanza.body) != 16 + TAG_SIZE:
        raise HeaderError("a recipient is malformed")
    value = _unb64(stanza.arguments[1])
    if len(value) != length:
        raise HeaderError("a recipient is malformed")
    return value


def _hybrid() -> ModuleType:
    """What post-quantum keys need. Older versions of cryptography lack it."""
    try:
        from fedhelp_edge.parcel import hybrid
    except ImportError as error:
        remedy = "pip install --upgrade cryptography"
        raise MissingPackageError("post-quantum keys need cryptography 48 or newer", remedy=remedy) from error
    return hybrid


def _private_key(identity: str) -> X25519PrivateKey:
    raw = bech32.decode("age-secret-key-", identity.lower()) if identity.isupper() else None
    if raw is None or len(raw) != 32:
        raise RecipientTypeError("not an AGE-SECRET-KEY-1... identity")
    return X25519PrivateKey.from_private_bytes(raw)


def _public_key(recipient: str) -> X25519PublicKey:
    raw = bech32.decode("age", recipient)
    if raw is None or len(raw) != 32:
        raise RecipientTypeError("not an age1... recipient")
    return X25519PublicKey.from_public_bytes(raw)


def _shared_secret(private: X25519PrivateKey, public: X25519PublicKey) -> bytes:
    try:
        return private.exchange(public)
    except ValueError as error:  # a point of low order gives everybody the same secret
        raise RecipientTypeError("an age1... recipient of low order") from error


# --- small things ----------------------------------------------------------------------------------------------------
def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt or None, info).derive(secret)


def _mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(_hkdf(file_key, b"", b"header"), header, hashlib.sha256)


def _scrypt(text: str, salt: bytes, work_factor: int) -> bytes:
    return Scrypt(_SCRYPT_SALT + salt, 32, 2**work_factor, 8, 1).derive(text.encode())


def _nonce(counter: int, *, last: bool) -> bytes:
    return counter.to_bytes(11, "big") + bytes([last])


def _b64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unb64(text: bytes) -> bytes:
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        data = b""
    if _b64(data) != text:
        raise HeaderError("not canonical base64")
    return data


def _read_full(source: BinaryIO, count: int) -> bytes:
    """Read `count` bytes, fewer only at the end: a single read of a pipe may return less than it was asked for."""
    data = source.read(count)
    while len(data) < count and (more := source.read(count - len(data))):
        data += more
    return data
