"""The coordinator's front as carrier (docs/spec/http.md): uploads go on where the line broke, reads are signed.

Safety never rests on the line: what travels is sealed. TLS, a private authority and proxies are as the system has them.
Whoever answers may be hostile: each answer is bounded in bytes and time, each field of it is checked, names are hashes,
and no redirect is followed, so that a signed request goes to the address that was named and to no other.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import random
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fedhelp_edge import files
from fedhelp_edge.errors import (
    FedhelpError,
    NoSpaceError,
    NotAFrontError,
    OfflineError,
    RefusedThereError,
    UsageError,
    remedy_of,
)
from fedhelp_edge.parcel import canon, parcel, sshsig, statement
from fedhelp_edge.parcel.keys import Keys

T = TypeVar("T")

_LEAST, _MOST = 64 << 10, 1 << 20  # bytes of a chunk
_TUS = {"Tus-Resumable": "1.0.0"}
_BYTES = {**_TUS, "Content-Type": "application/offset+octet-stream"}
_NOTHING = hashlib.sha256(b"").hexdigest()
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504, 507)
_LINE = (urllib.error.URLError, http.client.HTTPException)  # what a bad line looks like; a bad disk is an OSError

_HEAD_LIMIT, _REFUSAL_LIMIT, _LIST_LIMIT = 64 << 10, 64 << 10, 4 << 20  # bytes of an answer
_CHARTERS_LIMIT = 64 << 20  # bytes of all of them
_LISTED = {  # bytes of all files of a kind; of a roster, a task and a pack the newest one is enough
    "charter": _CHARTERS_LIMIT, "roster": 8 << 20, "task": 8 << 20, "receipt": 16 << 20, "knowledge": 257 << 20,
}  # fmt: skip
_SLOWEST = 4096  # bytes that each stretch of patience must bring: as much as the front asks of us
_SILENCE = 30.0  # seconds without a byte
_HASH = re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(r"[0-9a-f]{64}\.(fhx|part)")  # what lies in the folder where downloads grow
_CODE = re.compile(r"E_[A-Z0-9_]{1,38}")
_KINDS = frozenset(statement.KINDS) - {"update", "enrol", "rotate"}  # what a coordinator gives out


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Listed:
    """A parcel as the front lists it."""

    hash: str
    kind: str
    size: int  # of the whole file

    @classmethod
    def read(cls, entry: Any) -> Listed:
        """An entry of the front's list, of which nothing is believed: its hash becomes a file's name."""
        match entry:
            case {"hash": str(hash_), "kind": str(kind), "number": number, "size": size} if (
                _HASH.fullmatch(hash_) and kind in _KINDS and _is_count(number, 2**53 - 1)
                and size and _is_count(size, parcel.PROLOGUE_LIMIT + statement.KINDS[kind].limit)
            ):  # fmt: skip
                return cls(hash_, kind, size)
        raise NotAFrontError("the list of parcels holds an entry that is none")


@dataclass
class Http:
    """`patience` is how many seconds in a row may bring nothing before it is given up for now."""

    url: str
    federation: str
    keys: Callable[[], Keys]
    store: Path  # where downloads grow
    ca_file: Path | None = None
    next_keys: Callable[[], Keys] | None = None  # those that this site asked to be known by, and perhaps is
    patience: float = 60.0
    models: int = 4 << 30  # bytes of all models that there may be for this site
    _nonce: str = ""
    _opener: urllib.request.OpenerDirector | None = field(default=None, repr=False)

    def put(self, parcel_: Path) -> None:
        """Send a parcel; where the front has a part of it, it goes on from there."""
        self.keys()  # a wrong passphrase is told before anything is sent, and not when the receipt is read
        size = parcel_.stat().st_size
        with files.reading(parcel_) as file:
            parcel.read_prologue(file)
            head = file.tell()
            file.seek(0)
            first = file.read(size if size <= _LEAST else head)

            def begin() -> Answer:
                return self._ask("POST", "/v1/uploads", first, {**_BYTES, "Upload-Length": str(size)})

            answer = self._keep_trying(begin)
            offset, chunk = _offset(answer, size), 4 * _LEAST
            highest, patience = offset, _Patience(self.patience)
            while offset < size:
                file.seek(offset)
                data = file.read(chunk)
                try:
                    path = f"/v1/uploads/{parcel_.stem}"
                    answer = self._ask("PATCH", path, data, {**_BYTES, "Upload-Offset": str(offset)})
                    stands, chunk = _offset(answer, size), min(2 * chunk, _MOST)
                    if stands not in (offset + len(data), size):
                        raise NotAFrontError("it says that it took other bytes than were sent")
                except (*_LINE, _Busy, RefusedThereError) as fault:
                    if isinstance(fault, RefusedThereError) and fault.there not in ("E_UPLOAD_OFFSET", "E_NOT_HERE"):
                        raise
                    chunk = max(chunk // 2, _LEAST)
                    answer = self._keep_trying(begin)
                    stands = _offset(answer, size)
                    if stands <= offset:
                        patience.wait(fault)
                if stands >= min(highest + _SLOWEST, size):
                    highest = stands
                    patience.renew()
                elif patience.is_over:
                    raise OfflineError("too little of the upload gets through")
                offset = stands
            if not _HASH.fullmatch(answer.headers.get("fedhelp-receipt", "")):
                raise NotAFrontError("it took an upload and names no receipt")

    def fetch(self, have: frozenset[str]) -> Iterator[Path]:
        """What the front lists for us, each file whole; a download that was cut off goes on."""
        wanted = {one.hash: one for one in self._current() if one.hash not in have}
        for path in self.store.iterdir():
            if path.stem not in wanted and _OURS.fullmatch(
                path.name
            ):  # the site keeps it elsewhere, or needs it no more
                _remove(path)
        return map(self._fetched, wanted.values())

    def receipts(self, have: frozenset[str]) -> Iterator[Path]:
        wanted = (one for one in self._current() if one.kind == "receipt" and one.hash not in have)
        return map(self._fetched, wanted)

    def vouch(self, invite: str) -> str:
        try:
            match _json(self._keep_trying(lambda: self._ask("GET", f"/v1/vouches/{invite}"))):
                case {"vouch": str(vouch)}:
                    return vouch
        except RefusedThereError:
            return ""
        raise NotAFrontError("it vouches for nothing")

    def check(self) -> None:
        """Whether a front answers at all."""
        if _json(self._keep_trying(lambda: self._ask("GET", "/healthz"))) != {"status": "ok"}:
            raise NotAFrontError("it does not say that it is well")

    def charters(self) -> Iterator[Path]:
        listed = self._listed(self._keep_trying(lambda: self._ask("GET", "/v1/charters")))
        if any(one.kind != "charter" for one in listed):
            raise NotAFrontError("its list of charters holds other files")
        for one in listed:
            _remove(self.store / f"{one.hash}.fhx")  # of an attempt before, and perhaps damaged
            yield self._fetched(one, self._ask)

    def _current(self) -> list[Listed]:
        listed = self._listed(self._keep_trying(lambda: self._read("GET", "/v1/current")))
        if self.next_keys and all(one.kind != "roster" for one in listed):  # no member by the old keys any more
            self.keys, self.next_keys = self.next_keys, None
            return self._current()
        return listed

    def _listed(self, answer: Answer) -> list[Listed]:
        match _json(answer):
            case {"parcels": list(entries)}:
                listed = [Listed.read(entry) for entry in entries]
            case _:
                raise NotAFrontError("it gives no list of parcels")
        for kind, most in {**_LISTED, "global": self.models}.items():
            if (size := sum(one.size for one in listed if one.kind == kind)) > most:
                raise NotAFrontError(f"it lists {size} bytes of the kind {kind}, and there can be {most}")
        self.store.mkdir(parents=True, exist_ok=True)
        if (size := sum(one.size for one in listed)) > shutil.disk_usage(self.store).free // 2:
            raise NoSpaceError(f"the front lists {size} bytes, more than half of what is free on this disk")
        return listed

    def _fetched(self, one: Listed, ask: Callable[..., Answer] | None = None) -> Path:
        path, part = self.store / f"{one.hash}.fhx", self.store / f"{one.hash}.part"
        for place in (path, part):
            if not _is_file(place):
                _remove(place)
        patience = _Patience(self.patience)
        while not path.exists():
            at = _size(part)
            if at < one.size:
                headers = {"Range": f"bytes={at}-", "If-Range": f'"{one.hash}"'} if at else {}
                try:
                    answer = (ask or self._read)(
                        "GET", f"/v1/parcels/{one.hash}", headers=headers, into=(part, one.size)
                    )
                except (*_LINE, _Busy) as fault:
                    if _size(part) >= at + _SLOWEST:
                        patience.renew()
                    else:
                        patience.wait(fault)
                    continue
                if answer.status not in (200, 206) or _size(part) != one.size:
                    _remove(part)
                    raise NotAFrontError("it gives a file of another length than it listed")
            elif at > one.size or _hash_of(part) != one.hash:
                _remove(part)
                raise NotAFrontError("it gives another file than the one that was asked for")
            else:
                part.replace(path)
        return path

    # --- one request ---------------------------------------------------------------------------------------------
    def _read(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, into: tuple[Path, int] | None = None
    ) -> Answer:  # fmt: skip
        """A read that says who asks. The nonce comes with the answer before; one that is too old is asked for anew."""
        try:
            return self._signed(method, path, headers, into)
        except RefusedThereError as fault:
            if fault.there != "E_NONCE":
                raise
        return self._signed(method, path, headers, into)

    def _signed(
        self, method: str, path: str, headers: Mapping[str, str] | None, into: tuple[Path, int] | None
    ) -> Answer:
        if not self._nonce:
            with contextlib.suppress(RefusedThereError):
                self._ask("GET", "/v1/current")
        nonce, self._nonce = self._nonce, ""
        if not nonce:
            raise NotAFrontError("it gives no nonce to sign")
        own = self.keys()
        message: dict[str, canon.Value] = {
            "body_sha256": _NOTHING, "federation": self.federation, "method": method, "nonce": nonce, "path": path,
        }  # fmt: skip
        armor = sshsig.sign(canon.encode(message), own.sign, statement.namespace("request"))
        signature = "".join(armor.splitlines()[1:-1])
        signed = {"Authorization": f'SSHSIG nonce="{nonce}", signature="{signature}"', **(headers or {})}
        return self._ask(method, path, headers=signed, into=into)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
        into: tuple[Path, int] | None = None,
    ) -> Answer:  # fmt: skip
        """One request and its answer, which goes `into` a file of a known size, or is short."""
        door, url = self._door(), self.url.rstrip("/") + path
        request = _Request(url, body, dict(headers or {}), method=method)
        request.meter = _Meter(self.patience, into[1] if into else _LIST_LIMIT, grows=into is not None)
        try:
            with door.open(request, timeout=min(_SILENCE, self.patience)) as found:
                told = self._told(found.headers)
                if into is None or found.status not in (200, 206):
                    return Answer(found.status, told, _short(found, _LIST_LIMIT))
                _grow(found, *into)
                return Answer(found.status, told, b"")
        except urllib.error.HTTPError as fault:
            with fault:
                raise _refusal(fault.code, self._told(fault.headers), _short(fault.fp, _REFUSAL_LIMIT)) from None
        except (ValueError, OverflowError) as fault:  # of a chunk's length, say
            raise NotAFrontError("it does not speak HTTP as it should") from fault

    def _told(self, headers: Message) -> dict[str, str]:
        """The headers of an answer. The nonce for the next request is among them."""
        if headers.get("X-Content-Type-Options") != "nosniff":
            raise _Unmarked(b"")
        told = {name.lower(): value for name, value in headers.items()}
        if _HASH.fullmatch(nonce := told.get("fedhelp-nonce", "")):
            self._nonce = nonce
        return told

    def _door(self) -> urllib.request.OpenerDirector:
        """No handler follows a redirect, opens a file or speaks FTP."""
        if self._opener is None:
            _check_address(self.url)
            tls = None
            try:
                if self.url.lower().startswith("https:"):
                    tls = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
            except OSError as fault:
                raise UsageError("the file named with --ca-file holds no certificate that can be read") from fault
            self._opener = urllib.request.OpenerDirector()
            for handler in (
                urllib.request.ProxyHandler(), _Handler(tls), urllib.request.HTTPDefaultErrorHandler(),
                urllib.request.HTTPErrorProcessor(),
            ):  # fmt: skip
                self._opener.add_handler(handler)
        return self._opener

    def _keep_trying(self, ask: Callable[[], T]) -> T:
        patience = _Patience(self.patience)
        while True:
            try:
                return ask()
            except (*_LINE, _Busy) as fault:
                patience.wait(fault)


class _Patience:
    """Waits a little longer each time and never at the same moment as the neighbours; ends after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        self._pause, self._until = 0.5, time.monotonic() + self._seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._until

    def wait(self, fault: Exception) -> None:
        """Raise what `fault` means for a person where there is no time left, or no hope."""
        if isinstance(getattr(fault, "reason", None), ssl.SSLCertVerificationError):
            raise OfflineError(
                "the coordinator's certificate is not one that this computer trusts",
                remedy="ask the coordinator for its certificate's authority and name it with --ca-file",
            ) from fault
        wait = self._pause * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        if isinstance(fault, _Busy):
            wait = fault.after or wait
        if time.monotonic() + wait > self._until:
            raise _given_up(fault) from fault
        time.sleep(wait)
        self._pause = min(2 * self._pause, 30.0)


class _Busy(Exception):
    """Not now; perhaps it said when."""

    def __init__(self, code: str, after: float) -> None:
        self.code, self.after = code, after


class _Unmarked(http.client.IncompleteRead):
    """A line that breaks within the headers looks like an answer with fewer of them; the last is missing."""


def _given_up(fault: Exception) -> OfflineError:
    broken = isinstance(fault, OSError) or type(fault) is http.client.IncompleteRead
    if isinstance(fault, http.client.HTTPException) and not broken:
        return NotAFrontError("it does not answer as a front does")
    if isinstance(fault, _Busy) and fault.code:
        return OfflineError(f"the coordinator's front says {fault.code}", remedy=remedy_of(fault.code))
    return OfflineError("the coordinator cannot be reached now")


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    """What the front refused, by its code. The remedy is ours: whoever answers must not tell a person what to do."""
    try:
        refusal = json.loads(body)
    except (ValueError, RecursionError):
        refusal = None
    match refusal:
        case {"code": str(code), "detail": str(detail)} if _CODE.fullmatch(code):
            pass
        case _:
            code = detail = ""
    if status in _TRY_AGAIN:
        after = headers.get("retry-after", "")
        return _Busy(code, min(float(after), 60.0) if re.fullmatch(r"[0-9]{1,6}", after) else 0.0)
    if 300 <= status < 400:
        return NotAFrontError("it points to another address, which is not followed")
    if not code:
        return NotAFrontError("it refuses without a reason")
    return RefusedThereError(code, "".join(letter for letter in detail[:200] if letter.isprintable()), remedy_of(code))


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body) if answer.status == 200 else None
    except (ValueError, RecursionError):
        raise NotAFrontError("it answers with something that is no JSON") from None


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _offset(answer: Answer, size: int) -> int:
    text = answer.headers.get("upload-offset", "")
    if answer.status not in (200, 201, 204) or not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > size:
        raise NotAFrontError("it does not say where the upload stands")
    return int(text)


def _check_address(url: str) -> None:
    """Only what can be an address, before anything is asked there."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        plain = url.isascii() and url.isprintable() and not set(url) & set(' "<>\\^`{|}@?#')
        if plain and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return
    raise UsageError(f"{url[:60]!r} is no address that begins with http:// or https://")


# --- what is on the disk ---------------------------------------------------------------------------------------------
def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _hash_of(path: Path) -> str:
    """The name of the parcel that a file begins as, or ""."""
    try:
        with files.reading(path) as file:
            return parcel.read_prologue(file)[0].hash
    except FedhelpError:
        return ""


# --- bounds of an answer ---------------------------------------------------------------------------------------------
class _Meter:
    """What an answer may take: so many bytes, and a stretch of patience; a file renews it by what it brings."""

    def __init__(self, seconds: float, size: int, *, grows: bool) -> None:
        self._seconds, self._grows = seconds, grows
        self._left, self._came = _HEAD_LIMIT + 2 * size, 0  # twice, since chunks have frames
        self._until = 0.0

    def seconds(self) -> float:
        """How long the next bytes may take."""
        now = time.monotonic()
        self._until = self._until or now + self._seconds
        if now >= self._until:
            raise TimeoutError
        return min(self._until - now, _SILENCE)

    def take(self, count: int) -> None:
        self._left -= count
        self._came += count
        if self._left < 0:
            raise NotAFrontError("it answers with more bytes than there can be")
        if self._grows and self._came >= _SLOWEST:
            self._until, self._came = 0.0, 0


class _Wire(io.RawIOBase):
    """The bytes of an answer as they come. All that parses it reads here, so that nothing of it is without bound."""

    def __init__(self, sock: socket.socket, meter: _Meter) -> None:
        self._sock, self._file, self._meter = sock, sock.makefile("rb", buffering=0), meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._sock.settimeout(self._meter.seconds())
            count = self._file.readinto(buffer) or 0
        except OSError as fault:
            raise urllib.error.URLError(fault) from fault
        self._meter.take(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *given: Any, meter: _Meter, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_Wire(sock, meter))


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, tls: ssl.SSLContext | None) -> None:
        urllib.request.HTTPHandler.__init__(self)
        self._tls = tls

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_metered(http.client.HTTPConnection, request), request)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_metered(http.client.HTTPSConnection, request), request, context=self._tls)  # type: ignore[arg-type]


class _Request(urllib.request.Request):
    meter: _Meter


def _metered(kind: type[http.client.HTTPConnection], request: _Request) -> Callable[..., http.client.HTTPConnection]:
    def connection(host: str, **named: Any) -> http.client.HTTPConnection:
        made = kind(host, **named)
        made.response_class = partial(_Response, meter=request.meter)  # type: ignore[assignment]
        return made

    return connection


def _short(found: Any, limit: int) -> bytes:
    """The whole of an answer that is short."""
    body = bytearray()
    while block := found.read(_LEAST):
        body += block
        if len(body) > limit:
            raise NotAFrontError("it answers with more bytes than there can be")
    _check_ended(found)
    return bytes(body)


def _grow(found: http.client.HTTPResponse, part: Path, size: int) -> None:
    """Add to a file what is missing of it, or write it anew where the answer begins at its beginning."""
    at = part.stat().st_size if found.status == 206 and part.exists() else 0
    if found.status == 206 and found.headers.get("Content-Range") != f"bytes {at}-{size - 1}/{size}":
        raise NotAFrontError("it gives other bytes of a file than were asked for")
    with part.open("ab" if at else "wb") as file:
        while block := found.read(_LEAST):
            at += len(block)
            if at > size:
                raise NotAFrontError("it gives a file of another length than it listed")
            file.write(block)
    _check_ended(found)


def _check_ended(found: Any) -> None:
    if found.length:  # bytes that were announced did not come
        raise http.client.IncompleteRead(b"")
