"""Refusals of a front, met by programs and sites over the network: the test follows the remedy and succeeds."""

from __future__ import annotations

import json
import socket
import ssl
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("uvicorn")

from fedhelp_edge import errors, site
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import connection, outbox, status
from fedhelp_edge.site.sync import sync
from server_ref.web.dashboard import DashboardAccess
from server_ref.web.limits import Limits
from tests import clinic, command, hostile_front, http_front
from tests.attacks.test_f_http import write_certificate
from tests.federation import PLAN, Federation, nobody
from tests.http_front import BYTES, TUS, Client, FrontAnswer, prologue, raw
from tests.site_and_hub import Completed, SiteAndHub, fails_with, succeeds

CURRENT = "/v1/current"


@pytest.fixture
def site_keys(fed: Federation) -> keys.Keys:
    return fed.clinics[0].keys


@pytest.fixture
def update_path(fed: Federation) -> Path:
    return new_update(fed)


def new_update(fed: Federation, **more: object) -> Path:
    """Another update of the first clinic for the open round."""
    task = next(iter(fed.hub.tasks().values()), None) or fed.open()
    return fed.clinics[0].give(task, fed.drawn_update(task, fed.clinics[0]), **more)


def check_refusal(answer: FrontAnswer, code: str, remedy: str) -> None:
    assert answer.code == code
    assert remedy in answer.json["remedy"]


# --- uploads -------------------------------------------------------------------------------------------------------
def test_an_upload_starts_as_the_protocol_says(client: Client, update_path: Path) -> None:
    data = update_path.read_bytes()
    head, length = data[: prologue(data)], {"Upload-Length": str(len(data))}
    check_refusal(
        client.ask("POST", "/v1/uploads", head, BYTES), "E_REQUEST", "docs/spec/http.md says how a request looks"
    )
    old = {**BYTES, **length, "Tus-Resumable": "0.2.2"}
    check_refusal(client.ask("POST", "/v1/uploads", head, old), "E_UPLOAD_PROTOCOL", "send Tus-Resumable: 1.0.0")
    packed = {**BYTES, **length, "Content-Encoding": "gzip"}
    check_refusal(client.ask("POST", "/v1/uploads", head, packed), "E_MEDIA", "without Content-Encoding")
    check_refusal(
        client.ask("PUT", "/v1/uploads", head, {**BYTES, **length}), "E_METHOD", "docs/spec/http.md lists the methods"
    )
    assert client.ask("POST", "/v1/uploads", head, {**BYTES, **length}).status == 201
    assert client.send(update_path).status == 204


def test_an_upload_continues_at_its_offset_and_a_deleted_one_starts_again(client: Client, update_path: Path) -> None:
    data, offset = update_path.read_bytes(), client.begin(update_path).offset
    check_refusal(
        client.append(update_path.stem, offset + 9, data[offset + 9 :]),
        "E_UPLOAD_OFFSET",
        "ask for the upload's offset with HEAD",
    )
    offset = client.offset_of(update_path.stem).offset
    assert client.append(update_path.stem, offset, data[offset : offset + 1000]).offset == offset + 1000
    client.ask("DELETE", f"/v1/uploads/{update_path.stem}", headers=TUS)
    check_refusal(
        client.append(update_path.stem, offset, data[offset:]), "E_NOT_HERE", "if this was an upload, start it again"
    )
    assert client.send(update_path).status == 204


def test_a_site_with_too_many_open_uploads_abandons_one(client: Client, fed: Federation) -> None:
    updates = [new_update(fed, examples=100 + number) for number in range(5)]
    assert [client.begin(path).status for path in updates[:4]] == [201] * 4
    check_refusal(client.begin(updates[4]), "E_QUOTA", "finish or abandon the open uploads")
    client.ask("DELETE", f"/v1/uploads/{updates[0].stem}", headers=TUS)
    assert client.begin(updates[4]).status == 201


def test_an_upload_that_was_too_slow_continues_where_it_stopped(fed: Federation, update_path: Path) -> None:
    with http_front.running(fed.hub.home, Limits(body_seconds=0.3, body_min_bytes=64, header_seconds=0.3)) as port:
        client, data = Client(port, fed.hub.federation), update_path.read_bytes()
        offset = client.begin(update_path).offset
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            headers = {**BYTES, "Upload-Offset": offset, "Content-Length": len(data) - offset, "Host": "x"}
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(
                f"PATCH /v1/uploads/{update_path.stem} HTTP/1.1\r\n{head}\r\n".encode() + data[offset : offset + 9]
            )
            response = b"".join(iter(lambda: connection.recv(1000), b""))
        assert b"E_SLOW" in response
        assert b"an upload continues where it stopped" in response
        assert client.offset_of(update_path.stem).offset == offset + 9
        assert client.append(update_path.stem, offset + 9, data[offset + 9 :]).status == 204


# --- reads -----------------------------------------------------------------------------------------------------------
def test_a_read_is_signed_with_the_nonce_of_the_refusal(client: Client, site_keys: keys.Keys) -> None:
    first = client.ask("GET", CURRENT)
    check_refusal(first, "E_UNSIGNED", "the nonce that came with this answer")
    signed = client.signature(site_keys, first.headers["fedhelp-nonce"], "GET", CURRENT)
    assert client.ask("GET", CURRENT, headers=signed).status == 200
    again = client.ask("GET", CURRENT, headers=signed)
    check_refusal(again, "E_NONCE", "sign the request again with the nonce that came with this answer")
    signed = client.signature(site_keys, again.headers["fedhelp-nonce"], "GET", CURRENT)
    assert client.ask("GET", CURRENT, headers=signed).status == 200


def test_a_range_within_the_parcel_is_requested(client: Client, fed: Federation, site_keys: keys.Keys) -> None:
    name = fed.hub.newest_parcel("roster")["hash"]
    path, size = f"/v1/parcels/{name}", fed.hub.database.parcel_path(name).stat().st_size
    check_refusal(
        client.read(site_keys, path, Range=f"bytes={size}-"),
        "E_BYTES_RANGE",
        "ask for the whole parcel, or for a range",
    )
    assert client.read(site_keys, path, Range=f"bytes={size - 1}-").status == 206
    assert client.read(site_keys, path).status == 200


def test_shorter_headers_and_addresses_are_accepted(client: Client) -> None:
    def ask(path: bytes, *headers: bytes) -> bytes:
        return raw(client.port, b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: x", *headers, b"", b""]))

    for response in (ask(b"/healthz", *[b"X: x"] * 70), ask(b"/" + b"x" * 5000)):
        assert b"E_HEADERS" in response
        assert b"send fewer and shorter headers, and a shorter address" in response
    assert ask(b"/healthz", b"X: x").startswith(b"HTTP/1.1 200")


def test_a_client_that_asks_too_often_waits_as_retry_after_says(fed: Federation) -> None:
    with http_front.running(fed.hub.home, Limits(address=(5.0, 2.0))) as port:
        client = Client(port, fed.hub.federation)
        responses = [client.ask("GET", "/v1/charters") for _ in range(4)]
        check_refusal(responses[-1], "E_RATE", "wait as long as Retry-After says")
        assert client.retry_while_busy(lambda: client.ask("GET", "/v1/charters")).status == 200


# --- the front ---------------------------------------------------------------------------------------------------
def test_the_dashboard_opens_by_its_link_once(fed: Federation) -> None:
    for _ in range(2):  # a new start shows a new link
        access = DashboardAccess()
        with http_front.running(fed.hub.home, access=access) as port:
            client = Client(port, fed.hub.federation)
            check_refusal(client.ask("GET", "/"), "E_DASHBOARD", "a new start shows a new one")
            cookie = {"Cookie": client.ask("GET", f"/enter/{access.token}").headers["set-cookie"].split(";")[0]}
            assert client.ask("GET", "/", headers=cookie).status == 200
            check_refusal(client.ask("GET", f"/enter/{access.token}"), "E_DASHBOARD", "it works once")


def test_a_front_listens_at_another_port_and_with_the_right_certificate(fed: Federation, tmp_path: Path) -> None:
    def serve(*words: str | Path) -> Completed:
        env = {"FEDHELP_HOME": str(fed.hub.home)}
        return command.run_in_process("serve", *words, home=tmp_path, program=command.COORDINATOR, env=env)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        fails_with(serve("--port", str(taken.getsockname()[1])), "E_LISTEN", "choose another --port or --host")
        with http_front.serving(fed.hub.home) as process:
            assert Client(process.port, fed.hub.federation).ask("GET", "/healthz").status == 200
    cert, key = write_certificate(tmp_path)
    fails_with(
        serve("--port", "0", "--tls-cert", cert, "--tls-key", cert), "E_LISTEN", "named with --tls-cert and --tls-key"
    )
    with http_front.running(fed.hub.home, cert=cert, key=key) as port:
        trust = ssl.create_default_context(cafile=str(cert))
        assert Client(port, fed.hub.federation, trust).ask("GET", "/healthz").status == 200


# --- a site ------------------------------------------------------------------------------------------------------
@pytest.fixture
def people(tmp_path: Path) -> SiteAndHub:
    return SiteAndHub(tmp_path, PLAN, locked=False)


def test_a_damaged_invite_is_requested_again_or_its_code_typed(people: SiteAndHub) -> None:
    succeeds(people.hub("init", "--plan", "plan.toml"))
    succeeds(people.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    succeeds(people.hub("exchange", people.stick))
    whole = (people.folder / "a.invite").read_bytes()
    (people.folder / "cut.invite").write_bytes(whole[:200])
    hint = "ask the coordinator for the invite file again, or type the code"
    fails_with(people.site("join", "cut.invite", "--via", people.stick), "E_INVITE_FILE", hint)
    succeeds(people.site("join", json.loads(whole)["code"], "--via", people.stick))
    succeeds(people.site("join", "a.invite", "--via", people.stick, "--home", people.folder / "other"))


def test_without_a_network_an_update_is_sent_later_or_carried_on_a_stick(
    people: SiteAndHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = connection.carriers.__kwdefaults__
    assert "give_up_after" in defaults
    monkeypatch.setitem(defaults, "give_up_after", 1.0)
    people.join()
    succeeds(people.hub("open"))
    succeeds(people.hub("exchange", people.stick))
    succeeds(people.site("download"))
    clinic.train(people.folder / "site")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed_url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    fails_with(people.site("upload", "--url", closed_url), "E_OFFLINE", "carry it on a stick with --via DIR")
    with http_front.running(people.folder / "hub") as port:
        succeeds(people.site("upload", "--url", f"http://127.0.0.1:{port}"))
    assert "site-001: accepted" in succeeds(people.hub("exchange", people.stick)).stdout
    fails_with(people.site("download", "--url", closed_url), "E_OFFLINE", "run the same command again later")
    succeeds(people.site("download", "--via", people.stick))
    assert "accepted" in succeeds(people.site("status")).stdout


def test_an_address_without_a_front_is_corrected(people: SiteAndHub) -> None:
    people.join()
    page = hostile_front.response(b"<html>sign in", "302 Found", "Location: http://127.0.0.1:1/", marked=True)
    with hostile_front.running(lambda _: page) as portal:
        fails_with(people.site("download", "--url", portal.url), "E_NO_FRONT", "check the address (--url)")
    with http_front.running(people.folder / "hub") as port:
        succeeds(people.site("download", "--url", f"http://127.0.0.1:{port}"))


def test_an_update_of_a_closed_round_does_not_block_one_of_the_current_round(
    fed: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_update = SimpleNamespace(train=clinic.train)  # the update is drawn, not trained
    monkeypatch.setitem(sys.modules, "fedhelp_edge.site.ordered_training", new_update)
    monkeypatch.setattr(site, "ordered_training", new_update, raising=False)
    late = clinic.Clinic(fed, tmp_path / "late")
    late.join_and_fetch_task()
    late.train()
    outbox.seal_current(late.home, nobody)
    for _ in range(2):  # nobody sends anything
        fed.clock.advance(days=8)
        with pytest.raises(errors.QuorumError):
            fed.aggregate()
        fed.open()
    with http_front.running(fed.hub.home) as port:
        carriers = connection.carriers(late.home, nobody, url=f"http://127.0.0.1:{port}")
        with pytest.raises(errors.RefusedThereError, match="E_ROUND_CLOSED"):
            outbox.upload(late.home, carriers)
        assert sync(late.home, carriers, nobody, lambda _: None).trained == 3
    assert late.state == status.RECEIVED
    assert outbox.pending(late.home) == []


def test_a_refusal_by_the_front_shows_the_hint_of_its_cause(people: SiteAndHub) -> None:
    people.join()
    succeeds(people.hub("open"))
    succeeds(people.hub("exchange", people.stick))
    succeeds(people.site("download"))
    clinic.train(people.folder / "site")
    succeeds(people.hub("revoke", "site-001", "--reason", "PC stolen"))
    succeeds(people.hub("invite", "A again", "--tier", "small", "--out", "new.invite"))
    with http_front.running(people.folder / "hub") as port:
        url = f"http://127.0.0.1:{port}"
        check_refusal = people.site("upload", "--url", url)
        fails_with(check_refusal, "E_REFUSED", errors.remedy_of("E_SIGNER_REVOKED"))
        assert "E_SIGNER_REVOKED" in check_refusal.stderr
        succeeds(people.site("leave"))
        succeeds(people.site("join", "new.invite", "--url", url))
        succeeds(people.hub("requests"))
        succeeds(people.site("download"))
    assert "site-002 (small)" in succeeds(people.site("status")).stdout
