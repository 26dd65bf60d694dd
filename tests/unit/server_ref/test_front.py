"""The front: a share goes in, what a site needs comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhelp_edge.parcel import parcel
from tests.federation import Clinic, Federation
from tests.net import Client, running


@pytest.fixture
def client(three: Federation) -> Iterator[Client]:
    with running(three.hub.home) as port:
        yield Client(port, three.hub.federation)


@pytest.fixture
def share(three: Federation) -> Path:
    order = three.open()
    clinic = three.clinics[0]
    return clinic.give(order, three.drawn(order, clinic))


def test_a_share_that_is_sent_in_pieces_is_received_once(three: Federation, client: Client, share: Path) -> None:
    begun = client.begin(share)
    assert begun.status == 201
    assert begun.headers["location"] == f"uploads/{share.stem}"
    data = share.read_bytes()
    half = begun.offset + 1000
    assert client.go_on(share.stem, begun.offset, data[begun.offset : half]).offset == half
    assert client.where(share.stem).offset == half
    done = client.go_on(share.stem, half, data[half:])
    assert done.status == 204
    assert done.headers["fedhelp-receipt"]
    assert three.states() == {"site-001/1": "received"}
    assert three.hub.store.path(share.stem).read_bytes() == data
    assert not list((three.hub.home / "incoming").iterdir())


def test_the_receipt_that_the_answer_names_can_be_fetched(three: Federation, client: Client, share: Path) -> None:
    receipt = client.send(share).headers["fedhelp-receipt"]
    answer = client.read(three.clinics[0].keys, f"/v1/parcels/{receipt}")
    path = three.folder / "receipt"
    path.write_bytes(answer.body)
    with parcel.open(path, parcel.anyone) as opened:
        assert opened.statement.context["about"] == share.stem
        assert opened.json()["state"] == "received"


def test_a_request_to_join_goes_in_whole_and_its_answer_is_for_whoever_asked(three: Federation, client: Client) -> None:
    code, _ = three.hub.invite("Clinic 4", "small", 14)
    newcomer = Clinic(three.hub.federation, three.folder / "newcomer")
    path = newcomer.ask_in(code)
    answer = client.begin(path, first=10**6)
    assert (answer.status, answer.offset) == (201, path.stat().st_size)
    assert set(client.listed(newcomer.keys)) == {"charter", "receipt"}
    three.judge()
    assert set(client.listed(newcomer.keys)) >= {"charter", "roster", "global", "receipt"}


def test_a_site_finds_what_it_needs_and_nothing_of_others(three: Federation, client: Client, share: Path) -> None:
    receipt = client.send(share).headers["fedhelp-receipt"]
    mine, other = (client.listed(three.clinics[place].keys) for place in (0, 1))
    assert set(mine) == set(other) == {"charter", "roster", "task", "global", "receipt"}
    assert receipt in mine["receipt"]
    assert receipt not in other["receipt"]
    refused = client.read(three.clinics[1].keys, f"/v1/parcels/{receipt}")
    assert (refused.status, refused.code) == (404, "E_NOT_HERE")
    assert client.read(three.clinics[1].keys, f"/v1/parcels/{share.stem}").code == "E_NOT_HERE"


def test_the_charter_is_for_anybody_and_nothing_else_is(three: Federation, client: Client) -> None:
    three.open()
    (charter,) = client.ask("GET", "/v1/charters").json["parcels"]
    held = client.ask("GET", f"/v1/parcels/{charter['hash']}")
    assert hashlib.sha256(held.body.split(b"\n")[1]).hexdigest() == charter["hash"]
    for kind in ("roster", "task", "global"):
        refused = client.ask("GET", f"/v1/parcels/{three.hub.newest(kind)['hash']}")
        assert (refused.status, refused.code) == (401, "E_UNSIGNED")
    assert client.ask("GET", "/v1/current").code == "E_UNSIGNED"


def test_the_next_nonce_comes_with_each_answer(three: Federation, client: Client) -> None:
    keys = three.clinics[0].keys
    first = client.read(keys, "/v1/current")
    again = client.signature(keys, first.headers["fedhelp-nonce"], "GET", "/v1/current")
    assert client.ask("GET", "/v1/current", headers=again).status == 200


def test_a_coordinator_works_while_the_front_runs(three: Federation, client: Client, share: Path) -> None:
    assert client.send(share).status == 204
    order = three.hub.tasks()[1]
    for clinic in three.clinics[1:]:
        assert client.send(clinic.give(order, three.drawn(order, clinic))).status == 204
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]
    found = client.listed(three.clinics[0].keys)["global"]
    assert found == [three.hub.newest("global")["hash"]]
