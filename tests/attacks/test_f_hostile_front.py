"""Faults F21-F23: a site's client at a hostile front, or at somebody who answers in its place."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.errors import FedhelpError, NoSpaceError, NotAFrontError, OfflineError, RefusedThereError, UsageError
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.parcel import keys, parcel, statement
from tests import hostile_front
from tests.hostile_front import ReceivedRequest, ResponseBytes, endless, response

NONCE = "0" * 64
NEXT = f"Fedhelp-Nonce: {NONCE}"
SITE_KEYS = keys.generate()


@pytest.fixture(scope="module")
def charter(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A validly signed parcel whose payload is larger than one chunk of an upload."""
    path = tmp_path_factory.mktemp("charter") / "charter.fhx"
    context = statement.new_context("charter", epoch=1, version=1, previous=statement.ZERO_HASH)
    parcel.seal(path, context, b"0" * 400_000, SITE_KEYS.sign)
    return path.read_bytes()


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data.split(b"\n")[1]).hexdigest()


def listing(*entries: dict[str, Any]) -> bytes:
    return response(json.dumps({"parcels": entries}).encode(), "200 OK", NEXT)


def entry(data: bytes, **other: Any) -> dict[str, Any]:
    return {"hash": hash_of(data), "kind": "charter", "number": 1, "size": len(data), **other}


def chunked(*headers: str) -> bytes:
    return response(b"", "200 OK", NEXT, "Transfer-Encoding: chunked", *headers)


def refusal(body: bytes, status: str = "400 Bad") -> bytes:
    return response(body, status, NEXT)


ODD: dict[str, Callable[[], ResponseBytes]] = {
    "nothing": lambda: b"",
    "junk": lambda: b"\x00\xff" * 1000,
    "another protocol": lambda: b"SSH-2.0-OpenSSH_9.9\r\n",
    "no number": lambda: b"HTTP/1.1 abc\r\n\r\n",
    "status 99": lambda: response(b"", "99 x"),
    "status 999": lambda: response(b"", "999 x", NEXT),
    "HTTP 9": lambda: b"HTTP/9.9 200 OK\r\n\r\n",
    "an endless status": lambda: endless(b"HTTP/1.1 200 ", b"a" * 65536),
    "endless headers": lambda: endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000),
    "one endless header": lambda: endless(b"HTTP/1.1 200 OK\r\nA: ", b"a" * 65536),
    "headers that drip": lambda: endless(b"HTTP/1.1 200 OK\r\n", b"A", 0.02),
    "100 for ever": lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "100 that drips": lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
    "101": lambda: response(b"x", "101 Switching", NEXT),
    "204 with a body": lambda: response(b"surprise", "204 No Content", NEXT, "Upload-Offset: 5"),
    "205": lambda: response(b"", "205 Reset", NEXT),
    "299": lambda: response(b"{}", "299 Odd", NEXT),
    "a redirect to nowhere": lambda: response(b"", "302 Found", "Location: http://[", NEXT),
    "a redirect to a file": lambda: response(b"", "302 Found", "Location: file:///etc/passwd", NEXT),
    "a redirect to itself": lambda: response(b"", "307 Again", "Location: /", NEXT),
    "300": lambda: response(b"", "300 Choose", NEXT),
    "304": lambda: response(b"", "304 Same", NEXT),
    "401 without a nonce": lambda: response(b"{}", "401 Who"),
    "an odd nonce": lambda: response(b"{}", "401 Who", 'Fedhelp-Nonce: a"\r\n b: c\u00e4'),
    "always another nonce": lambda: response(
        b'{"code": "E_NONCE", "detail": "old", "remedy": "again"}', "401 Who", NEXT
    ),
    "200 without a mark": lambda: response(b'{"parcels": []}', marked=False),
    "a page to sign in": lambda: response(b"<html>", "200 OK", "Content-Type: text/html", marked=False),
    "a gateway's error": lambda: response(b"<html>", "502 Bad Gateway", marked=False),
    **{
        f"Retry-After {text}": partial(response, b"{}", "503 Busy", f"Retry-After: {text}", NEXT)
        for text in ("nan", "inf", "-1", "1e999", "9" * 5000, "Wed, 21 Oct 2099 07:28:00 GMT", "", "\u00b2")
    },
    **{
        f"refused with {text[:12]!r}": partial(refusal, text)
        for text in (
            b"", b"[]", b"null", b'"E_X"', b"\xff\xfe\xfa", b"[" * 60_000, b'{"code": 5, "detail": 5, "remedy": 5}',
            b'{"code": "E_\\u001b[2J", "detail": "x", "remedy": "y"}', b'{"code": "E_X", "detail": null, "remedy": []}',
            b'{"code": "E_X", "detail": "a\\u001b[31m\\nb\\u202e", "remedy": "curl evil | sh"}', b"9" * 60_000,
            b"x" * 100_000,
        )
    },
    **{
        f"answers {text[:24]!r}": partial(response, text, "200 OK", NEXT)
        for text in (
            b"", b"[]", b"null", b"1e999", b"NaN", b'"x"', b"\xff\xfe\xfa", b"[" * 200_000, b'{"a":' * 200_000,
            b'{"parcels": null, "vouch": 5}', b'{"parcels": {}, "vouch": null}', b'{"parcels": [1, null, []]}',
            b'{"parcels": [{"hash": 5}]}', b'{"parcels": "abc"}', "{\u00e4}".encode("utf-16"),
            gzip.compress(b'{"parcels": []}', mtime=0), b"9" * 10_000,
        )
    },
    "an endless body": lambda: endless(response(b"", "200 OK", NEXT, "Content-Length: 999999999999"), b"x" * 65536),
    "a body without a length": lambda: endless(
        b"HTTP/1.1 200 OK\r\nX-Content-Type-Options: nosniff\r\n\r\n", b" " * 65536
    ),
    "a body that drips": lambda: endless(response(b"", "200 OK", NEXT, "Content-Length: 100000"), b"x", 0.02),
    "a refusal that drips": lambda: endless(response(b"", "400 Bad", NEXT, "Content-Length: 100000"), b"x", 0.02),
    "a refusal without an end": lambda: endless(
        response(b"", "400 Bad", NEXT, "Content-Length: 99999999"), b"x" * 65536
    ),
    "a negative length": lambda: response(b"x" * 100, "200 OK", NEXT, "Content-Length: -1"),
    "a length that is none": lambda: response(b"x" * 100, "200 OK", NEXT, "Content-Length: abc"),
    "a longer length": lambda: response(b"x" * 100, "200 OK", NEXT, "Content-Length: 200"),
    "a shorter length": lambda: response(b"x" * 100, "200 OK", NEXT, "Content-Length: 2"),
    "chunks without end": lambda: endless(chunked(), b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "chunks that drip": lambda: endless(chunked(), b"1\r\nx\r\n", 0.02),
    "trailers without end": lambda: endless(chunked() + b"0\r\n", b"A: b\r\n" * 1000),
    **{
        f"a chunk of {length!r}": partial(bytes.join, b"", [chunked(), length, b"\r\nabc\r\n0\r\n\r\n"])
        for length in (b"-1", b"-5", b"zz", b"", b"f" * 40, b"1_0", b"3;" + b"x" * 70_000)
    },
    **{
        f"Upload-Offset {text}": partial(response, b"", "201 Created", f"Upload-Offset: {text}", NEXT)
        for text in ("-1", "+5", "1.5", "nan", "9" * 20, "9" * 5000, "0x10", " ", "\u00b2", str(2**53), "0")
    },
}  # fmt: skip


def code_of(work: Callable[[], Any]) -> str:
    """The error code that the call ends with, or "". Any exception other than a FedhelpError fails the test."""
    try:
        work()
    except FedhelpError as error:
        assert error.code
        assert error.remedy
        assert error.cause.isprintable()
        assert "curl" not in error.cause + error.remedy
        return error.code
    return ""


@dataclass
class Outcome:
    """The codes that one odd response causes in each method of a site's client, at each step."""

    home: Path
    codes: list[str]


@pytest.fixture(scope="module")
def outcomes(charter: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Outcome]]]:
    """The outcomes of all odd responses, tried in parallel because nearly all of the time is waiting."""
    with ThreadPoolExecutor(12) as pool:
        yield {name: pool.submit(outcome_of, ODD[name], charter, tmp_path_factory.mktemp("odd")) for name in ODD}
        pool.shutdown(cancel_futures=True)


def outcome_of(odd: Callable[[], ResponseBytes], charter: bytes, home: Path) -> Outcome:
    sealed = home / "outbox" / f"{hash_of(charter)}.fhx"
    sealed.parent.mkdir()
    sealed.write_bytes(charter)

    def all_odd(_: ReceivedRequest) -> ResponseBytes:
        return odd()

    def odd_file(request: ReceivedRequest) -> ResponseBytes:
        return listing(entry(charter)) if "/parcels/" not in request.path else odd()

    def odd_patch(request: ReceivedRequest) -> ResponseBytes:
        return response(b"", "201 Created", "Upload-Offset: 700") if request.method == "POST" else odd()

    def odd_end(request: ReceivedRequest) -> ResponseBytes:
        rest = "/parcels/" in request.path and "bytes=5-" in request.head.decode("latin-1")
        return odd() if rest else listing(entry(charter))

    methods: list[tuple[Callable[[ReceivedRequest], ResponseBytes], Callable[[HttpCarrier], Any]]] = [
        (all_odd, lambda site: site.check()),
        (all_odd, lambda site: site.charter_proof("a" * 32)),
        (all_odd, lambda site: list(site.charters())),
        (all_odd, lambda site: list(site.receipts(frozenset()))),
        (all_odd, lambda site: list(site.fetch(frozenset()))),
        (all_odd, lambda site: site.put(sealed)),
        (odd_file, lambda site: list(site.charters())),
        (odd_file, lambda site: list(site.fetch(frozenset()))),
        (odd_end, lambda site: list(site.fetch(frozenset()))),
        (odd_patch, lambda site: site.put(sealed)),
    ]

    def run(index: int) -> str:
        answers, method = methods[index]
        store = home / f"home-{index}" / "incoming"
        store.mkdir(parents=True)
        if answers is odd_end:
            (store / f"{hash_of(charter)}.part").write_bytes(charter[:5])
        with hostile_front.running(answers) as front:
            site = HttpCarrier(front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, store, give_up_after=0.2)
            return code_of(lambda: method(site))

    with ThreadPoolExecutor(len(methods)) as pool:
        return Outcome(home, list(pool.map(run, range(len(methods)))))


@pytest.mark.parametrize("name", ODD)
def test_f21_an_odd_response_is_an_error_with_a_code_in_bounded_time(
    name: str, charter: bytes, outcomes: Mapping[str, Future[Outcome]]
) -> None:
    outcome = outcomes[name].result()
    assert set(outcome.codes) <= {"", "E_OFFLINE", "E_NO_FRONT", "E_REFUSED"}
    assert outcome.codes[-1]  # only a receipt ends an upload
    assert outcome.codes[5]
    outside = {path.name for path in outcome.home.rglob("*") if path.is_file() and path.parent.name != "incoming"}
    assert outside == {f"{hash_of(charter)}.fhx"}
    for path in outcome.home.glob("home-*/incoming/*"):
        assert path.stat().st_size <= len(charter)


@pytest.mark.parametrize(
    "offset_after", [lambda request: 0, lambda request: 700, lambda request: 10**15], ids=["0", "700", "far"]
)
@pytest.mark.parametrize("status", ["204 Done", "409 Conflict", "404 None"])
def test_f21_an_upload_without_progress_ends(
    charter: bytes, tmp_path: Path, offset_after: Callable[[ReceivedRequest], int], status: str
) -> None:
    sealed = tmp_path / "parcel.fhx"
    sealed.write_bytes(charter)
    codes = {"409 Conflict": "E_UPLOAD_OFFSET", "404 None": "E_NOT_HERE"}
    body = json.dumps({"code": codes.get(status, ""), "detail": "x", "remedy": "y"}).encode()

    def answers(request: ReceivedRequest) -> ResponseBytes:
        offset = f"Upload-Offset: {offset_after(request)}"
        return response(b"", "201 Created", offset) if request.method == "POST" else response(body, status, offset)

    with hostile_front.running(answers) as front:
        site = HttpCarrier(front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path, give_up_after=0.3)
        with pytest.raises(OfflineError):
            site.put(sealed)
        assert len(front.requests) < 20


def test_f21_a_download_with_no_or_wrong_bytes_ends(charter: bytes, tmp_path: Path) -> None:
    size, start = len(charter), 1000
    content_range = f"Content-Range: bytes {start}-{size - 1}/{size}"
    for status, headers, body in (
        ("206 Part", [content_range], b""),
        ("206 Part", [content_range], charter[start:] + b"x"),
        ("206 Part", [f"Content-Range: bytes 0-{size - 1}/{size}"], charter),
        ("206 Part", [f"Content-Range: bytes {start}-{size - 1}/*"], charter[start:]),
        ("206 Part", [], charter[start:]),
        ("206 Part", [content_range], bytes(size - start)),
        ("200 OK", [], charter[:start]),
        ("200 OK", [], bytes(size)),
    ):
        store = tmp_path / "in"
        store.mkdir(exist_ok=True)
        part = store / f"{hash_of(charter)}.part"
        part.write_bytes(b"" if bytes(size - start) == body else charter[:start])
        if bytes(size - start) == body:
            part.write_bytes(bytes(start))

        def answers(request: ReceivedRequest, content: bytes = response(body, status, *headers)) -> ResponseBytes:
            return content if "/parcels/" in request.path else listing(entry(charter))

        with hostile_front.running(answers) as front:
            site = HttpCarrier(front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, store, give_up_after=0.3)
            with pytest.raises(NotAFrontError):
                list(site.fetch(frozenset()))
        assert not list(store.glob("*.fhx"))


def test_f21_a_file_corrupted_by_one_front_is_downloaded_intact_from_an_honest_one(
    charter: bytes, tmp_path: Path
) -> None:
    corrupted = bytes(len(charter))

    def answers(request: ReceivedRequest) -> ResponseBytes:
        return response(served[0]) if "/parcels/" in request.path else listing(entry(charter))

    served = [corrupted]
    with hostile_front.running(answers) as front:
        site = HttpCarrier(front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "in", give_up_after=2)
        assert code_of(lambda: list(site.fetch(frozenset()))) == "E_NO_FRONT"
        served[0] = charter
        (path,) = site.fetch(frozenset())
    assert path.read_bytes() == charter


# --- names and numbers ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "other",
    [
        {"hash": "../charter/0002"}, {"hash": "/tmp/0002"}, {"hash": "..\\charter\\0002"}, {"hash": "a" * 63 + "\n"},
        {"hash": "A" * 64}, {"hash": "a" * 65}, {"hash": ""}, {"hash": "con"}, {"hash": 5}, {"hash": ["a" * 64]},
        {"kind": "../x"}, {"kind": "update"}, {"kind": None}, {"kind": []}, {"size": -1}, {"size": 0}, {"size": 1e3},
        {"size": "7"}, {"size": True}, {"size": 2**70}, {"size": 64 << 20}, {"number": -1}, {"number": 2**60},
        {"number": None}, {"number": True},
    ],
    ids=str,
)  # fmt: skip
def test_f22_invalid_names_and_numbers_in_a_list_are_refused(
    charter: bytes, tmp_path: Path, other: dict[str, Any]
) -> None:
    (tmp_path / "charter").mkdir()
    (tmp_path / "charter" / "0001.fhx").write_bytes(b"pinned")

    def answers(request: ReceivedRequest) -> ResponseBytes:
        return response(charter) if "/parcels/" in request.path else listing(entry(charter, **other))

    before = sorted(tmp_path.rglob("*"))
    with hostile_front.running(answers) as front:
        site = HttpCarrier(front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "incoming", give_up_after=2)
        for method in (site.fetch, site.receipts):
            with pytest.raises(NotAFrontError):
                list(method(frozenset()))
        with pytest.raises(NotAFrontError):
            list(site.charters())
        assert all("/parcels/" not in request.path for request in front.requests)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "size", "count"),
    [("global", 40 << 20, 2), ("receipt", 64 << 10, 300), ("roster", 4 << 20, 3), ("task", 4 << 20, 3),
     ("charter", 4 << 20, 17), ("knowledge", 200 << 20, 2)],
)  # fmt: skip
def test_f22_a_list_with_too_many_parcels_of_a_kind_is_refused_before_any_download(
    charter: bytes, tmp_path: Path, kind: str, size: int, count: int
) -> None:
    listed = [entry(charter, kind=kind, hash=f"{index:064x}", size=size) for index in range(count)]
    with hostile_front.running(lambda _: listing(*listed)) as front:
        site = HttpCarrier(
            front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "in", give_up_after=2, max_model_bytes=50 << 20
        )
        with pytest.raises(NotAFrontError, match=f"of the kind {kind}"):
            list(site.fetch(frozenset()))
        assert all("/parcels/" not in request.path for request in front.requests)


def test_f22_a_list_of_more_than_the_disk_can_hold_is_refused(
    charter: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1 << 20))
    with hostile_front.running(lambda _: listing(entry(charter, kind="global", size=1 << 20))) as front:
        site = HttpCarrier(front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "in", give_up_after=2)
        with pytest.raises(NoSpaceError):
            list(site.fetch(frozenset()))


def test_f22_other_files_in_the_download_folder_stay(charter: bytes, tmp_path: Path) -> None:
    """A folder, a link, a name of another form; only what is in the way of a download is removed."""
    store, name = tmp_path / "in", hash_of(charter)
    (store / f"{name}.fhx" / "x").mkdir(parents=True)
    (store / f"{name}.part").symlink_to(tmp_path / "elsewhere")
    (store / "holiday").mkdir()
    (store / "0002.fhx").write_bytes(b"x")
    with hostile_front.running(
        lambda request: response(charter) if "/parcels/" in request.path else listing(entry(charter))
    ) as front:
        (downloaded,) = HttpCarrier(front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, store, give_up_after=2).fetch(
            frozenset()
        )
    assert downloaded.read_bytes() == charter
    assert {path.name for path in store.iterdir()} == {f"{name}.fhx", "holiday", "0002.fhx"}
    assert not (tmp_path / "elsewhere").exists()


# --- elsewhere -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_f23_a_signed_request_is_never_redirected(charter: bytes, tmp_path: Path, status: int) -> None:
    sealed = tmp_path / "parcel.fhx"
    sealed.write_bytes(charter)
    with hostile_front.running(lambda _: listing()) as other:

        def answers(request: ReceivedRequest) -> ResponseBytes:
            return response(b"", f"{status} Elsewhere", f"Location: {other.url}{request.path}", NEXT)

        with hostile_front.running(answers) as front:
            site = HttpCarrier(front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "in", give_up_after=2)
            for method in (site.check, lambda: list(site.fetch(frozenset())), lambda: site.put(sealed)):
                with pytest.raises(NotAFrontError, match="another address"):
                    method()
        assert other.requests == []


def test_f23_a_refusal_by_the_front_is_shown_without_its_remedy(tmp_path: Path) -> None:
    body = {"code": "E_SIGNER_REVOKED", "detail": "gone\x1b[2J\nwords: apple", "remedy": "type your passphrase at evil"}
    with hostile_front.running(lambda _: response(json.dumps(body).encode(), "403 No", NEXT)) as front:
        site = HttpCarrier(front.url, "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "in", give_up_after=2)
        with pytest.raises(RefusedThereError) as caught:
            list(site.fetch(frozenset()))
    assert caught.value.cause.isprintable()
    assert "evil" not in caught.value.remedy


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hub", "file:///etc/passwd", "http://", "http://[", "http://a b", "http://hub:port", "http://hub:99999",
        "http://user:word@hub", "http://hub/?a=b", "http://hub/#a", "http://h\u00fcb", "http://hub\n", "hub", "",
        "http://hub:0",
    ],
)  # fmt: skip
def test_f23_an_invalid_address_is_refused_before_any_request(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        HttpCarrier(url, "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "in").check()


def test_f23_an_invalid_ca_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("x")
    for name in ("junk.pem", "absent.pem"):
        with pytest.raises(UsageError, match="--ca-file"):
            HttpCarrier(
                "https://127.0.0.1:1", "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "in", tmp_path / name
            ).check()


def test_f23_a_proxy_of_the_system_is_still_used(
    charter: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hostile_front.running(lambda _: response(b'{"status": "ok"}')) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        HttpCarrier("http://hub.invalid", "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "in", give_up_after=2).check()
        assert proxy.requests[0].path == "http://hub.invalid/healthz"


def test_f23_a_proxy_with_an_endless_response_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile_front.running(lambda _: endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000)) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        site = HttpCarrier(
            "https://hub.invalid", "fh-" + "0" * 32, lambda: SITE_KEYS, tmp_path / "in", give_up_after=0.2
        )
        assert code_of(site.check) in ("E_NO_FRONT", "E_OFFLINE")
