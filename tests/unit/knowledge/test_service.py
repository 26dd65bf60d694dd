"""A service as a source: real servers on loopback, of which some are hostile."""

from __future__ import annotations

import base64
import io
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge.data.pack import without_predictions
from fedhelp_edge.errors import (
    KeysModeError,
    SourceAnswerError,
    SourceKeyError,
    SourceStoppedError,
    UsageError,
)
from fedhelp_edge.knowledge import service_keys
from fedhelp_edge.knowledge.asking import Asking
from fedhelp_edge.knowledge.build import Building, build
from fedhelp_edge.knowledge.source_spec import SourceSpec
from tests import hostile_front
from tests.hostile_front import ReceivedRequest, ResponseBytes, endless, response

CLASSES = ("round", "lobed", "granular")


def images(count: int = 10) -> NDArray[np.uint8]:
    """Images of one level each, all different."""
    return np.tile(np.arange(count, dtype=np.uint8)[:, None, None, None] * 7, (1, 8, 8, 3))


def rows_for(levels: NDArray[Any]) -> NDArray[np.float64]:
    first = (levels + 1) / 258
    return np.stack([first, *[(1 - first) / 2] * 2], 1)


def levels_of(request: ReceivedRequest) -> list[int]:
    """The levels of the images in a question."""
    pngs = json.loads(request.body)["images"]
    return [Image.open(io.BytesIO(base64.b64decode(png))).getpixel((0, 0))[0] for png in pngs]  # type: ignore[index]


def right_answer(request: ReceivedRequest, **changes: Any) -> dict[str, Any]:
    question = json.loads(request.body)
    rows = rows_for(np.array(levels_of(request))).tolist()
    return {"id": question["id"], "classes": question["classes"], "probabilities": rows, "model": "levels 1", **changes}


def right(request: ReceivedRequest, **changes: Any) -> bytes:
    return response(json.dumps(right_answer(request, **changes)).encode(), marked=False)


@dataclass
class Then:
    """Answers the first requests in odd ways, and all others rightly."""

    odd: list[Callable[[ReceivedRequest], ResponseBytes]] = field(default_factory=list)

    def __call__(self, request: ReceivedRequest) -> ResponseBytes:
        return self.odd.pop(0)(request) if self.odd else right(request)


def run(url: str, tmp_path: Path, **asking: Any) -> Any:
    options = {"batch": 4, "rate": 1e6, "timeout": 20.0, **asking}
    specs = [SourceSpec.parse(f"{url}/v1/ask")]
    return Building(
        without_predictions(images(), np.arange(10) % 3, CLASSES), specs, tmp_path / "kept", Asking(**options)
    ).run()


def test_a_service_gives_the_pack_that_a_file_with_the_same_answers_gives(tmp_path: Path) -> None:
    np.savez(tmp_path / "answers.npz", probabilities=rows_for(np.arange(10) * 7).astype(np.float32))
    by_file = build(images(), np.arange(10) % 3, CLASSES, [f"files:{tmp_path / 'answers.npz'}"], tmp_path / "other")
    with hostile_front.running(right) as server:
        by_service = run(server.url, tmp_path)
        assert by_service.probabilities.tobytes() == by_file.probabilities.tobytes()
        assert by_service.sources == (f"{server.url}/v1/ask",)
        (facts,) = by_service.asked
        assert {**facts, "asked": ""} == {"protocol": "fedhelp-source/1", "model": "levels 1", "asked": ""}
        assert [levels_of(request) for request in server.requests] == [[0, 7, 14, 21], [28, 35, 42, 49], [56, 63]]
        assert {(request.method, request.path) for request in server.requests} == {("POST", "/v1/ask")}
        run(server.url, tmp_path)
        assert len(server.requests) == 3  # a second run asks nothing


def test_a_key_goes_to_its_own_service_alone_and_into_no_file(tmp_path: Path) -> None:
    with hostile_front.running(right) as server, hostile_front.running(right) as other:
        specs = [SourceSpec.parse(f"{front.url}/v1/ask") for front in (server, other)]
        key = tmp_path / "key"
        key.write_text("s3cret-key\n")
        key.chmod(0o600)
        keys = service_keys.read([f"{server.url}={key}"], specs)
        asking = Asking(rate=1e6, keys=keys)
        pack = Building(
            without_predictions(images(), np.arange(10) % 3, CLASSES), specs, tmp_path / "kept", asking
        ).run()
        assert all(b"\r\nAuthorization: Bearer s3cret-key\r\n" in request.head for request in server.requests)
        assert all(b"s3cret-key" not in request.head + request.body for request in other.requests)
        assert "s3cret" not in repr((pack.sources, pack.asked, pack.provenance))
        for path in (tmp_path / "kept").iterdir():
            assert b"s3cret" not in path.read_bytes()


def test_a_model_that_is_named_by_the_key_stays_out_of_the_pack(tmp_path: Path) -> None:
    with hostile_front.running(lambda request: right(request, model="as s3cret-key asked")) as server:
        with pytest.raises(SourceAnswerError) as refused:
            run(server.url, tmp_path, keys={server.url: "s3cret-key"})
        assert "s3cret" not in refused.value.cause


@pytest.mark.parametrize(
    "odd",
    [
        lambda request: response(b"", "429 Too Many Requests"),
        lambda request: response(b"", "503 Busy", "Retry-After: 0"),
        lambda request: response(b"", "500 Oh"),
        lambda request: b"",
        lambda request: right(request)[:-20],
        lambda request: right(request)[:40],
    ],
    ids=["429", "503", "500", "nothing", "cut half way", "cut in its headers"],
)
def test_a_service_that_is_busy_or_breaks_off_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: Callable[[ReceivedRequest], bytes]
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    with hostile_front.running(Then([odd, odd])) as server:
        pack = run(server.url, tmp_path)
        assert len(server.requests) == 5
    assert pack.probabilities.tobytes() == rows_for(np.arange(10) * 7).astype(np.float16).tobytes()


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_service_is_given_the_time_that_it_asks_for(tmp_path: Path, form: str) -> None:
    times: list[float] = []

    def busy(request: ReceivedRequest) -> bytes:
        times.append(time.monotonic())
        later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=2.9), usegmt=True)
        return response(b"", "429 Slow", f"Retry-After: {'1' if form == 'seconds' else later}")

    def then(request: ReceivedRequest) -> bytes:
        times.append(time.monotonic())
        return right(request)

    with hostile_front.running(Then([busy, then])) as server:
        run(server.url, tmp_path)
    assert times[1] - times[0] >= 1


@pytest.mark.parametrize("after", ["Retry-After: 86400", "Retry-After: Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_wait_that_is_too_long_ends_the_build_at_once_and_says_so(tmp_path: Path, after: str) -> None:
    with hostile_front.running(lambda request: response(b"", "429 Later", after)) as server:
        with pytest.raises(SourceStoppedError, match=r"is busy \(status 429\), and asks to wait [0-9]+ seconds"):
            run(server.url, tmp_path)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-1", "1e9", "9" * 5000, "", "Wed, 21 Oct 2099 07:28:00", "\u00b2", "Wed, 99 Oct"]
)
def test_an_odd_retry_after_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    with hostile_front.running(Then([lambda request: response(b"", "429 Later", f"Retry-After: {text}")])) as server:
        run(server.url, tmp_path)
        assert len(server.requests) == 4


def test_a_storm_of_429_ends_and_leaves_what_was_answered(tmp_path: Path) -> None:
    def storm(request: ReceivedRequest) -> bytes:
        return right(request) if levels_of(request)[0] == 0 else response(b"", "429 Slow")

    with hostile_front.running(storm) as server, pytest.raises(SourceStoppedError, match="is busy"):
        run(server.url, tmp_path, timeout=0.3)
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 1


def test_requests_keep_to_the_rate(tmp_path: Path) -> None:
    times: list[float] = []

    def timed(request: ReceivedRequest) -> bytes:
        times.append(time.monotonic())
        return right(request)

    with hostile_front.running(timed) as server:
        run(server.url, tmp_path, rate=200.0)  # one in 0.3 seconds
    assert min(np.diff(times)) > 0.2


def chunked() -> bytes:
    return response(b"", "200 OK", "Transfer-Encoding: chunked", marked=False)


STOPS: dict[str, Callable[[ReceivedRequest], ResponseBytes]] = {
    "a body that drips": lambda request: endless(response(b"", "200 OK", "Content-Length: 1000"), b" ", 0.02),
    "headers that drip": lambda request: endless(b"HTTP/1.1 200 OK\r\n", b"A", 0.02),
    "chunks that drip": lambda request: endless(chunked(), b"1\r\n \r\n", 0.02),
    "silence": lambda request: (b"" for _ in [time.sleep(1)]),
    "nothing": lambda request: b"",
    "half": lambda request: right(request)[:-20],
    "503": lambda request: response(b"", "503 Busy"),
    "a chunk without length": lambda request: chunked() + b"zz\r\nabc\r\n0\r\n\r\n",
}
REFUSED: dict[str, Callable[[ReceivedRequest], ResponseBytes]] = {
    "an endless body": lambda request: endless(response(b"", "200 OK", "Content-Length: 999999999999"), b" " * 65536),
    "an endless body without length": lambda request: endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536),
    "endless chunks": lambda request: endless(chunked(), b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "endless headers": lambda request: endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000),
    "100 for ever": lambda request: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "another protocol": lambda request: b"SSH-2.0-OpenSSH_9.9\r\n",
    "a page": lambda request: response(b"<html>sign in</html>"),
    "no content": lambda request: response(b"", "204 No Content"),
    "accepted": lambda request: response(json.dumps(right_answer(request)).encode(), "202 Accepted"),
    "a part": lambda request: response(json.dumps(right_answer(request)).encode(), "206 Partial"),
    "another question's answer": lambda request: right(request, id="0"),
    "the classes in another order": lambda request: right(request, classes=list(CLASSES[::-1])),
    "logits": lambda request: right(request, probabilities=[[3.0, 1.0, -1.0]] * len(levels_of(request))),
    "one answer too few": lambda request: right(request, probabilities=[[1, 0, 0]]),
    "404": lambda request: response(b"s3cret-key", "404 Gone"),
    "413": lambda request: response(b"", "413 Large"),
    "418": lambda request: response(b'{"error": "s3cret-key \x1b[2J"}', "418 Teapot"),
    "a redirect to itself": lambda request: response(b"", "307 Again", "Location: /v1/ask"),
    "a redirect to a file": lambda request: response(b"", "302 Found", "Location: file:///etc/passwd"),
}


@pytest.mark.parametrize("answer", STOPS.values(), ids=STOPS)
def test_a_service_without_an_answer_ends_the_build(
    tmp_path: Path, answer: Callable[[ReceivedRequest], ResponseBytes]
) -> None:
    with hostile_front.running(answer) as server, pytest.raises(SourceStoppedError):
        run(server.url, tmp_path, timeout=0.15, keys={server.url: "s3cret-key"})
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED)
def test_an_answer_that_is_none_is_refused_at_once(
    tmp_path: Path, answer: Callable[[ReceivedRequest], ResponseBytes]
) -> None:
    with hostile_front.running(answer) as server, pytest.raises(SourceAnswerError) as refused:
        run(server.url, tmp_path, keys={server.url: "s3cret-key"})
    assert len(server.requests) == 1
    assert refused.value.cause.isprintable()
    assert "s3cret" not in refused.value.cause + refused.value.remedy
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Again", "308 Always"])
def test_no_redirect_takes_images_or_key_to_another_server(tmp_path: Path, status: str) -> None:
    with hostile_front.running(right) as other:
        answer = response(b"", status, f"Location: {other.url}/v1/ask")
        with hostile_front.running(lambda request: answer) as server:
            with pytest.raises(SourceAnswerError, match="redirects to another address, which is not followed"):
                run(server.url, tmp_path, keys={server.url: "s3cret-key"})
            assert len(server.requests) == 1
        assert other.requests == []


@pytest.mark.parametrize(("key", "cause"), [("", "asks for a key"), ("s3cret-key", "does not accept the key")])
@pytest.mark.parametrize("status", ["401 Who", "403 No"])
def test_a_key_that_is_missing_or_wrong_ends_the_build_at_once(
    tmp_path: Path, status: str, key: str, cause: str
) -> None:
    with hostile_front.running(lambda request: response(b"s3cret-key", status)) as server:
        with pytest.raises(SourceKeyError, match=cause) as refused:
            run(server.url, tmp_path, keys={server.url: key} if key else {})
        assert len(server.requests) == 1
    assert "s3cret" not in refused.value.cause


def test_a_server_that_is_gone_ends_the_build(tmp_path: Path) -> None:
    with hostile_front.running(right) as server:
        url = server.url
    with pytest.raises(SourceStoppedError, match="cannot be reached"):
        run(url, tmp_path, timeout=0.1)


def test_a_proxy_gets_nothing_that_is_for_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile_front.running(right) as proxy, hostile_front.running(right) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        run(server.url, tmp_path)
        assert (len(server.requests), proxy.requests) == (3, [])


# --- keys ------------------------------------------------------------------------------------------------------------
ONE, TWO = (SourceSpec.parse(f"https://{host}/ask") for host in ("one.example", "two.example:8443"))


@pytest.fixture
def key_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "key"
    path.write_text("  abc.DEF-123\nsecond line\n")
    path.chmod(0o600)
    yield path


def test_a_key_is_the_first_line_of_its_file_for_the_service_that_is_named(key_file: Path) -> None:
    assert service_keys.read([str(key_file)], [ONE]) == {"https://one.example": "abc.DEF-123"}
    named = [f"HTTPS://two.example:8443/={key_file}"]
    assert service_keys.read(named, [ONE, TWO]) == {"https://two.example:8443": "abc.DEF-123"}
    assert service_keys.read([], [ONE, TWO]) == {}


def test_a_key_for_no_service_or_for_several_is_wrong_usage(key_file: Path) -> None:
    here = SourceSpec.parse(f"files:{key_file}")
    for named, specs in (
        (str(key_file), [ONE, TWO]), (str(key_file), [here]), (f"https://three.example={key_file}", [ONE, TWO]),
        (f"https://one.example:8443={key_file}", [ONE, TWO]), (f"http://one.example={key_file}", [ONE]),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            service_keys.read([named], specs)


@pytest.mark.skipif(os.name == "nt", reason="modes do not tell on Windows")
@pytest.mark.parametrize("mode", [0o644, 0o602])
def test_a_key_that_others_can_read_or_change_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(KeysModeError, match="holds a key, and other users"):
        service_keys.read([str(key_file)], [ONE])


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"a key\n", b"a\tb", "cl\u00e9".encode(), b"\xff\xfe", b"a\x00b", b"a" * 5000]
)
def test_a_file_that_holds_no_key_is_refused(key_file: Path, text: bytes) -> None:
    key_file.write_bytes(text)
    with pytest.raises(SourceKeyError):
        service_keys.read([str(key_file)], [ONE])


@pytest.mark.parametrize(
    "text",
    ["https:", "https://", "http://", "https:one.example", "https://user:pass@one.example/", "https://one.example/?key=1",
     "https://one.example/#a", "https://one.example:0/", "https://one.example:99999/", "https://\u00e9.example/",
     "https://one.example/a b", "ftp://one.example/"],
)  # fmt: skip
def test_an_address_with_a_key_or_without_a_host_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        SourceSpec.parse(text)


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.8.8.8:80", True), ("[::1]:8", True), ("localhost", True), ("LOCALHOST:1", True),
     ("0.0.0.0", False), ("10.0.0.1", False), ("localhost.example", False), ("127.0.0.1.example", False),
     ("one.example", False)],
)  # fmt: skip
def test_only_a_loopback_address_is_on_this_machine(host: str, here: bool) -> None:
    assert SourceSpec.parse(f"http://{host}/ask").is_on_this_machine is here


# --- TLS -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of a service over TLS, and the certificate of its authority, which is for localhost."""
    pytest.importorskip("uvicorn")
    from tests.attacks.test_f_http import write_certificate

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = json.dumps(right_answer(ReceivedRequest("POST", self.path, b"", body))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    certificate, secret = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *arguments: None  # type: ignore[method-assign]  # clients that do not trust it
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port, certificate
        server.shutdown()
        thread.join()


def test_a_service_is_asked_over_tls_where_its_certificate_is_trusted(tls: tuple[int, Path], tmp_path: Path) -> None:
    port, certificate = tls
    pack = run(f"https://localhost:{port}", tmp_path, ca_file=certificate)
    assert pack.sources == (f"https://localhost:{port}/v1/ask",)


@pytest.mark.parametrize(("host", "is_known"), [("localhost", False), ("127.0.0.1", True)])
def test_a_certificate_that_is_unknown_or_of_another_host_ends_the_build_at_once(
    tls: tuple[int, Path], tmp_path: Path, host: str, is_known: bool
) -> None:
    port, certificate = tls
    with pytest.raises(SourceStoppedError, match="does not trust the certificate") as refused:
        run(f"https://{host}:{port}", tmp_path, ca_file=certificate if is_known else None, keys={"": "s3cret"})
    assert "--ca-file" in refused.value.remedy


def test_a_file_without_certificates_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("none")
    with pytest.raises(UsageError, match="--ca-file"):
        run("https://localhost:1", tmp_path, ca_file=tmp_path / "ca")
