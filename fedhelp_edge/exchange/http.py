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

_MIN_CHUNK, _MAX_CHUNK = 64 << 10, 1 << 20  # bytes of a chunk
_TUS_HEADERS = {"Tus-Resumable": "1.0.0"}
_CHUNK_HEADERS = {**_TUS_HEADERS, "Content-Type": "application/offset+octet-stream"}
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504, 507)
_CONNECTION_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
)  # what a bad line looks like; a bad disk is an OSError

_HEAD_LIMIT, _REFUSAL_LIMIT, _LIST_LIMIT = 64 << 10, 64 << 10, 4 << 20  # bytes of an answer
_CHARTERS_LIMIT = 64 << 20  # bytes of all of them
_KIND_LIMITS = {  # bytes of all files of a kind; of a roster, a task and a pack the newest one is enough
    "charter": _CHARTERS_LIMIT, "roster": 8 << 20, "task": 8 << 20, "receipt": 16 << 20, "knowledge": 257 << 20,
}  # fmt: skip
_MIN_PROGRESS = 4096  # bytes that each stretch of patience must bring: as much as the front asks of us
_READ_TIMEOUT = 30.0  # seconds without a byte
_HASH = re.compile(r"[0-9a-f]{64}")
_DOWNLOAD_NAME = re.compile(r"[0-9a-f]{64}\.(fhx|part)")  # what lies in the folder where downloads grow
_CODE = re.compile(r"E_[A-Z0-9_]{1,38}")
_SERVED_KINDS = frozenset(statement.KINDS) - {"update", "enrol", "rotate"}  # what a coordinator gives out


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class ListedParcel:
    """A parcel as the front lists it."""

    hash: str
    kind: str
    size: int  # of the whole file

    @classmethod
    def read(cls, entry: Any) -> ListedParcel:
        """An entry of the front's list, of which nothing is believed: its hash becomes a file's name."""
        match entry:
            case {"hash": str(hash_), "kind": str(kind), "number": number, "size": size} if (
                _HASH.fullmatch(hash_) and kind in _SERVED_KINDS and _is_count_up_to(number, 2**53 - 1)
                and size and _is_count_up_to(size, parcel.PROLOGUE_LIMIT + statement.KINDS[kind].limit)
            ):  # fmt: skip
                return cls(hash_, kind, size)
        raise NotAFrontError("the list of parcels holds an entry that is none")


@dataclass
class HttpCarrier:
    """A carrier that gives up after `give_up_after` seconds without progress."""

    url: str
    federation: str
    keys: Callable[[], Keys]
    downloads: Path  # where downloads grow
    ca_file: Path | None = None
    next_keys: Callable[[], Keys] | None = None  # those that this site asked to be known by, and perhaps is
    give_up_after: float = 60.0
    max_model_bytes: int = 4 << 30  # bytes of all models that there may be for this site
    _nonce: str = ""
    _opener: urllib.request.OpenerDirector | None = field(default=None, repr=False)

    def put(self, sealed: Path) -> None:
        """Send a parcel; where the front has a part of it, it goes on from there."""
        self.keys()  # a wrong passphrase is told before anything is sent, and not when the receipt is read
        size = sealed.stat().st_size
        with files.reading(sealed) as file:
            parcel.read_prologue(file)
            prologue_size = file.tell()
            file.seek(0)
            first_bytes = file.read(size if size <= _MIN_CHUNK else prologue_size)

            def begin() -> HttpAnswer:
                return self._ask("POST", "/v1/uploads", first_bytes, {**_CHUNK_HEADERS, "Upload-Length": str(size)})

            response = self._retry(begin)
            offset, chunk_size = _upload_offset(response, size), 4 * _MIN_CHUNK
            highest, backoff = offset, _Backoff(self.give_up_after)
            while offset < size:
                file.seek(offset)
                data = file.read(chunk_size)
                try:
                    url_path = f"/v1/uploads/{sealed.stem}"
                    response = self._ask("PATCH", url_path, data, {**_CHUNK_HEADERS, "Upload-Offset": str(offset)})
                    received, chunk_size = _upload_offset(response, size), min(2 * chunk_size, _MAX_CHUNK)
                    if received not in (offset + len(data), size):
                        raise NotAFrontError("it says that it took other bytes than were sent")
                except (*_CONNECTION_ERRORS, _BusyError, RefusedThereError) as error:
                    if isinstance(error, RefusedThereError) and error.there not in ("E_UPLOAD_OFFSET", "E_NOT_HERE"):
                        raise
                    chunk_size = max(chunk_size // 2, _MIN_CHUNK)
                    response = self._retry(begin)
                    received = _upload_offset(response, size)
                    if received <= offset:
                        backoff.wait(error)
                if received >= min(highest + _MIN_PROGRESS, size):
                    highest = received
                    backoff.renew()
                elif backoff.is_over:
                    raise OfflineError("too little of the upload gets through")
                offset = received
            if not _HASH.fullmatch(response.headers.get("fedhelp-receipt", "")):
                raise NotAFrontError("it took an upload and names no receipt")

    def fetch(self, have: frozenset[str]) -> Iterator[Path]:
        """What the front lists for us, each file whole; a download that was cut off goes on."""
        missing = {entry.hash: entry for entry in self._list_current() if entry.hash not in have}
        for path in self.downloads.iterdir():
            if path.stem not in missing and _DOWNLOAD_NAME.fullmatch(
                path.name
            ):  # the site keeps it elsewhere, or needs it no more
                _remove(path)
        return map(self._download, missing.values())

    def receipts(self, have: frozenset[str]) -> Iterator[Path]:
        missing = (entry for entry in self._list_current() if entry.kind == "receipt" and entry.hash not in have)
        return map(self._download, missing)

    def charter_proof(self, invite_id: str) -> str:
        try:
            match _json(self._retry(lambda: self._ask("GET", f"/v1/vouches/{invite_id}"))):
                case {"vouch": str(vouch)}:
                    return vouch
        except RefusedThereError:
            return ""
        raise NotAFrontError("it vouches for nothing")

    def check(self) -> None:
        """Whether a front answers at all."""
        if _json(self._retry(lambda: self._ask("GET", "/healthz"))) != {"status": "ok"}:
            raise NotAFrontError("it does not say that it is well")

    def charters(self) -> Iterator[Path]:
        parcels = self._read_list(self._retry(lambda: self._ask("GET", "/v1/charters")))
        if any(entry.kind != "charter" for entry in parcels):
            raise NotAFrontError("its list of charters holds other files")
        for entry in parcels:
            _remove(self.downloads / f"{entry.hash}.fhx")  # of an attempt before, and perhaps damaged
            yield self._download(entry, self._ask)

    def _list_current(self) -> list[ListedParcel]:
        parcels = self._read_list(self._retry(lambda: self._read("GET", "/v1/current")))
        if self.next_keys and all(entry.kind != "roster" for entry in parcels):  # no member by the old keys any more
            self.keys, self.next_keys = self.next_keys, None
            return self._list_current()
        return parcels

    def _read_list(self, response: HttpAnswer) -> list[ListedParcel]:
        match _json(response):
            case {"parcels": list(entries)}:
                parcels = [ListedParcel.read(entry) for entry in entries]
            case _:
                raise NotAFrontError("it gives no list of parcels")
        for kind, limit in {**_KIND_LIMITS, "global": self.max_model_bytes}.items():
            if (size := sum(one.size for one in parcels if one.kind == kind)) > limit:
                raise NotAFrontError(f"it lists {size} bytes of the kind {kind}, and there can be {limit}")
        self.downloads.mkdir(parents=True, exist_ok=True)
        if (size := sum(one.size for one in parcels)) > shutil.disk_usage(self.downloads).free // 2:
            raise NoSpaceError(f"the front lists {size} bytes, more than half of what is free on this disk")
        return parcels

    def _download(self, entry: ListedParcel, send: Callable[..., HttpAnswer] | None = None) -> Path:
        path, part = self.downloads / f"{entry.hash}.fhx", self.downloads / f"{entry.hash}.part"
        for candidate in (path, part):
            if not _is_file(candidate):
                _remove(candidate)
        backoff = _Backoff(self.give_up_after)
        while not path.exists():
            offset = _size(part)
            if offset < entry.size:
                headers = {"Range": f"bytes={offset}-", "If-Range": f'"{entry.hash}"'} if offset else {}
                try:
                    response = (send or self._read)(
                        "GET", f"/v1/parcels/{entry.hash}", headers=headers, into=(part, entry.size)
                    )
                except (*_CONNECTION_ERRORS, _BusyError) as error:
                    if _size(part) >= offset + _MIN_PROGRESS:
                        backoff.renew()
                    else:
                        backoff.wait(error)
                    continue
                if response.status not in (200, 206) or _size(part) != entry.size:
                    _remove(part)
                    raise NotAFrontError("it gives a file of another length than it listed")
            elif offset > entry.size or _parcel_hash(part) != entry.hash:
                _remove(part)
                raise NotAFrontError("it gives another file than the one that was asked for")
            else:
                part.replace(path)
        return path

    # --- one request ---------------------------------------------------------------------------------------------
    def _read(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, into: tuple[Path, int] | None = None
    ) -> HttpAnswer:  # fmt: skip
        """A read that says who asks. The nonce comes with the answer before; one that is too old is asked for anew."""
        try:
            return self._ask_signed_once(method, path, headers, into)
        except RefusedThereError as error:
            if error.there != "E_NONCE":
                raise
        return self._ask_signed_once(method, path, headers, into)

    def _ask_signed_once(
        self, method: str, path: str, headers: Mapping[str, str] | None, into: tuple[Path, int] | None
    ) -> HttpAnswer:
        if not self._nonce:
            with contextlib.suppress(RefusedThereError):
                self._ask("GET", "/v1/current")
        nonce, self._nonce = self._nonce, ""
        if not nonce:
            raise NotAFrontError("it gives no nonce to sign")
        site_keys = self.keys()
        message: dict[str, canon.Value] = {
            "body_sha256": _EMPTY_SHA256, "federation": self.federation, "method": method, "nonce": nonce, "path": path,
        }  # fmt: skip
        armor = sshsig.sign(canon.encode(message), site_keys.sign, statement.namespace("request"))
        signature = "".join(armor.splitlines()[1:-1])
        signed = {"Authorization": f'SSHSIG nonce="{nonce}", signature="{signature}"', **(headers or {})}
        return self._ask(method, path, headers=signed, into=into)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
        into: tuple[Path, int] | None = None,
    ) -> HttpAnswer:  # fmt: skip
        """One request and its answer, which goes `into` a file of a known size, or is short."""
        opener, url = self._url_opener(), self.url.rstrip("/") + path
        request = _Request(url, body, dict(headers or {}), method=method)
        request.limits = _AnswerLimits(
            self.give_up_after, into[1] if into else _LIST_LIMIT, is_download=into is not None
        )
        try:
            with opener.open(request, timeout=min(_READ_TIMEOUT, self.give_up_after)) as response:
                response_headers = self._told(response.headers)
                if into is None or response.status not in (200, 206):
                    return HttpAnswer(response.status, response_headers, _read_short(response, _LIST_LIMIT))
                _append_to(response, *into)
                return HttpAnswer(response.status, response_headers, b"")
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal_error(
                    error.code, self._told(error.headers), _read_short(error.fp, _REFUSAL_LIMIT)
                ) from None
        except (ValueError, OverflowError) as error:  # of a chunk's length, say
            raise NotAFrontError("it does not speak HTTP as it should") from error

    def _told(self, headers: Message) -> dict[str, str]:
        """The headers of an answer. The nonce for the next request is among them."""
        if headers.get("X-Content-Type-Options") != "nosniff":
            raise _UnmarkedAnswerError(b"")
        lowered = {name.lower(): value for name, value in headers.items()}
        if _HASH.fullmatch(nonce := lowered.get("fedhelp-nonce", "")):
            self._nonce = nonce
        return lowered

    def _url_opener(self) -> urllib.request.OpenerDirector:
        """No handler follows a redirect, opens a file or speaks FTP."""
        if self._opener is None:
            _check_address(self.url)
            tls = None
            try:
                if self.url.lower().startswith("https:"):
                    tls = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
            except OSError as error:
                raise UsageError("the file named with --ca-file holds no certificate that can be read") from error
            self._opener = urllib.request.OpenerDirector()
            for handler in (
                urllib.request.ProxyHandler(), _Handler(tls), urllib.request.HTTPDefaultErrorHandler(),
                urllib.request.HTTPErrorProcessor(),
            ):  # fmt: skip
                self._opener.add_handler(handler)
        return self._opener

    def _retry(self, send: Callable[[], T]) -> T:
        backoff = _Backoff(self.give_up_after)
        while True:
            try:
                return send()
            except (*_CONNECTION_ERRORS, _BusyError) as error:
                backoff.wait(error)


class _Backoff:
    """Waits a little longer each time and never at the same moment as the neighbours; ends after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        self._pause, self._until = 0.5, time.monotonic() + self._seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._until

    def wait(self, error: Exception) -> None:
        """Raise what `fault` means for a person where there is no time left, or no hope."""
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise OfflineError(
                "the coordinator's certificate is not one that this computer trusts",
                remedy="ask the coordinator for its certificate's authority and name it with --ca-file",
            ) from error
        wait = self._pause * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        if isinstance(error, _BusyError):
            wait = error.after or wait
        if time.monotonic() + wait > self._until:
            raise _final_error(error) from error
        time.sleep(wait)
        self._pause = min(2 * self._pause, 30.0)


class _BusyError(Exception):
    """Not now; perhaps it said when."""

    def __init__(self, code: str, after: float) -> None:
        self.code, self.after = code, after


class _UnmarkedAnswerError(http.client.IncompleteRead):
    """A line that breaks within the headers looks like an answer with fewer of them; the last is missing."""


def _final_error(error: Exception) -> OfflineError:
    connection_broke = isinstance(error, OSError) or type(error) is http.client.IncompleteRead
    if isinstance(error, http.client.HTTPException) and not connection_broke:
        return NotAFrontError("it does not answer as a front does")
    if isinstance(error, _BusyError) and error.code:
        return OfflineError(f"the coordinator's front says {error.code}", remedy=remedy_of(error.code))
    return OfflineError("the coordinator cannot be reached now")


def _refusal_error(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
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
    if status in _RETRY_STATUSES:
        after = headers.get("retry-after", "")
        return _BusyError(code, min(float(after), 60.0) if re.fullmatch(r"[0-9]{1,6}", after) else 0.0)
    if 300 <= status < 400:
        return NotAFrontError("it points to another address, which is not followed")
    if not code:
        return NotAFrontError("it refuses without a reason")
    return RefusedThereError(code, "".join(letter for letter in detail[:200] if letter.isprintable()), remedy_of(code))


def _json(response: HttpAnswer) -> Any:
    try:
        return json.loads(response.body) if response.status == 200 else None
    except (ValueError, RecursionError):
        raise NotAFrontError("it answers with something that is no JSON") from None


def _is_count_up_to(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit


def _upload_offset(response: HttpAnswer, size: int) -> int:
    text = response.headers.get("upload-offset", "")
    if response.status not in (200, 201, 204) or not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > size:
        raise NotAFrontError("it does not say where the upload stands")
    return int(text)


def _check_address(url: str) -> None:
    """Only what can be an address, before anything is asked there."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        has_plain_characters = url.isascii() and url.isprintable() and not set(url) & set(' "<>\\^`{|}@?#')
        if has_plain_characters and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
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


def _parcel_hash(path: Path) -> str:
    """The name of the parcel that a file begins as, or ""."""
    try:
        with files.reading(path) as file:
            return parcel.read_prologue(file)[0].hash
    except FedhelpError:
        return ""


# --- bounds of an answer ---------------------------------------------------------------------------------------------
class _AnswerLimits:
    """What an answer may take: so many bytes, and a stretch of patience; a file renews it by what it brings."""

    def __init__(self, seconds: float, size: int, *, is_download: bool) -> None:
        self._seconds, self._grows = seconds, is_download
        self._left, self._came = _HEAD_LIMIT + 2 * size, 0  # twice, since chunks have frames
        self._until = 0.0

    def seconds(self) -> float:
        """How long the next bytes may take."""
        now = time.monotonic()
        self._until = self._until or now + self._seconds
        if now >= self._until:
            raise TimeoutError
        return min(self._until - now, _READ_TIMEOUT)

    def take(self, count: int) -> None:
        self._left -= count
        self._came += count
        if self._left < 0:
            raise NotAFrontError("it answers with more bytes than there can be")
        if self._grows and self._came >= _MIN_PROGRESS:
            self._until, self._came = 0.0, 0


class _LimitedStream(io.RawIOBase):
    """The bytes of an answer as they come. All that parses it reads here, so that nothing of it is without bound."""

    def __init__(self, sock: socket.socket, limits: _AnswerLimits) -> None:
        self._sock, self._file, self._meter = sock, sock.makefile("rb", buffering=0), limits

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._sock.settimeout(self._meter.seconds())
            count = self._file.readinto(buffer) or 0
        except OSError as error:
            raise urllib.error.URLError(error) from error
        self._meter.take(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *given: Any, limits: _AnswerLimits, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_LimitedStream(sock, limits))


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, tls: ssl.SSLContext | None) -> None:
        urllib.request.HTTPHandler.__init__(self)
        self._tls = tls

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_limited_connection(http.client.HTTPConnection, request), request)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_limited_connection(http.client.HTTPSConnection, request), request, context=self._tls)  # type: ignore[arg-type]


class _Request(urllib.request.Request):
    limits: _AnswerLimits


def _limited_connection(
    connection_class: type[http.client.HTTPConnection], request: _Request
) -> Callable[..., http.client.HTTPConnection]:
    def connection(host: str, **named: Any) -> http.client.HTTPConnection:
        limited = connection_class(host, **named)
        limited.response_class = partial(_Response, limits=request.limits)  # type: ignore[assignment]
        return limited

    return connection


def _read_short(response: Any, limit: int) -> bytes:
    """The whole of an answer that is short."""
    body = bytearray()
    while block := response.read(_MIN_CHUNK):
        body += block
        if len(body) > limit:
            raise NotAFrontError("it answers with more bytes than there can be")
    _check_complete(response)
    return bytes(body)


def _append_to(response: http.client.HTTPResponse, part: Path, size: int) -> None:
    """Add to a file what is missing of it, or write it anew where the answer begins at its beginning."""
    offset = part.stat().st_size if response.status == 206 and part.exists() else 0
    if response.status == 206 and response.headers.get("Content-Range") != f"bytes {offset}-{size - 1}/{size}":
        raise NotAFrontError("it gives other bytes of a file than were asked for")
    with part.open("ab" if offset else "wb") as file:
        while block := response.read(_MIN_CHUNK):
            offset += len(block)
            if offset > size:
                raise NotAFrontError("it gives a file of another length than it listed")
            file.write(block)
    _check_complete(response)


def _check_complete(response: Any) -> None:
    if response.length:  # bytes that were announced did not come
        raise http.client.IncompleteRead(b"")
