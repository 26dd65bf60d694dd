"""The coordinator's front as carrier (docs/spec/http.md): uploads go on where the line broke, reads are signed.

Safety never rests on the line: what travels is sealed. TLS, a private authority and proxies are as the system has them.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fedhelp_edge import files
from fedhelp_edge.errors import Offline, RefusedThere, Usage
from fedhelp_edge.parcel import canon, parcel, sshsig
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import namespace

T = TypeVar("T")

_LEAST, _MOST = 64 << 10, 1 << 20  # bytes of a chunk
_TUS = {"Tus-Resumable": "1.0.0"}
_BYTES = {**_TUS, "Content-Type": "application/offset+octet-stream"}
_NOTHING = hashlib.sha256(b"").hexdigest()
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_LINE = (OSError, http.client.HTTPException)  # what a bad line looks like; URLError is an OSError


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


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
    _nonce: str = ""
    _opener: urllib.request.OpenerDirector | None = field(default=None, repr=False)

    def put(self, parcel_: Path) -> None:
        """Send a parcel; where the front has a part of it, it goes on from there."""
        size = parcel_.stat().st_size
        with files.reading(parcel_) as file:
            parcel.read_prologue(file)
            head = file.tell()
            file.seek(0)
            first = file.read(size if size <= _LEAST else head)
            offset = self._offset(self._keep_trying(lambda: self._ask(
                "POST", "/v1/uploads", first, {**_BYTES, "Upload-Length": str(size)}
            )))  # fmt: skip
            chunk = 4 * _LEAST
            while offset < size:
                file.seek(offset)
                data = file.read(chunk)
                try:
                    path = f"/v1/uploads/{parcel_.stem}"
                    answer = self._ask("PATCH", path, data, {**_BYTES, "Upload-Offset": str(offset)})
                    offset, chunk = self._offset(answer), min(2 * chunk, _MOST)
                except (*_LINE, _Busy, RefusedThere) as fault:
                    if isinstance(fault, RefusedThere) and fault.there not in ("E_UPLOAD_OFFSET", "E_NOT_HERE"):
                        raise
                    chunk = max(chunk // 2, _LEAST)
                    offset = self._offset(self._keep_trying(lambda: self._ask(
                        "POST", "/v1/uploads", first, {**_BYTES, "Upload-Length": str(size)}
                    )))  # fmt: skip

    def fetch(self, have: frozenset[str]) -> Iterator[Path]:
        """What the front lists for us, each file whole; a download that was cut off goes on."""
        wanted = {one["hash"]: one for one in self._current() if one["hash"] not in have}
        for path in self.store.iterdir():
            if path.stem not in wanted:  # the site keeps it elsewhere, or it is of no use any more
                path.unlink()
        return map(self._fetched, wanted.values())

    def receipts(self, have: frozenset[str]) -> Iterator[Path]:
        wanted = (one for one in self._current() if one["kind"] == "receipt" and one["hash"] not in have)
        return map(self._fetched, wanted)

    def vouch(self, invite: str) -> str:
        try:
            return str(json.loads(self._keep_trying(lambda: self._ask("GET", f"/v1/vouches/{invite}")).body)["vouch"])
        except RefusedThere:
            return ""

    def check(self) -> None:
        """Whether a front answers at all."""
        self._keep_trying(lambda: self._ask("GET", "/healthz"))

    def charters(self) -> Iterator[Path]:
        self.store.mkdir(parents=True, exist_ok=True)
        for one in json.loads(self._keep_trying(lambda: self._ask("GET", "/v1/charters")).body)["parcels"]:
            path = self.store / f"{one['hash']}.fhx"
            body = self._keep_trying(lambda one=one: self._ask("GET", f"/v1/parcels/{one['hash']}")).body  # type: ignore[misc]
            path.write_bytes(body)
            yield path

    def _current(self) -> list[dict[str, Any]]:
        self.store.mkdir(parents=True, exist_ok=True)
        listed = list(json.loads(self._keep_trying(lambda: self._read("/v1/current")).body)["parcels"])
        if self.next_keys and all(one["kind"] != "roster" for one in listed):  # no member by the old keys any more
            self.keys, self.next_keys = self.next_keys, None
            return self._current()
        return listed

    def _fetched(self, one: Mapping[str, Any]) -> Path:
        hash_, size = str(one["hash"]), int(one["size"])
        path, part = self.store / f"{hash_}.fhx", self.store / f"{hash_}.part"
        while not path.exists():
            at = part.stat().st_size if part.exists() else 0
            if at >= size:
                part.replace(path)
                break
            headers = {"Range": f"bytes={at}-", "If-Range": f'"{hash_}"'} if at else {}
            answer = self._keep_trying(lambda headers=headers: self._read(f"/v1/parcels/{hash_}", headers, part))  # type: ignore[misc]
            if answer.status == 200 and at:
                raise Offline("the coordinator's front does not give a part of a file")
        return path

    # --- one request ---------------------------------------------------------------------------------------------
    def _read(self, path: str, headers: Mapping[str, str] | None = None, into: Path | None = None) -> Answer:
        """A read that says who asks. The nonce comes with the answer before; the first is asked for."""
        if not self._nonce:
            with contextlib.suppress(RefusedThere):
                self._ask("GET", "/v1/current")
        nonce, self._nonce = self._nonce, ""
        own = self.keys()
        said: dict[str, canon.Value] = {
            "body_sha256": _NOTHING, "federation": self.federation, "method": "GET", "nonce": nonce, "path": path,
        }  # fmt: skip
        armor = sshsig.sign(canon.encode(said), own.sign, namespace("request"))
        signature = "".join(armor.splitlines()[1:-1])
        signed = {"Authorization": f'SSHSIG nonce="{nonce}", signature="{signature}"', **(headers or {})}
        return self._ask("GET", path, headers=signed, into=into)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
        into: Path | None = None,
    ) -> Answer:  # fmt: skip
        door, url = self._door(), self.url.rstrip("/") + path
        request = urllib.request.Request(url, body, dict(headers or {}), method=method)  # noqa: S310 - the door checked
        try:
            with door.open(request, timeout=30) as found:
                _check_whole(found.headers)
                self._nonce = found.headers.get("Fedhelp-Nonce", self._nonce)
                told = {name.lower(): value for name, value in found.headers.items()}
                if into is None:
                    return Answer(found.status, told, found.read())
                with into.open("ab" if found.status == 206 else "wb") as file:
                    while block := found.read(_LEAST):
                        file.write(block)
                return Answer(found.status, told, b"")
        except urllib.error.HTTPError as fault:
            with fault:
                _check_whole(fault.headers)
                self._nonce = fault.headers.get("Fedhelp-Nonce", self._nonce)
                raise _refusal(fault) from None

    def _door(self) -> urllib.request.OpenerDirector:
        if self._opener is None:
            if not self.url.startswith(("http://", "https://")):
                raise Usage(f"{self.url[:60]!r} is no address that begins with http:// or https://")
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
            self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        return self._opener

    def _keep_trying(self, ask: Callable[[], T]) -> T:
        """Try again, each time a little later and never at the same moment as the neighbours."""
        pause, until = 0.5, time.monotonic() + self.patience
        while True:
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
            try:
                return ask()
            except _Busy as fault:
                wait = fault.after or wait
            except _LINE as fault:
                if isinstance(getattr(fault, "reason", None), ssl.SSLCertVerificationError):
                    raise Offline(
                        "the coordinator's certificate is not one that this computer trusts",
                        remedy="ask the coordinator for its certificate's authority and name it with --ca-file",
                    ) from None
            if time.monotonic() + wait > until:
                raise Offline("the coordinator cannot be reached now")
            time.sleep(wait)
            pause = min(2 * pause, 30.0)

    @staticmethod
    def _offset(answer: Answer) -> int:
        try:
            return int(answer.headers["upload-offset"])
        except (KeyError, ValueError):
            raise Offline("what answers at this address is no front of a coordinator") from None


class _Busy(Exception):
    """Not now; perhaps it said when."""

    def __init__(self, after: float) -> None:
        self.after = after


def _check_whole(headers: Any) -> None:
    """A line that breaks within the headers looks like an answer with fewer of them; this is a front's last one."""
    if headers.get("X-Content-Type-Options") != "nosniff":
        raise http.client.IncompleteRead(b"")


def _refusal(fault: urllib.error.HTTPError) -> Exception:
    """What the front refused, by its code."""
    if fault.code in _TRY_AGAIN:
        try:
            return _Busy(min(float(fault.headers.get("Retry-After", "0")), 60.0))
        except ValueError:
            return _Busy(0)
    body = fault.read()  # whole, or the line broke
    try:
        said: dict[str, Any] = json.loads(body)
        return RefusedThere(str(said["code"])[:40], str(said["detail"])[:200], str(said["remedy"])[:300])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Offline("what answers at this address is no front of a coordinator")
