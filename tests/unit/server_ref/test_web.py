"""The front: updates are uploaded, and sites download what they need."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from fedhelp_edge.errors import NonceError, RateLimitError
from fedhelp_edge.parcel import parcel
from server_ref.hub import members
from server_ref.web.limits import RateLimiter
from server_ref.web.signed import Nonces
from tests.federation import Federation, SimulatedClinic
from tests.http_front import Client, running


@pytest.fixture
def client(three: Federation) -> Iterator[Client]:
    with running(three.hub.home) as port:
        yield Client(port, three.hub.federation)


@pytest.fixture
def update(three: Federation) -> Path:
    task = three.open()
    clinic = three.clinics[0]
    return clinic.give(task, three.drawn_update(task, clinic))


def test_an_update_sent_in_chunks_is_received_once(three: Federation, client: Client, update: Path) -> None:
    begun = client.begin(update)
    assert begun.status == 201
    assert begun.headers["location"] == f"uploads/{update.stem}"
    data = update.read_bytes()
    half = begun.offset + 1000
    assert client.append(update.stem, begun.offset, data[begun.offset : half]).offset == half
    assert client.offset_of(update.stem).offset == half
    done = client.append(update.stem, half, data[half:])
    assert done.status == 204
    assert done.headers["fedhelp-receipt"]
    assert three.update_states() == {"site-001/1": "received"}
    assert three.hub.database.parcel_path(update.stem).read_bytes() == data
    assert not list((three.hub.home / "incoming").iterdir())


def test_the_receipt_that_the_response_names_can_be_downloaded(three: Federation, client: Client, update: Path) -> None:
    receipt = client.send(update).headers["fedhelp-receipt"]
    answer = client.read(three.clinics[0].keys, f"/v1/parcels/{receipt}")
    path = three.folder / "receipt"
    path.write_bytes(answer.body)
    with parcel.open(path, parcel.any_signer) as opened:
        assert opened.statement.context["about"] == update.stem
        assert opened.json()["state"] == "received"


def test_a_request_to_join_is_sent_whole_and_its_receipt_is_for_the_requester(
    three: Federation, client: Client
) -> None:
    code, _ = members.invite(three.hub, "Clinic 4", "small", 14)
    newcomer = SimulatedClinic(three.hub.federation, three.folder / "newcomer")
    path = newcomer.enrolment_request(code)
    answer = client.begin(path, first=10**6)
    assert (answer.status, answer.offset) == (201, path.stat().st_size)
    assert set(client.current_hashes(newcomer.keys)) == {"charter", "receipt"}
    three.judge()
    assert set(client.current_hashes(newcomer.keys)) == {"charter", "roster", "receipt"}
    three.open()  # only then sites can download a model
    assert set(client.current_hashes(newcomer.keys)) == {"charter", "roster", "task", "global", "receipt"}


def test_a_site_sees_the_parcels_that_it_needs_and_no_receipts_of_others(
    three: Federation, client: Client, update: Path
) -> None:
    receipt = client.send(update).headers["fedhelp-receipt"]
    first, second = (client.current_hashes(three.clinics[number].keys) for number in (0, 1))
    assert set(first) == set(second) == {"charter", "roster", "task", "global", "receipt"}
    assert receipt in first["receipt"]
    assert receipt not in second["receipt"]
    refused = client.read(three.clinics[1].keys, f"/v1/parcels/{receipt}")
    assert (refused.status, refused.code) == (404, "E_NOT_HERE")
    assert client.read(three.clinics[1].keys, f"/v1/parcels/{update.stem}").code == "E_NOT_HERE"


def test_only_the_charter_is_public(three: Federation, client: Client) -> None:
    three.open()
    (charter,) = client.ask("GET", "/v1/charters").json["parcels"]
    response = client.ask("GET", f"/v1/parcels/{charter['hash']}")
    assert hashlib.sha256(response.body.split(b"\n")[1]).hexdigest() == charter["hash"]
    for kind in ("roster", "task", "global"):
        refused = client.ask("GET", f"/v1/parcels/{three.hub.newest_parcel(kind)['hash']}")
        assert (refused.status, refused.code) == (401, "E_UNSIGNED")
    assert client.ask("GET", "/v1/current").code == "E_UNSIGNED"


def test_each_response_has_the_next_nonce(three: Federation, client: Client) -> None:
    keys = three.clinics[0].keys
    first = client.read(keys, "/v1/current")
    again = client.signature(keys, first.headers["fedhelp-nonce"], "GET", "/v1/current")
    assert client.ask("GET", "/v1/current", headers=again).status == 200


def test_a_coordinator_works_while_the_front_runs(three: Federation, client: Client, update: Path) -> None:
    assert client.send(update).status == 204
    task = three.hub.tasks()[1]
    for clinic in three.clinics[1:]:
        assert client.send(clinic.give(task, three.drawn_update(task, clinic))).status == 204
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]
    models = client.current_hashes(three.clinics[0].keys)["global"]
    assert models == [three.hub.newest_parcel("global")["hash"]]


@pytest.mark.filterwarnings("ignore")  # tuspy leaves files open
def test_a_foreign_tus_client_continues_an_upload(three: Federation, client: Client, update: Path) -> None:
    """tuspy cannot begin an upload: it lacks creation-with-upload, and the front judges the prologue first."""
    from tusclient.client import TusClient
    from tusclient.exceptions import TusCommunicationError

    address = f"http://127.0.0.1:{client.port}/v1/uploads"
    with pytest.raises(TusCommunicationError, match="415"):
        TusClient(address).uploader(str(update)).upload()
    begun = client.begin(update)
    uploader = TusClient(address).uploader(
        str(update), url=urljoin(address, begun.headers["location"]), chunk_size=300_000
    )
    uploader.upload()
    assert uploader.offset == update.stat().st_size
    assert three.hub.database.parcel_path(update.stem).read_bytes() == update.read_bytes()
    assert three.update_states() == {"site-001/1": "received"}


def test_tus_options_name_version_and_extensions(client: Client, update: Path) -> None:
    answer = client.ask("OPTIONS", "/v1/uploads")
    assert (answer.status, answer.headers["tus-version"]) == (204, "1.0.0")
    assert answer.headers["tus-extension"] == "creation,creation-with-upload,termination"
    length = {"Upload-Length": str(update.stat().st_size), "Content-Type": "application/offset+octet-stream"}
    for version in ({}, {"Tus-Resumable": "0.2.2"}):
        refused = client.ask("POST", "/v1/uploads", b"x", {**length, **version})
        assert (refused.status, refused.code) == (412, "E_UPLOAD_PROTOCOL")
        assert refused.headers["tus-version"] == "1.0.0"


def test_an_abandoned_upload_is_deleted(three: Federation, client: Client, update: Path) -> None:
    client.begin(update)
    assert client.ask("DELETE", f"/v1/uploads/{update.stem}", headers={"Tus-Resumable": "1.0.0"}).status == 204
    assert client.offset_of(update.stem).status == 404
    assert not list((three.hub.home / "incoming").iterdir())
    assert client.send(update).headers["fedhelp-receipt"]


def test_a_small_update_may_be_sent_whole_in_its_first_request(client: Client, update: Path) -> None:
    answer = client.begin(update, first=update.stat().st_size)
    assert (answer.status, answer.code) == (413, "E_PAYLOAD_SIZE")


def test_an_announced_length_other_than_the_parcels_is_refused(client: Client, update: Path) -> None:
    answer = client.begin(update, **{"Upload-Length": "5"})
    assert (answer.status, answer.code) == (400, "E_REQUEST")


def test_uploads_that_nobody_continues_are_deleted(three: Federation, update: Path) -> None:
    with running(three.hub.home) as port:
        Client(port, three.hub.federation).begin(update)
    (file,) = (three.hub.home / "incoming").iterdir()
    long_ago = three.hub.now.timestamp() - 15 * 24 * 3600
    os.utime(file, (long_ago, long_ago))
    file.rename(file.with_name(f"{update.stem}.{int(long_ago)}"))
    with running(three.hub.home) as port:
        assert Client(port, three.hub.federation).offset_of(update.stem).status == 404


def test_a_rate_limit_recovers_and_is_forgotten_when_full(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    buckets = RateLimiter(2, 3)
    for _ in range(3):
        buckets.take("a")
    with pytest.raises(RateLimitError) as refused:
        buckets.take("a")
    assert refused.value.seconds == 0.5
    buckets.take("b")
    now[0] = 0.5
    buckets.take("a")
    with pytest.raises(RateLimitError):
        buckets.take("a")
    now[0] = 10
    buckets.take("c")
    assert list(buckets._buckets) == ["c"]


def test_nonces_are_valid_once_and_for_a_limited_time_and_few_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    nonces = Nonces()
    first, second = nonces.issue(), nonces.issue()
    nonces.consume(first)
    with pytest.raises(NonceError, match="before"):
        nonces.consume(first)
    now[0] += 301
    with pytest.raises(NonceError, match="old"):
        nonces.consume(second)
    with pytest.raises(NonceError):
        Nonces().consume(nonces.issue())
    nonces.consume(nonces.issue())
    assert len(nonces._used) == 1
