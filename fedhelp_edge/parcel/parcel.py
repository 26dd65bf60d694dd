"""Sealing, looking at and opening parcels (docs/spec/parcel.md).

A parcel is: a magic line, one canonical statement line, one to eight SSHSIG armors over the statement, the payload that
the statement names by size and SHA-256. An encrypted payload is an ordinary age file; its plaintext begins with one
canonical line that names the statement's context, so that nobody can sign another's ciphertext as their own.

`look` judges all that needs no key, `open` does everything: the one way in for untrusted bytes. Memory is constant.
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
SIGNATURES = 8

Trust = Callable[[Statement, tuple[str, ...]], object]
"""Judges a statement and the keys that signed it (as OpenSSH lines): returns, or raises what is wrong."""


def anyone(_statement: Statement, _keys: tuple[str, ...]) -> None:
    """Trust that asks only that the signatures hold: the parcel is whole, but whose it is stays open."""


@dataclass(frozen=True)
class Look:
    """A parcel seen from outside: everything that can be known without a key."""

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
    """Write a parcel: signed by each `signer`, encrypted to the `recipients` if its kind is private.

    The prologue's length does not depend on the hash in it: the payload is written once, behind a gap of that length.
    """
    signers = [signer] if isinstance(signer, Ed25519PrivateKey) else list(signer)
    source = io.BytesIO(body) if isinstance(body, bytes) else body
    begin = source.tell()
    size = source.seek(0, os.SEEK_END) - begin
    source.seek(begin)
    encrypted = statement.form_of(context["kind"]) == "age"
    if encrypted:
        inner = canon.encode(
            {
                "body_sha256": files.digest(source),
                "context_sha256": _context_hash(context),
                "facts": dict(facts or {}),
                "salt": os.urandom(32).hex(),
            }
        )
        if len(inner) >= INNER_LIMIT:
            raise BadBodyError("the facts are too long")
        source.seek(begin)
        source = cast(BinaryIO, _Chained(io.BytesIO(inner + b"\n"), source))
        size = age.encrypted_size(len(inner) + 1 + size, len(recipients))
    with files.writing(Path(path)) as file:
        file.seek(len(_prologue(statement.make(context, statement.NO_HASH, size), signers)))
        sink = _Hashing(file)
        if encrypted:
            age.encrypt(source, cast(BinaryIO, sink), recipients)
        else:
            shutil.copyfileobj(source, sink, age.CHUNK)
        done = statement.make(context, sink.hash.hexdigest(), size)
        file.seek(0)
        file.write(_prologue(done, signers))
    return done


def look(path: Path | str, trust: Trust, *, limit: int | None = None) -> Look:
    """The parcel at `path`, whole and signed by somebody whom `trust` accepts; its payload is not opened."""
    with files.reading(Path(path)) as file:
        return _look(Path(path), file, trust, limit)


def open(
    path: Path | str, trust: Trust, identities: Iterable[str | age.Passphrase] = (), *, limit: int | None = None
) -> Opened:
    """`look`, then open: what is inside was verified to its last byte before this returns. Use it in a `with`."""
    with ExitStack() as stack:
        file = stack.enter_context(files.reading(Path(path)))
        seen = _look(Path(path), file, trust, limit)
        file.seek(seen.offset)
        if seen.statement.form == "plain":
            return Opened(seen, {}, _Window(file, seen.offset, seen.statement.size), stack.pop_all())
        inner = _Inner()
        plain = age.reader(file, identities, watch=inner.feed)
        facts = inner.check(seen.statement)
        return Opened(seen, facts, _Window(plain, inner.length, plain.size - inner.length), stack.pop_all())


class Opened:
    """An open parcel. `body` is a read-only, seekable file of what it holds, decrypted chunk by chunk as it is read."""

    def __init__(self, seen: Look, facts: Mapping[str, Any], body: _Window, holds: AbstractContextManager[Any]) -> None:
        self.look, self.statement, self.keys, self.facts = seen, seen.statement, seen.keys, facts
        self.body: BinaryIO = io.BufferedReader(body, age.CHUNK)
        self._holds = holds

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._holds.__exit__(kind, fault, at)

    def json(self) -> dict[str, Any]:
        """The body of a plain parcel that holds one JSON object."""
        self.body.seek(0)
        data = self.body.read()
        if hashlib.sha256(data).hexdigest() != self.statement.sha256:  # what was hashed before may have changed since
            raise PayloadHashError("the file was changed while it was read")
        return read_json(data)


def read_json(data: bytes) -> dict[str, Any]:
    """One JSON object in UTF-8: no key twice, no number but finite ones, not deep."""

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(text)
        return number

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        if canon.nesting(data) > 16:
            raise ValueError("deep")
        value = json.loads(data.decode(), object_pairs_hook=members, parse_float=finite, parse_constant=finite)
    except ValueError:
        raise BadBodyError("what it holds is not one plain JSON object") from None
    if not isinstance(value, dict):
        raise BadBodyError("what it holds is not one plain JSON object")
    return value


def read_prologue(file: BinaryIO) -> tuple[Statement, tuple[str, ...]]:
    """The statement and the keys that signed it, all of whose signatures hold; `file` is left at the payload.

    Nobody is trusted yet. No more than `PROLOGUE_LIMIT` bytes are read.
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
    said = statement.parse(line[:-1])
    left = PROLOGUE_LIMIT - len(MAGIC) - len(line)
    keys: list[str] = []
    while armor := _read_armor(file):
        left -= len(armor)
        if len(keys) == SIGNATURES:
            raise SigCountError(f"more than {SIGNATURES} signatures")
        if left < 0:
            raise StatementSizeError(f"more than {PROLOGUE_LIMIT} bytes before the payload")
        found = sshsig.parse(armor)
        if found.namespace != said.namespace:
            raise SigNamespaceError(f"signed as {found.namespace[:60]!r}, but it is a {said.kind}")
        found.verify(line[:-1])
        keys.append(sshsig.public_line(found.key))
    if not keys:
        raise SigCountError("no signature") if file.read(1) else TruncatedError("the file ends before its signature")
    return said, tuple(keys)


def check_length(file: BinaryIO, said: Statement) -> None:
    """Whether an open file, read up to its payload, is as long as its statement tells: before a byte more is read."""
    more = os.fstat(file.fileno()).st_size - file.tell() - said.size
    if more:
        raise TrailingError("the file goes on too long") if more > 0 else TruncatedError("the file ends in its payload")


def check_payload(file: BinaryIO, said: Statement) -> None:
    """Whether what follows the prologue of an open file is what was signed: before a byte of it is copied."""
    check_length(file, said)
    at = file.tell()
    if files.digest(file) != said.sha256:
        raise PayloadHashError("the payload is not the one that was signed")
    file.seek(at)


def _read_armor(file: BinaryIO) -> str:
    """The next armor, or "" where none begins; then `file` is left where it was."""
    begin, end = sshsig.BEGIN.encode(), sshsig.END.encode()
    at = file.tell()
    text = first = file.read(len(begin))
    if first != begin:
        if first and begin.startswith(first):
            raise TruncatedError("the file ends in a signature")
        file.seek(at)
        return ""
    while not text.endswith(b"\n" + end):
        line = file.readline(sshsig.LIMIT)
        text += line
        if len(text) > sshsig.LIMIT:
            raise SigFormatError("a signature that does not end")
        if not line.endswith(b"\n"):
            raise TruncatedError("the file ends in a signature")
    try:
        return text.decode("ascii")
    except UnicodeDecodeError:
        raise SigFormatError("a signature with a letter outside ASCII") from None


def _look(path: Path, file: BinaryIO, trust: Trust, limit: int | None) -> Look:
    said, keys = read_prologue(file)
    trust(said, keys)
    if limit is not None and said.size > limit:
        raise PayloadSizeError(f"the payload is larger than the {limit} bytes that are allowed")
    offset = file.tell()
    size = file.seek(0, os.SEEK_END) - offset
    file.seek(offset)
    same = files.digest(file) == said.sha256
    if size != said.size:
        if same:
            raise PayloadSizeError("the statement gives its payload a wrong size")
        raise (
            TruncatedError("the file ends in its payload")
            if size < said.size
            else TrailingError("the file goes on too long")
        )
    if not same:
        raise PayloadHashError("the payload is not the one that was signed")
    return Look(path, said, keys, offset)


def _prologue(said: Statement, signers: Sequence[Ed25519PrivateKey]) -> bytes:
    line = said.line
    armors = (sshsig.sign(line, signer, said.namespace).encode() for signer in signers)
    prologue = MAGIC + line + b"\n" + b"".join(armors)
    if not 1 <= len(signers) <= SIGNATURES:
        raise SigCountError(f"a parcel carries 1 to {SIGNATURES} signatures")
    if len(line) > STATEMENT_LIMIT or len(prologue) > PROLOGUE_LIMIT:
        raise StatementSizeError("too much stands before the payload")
    return prologue


def _context_hash(context: Mapping[str, Any]) -> str:
    return hashlib.sha256(canon.encode(dict(context))).hexdigest()


class _Inner:
    """The first line of an encrypted payload, and the hash of all that follows it, gathered as the chunks pass by."""

    def __init__(self) -> None:
        self._line, self._whole, self._hash = b"", False, hashlib.sha256()

    @property
    def length(self) -> int:
        return len(self._line) + 1

    def feed(self, chunk: bytes) -> None:
        if self._whole or len(self._line) > INNER_LIMIT:
            return self._hash.update(chunk)
        self._line, found, rest = (self._line + chunk).partition(b"\n")
        self._whole = bool(found)
        return self._hash.update(rest)

    def check(self, said: Statement) -> Mapping[str, Any]:
        """The facts, once the line has the right form and names this very parcel."""
        value: canon.Value = ""
        if self._whole and self.length <= INNER_LIMIT:
            with suppress(ParcelError):  # which speak of the outer line
                value = canon.decode(self._line)
        if not isinstance(value, dict) or value.keys() != {"body_sha256", "context_sha256", "facts", "salt"}:
            raise BadBodyError("what was encrypted does not begin with its facts")
        if value["context_sha256"] != _context_hash(said.context):
            raise InnerContextError("what was encrypted was made for another parcel")
        model = self._hash.hexdigest()
        if value["body_sha256"] != model or (said.kind == "global" and said.context["base"] != model):
            raise BadBodyError("what was encrypted is not the model that is named")
        if not isinstance(value["facts"], dict):
            raise BadBodyError("the facts are malformed")
        return value["facts"]


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)


class _Chained:
    """Two files, read as one."""

    def __init__(self, first: BinaryIO, second: BinaryIO) -> None:
        self._first, self._second = first, second

    def read(self, count: int) -> bytes:
        return self._first.read(count) or self._second.read(count)


class _Window(io.RawIOBase):
    """A part of a seekable file, as a file."""

    def __init__(self, file: BinaryIO | age.Reader, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer has no len
        count = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._start + self._at)
        got = self._file.readinto(memoryview(buffer)[:count])  # type: ignore[union-attr]
        self._at += got
        return int(got)
