"""Faults F01-F20 of the catalogue, C01, C03 and revocation during an upload, at a real front on loopback.

No PATCH has a checksum (F03): the signed hash covers the whole file. Signatures do not follow RFC 9421 (F15 tests ours
instead), and no signature covers what a proxy rewrites (F18).
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedhelp_edge.errors import ListenError, QuorumError
from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from fedhelp_edge.trust import enrol
from server_ref.admin import exchange
from server_ref.hub import members
from server_ref.hub.hub import to_json
from server_ref.intake import receive
from server_ref.web import dashboard, process
from server_ref.web.limits import Limits
from tests.faulty_proxy import Fault, proxy_to
from tests.federation import Federation, SimulatedClinic
from tests.http_front import BYTES, TUS, Client, FrontAnswer, prologue, raw, running, serving


@pytest.fixture
def draw(fed: Federation) -> Callable[..., Path]:
    """Draws another update of a clinic for the open round."""
    task = fed.open()

    def draw_update(number: int = 0, **more: object) -> Path:
        clinic = fed.clinics[number]
        return clinic.give(task, fed.drawn_update(task, clinic), **more)

    return draw_update


@pytest.fixture
def update_path(draw: Callable[..., Path]) -> Path:
    return draw()


def patch(port: int, path: Path, offset: int, length: int) -> socket.socket:
    """Sends the head of a PATCH; the connection stays open, and the front waits for the body's first byte."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    headers = {**BYTES, "Upload-Offset": offset, "Content-Length": length, "Expect": "100-continue", "Host": "x"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"PATCH /v1/uploads/{path.stem} HTTP/1.1\r\n{head}\r\n".encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 100")
    return connection


def times_received(fed: Federation, update_path: Path) -> int:
    """How often the log records that a parcel was received."""
    return len(fed.hub.database.rows("SELECT 1 FROM log WHERE type = 'received' AND subject = ?", update_path.stem))


# --- uploads -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset", ["0", "+1", "high", "-1", "x", "1.0", "", str(2**53 - 1), str(2**64)])
def test_f01_a_wrong_offset_changes_nothing(client: Client, update_path: Path, offset: str) -> None:
    begun = client.begin(update_path).offset
    sent_offset = {"+1": str(begun + 1), "high": str(update_path.stat().st_size + 1)}.get(offset, offset)
    answer = client.ask("PATCH", f"/v1/uploads/{update_path.stem}", b"x", {**BYTES, "Upload-Offset": sent_offset})
    assert (answer.status, answer.code) in ((409, "E_UPLOAD_OFFSET"), (400, "E_REQUEST"))
    assert client.offset_of(update_path.stem).offset == begun


@pytest.mark.parametrize("chunked", [False, True])
def test_f02_more_bytes_than_missing_are_refused_and_none_is_stored(
    client: Client, fed: Federation, update_path: Path, chunked: bool
) -> None:
    offset = client.begin(update_path).offset
    data = update_path.read_bytes()[offset:] + b"x"
    if chunked:
        head = "".join(f"{name}: {value}\r\n" for name, value in {**BYTES, "Upload-Offset": offset}.items())
        request = (
            f"PATCH /v1/uploads/{update_path.stem} HTTP/1.1\r\nHost: x\r\n{head}Transfer-Encoding: chunked\r\n\r\n"
        )
        answer = raw(client.port, request.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        assert answer.startswith(b"HTTP/1.1 413")
    else:
        assert client.append(update_path.stem, offset, data).code == "E_PAYLOAD_SIZE"
    assert client.offset_of(update_path.stem).offset == offset
    assert client.send(update_path).status == 204
    assert fed.hub.database.parcel_path(update_path.stem).read_bytes() == update_path.read_bytes()


@pytest.mark.parametrize("bytes_sent", [0, 1000])
def test_f04_of_two_patches_the_newer_wins_and_the_bytes_are_right(
    client: Client, fed: Federation, update_path: Path, bytes_sent: int
) -> None:
    data, start = update_path.read_bytes(), client.begin(update_path).offset
    with patch(client.port, update_path, start, len(data) - start) as older:
        older.sendall(data[start : start + bytes_sent])
        offset = client.offset_of(update_path.stem).offset if bytes_sent else start
        assert start <= offset <= start + bytes_sent
        assert client.append(update_path.stem, offset, data[offset:]).status == 204
        assert older.recv(1000).startswith(b"HTTP/1.1 409")
    assert fed.hub.database.parcel_path(update_path.stem).read_bytes() == data
    assert times_received(fed, update_path) == 1


@pytest.mark.parametrize("reset", [False, True])
def test_f05_an_upload_continues_where_the_connection_broke(
    client: Client, fed: Federation, update_path: Path, reset: bool
) -> None:
    size = update_path.stat().st_size
    faults = iter([Fault(), *(Fault(cut=cut, reset=reset) for cut in (size // 3, size // 2))])
    with proxy_to(client.port, faults) as port:
        faulty_client = Client(port, client.federation)
        offset = faulty_client.begin(update_path).offset
        for _ in range(2):
            with pytest.raises((OSError, HTTPException)):
                faulty_client.append(update_path.stem, offset, update_path.read_bytes()[offset:])
            offset = client.offset_of(update_path.stem).offset
    assert offset > client.begin(update_path).offset - 1
    assert client.append(update_path.stem, offset, update_path.read_bytes()[offset:]).status == 204
    assert fed.hub.database.parcel_path(update_path.stem).read_bytes() == update_path.read_bytes()


def test_f06_lost_responses_are_given_again(client: Client, fed: Federation, update_path: Path) -> None:
    data = update_path.read_bytes()
    first, again = client.begin(update_path), client.begin(update_path)
    assert (first.status, again.status) == (201, 200)
    assert (first.offset, first.headers["location"]) == (again.offset, again.headers["location"])
    done = client.append(update_path.stem, first.offset, data[first.offset :])
    for repeated in (
        client.append(update_path.stem, first.offset, data[first.offset :]),
        client.begin(update_path),
        client.offset_of(update_path.stem),
    ):
        assert repeated.headers["fedhelp-receipt"] == done.headers["fedhelp-receipt"]
        assert repeated.offset == len(data)
    assert times_received(fed, update_path) == 1


def test_f07_slow_connections_are_closed_and_do_not_hinder_others(fed: Federation, draw: Callable[..., Path]) -> None:
    first, second = draw(0), draw(1)
    limits = Limits(header_seconds=1, body_seconds=1, body_min_bytes=64)
    with running(fed.hub.home, limits) as port:
        client = Client(port, fed.hub.federation)
        offset = client.begin(first).offset
        slow = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(100)]
        for index, connection in enumerate(slow):
            connection.sendall((b"GET / HTTP/1.1\r\nX-Drip: ", b"G", b"POST /v1/uploads HTTP/1.1\r\n")[index % 3])
        drip = patch(port, first, offset, 10**6)
        drip.sendall(b"x")
        assert client.send(second).status == 204
        assert all(connection.recv(1) == b"" for connection in slow)
        assert b"E_SLOW" in b"".join(iter(lambda: drip.recv(1000), b""))
        for connection in (*slow, drip):
            connection.close()
        assert client.offset_of(first.stem).offset == offset + 1


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"x" * (64 << 10),
        b"".join(b"X-%d: x\r\n" % index for index in range(1000)),
        b"".join(b"X-%d: x\r\n" % index for index in range(70)),
    ],
    ids=["64 KiB", "1000", "70"],
)
def test_f08_too_many_or_too_long_headers_are_refused(client: Client, head: bytes) -> None:
    answer = raw(client.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"E_HEADERS" in answer


@pytest.mark.parametrize("length", [5_000, 100_000])
def test_f08_too_long_an_address_is_refused(client: Client, length: int) -> None:
    answer = raw(client.port, b"GET /" + b"a" * length + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"E_HEADERS" in answer


def test_f09_a_body_without_a_length_is_counted_as_it_arrives(
    client: Client, fed: Federation, update_path: Path
) -> None:
    data, offset = update_path.read_bytes(), client.begin(update_path).offset
    head = "".join(f"{name}: {value}\r\n" for name, value in {**BYTES, "Upload-Offset": offset}.items())
    head += "Connection: close\r\nTransfer-Encoding: chunked\r\n"
    request = f"PATCH /v1/uploads/{update_path.stem} HTTP/1.1\r\nHost: x\r\n{head}\r\n"
    rest = data[offset:]
    assert raw(client.port, request.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest)).startswith(b"HTTP/1.1 204")
    assert fed.hub.database.parcel_path(update_path.stem).read_bytes() == data


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length : 5\r\n",
        b"Content-Length: 5_0\r\n",
    ],
)
def test_f09_a_contradictory_or_invalid_length_is_refused(client: Client, lengths: bytes) -> None:
    answer = raw(client.port, b"POST /v1/uploads HTTP/1.1\r\nHost: x\r\n" + lengths + b"\r\n5\r\nhello\r\n0\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))
    assert b"E_REQUEST" in answer


def test_f09_an_empty_upload_is_refused(client: Client) -> None:
    assert client.ask("POST", "/v1/uploads", b"", {**BYTES, "Upload-Length": "5"}).code == "E_TRUNCATED"
    assert client.ask("POST", "/v1/uploads", b"x", BYTES).code == "E_REQUEST"


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd", "%2e%2e%2fhub.db", "..%2f..%2fhub.db", "%00", "a%00b", "%ff", "x" * 4096, "a" * 64,
        "..", "hub.db", "%2Fetc%2Fpasswd",
    ],
)  # fmt: skip
def test_f10_a_name_is_looked_up_and_never_a_path(client: Client, fed: Federation, name: str) -> None:
    before = sorted(fed.hub.home.rglob("*"))
    for method, resource in (("PATCH", "uploads"), ("DELETE", "uploads"), ("GET", "parcels")):
        headers = {**BYTES, "Upload-Offset": "0"} if resource == "uploads" else {}
        if resource == "parcels":
            headers = client.signature(fed.clinics[0].keys, client.nonce(), method, f"/v1/{resource}/{name}")
        answer = client.ask(method, f"/v1/{resource}/{name}", headers=headers)
        assert (answer.status, answer.code) in ((404, "E_NOT_HERE"), (431, "E_HEADERS"))
    assert sorted(fed.hub.home.rglob("*")) == before


@pytest.mark.parametrize("method", ["BREW", "PROPFIND", "TRACE", "PUT", "get"])
def test_f11_other_methods_are_refused(client: Client, method: str) -> None:
    for path in ("/v1/uploads", "/v1/current", "/healthz"):
        answer = client.ask(method, path)
        assert (answer.status, answer.code) == (405, "E_METHOD")
        assert answer.headers["allow"]


def test_f11_a_method_is_not_changed_by_a_header(client: Client, update_path: Path) -> None:
    offset = client.begin(update_path).offset
    headers = {**TUS, "X-HTTP-Method-Override": "DELETE", "X-HTTP-Method": "DELETE"}
    assert client.ask("POST", f"/v1/uploads/{update_path.stem}", headers=headers).code == "E_METHOD"
    assert client.offset_of(update_path.stem).offset == offset


def test_f12_a_body_of_another_kind_is_refused_and_never_inflated(client: Client, update_path: Path) -> None:
    data = update_path.read_bytes()
    head, length = data[: prologue(data)], {"Upload-Length": str(len(data))}
    for headers, body in (
        ({**TUS, **length, "Content-Type": "application/json"}, head),
        ({**TUS, **length}, head),
        ({**BYTES, **length, "Content-Encoding": "gzip"}, gzip.compress(head)),
        ({**BYTES, **length, "Content-Encoding": "identity"}, head),
    ):
        answer = client.ask("POST", "/v1/uploads", body, headers)
        assert (answer.status, answer.code) == (415, "E_MEDIA")
    answer = client.ask("POST", "/v1/uploads", gzip.compress(bytes(10**6)), {**BYTES, **length})
    assert (answer.status, answer.code) == (400, "E_MAGIC")


@pytest.mark.proof
def test_f13_of_a_thousand_uploads_by_one_signer_four_are_open(
    client: Client, fed: Federation, draw: Callable[..., Path], effort: Callable[[int, int], int]
) -> None:
    first = draw()
    answers = [client.retry_while_busy(partial(client.begin, first))]
    answers += [client.retry_while_busy(partial(client.begin, path)) for path in _others(fed, first, effort(99, 999))]
    assert [answer.status for answer in answers[:5]] == [201, 201, 201, 201, 429]
    assert {answer.code for answer in answers[4:]} == {"E_QUOTA"}
    assert client.send(draw(1)).status == 204
    assert client.ask("DELETE", f"/v1/uploads/{first.stem}", headers=TUS).status == 204
    assert client.begin(draw()).status == 201


def _others(fed: Federation, update_path: Path, count: int) -> Iterator[Path]:
    """More updates with the same payload."""
    data, payload_offset = update_path.read_bytes(), prologue(update_path.read_bytes())
    original = parcel.inspect(update_path, parcel.any_signer).statement
    for number in range(count):
        context = {**original.context, "seq": 1000 + number, "nonce": f"{number:032x}"}
        other = statement.create(context, original.sha256, original.size)
        path = update_path.with_name(f"{other.hash}.fhx")
        path.write_bytes(parcel._build_prologue(other, [fed.clinics[0].keys.sign]) + data[payload_offset:])
        yield path
        path.unlink()


def test_f13_a_sites_uploads_in_a_round_are_limited(client: Client, fed: Federation, draw: Callable[..., Path]) -> None:
    task = fed.hub.tasks()[1]
    broken = {name: np.full_like(array, np.nan) for name, array in fed.base(task).items()}
    answers = []
    while not answers or answers[-1].status == 204:
        answers.append(client.send(fed.clinics[0].give(task, broken)))
        fed.judge()
    assert (answers[-1].status, answers[-1].code) == (429, "E_QUOTA")
    assert 4 <= len(answers) - 1 <= 4 * task.limit // draw().stat().st_size
    assert client.send(draw(1)).status == 204


def test_f14_a_sender_outside_the_roster_is_refused_before_its_signature_is_verified(
    client: Client, draw: Callable[..., Path]
) -> None:
    update_path = draw(sender="site-999")
    data = bytearray(update_path.read_bytes())
    data[prologue(bytes(data)) - 60] ^= 1  # one letter of the signature
    update_path.write_bytes(data)
    answer = client.begin(update_path)
    assert (answer.status, answer.code) == (401, "E_SIGNER_UNKNOWN")


def test_f14_a_flood_from_one_address_has_to_wait(fed: Federation, update_path: Path) -> None:
    with running(fed.hub.home, Limits(address=(0.01, 20))) as port:
        client = Client(port, fed.hub.federation)
        answers = [client.ask("POST", "/v1/uploads", b"junk", {**BYTES, "Upload-Length": "4"}) for _ in range(30)]
        assert [answer.code for answer in answers] == ["E_MAGIC"] * 20 + ["E_RATE"] * 10
        assert 0 < int(answers[-1].headers["retry-after"]) <= 100


def test_b17_requests_to_join_need_an_invite_and_are_limited_for_each(client: Client, fed: Federation) -> None:
    code, _ = members.invite(fed.hub, "Clinic 3", "small", 14)
    stranger = SimulatedClinic(fed.hub.federation, fed.folder / "stranger")
    assert (
        client.begin(stranger.enrolment_request(members.invite(fed.hub, "x", "small", 14)[0]), first=10**6).status
        == 201
    )
    part = client.begin(stranger.enrolment_request(code))
    assert (part.status, part.code) == (400, "E_REQUEST")
    unknown = members.invite(Federation(fed.folder / "other", clinics=0).hub, "x", "small", 14)[0]
    assert client.begin(stranger.enrolment_request(unknown), first=10**6).code == "E_INVITE_UNKNOWN"
    answers = [client.begin(stranger.enrolment_request(code), first=10**6) for _ in range(6)]
    assert [answer.status for answer in answers] == [201] * 5 + [429]
    assert not list((fed.hub.home / "incoming").iterdir())


def _without_code(fed: Federation, code: str) -> Path:
    """A request by somebody who has seen an invite's id and does not know its code."""
    stranger = SimulatedClinic(fed.hub.federation, fed.folder / "stranger")
    context = statement.new_context("enrol", federation=fed.hub.federation)
    body = {**enrol.request_body(code, "Clinic 3", stranger.keys.public, context), "proof": "0" * 64}
    return stranger._sealed(context, to_json(body), [])


def test_b17_requests_without_the_code_use_up_no_attempt_of_the_invited_site(client: Client, fed: Federation) -> None:
    code, _ = members.invite(fed.hub, "Clinic 3", "small", 14)
    wrong = [client.begin(_without_code(fed, code), first=10**6) for _ in range(8)]
    assert [answer.code for answer in wrong] == ["E_INVITE_PROOF"] * 5 + ["E_RATE"] * 3
    genuine = SimulatedClinic(fed.hub.federation, fed.folder / "genuine")
    assert client.begin(genuine.enrolment_request(code, "Clinic 3"), first=10**6).headers["fedhelp-receipt"]


_FOREIGN = statement.new_context("enrol", federation=f"fh-{0:032}")
_BAD_STARTS = {  # first bytes that are wrong although more are announced
    "E_MAGIC": b"P",
    "E_STATEMENT_SIZE": parcel.MAGIC + bytes(parcel.STATEMENT_LIMIT + 1),
    "E_STATEMENT_CANON": parcel.MAGIC + b"junk\n",
    "E_FEDERATION": parcel.MAGIC + statement.create(_FOREIGN, "b" * 64, 1).line + b"\n",
}


@pytest.mark.parametrize("code", _BAD_STARTS)
def test_f26_a_body_is_refused_by_its_first_bytes_before_the_rest_arrives(client: Client, code: str) -> None:
    head = "".join(f"{k}: {v}\r\n" for k, v in {**BYTES, "Upload-Length": 147_000, "Content-Length": 147_000}.items())
    request = f"POST /v1/uploads HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + _BAD_STARTS[code]
    assert json.loads(raw(client.port, request).partition(b"\r\n\r\n")[2])["code"] == code


@pytest.mark.proof
def test_f27_a_flood_of_requests_to_join_stores_nothing_and_a_genuine_request_is_received(
    fed: Federation, effort: Callable[[int, int], int]
) -> None:
    """The requests come from several addresses, each with new keys and an invented invite."""
    code, _ = members.invite(fed.hub, "Clinic 3", "small", 14)
    genuine = SimulatedClinic(fed.hub.federation, fed.folder / "genuine").enrolment_request(code, "Clinic 3")
    parcel_count = len(list((fed.hub.home / "parcels").glob("*/*")))
    with serving(fed.hub.home) as process:
        before, codes = 0, set()
        for number in range(effort(150, 2000)):
            stranger = SimulatedClinic(fed.hub.federation, fed.folder / "strangers")
            path = stranger.enrolment_request(enrol.new_code())
            client = Client(process.port, fed.hub.federation, source=f"127.0.0.{2 + number % 8}")
            codes.add(client.retry_while_busy(partial(client.begin, path, 10**6)).code)
            path.unlink()
            before = before or process.memory() * (number >= 100)
        after = process.memory()
        assert Client(process.port, fed.hub.federation).begin(genuine, 10**6).headers["fedhelp-receipt"]
    assert codes == {"E_INVITE_UNKNOWN"}
    assert after - before < 2 << 10, f"{after - before} KiB more than after a hundred"
    assert [row["hash"] for row in fed.hub.database.rows("SELECT hash FROM requests WHERE state = 'waiting'")] == [
        genuine.stem
    ]
    assert len(list((fed.hub.home / "parcels").glob("*/*"))) == parcel_count + 2  # the request and its receipt


def test_f27_a_request_without_an_invite_is_refused_before_a_byte_is_written(client: Client, fed: Federation) -> None:
    path = SimulatedClinic(fed.hub.federation, fed.folder / "stranger").enrolment_request(enrol.new_code())
    assert client.begin(path, first=10**6).code == "E_INVITE_UNKNOWN"
    assert not (fed.hub.home / "incoming").exists()


# --- reads ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def site_keys(fed: Federation) -> keys.Keys:
    return fed.clinics[0].keys


PATH = "/v1/current"


def test_f15_a_signed_request_is_valid_once(client: Client, site_keys: keys.Keys) -> None:
    signed = client.signature(site_keys, client.nonce(), "GET", PATH)
    assert client.ask("GET", PATH, headers=signed).status == 200
    again = client.ask("GET", PATH, headers=signed)
    assert (again.status, again.code) == (401, "E_NONCE")
    assert again.headers["fedhelp-nonce"]
    assert again.headers["www-authenticate"] == "SSHSIG"


def test_f15_of_eight_simultaneous_replays_one_is_answered(client: Client, site_keys: keys.Keys) -> None:
    signed = client.signature(site_keys, client.nonce(), "GET", PATH)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.ask("GET", PATH, headers=signed).status, range(8)))
    assert sorted(answers) == [200] + [401] * 7


def test_f15_a_signature_is_valid_for_its_own_request_only(
    client: Client, fed: Federation, site_keys: keys.Keys
) -> None:
    roster = f"/v1/parcels/{fed.hub.newest_parcel('roster')['hash']}"
    for method, path, changes in (
        ("GET", roster, {}),
        ("HEAD", PATH, {}),
        ("GET", PATH + "?all=1", {}),
        ("GET", PATH, {"body_sha256": hashlib.sha256(b"x").hexdigest()}),
        ("GET", PATH, {"federation": "fh-" + "e" * 32}),
    ):
        signed = client.signature(site_keys, client.nonce(), "GET", PATH, **changes)
        answer = client.ask(method, path, headers=signed)
        assert answer.status == 401
        assert method == "HEAD" or answer.code == "E_SIG_BAD"


def test_f15_a_signature_of_another_kind_is_refused(client: Client, site_keys: keys.Keys) -> None:
    nonce = client.nonce()
    armor = sshsig.sign(b"{}", site_keys.sign, "update.v1.fedhelp-edge")
    blob = "".join(armor.splitlines()[1:-1])
    answer = client.ask("GET", PATH, headers={"Authorization": f'SSHSIG nonce="{nonce}", signature="{blob}"'})
    assert (answer.status, answer.code) == (401, "E_SIG_NAMESPACE")


def test_f15_a_nonce_that_the_front_did_not_issue_is_refused(client: Client, site_keys: keys.Keys) -> None:
    genuine = client.nonce()
    for nonce in ("0" * 64, "f" + genuine[1:], genuine[:-1] + ("0" if genuine[-1] != "0" else "1")):
        answer = client.ask("GET", PATH, headers=client.signature(site_keys, nonce, "GET", PATH))
        assert (answer.status, answer.code) == (401, "E_NONCE")


def test_f15_only_members_may_read(client: Client, fed: Federation, site_keys: keys.Keys) -> None:
    answer = client.read(keys.generate(), PATH)
    assert (answer.status, answer.code) == (401, "E_SIGNER_UNKNOWN")
    members.revoke(fed.hub, fed.coordinator_keys, "site-001", 1, "lost PC")
    answer = client.read(site_keys, PATH)
    assert (answer.status, answer.code) == (403, "E_SIGNER_REVOKED")


@pytest.mark.parametrize("header", ["", "Basic eDp5", "SSHSIG", 'SSHSIG nonce="x", signature="y"', "SSHSIG " * 100])
def test_f15_an_unsigned_request_gets_a_nonce(client: Client, header: str) -> None:
    answer = client.ask("GET", PATH, headers={"Authorization": header})
    assert (answer.status, answer.code) == (401, "E_UNSIGNED")
    assert len(answer.headers["fedhelp-nonce"]) == 64


def test_f17_an_interrupted_download_of_a_model_continues(
    client: Client, fed: Federation, site_keys: keys.Keys
) -> None:
    hash_ = fed.hub.newest_parcel("global")["hash"]
    content, path = fed.hub.database.parcel_path(hash_).read_bytes(), f"/v1/parcels/{hash_}"
    times_received = b""
    with proxy_to(client.port, itertools.cycle([Fault(cut_answer=400_000)])) as port:
        faulty_client, tries = Client(port, client.federation), 0
        while len(times_received) < len(content):
            headers = {"Range": f"bytes={len(times_received)}-", "If-Range": f'"{hash_}"'} if times_received else {}
            signed = client.signature(site_keys, client.nonce(), "GET", path)
            times_received += _read_until_cut(faulty_client, path, {**signed, **headers})
            tries += 1
    assert tries > 1
    assert times_received == content


def _read_until_cut(client: Client, path: str, headers: dict[str, str]) -> bytes:
    from http.client import HTTPConnection, IncompleteRead

    connection = HTTPConnection("127.0.0.1", client.port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    assert answer.status in (200, 206)
    try:
        return answer.read()
    except IncompleteRead as cut:
        return cut.partial
    finally:
        connection.close()


def test_f17_ranges_and_cached_copies_are_answered_as_http_says(
    client: Client, fed: Federation, site_keys: keys.Keys
) -> None:
    hash_ = fed.hub.newest_parcel("global")["hash"]
    content, path = fed.hub.database.parcel_path(hash_).read_bytes(), f"/v1/parcels/{hash_}"
    size, tag = len(content), f'"{hash_}"'
    for byte_range, part in (
        ("bytes=0-0", content[:1]), ("bytes=10-19", content[10:20]),
        ("bytes=-5", content[-5:]), ("bytes=5-", content[5:]),
        (f"bytes=0-{size + 9}", content), (f"bytes=-{size + 9}", content),
    ):  # fmt: skip
        answer = client.read(site_keys, path, Range=byte_range)
        assert (answer.status, answer.body) == (206, part)
    for byte_range in (f"bytes={size}-", "bytes=5-4", "bytes=-0"):
        answer = client.read(site_keys, path, Range=byte_range)
        assert (answer.status, answer.code) == (416, "E_BYTES_RANGE")
    for ignored in ("bytes=-", "lines=1-2", "bytes=0-1,3-4"):
        assert client.read(site_keys, path, Range=ignored).status == 200
    assert client.read(site_keys, path, **{"If-None-Match": tag}).status == 304
    assert client.read(site_keys, path, **{"Range": "bytes=5-", "If-Range": '"other"'}).status == 200
    head = client.read(site_keys, path, "HEAD")
    assert (head.status, head.headers["etag"], head.headers["content-length"]) == (200, tag, str(size))


# --- time and trust --------------------------------------------------------------------------------------------------
def _advance(fed: Federation, **by: float) -> None:
    """Advances the clock and logs it: the hub's clock never goes back behind its log."""
    fed.clock.advance(**by)
    with fed.hub.database.transaction():
        fed.hub.log("test", "time")


def test_f16_an_upload_begun_before_the_deadline_may_end_soon_after_it(
    client: Client, fed: Federation, draw: Callable[..., Path]
) -> None:
    first, second = draw(0), draw(1)
    offset = client.begin(first).offset
    _advance(fed, days=7, minutes=10)
    answer = client.begin(second)
    assert (answer.status, answer.code) == (410, "E_ROUND_CLOSED")
    assert client.append(first.stem, offset, first.read_bytes()[offset:]).status == 204


def test_f16_an_upload_begun_before_the_deadline_may_not_end_long_after_it(
    client: Client, fed: Federation, draw: Callable[..., Path]
) -> None:
    update_path = draw()
    offset = client.begin(update_path).offset
    _advance(fed, days=7, minutes=61)
    answer = client.append(update_path.stem, offset, update_path.read_bytes()[offset:])
    assert (answer.status, answer.code) == (410, "E_ROUND_CLOSED")
    assert client.ask("PATCH", f"/v1/uploads/{update_path.stem}", b"", {**BYTES, "Upload-Offset": "0"}).status == 404


def test_f16_a_round_waits_a_little_for_uploads_in_progress(
    client: Client, fed: Federation, draw: Callable[..., Path]
) -> None:
    first, second = draw(0), draw(1)
    assert client.send(first).status == 204
    offset = client.begin(second).offset
    _advance(fed, days=7, minutes=10)
    with pytest.raises(QuorumError, match="missing: site-002"):
        fed.aggregate()
    assert client.append(second.stem, offset, second.read_bytes()[offset:]).status == 204
    assert fed.aggregate()["accepted"] == ["site-001", "site-002"]


def test_b03_a_site_revoked_during_its_upload_is_refused_at_the_end(
    client: Client, fed: Federation, draw: Callable[..., Path]
) -> None:
    update_path = draw()
    offset = client.begin(update_path).offset
    members.revoke(fed.hub, fed.coordinator_keys, "site-001", 1, "lost PC")
    answer = client.append(update_path.stem, offset, update_path.read_bytes()[offset:])
    assert (answer.status, answer.code) == (403, "E_SIGNER_REVOKED")
    assert not list((fed.hub.home / "incoming").iterdir())
    assert fed.update_states() == {}


def write_certificate(folder: Path, *, name: str = "localhost", days: int = 1) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=3))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert, secret = folder / f"{name}{days}.pem", folder / f"{name}{days}.key"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert, secret


def test_f19_an_update_is_received_over_tls(fed: Federation, update_path: Path, tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    with running(fed.hub.home, cert=cert, key=key) as port:
        trust = ssl.create_default_context(cafile=str(cert))
        assert Client(port, fed.hub.federation, trust).send(update_path).status == 204


@pytest.mark.parametrize(
    ("name", "days", "trusted"), [("localhost", -1, True), ("other", 1, True), ("localhost", 1, False)]
)
def test_f19_a_client_refuses_an_expired_a_wrong_and_an_unknown_certificate(
    fed: Federation, tmp_path: Path, name: str, days: int, trusted: bool
) -> None:
    cert, key = write_certificate(tmp_path, name=name, days=days)
    with running(fed.hub.home, cert=cert, key=key) as port:
        trust = ssl.create_default_context(cafile=str(cert) if trusted else None)
        with pytest.raises(ssl.SSLCertVerificationError):
            Client(port, fed.hub.federation, trust).ask("GET", "/healthz")


def test_f19_an_invalid_certificate_is_reported(fed: Federation, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(ListenError):
        process.build_server(fed.hub.home, Limits(), dashboard.DashboardAccess(), tmp_path / "x", tmp_path / "x")


def test_f19_without_tls_an_altered_upload_is_refused(client: Client, fed: Federation, update_path: Path) -> None:
    offset = client.begin(update_path).offset
    with proxy_to(client.port, iter([Fault(corrupt=500_000)])) as port:
        answer = Client(port, client.federation).append(update_path.stem, offset, update_path.read_bytes()[offset:])
    assert (answer.status, answer.code) == (400, "E_PAYLOAD_HASH")
    assert client.send(update_path).status == 204
    assert fed.hub.database.parcel_path(update_path.stem).read_bytes() == update_path.read_bytes()


# --- once ----------------------------------------------------------------------------------------------------------
def test_c01_the_same_update_by_http_and_by_stick_has_one_receipt(
    client: Client, fed: Federation, update_path: Path
) -> None:
    receipt = client.send(update_path).headers["fedhelp-receipt"]
    stick = fed.folder / "stick" / exchange.TO_COORDINATOR
    stick.mkdir(parents=True)
    (stick / "update").write_bytes(update_path.read_bytes())
    (answer,) = exchange.exchange(fed.hub, stick.parent).taken
    assert (answer.receipt, answer.new) == (receipt, False)
    assert times_received(fed, update_path) == 1


def test_c01_an_update_received_by_stick_need_not_be_uploaded(
    client: Client, fed: Federation, update_path: Path
) -> None:
    receipt = receive.receive(fed.hub, update_path).receipt
    answer = client.begin(update_path)
    assert (answer.status, answer.offset, answer.headers["fedhelp-receipt"]) == (
        200,
        update_path.stat().st_size,
        receipt,
    )


def test_c03_eight_simultaneous_clients_begin_one_upload_that_is_received_once(
    client: Client, fed: Federation, update_path: Path
) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.begin(update_path), range(8)))
        assert sorted(answer.status for answer in answers if answer.status < 300) == [200] * 7 + [201]
        assert len(list((fed.hub.home / "incoming").iterdir())) == 1
        ended = list(pool.map(lambda _: send_until_received(client, update_path), range(8)))
    assert len({answer.headers["fedhelp-receipt"] for answer in ended}) == 1
    assert times_received(fed, update_path) == 1
    assert fed.update_states() == {"site-001/1": "received"}


def send_until_received(client: Client, update_path: Path) -> FrontAnswer:
    """Sends until there is a receipt, whatever fails."""
    data = update_path.read_bytes()
    while True:
        with suppress(OSError, HTTPException):
            answer = client.begin(update_path)
            while answer.status < 300 and "fedhelp-receipt" not in answer.headers:
                answer = client.append(
                    update_path.stem, answer.offset, data[answer.offset : answer.offset + (256 << 10)]
                )
            if "fedhelp-receipt" in answer.headers:
                return answer


@pytest.mark.proof
def test_f05_a_bad_network_only_costs_time(
    client: Client, fed: Federation, draw: Callable[..., Path], effort: Callable[[int, int], int]
) -> None:
    """Also F06 and F19, at random: cut, reset, repeated and corrupted requests, lost responses."""
    stream = np.random.default_rng(7)

    def faults() -> Iterator[Fault]:
        for _ in range(effort(40, 400)):
            cut, corrupt = (int(stream.integers(1, 600_000)) for _ in range(2))
            yield stream.choice(
                np.array([
                    Fault(cut=cut), Fault(cut=cut, reset=True), Fault(cut_answer=int(stream.integers(0, 300))),
                    Fault(corrupt=corrupt), Fault(again=True), Fault(pause=0.001), Fault(),
                ])
            )  # fmt: skip

    with proxy_to(client.port, faults()) as port:
        faulty_client = Client(port, client.federation)
        for number in (0, 1):
            update_path = draw(number)
            receipt = send_until_received(faulty_client, update_path).headers["fedhelp-receipt"]
            assert client.begin(update_path).headers["fedhelp-receipt"] == receipt
            assert fed.hub.database.parcel_path(update_path.stem).read_bytes() == update_path.read_bytes()
            assert times_received(fed, update_path) == 1
    assert not list((fed.hub.home / "incoming").iterdir())


@pytest.mark.proof
def test_f20_no_request_breaks_the_front(
    fed: Federation, update_path: Path, tmp_path: Path, effort: Callable[[Any, Any], Any]
) -> None:
    """Schemathesis with a member's signature and, by chance, real uploads, against /openapi.json."""
    keys.save(tmp_path / "member", fed.clinics[0].keys, None)
    hashes = [row["hash"] for row in fed.hub.database.rows("SELECT hash FROM parcels")]
    checks = (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
        "response_schema_conformance", "unsupported_method", "allow_header_conformance",
    )  # fmt: skip
    with running(fed.hub.home, Limits(address=(1e6, 1e6), sender=(1e6, 1e6))) as port:
        settings = {
            "port": port, "federation": fed.hub.federation, "keys": str(tmp_path / "member"),
            "update": str(update_path), "hashes": hashes,
        }  # fmt: skip
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"), "run", f"http://127.0.0.1:{port}/openapi.json",
                "--phases", effort("fuzzing", "coverage,fuzzing"), "--checks", ",".join(checks),
                "--continue-on-failure",
                "--max-examples", str(effort(15, 500)), "--seed", "1", "--warnings", "off",
            ],
            env={
                **os.environ, "SCHEMATHESIS_HOOKS": "tests.attacks.api_hooks", "FEDHELP_API_TEST": json.dumps(settings),
                "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUTF8": "1",
            },
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        client = Client(port, fed.hub.federation)
        if client.offset_of(update_path.stem).status == 404:
            assert client.begin(update_path).status == 201
        client.ask("DELETE", f"/v1/uploads/{update_path.stem}", headers=TUS)
        assert client.send(update_path).status == 204
