"""Seal, inspect and open parcels (docs/spec/parcel.md).

A parcel is a magic line, one canonical statement line, one to eight SSHSIG armors over the statement, and the payload.
The statement names the payload by size and SHA-256. An encrypted payload is an ordinary age file. Its plaintext begins
with one canonical line that names the statement's context, so nobody can sign somebody else's ciphertext as their own.

`inspect` checks everything that needs no key, and `open` decrypts as well: the one way in for untrusted bytes. Memory
use is constant.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge import files
from fedhelp_edge.errors import (
    BadBodyError,
    BadMagicError,
    InnerContextError,
    ParcelError,
    PayloadHashError,
    PayloadSizeError,
    SigCountError,
    SigFormatError,
    SigNamespaceError,
    StatementSizeError,
    TrailingError,
    TruncatedError,
)
from fedhelp_edge.parcel import age, canon, sshsig, statement
from fedhelp_edge.parcel.statement import Statement

MAGIC = b"fedhelp-edge/v1\n"
STATEMENT_LIMIT = 64 << 10
PROLOGUE_LIMIT = 80 << 10
INNER_LIMIT = 256 << 10
MAX_SIGNATURES = 8

Verifier = Callable[[Statement, tuple[str, ...]], object]
"""Checks a statement and the keys that signed it (as OpenSSH lines): returns, or raises what is wrong."""


def any_signer(_statement: Statement, _keys: tuple[str, ...]) -> None:
    """A verifier that accepts every key: the signatures are valid, but nothing is known of the signer."""


@dataclass(frozen=True)
class Inspected:
    """What is known of a parcel without a key."""

    path: Path
    statement: Statement
    keys: tuple[str, ...]
    offset: int  # where the payload begins


def seal(
    path: Path | str,
    context: Mapping[str, Any],
    body: bytes | BinaryIO,
    signer: Ed25519PrivateKey | Sequence[Ed25519PrivateKey],
    recipients: Sequence[str] = (),
    *,
    facts: Mapping[str, canon.Value] | None = None,
) -> Statement:
    """Write a parcel, signed by each `signer` and, if its kind is private, encrypted to the `recipients`.

    The length of the prologue does not depend on the hash in it, so the payload is written once, behind a gap.
    """
    signers = [signer] if isinstance(signer, Ed25519PrivateKey) else list(signer)
    source = io.BytesIO(body) if isinstance(body, bytes) else body
    begin = source.tell()
    size = source.seek(0, os.SEEK_END) - begin
    source.seek(begin)
    encrypted = statement.payload_form(context["kind"]) == "age"
    if encrypted:
        inner_line = canon.encode(
            {
                "body_sha256": files.digest(source),
                "context_sha256": _context_hash(context),
                "facts": dict(facts or {}),
                "salt": os.urandom(32).hex(),
            }
        )
        if len(inner_line) >= INNER_LIMIT:
            raise BadBodyError("the facts are too long")
        source.seek(begin)
        source = cast(BinaryIO, _ConcatenatedReader(io.BytesIO(inner_line + b"\n"), source))
        size = age.encrypted_size(len(inner_line) + 1 + size, recipients)
    with files.writing(Path(path)) as file:
        file.seek(len(_build_prologue(statement.create(context, statement.ZERO_HASH, size), signers)))
        sink = _HashingWriter(file)
        if encrypted:
            age.encrypt(source, cast(BinaryIO, sink), recipients)
        else:
            shutil.copyfileobj(source, sink, age.CHUNK_SIZE)
        sealed = statement.create(context, sink.hash.hexdigest(), size)
        file.seek(0)
        file.write(_build_prologue(sealed, signers))
    return sealed


def inspect(path: Path | str, verifier: Verifier, *, limit: int | None = None) -> Inspected:
    """Check that the parcel at `path` is whole and that `verifier` accepts its signers. Its payload is not opened."""
    with files.reading(Path(path)) as file:
        return inspect_file(file, verifier, Path(path), limit)


def open(
    path: Path | str, verifier: Verifier, identities: Iterable[str | age.Passphrase] = (), *, limit: int | None = None
) -> Opened:
    """Inspect and open a parcel. Its content is verified to the last byte before this returns. Use it in a `with`."""
    with ExitStack() as stack:
        file = stack.enter_context(files.reading(Path(path)))
        return open_inspected(file, inspect_file(file, verifier, Path(path), limit), identities, stack)


def open_inspected(
    file: BinaryIO,
    inspected: Inspected,
    identities: Iterable[str | age.Passphrase] = (),
    resources: ExitStack | None = None,
) -> Opened:
    """Open a parcel that was inspected, of a file that nobody can have changed since. It takes over the resources."""
    resources = resources or ExitStack()
    file.seek(inspected.offset)
    if inspected.statement.form == "plain":
        section = _FileSection(file, inspected.offset, inspected.statement.size)
        return Opened(inspected, {}, section, resources.pop_all())
    inner = _InnerHeader()
    plain = age.verified_reader(file, identities, on_chunk=inner.feed)
    facts = inner.check(inspected.statement)
    section = _FileSection(plain, inner.length, plain.size - inner.length)
    return Opened(inspected, facts, section, resources.pop_all())


class Opened:
    """An open parcel. `body` is a read-only, seekable file of its content, decrypted chunk by chunk on reading."""

    def __init__(
        self, inspected: Inspected, facts: Mapping[str, Any], body: _FileSection, resources: AbstractContextManager[Any]
    ) -> None:
        self.statement, self.keys, self.facts = inspected.statement, inspected.keys, facts
        self.body: BinaryIO = io.BufferedReader(body, age.CHUNK_SIZE)
        self._resources = resources

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, traceback)

    def json(self) -> dict[str, Any]:
        """Read the body of a plain parcel as one JSON object."""
        self.body.seek(0)
        data = self.body.read()
        if (
            hashlib.sha256(data).hexdigest() != self.statement.sha256
        ):  # the file may have changed since `inspect` hashed it
            raise PayloadHashError("the file was changed while it was read")
        return read_json(data)


def read_json(data: bytes) -> dict[str, Any]:
    """Parse one JSON object in UTF-8. Repeated keys, NaN, infinite values and deep nesting are refused."""

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(text)
        return number

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        if canon.nesting_depth(data) > 16:
            raise ValueError("deep")
        value = json.loads(data.decode(), object_pairs_hook=members, parse_float=finite, parse_constant=finite)
    except ValueError as error:
        raise BadBodyError("the content is not one plain JSON object") from error
    if not isinstance(value, dict):
        raise BadBodyError("the content is not one plain JSON object")
    return value


def read_prologue(file: BinaryIO) -> tuple[Statement, tuple[str, ...]]:
    """Read the statement and verify its signatures; `file` is left at the payload.

    Returns the statement and the keys that signed it; the caller decides whom to trust. At most `PROLOGUE_LIMIT` bytes
    are read.
    """
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise (
            TruncatedError("the file ends in its first line")
            if MAGIC.startswith(magic)
            else BadMagicError("not a parcel")
        )
    line = file.readline(STATEMENT_LIMIT + 1)
    if not line.endswith(b"\n"):
        if len(line) > STATEMENT_LIMIT:
            raise StatementSizeError(f"the statement is longer than {STATEMENT_LIMIT} bytes")
        raise TruncatedError("the file ends in its statement")
    signed = statement.parse(line[:-1])
    remaining = PROLOGUE_LIMIT - len(MAGIC) - len(line)
    keys: list[str] = []
    while armor := _read_armor(file):
        remaining -= len(armor)
        if len(keys) == MAX_SIGNATURES:
            raise SigCountError(f"more than {MAX_SIGNATURES} signatures")
        if remaining < 0:
            raise StatementSizeError(f"more than {PROLOGUE_LIMIT} bytes before the payload")
        signature = sshsig.parse(armor)
        if signature.namespace != signed.namespace:
            raise SigNamespaceError(f"signed as {signature.namespace[:60]!r}, but it is a {signed.kind}")
        signature.verify(line[:-1])
        keys.append(sshsig.public_line(signature.key))
    if not keys:
        raise SigCountError("no signature") if file.read(1) else TruncatedError("the file ends before its signature")
    return signed, tuple(keys)


def check_length(file: BinaryIO, statement: Statement) -> None:
    """Raise unless an open file, read up to its payload, has the length that its statement names."""
    excess = os.fstat(file.fileno()).st_size - file.tell() - statement.size
    if excess:
        raise (TrailingError("the file is too long") if excess > 0 else TruncatedError("the file ends in its payload"))


def check_payload(file: BinaryIO, statement: Statement) -> None:
    """Raise unless the rest of an open file, read up to its payload, is the signed payload."""
    check_length(file, statement)
    start = file.tell()
    if files.digest(file) != statement.sha256:
        raise PayloadHashError("the payload is not the one that was signed")
    file.seek(start)


def _read_armor(file: BinaryIO) -> str:
    """Read the next armor, or return "" and leave `file` where it was."""
    begin, end = sshsig.BEGIN.encode(), sshsig.END.encode()
    start = file.tell()
    armor = opening = file.read(len(begin))
    if opening != begin:
        if opening and begin.startswith(opening):
            raise TruncatedError("the file ends in a signature")
        file.seek(start)
        return ""
    while not armor.endswith(b"\n" + end):
        line = file.readline(sshsig.ARMOR_LIMIT)
        armor += line
        if len(armor) > sshsig.ARMOR_LIMIT:
            raise SigFormatError("a signature without an end")
        if not line.endswith(b"\n"):
            raise TruncatedError("the file ends in a signature")
    try:
        return armor.decode("ascii")
    except UnicodeDecodeError as error:
        raise SigFormatError("a signature with a character outside ASCII") from error


def inspect_file(file: BinaryIO, verifier: Verifier, path: Path = Path(), limit: int | None = None) -> Inspected:
    """As `inspect`, of an open file."""
    statement, keys = read_prologue(file)
    verifier(statement, keys)
    if limit is not None and statement.size > limit:
        raise PayloadSizeError(f"the payload is larger than the allowed {limit} bytes")
    offset = file.tell()
    size = file.seek(0, os.SEEK_END) - offset
    file.seek(offset)
    hash_matches = files.digest(file) == statement.sha256
    if size != statement.size:
        if hash_matches:
            raise PayloadSizeError("the statement names a wrong size for its payload")
        raise (
            TruncatedError("the file ends in its payload")
            if size < statement.size
            else TrailingError("the file is too long")
        )
    if not hash_matches:
        raise PayloadHashError("the payload is not the one that was signed")
    return Inspected(path, statement, keys, offset)


def _build_prologue(statement: Statement, signers: Sequence[Ed25519PrivateKey]) -> bytes:
    line = statement.line
    armors = (sshsig.sign(line, signer, statement.namespace).encode() for signer in signers)
    prologue = MAGIC + line + b"\n" + b"".join(armors)
    if not 1 <= len(signers) <= MAX_SIGNATURES:
        raise SigCountError(f"a parcel carries 1 to {MAX_SIGNATURES} signatures")
    if len(line) > STATEMENT_LIMIT or len(prologue) > PROLOGUE_LIMIT:
        raise StatementSizeError("the prologue is too long")
    return prologue


def _context_hash(context: Mapping[str, Any]) -> str:
    return hashlib.sha256(canon.encode(dict(context))).hexdigest()


class _InnerHeader:
    """Collects the first line of an encrypted payload and the hash of the rest while the chunks pass by."""

    def __init__(self) -> None:
        self._line, self._complete, self._hash = b"", False, hashlib.sha256()

    @property
    def length(self) -> int:
        return len(self._line) + 1

    def feed(self, chunk: bytes) -> None:
        if self._complete or len(self._line) > INNER_LIMIT:
            return self._hash.update(chunk)
        self._line, newline, rest = (self._line + chunk).partition(b"\n")
        self._complete = bool(newline)
        return self._hash.update(rest)

    def check(self, statement: Statement) -> Mapping[str, Any]:
        """Return the facts. The line must have the right form and name this very parcel."""
        value: canon.Value = ""
        if self._complete and self.length <= INNER_LIMIT:
            with suppress(ParcelError):  # their messages are about the outer line
                value = canon.decode(self._line)
        if not isinstance(value, dict) or value.keys() != {"body_sha256", "context_sha256", "facts", "salt"}:
            raise BadBodyError("the encrypted part does not begin with its facts")
        if value["context_sha256"] != _context_hash(statement.context):
            raise InnerContextError("the encrypted part was made for another parcel")
        body_sha256 = self._hash.hexdigest()
        if value["body_sha256"] != body_sha256 or (
            statement.kind == "global" and statement.context["base"] != body_sha256
        ):
            raise BadBodyError("the encrypted part is not the named model")
        if not isinstance(value["facts"], dict):
            raise BadBodyError("the facts are malformed")
        return value["facts"]


class _HashingWriter:
    """Writes to a file and hashes the bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)


class _ConcatenatedReader:
    """Reads two files one after the other."""

    def __init__(self, first: BinaryIO, second: BinaryIO) -> None:
        self._first, self._second = first, second

    def read(self, count: int) -> bytes:
        return self._first.read(count) or self._second.read(count)


class _FileSection(io.RawIOBase):
    """A section of a seekable file, as a read-only file."""

    def __init__(self, file: BinaryIO | age.DecryptingReader, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer has no len
        count = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        read = self._file.readinto(memoryview(buffer)[:count])  # type: ignore[union-attr]
        self._position += read
        return int(read)
