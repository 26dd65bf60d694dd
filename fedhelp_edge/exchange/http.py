"""The coordinator's web front as a carrier (docs/spec/http.md). Uploads and downloads resume; reads are signed.

Security does not depend on the connection: parcels are sealed. TLS and proxies follow the system's settings. The server
may be hostile: every answer is bounded (`bounded_http`), every field is checked, and file names are hashes. No redirect
is followed, so a signed request reaches the named address and no other.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any, TypeVar

from fedhelp_edge import files
from fedhelp_edge.errors import (
    FedhelpError,
    NoSpaceError,
    NotAFrontError,
    OfflineError,
    RefusedThereError,
    remedy_of,
)
from fedhelp_edge.exchange import bounded_http
from fedhelp_edge.parcel import canon, parcel, sshsig, statement
from fedhelp_edge.parcel.keys import Keys

T = TypeVar("T")

_MIN_CHUNK, _MAX_CHUNK = 64 << 10, 1 << 20  # bytes of a chunk
_TUS_HEADERS = {"Tus-Resumable": "1.0.0"}
_CHUNK_HEADERS = {**_TUS_HEADERS, "Content-Type": "application/offset+octet-stream"}
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504, 507)
_CONNECTION_ERRORS = urllib.error.URLError, http.client.HTTPException  # a bad disk is an OSError

_REFUSAL_LIMIT, _LIST_LIMIT = 64 << 10, 4 << 20  # bytes of an answer
_CHARTERS_LIMIT = 64 << 20  # bytes of all of them
_KIND_LIMITS = {  # bytes of all files of a kind; a site needs only the newest roster, task, pack and encoder
    "charter": _CHARTERS_LIMIT, "roster": 8 << 20, "task": 8 << 20, "receipt": 16 << 20, "knowledge": 257 << 20,
    "encoder": 513 << 20, "set": 8 << 20,
}  # fmt: skip
_HASH = re.compile(r"[0-9a-f]{64}")
_DOWNLOAD_NAME = re.compile(r"[0-9a-f]{64}\.(fhx|part)")  # files of unfinished downloads
_CODE = re.compile(r"E_[A-Z0-9_]{1,38}")
_SERVED_KINDS = frozenset(statement.KINDS) - {"update", "enrol", "rotate", "seed", "sum"}  # what is published
SITE_KINDS = _SERVED_KINDS - {"set"}


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class ListedParcel:
    """An entry of the front's list of parcels, checked."""

    hash: str
    kind: str
    size: int  # of the whole file

    @classmethod
    def read(cls, entry: Any) -> ListedParcel:
        """Reads an entry of the front's list. Its hash becomes a file name, so every field is checked."""
        match entry:
            case {"hash": str(hash_), "kind": str(kind), "number": number, "size": size} if (
                _HASH.fullmatch(hash_) and kind in _SERVED_KINDS and _is_count_up_to(number, 2**53 - 1)
                and size and _is_count_up_to(size, parcel.PROLOGUE_LIMIT + statement.KINDS[kind].limit)
            ):  # fmt: skip
                return cls(hash_, kind, size)
        raise NotAFrontError("its list of parcels holds an invalid entry")


@dataclass
class HttpCarrier:
    """The web front as a carrier. It gives up after `give_up_after` seconds without progress."""

    url: str
    federation: str
    keys: Callable[[], Keys]
    downloads: Path  # the folder of unfinished and finished downloads
    ca_file: Path | None = None
    next_keys: Callable[[], Keys] | None = None  # requested keys, which the roster may name by now
    give_up_after: float = 60.0
    max_model_bytes: int = 4 << 30  # of all models that a front may list for this site
    kinds: frozenset[str] = SITE_KINDS  # what is fetched; whatever else a front lists is passed over
    _nonce: str = ""
    _opener: urllib.request.OpenerDirector | None = field(default=None, repr=False)

    def put(self, sealed: Path) -> None:
        """Sends a parcel, and resumes where the front has a part of it."""
        self.keys()  # a wrong passphrase must fail before anything is sent
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
                        raise NotAFrontError("it confirms other bytes than were sent")
                except (*_CONNECTION_ERRORS, _BusyError, RefusedThereError) as error:
                    if isinstance(error, RefusedThereError) and error.there not in ("E_UPLOAD_OFFSET", "E_NOT_HERE"):
                        raise
                    chunk_size = max(chunk_size // 2, _MIN_CHUNK)
                    response = self._retry(begin)
                    received = _upload_offset(response, size)
                    if received <= offset:
                        backoff.wait(error)
                if received >= min(highest + bounded_http.MIN_PROGRESS, size):
                    highest = received
                    backoff.renew()
                elif backoff.is_over:
                    raise OfflineError("too little of the upload gets through")
                offset = received
            if not _HASH.fullmatch(response.headers.get("fedhelp-receipt", "")):
                raise NotAFrontError("it accepted an upload without a receipt")

    def fetch(self, have: frozenset[str]) -> Iterator[Path]:
        """Yields the parcels that the front lists for this site. An interrupted download resumes."""
        missing = {entry.hash: entry for entry in self._list_current() if entry.hash not in have}
        for path in self.downloads.iterdir():
            if path.stem not in missing and _DOWNLOAD_NAME.fullmatch(path.name):  # stored elsewhere, or obsolete
                _remove(path)
        return map(self._download, missing.values())

    def receipts(self, have: frozenset[str]) -> Iterator[Path]:
        """Yields the receipts that the front lists for this site."""
        missing = (entry for entry in self._list_current() if entry.kind == "receipt" and entry.hash not in have)
        return map(self._download, missing)

    def charter_proof(self, invite_id: str) -> str:
        """Returns the front's proof that it knows an invite's code, or ""."""
        try:
            match _json(self._retry(lambda: self._ask("GET", f"/v1/vouches/{invite_id}"))):
                case {"vouch": str(proof)}:
                    return proof
        except RefusedThereError:
            return ""
        raise NotAFrontError("its proof for the charter has the wrong form")

    def check(self) -> None:
        """Raises unless a front answers at this address."""
        if _json(self._retry(lambda: self._ask("GET", "/healthz"))) != {"status": "ok"}:
            raise NotAFrontError("its health check has the wrong form")

    def charters(self) -> Iterator[Path]:
        """Yields all versions of the charter. They are public, so these requests are not signed."""
        parcels = self._read_list(self._retry(lambda: self._ask("GET", "/v1/charters")))
        if any(entry.kind != "charter" for entry in parcels):
            raise NotAFrontError("its list of charters holds other files")
        for entry in parcels:
            _remove(self.downloads / f"{entry.hash}.fhx")  # of an earlier attempt, and perhaps damaged
            yield self._download(entry, self._ask)

    def _list_current(self) -> list[ListedParcel]:
        parcels = self._read_list(self._retry(lambda: self._ask_signed("GET", "/v1/current")))
        if self.next_keys and all(entry.kind != "roster" for entry in parcels):  # the roster has the new keys
            self.keys, self.next_keys = self.next_keys, None
            return self._list_current()
        return parcels

    def _read_list(self, response: HttpAnswer) -> list[ListedParcel]:
        match _json(response):
            case {"parcels": list(entries)}:
                listed = [ListedParcel.read(entry) for entry in entries]
            case _:
                raise NotAFrontError("it gives no list of parcels")
        parcels = [entry for entry in listed if entry.kind in self.kinds]
        for kind, limit in {**_KIND_LIMITS, "global": self.max_model_bytes}.items():
            if (size := sum(entry.size for entry in parcels if entry.kind == kind)) > limit:
                raise NotAFrontError(f"it lists {size} bytes of the kind {kind}, and there can be {limit}")
        self.downloads.mkdir(parents=True, exist_ok=True)
        if (size := sum(entry.size for entry in parcels)) > shutil.disk_usage(self.downloads).free // 2:
            raise NoSpaceError(f"the front lists {size} bytes, more than half of what is free on this disk")
        return parcels

    def _download(self, entry: ListedParcel, send: Callable[..., HttpAnswer] | None = None) -> Path:
        """Downloads one parcel, and resumes a part of it. Keeps a file only if its statement has the listed hash."""
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
                    response = (send or self._ask_signed)(
                        "GET", f"/v1/parcels/{entry.hash}", headers=headers, into=(part, entry.size)
                    )
                except (*_CONNECTION_ERRORS, _BusyError) as error:
                    if _size(part) >= offset + bounded_http.MIN_PROGRESS:
                        backoff.renew()
                    else:
                        backoff.wait(error)
                    continue
                if response.status not in (200, 206) or _size(part) != entry.size:
                    _remove(part)
                    raise NotAFrontError("it sends a file of another length than it listed")
            elif offset > entry.size or _parcel_hash(part) != entry.hash:
                _remove(part)
                raise NotAFrontError("it sends another file than the one that was requested")
            else:
                part.replace(path)
        return path

    # --- one request ---------------------------------------------------------------------------------------------
    def _ask_signed(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, into: tuple[Path, int] | None = None
    ) -> HttpAnswer:  # fmt: skip
        """Sends a signed request. Its nonce came with the answer before; an expired one is replaced once."""
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
        """Sends one request. The answer is short, or goes `into` a file of a known size."""
        opener, url = self._url_opener(), self.url.rstrip("/") + path
        request = bounded_http.LimitedRequest(url, body, dict(headers or {}), method=method)
        limit = into[1] if into else _LIST_LIMIT
        request.limits = bounded_http.AnswerLimits(self.give_up_after, limit, is_download=into is not None)
        try:
            with opener.open(request, timeout=min(bounded_http.READ_TIMEOUT, self.give_up_after)) as response:
                response_headers = self._checked_headers(response.headers)
                if into is None or response.status not in (200, 206):
                    return HttpAnswer(response.status, response_headers, bounded_http.read_short(response, _LIST_LIMIT))
                bounded_http.append_to(response, *into)
                return HttpAnswer(response.status, response_headers, b"")
        except urllib.error.HTTPError as error:
            with error:
                refused_headers = self._checked_headers(error.headers)
                raise _refusal_error(
                    error.code, refused_headers, bounded_http.read_short(error.fp, _REFUSAL_LIMIT)
                ) from error
        except (ValueError, OverflowError) as error:  # a malformed chunk length, for example
            raise NotAFrontError("it does not speak valid HTTP") from error

    def _checked_headers(self, headers: Message) -> dict[str, str]:
        """Returns an answer's headers in lower case, and keeps the nonce for the next request."""
        if headers.get("X-Content-Type-Options") != "nosniff":
            raise _UnmarkedAnswerError(b"")
        lowered = {name.lower(): value for name, value in headers.items()}
        if _HASH.fullmatch(nonce := lowered.get("fedhelp-nonce", "")):
            self._nonce = nonce
        return lowered

    def _url_opener(self) -> urllib.request.OpenerDirector:
        """Returns the opener, which follows no redirect."""
        if self._opener is None:
            self._opener = bounded_http.opener(self.url, self.ca_file)
        return self._opener

    def _retry(self, send: Callable[[], T]) -> T:
        backoff = _Backoff(self.give_up_after)
        while True:
            try:
                return send()
            except (*_CONNECTION_ERRORS, _BusyError) as error:
                backoff.wait(error)


class _Backoff(bounded_http.Backoff):
    def wait(self, error: Exception) -> None:
        """Waits; raises what `error` means for a person when time is up or waiting cannot help."""
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise OfflineError(
                "this computer does not trust the coordinator's certificate",
                remedy="ask the coordinator for the certificate of its authority and name it with --ca-file",
            ) from error
        pause = self.next_pause(error.after if isinstance(error, _BusyError) else 0.0)
        if pause is None:
            raise _final_error(error) from error
        time.sleep(pause)


class _BusyError(Exception):
    """The front is busy; `after` is its Retry-After in seconds, or 0."""

    def __init__(self, code: str, after: float) -> None:
        self.code, self.after = code, after


class _UnmarkedAnswerError(http.client.IncompleteRead):
    """The last header is missing: the connection broke within the headers, or this is no front."""


def _final_error(error: Exception) -> OfflineError:
    connection_broke = isinstance(error, OSError) or type(error) is http.client.IncompleteRead
    if isinstance(error, http.client.HTTPException) and not connection_broke:
        return NotAFrontError("it does not answer as a front does")
    if isinstance(error, _BusyError) and error.code:
        return OfflineError(f"the coordinator's front says {error.code}", remedy=remedy_of(error.code))
    return OfflineError("the coordinator cannot be reached now")


def _refusal_error(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    """Returns the front's refusal as an error. The remedy is ours: a hostile server must not give a person advice."""
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
        return NotAFrontError("it redirects to another address, which is not followed")
    if not code:
        return NotAFrontError("it refuses without a reason")
    return RefusedThereError(code, "".join(letter for letter in detail[:200] if letter.isprintable()), remedy_of(code))


def _json(response: HttpAnswer) -> Any:
    try:
        return json.loads(response.body) if response.status == 200 else None
    except (ValueError, RecursionError) as error:
        raise NotAFrontError("its answer is not JSON") from error


def _is_count_up_to(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit


def _upload_offset(response: HttpAnswer, size: int) -> int:
    text = response.headers.get("upload-offset", "")
    if response.status not in (200, 201, 204) or not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > size:
        raise NotAFrontError("it does not state the offset of the upload")
    return int(text)


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
    """Returns the statement's hash of a parcel file, or ""."""
    try:
        with files.reading(path) as file:
            return parcel.read_prologue(file)[0].hash
    except FedhelpError:
        return ""
