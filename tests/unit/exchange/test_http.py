"""A site at a real front on loopback: interrupted transfers continue, and other sites' files are inaccessible."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fedhelp_edge.errors import OfflineError, RefusedThereError, UsageError
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.parcel import keys, parcel
from server_ref.hub import members
from server_ref.intake import judge
from tests import faulty_proxy, http_front
from tests.federation import Federation, SimulatedClinic

pytest.importorskip("uvicorn")


@pytest.fixture
def port(three: Federation) -> Iterator[int]:
    with http_front.running(three.folder / "hub") as number:
        yield number


def carrier_of(three: Federation, clinic: SimulatedClinic, port: int, **more: object) -> HttpCarrier:
    url = f"http://127.0.0.1:{port}"
    return HttpCarrier(url, three.hub.federation, lambda: clinic.keys, clinic.folder / "in", **more)  # type: ignore[arg-type]


def test_an_update_arrives_as_it_was_sealed(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    path = clinic.give(task, three.drawn_update(task, clinic))
    carrier_of(three, clinic, port).put(path)
    assert three.hub.database.parcel_path(path.stem).read_bytes() == path.read_bytes()
    assert three.update_states() == {"site-001/1": "received"}


def test_sending_an_update_again_changes_nothing(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    path = clinic.give(task, three.drawn_update(task, clinic))
    for _ in range(3):
        carrier_of(three, clinic, port).put(path)
    assert len(three.update_states()) == 1


def test_an_unknown_site_can_send_a_request_to_join(three: Federation, port: int) -> None:
    code, _ = members.invite(three.hub, "New", "small", 14)
    clinic = SimulatedClinic(three.hub.federation, three.folder / "new")
    carrier_of(three, clinic, port).put(clinic.enrolment_request(code))
    assert [decision["state"] for decision in three.judge()] == ["approved"]


def test_all_parcels_that_a_site_needs_are_downloaded_intact(three: Federation, port: int) -> None:
    three.open()
    clinic = three.clinics[0]
    by_kind = {
        parcel.inspect(path, parcel.any_signer).statement.kind: path
        for path in carrier_of(three, clinic, port).fetch(frozenset())
    }
    assert set(by_kind) == {"charter", "roster", "task", "global", "receipt"}
    for path in by_kind.values():
        assert path.read_bytes() == three.hub.database.parcel_path(path.stem).read_bytes()


def test_a_parcel_that_a_site_has_is_not_downloaded_again(three: Federation, port: int) -> None:
    clinic = three.clinics[0]
    first = {path.stem for path in carrier_of(three, clinic, port).fetch(frozenset())}
    assert list(carrier_of(three, clinic, port).fetch(frozenset(first))) == []
    assert list((clinic.folder / "in").iterdir()) == []  # and is stored once


def test_a_download_continues_from_its_partial_file(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    name = three.hub.newest_parcel("global")["hash"]
    content = three.hub.database.parcel_path(name).read_bytes()
    (clinic.folder / "in").mkdir()
    (clinic.folder / "in" / f"{name}.part").write_bytes(content[:500_000])
    by_hash = {path.stem: path for path in carrier_of(three, clinic, port).fetch(frozenset())}
    assert by_hash[name].read_bytes() == content
    assert task.base


def test_an_unknown_key_gets_only_the_charter(three: Federation, port: int) -> None:
    stranger = SimulatedClinic(three.hub.federation, three.folder / "stranger")
    with pytest.raises(RefusedThereError, match="E_SIGNER_UNKNOWN"):
        list(carrier_of(three, stranger, port).fetch(frozenset()))
    assert len(list(carrier_of(three, stranger, port).charters())) == 1


def test_a_refusal_by_the_front_has_its_own_code(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    members.revoke(three.hub, three.coordinator_keys, clinic.id, 1, "")
    path = clinic.give(task, three.drawn_update(task, clinic))
    with pytest.raises(RefusedThereError, match="E_SIGNER_REVOKED") as caught:
        carrier_of(three, clinic, port).put(path)
    assert caught.value.remedy


def test_a_missing_front_is_an_error_and_nothing_is_lost(three: Federation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = taken.getsockname()[1]
    with pytest.raises(OfflineError):
        list(carrier_of(three, three.clinics[0], nobody, give_up_after=0.1).fetch(frozenset()))


def test_an_invalid_address_is_refused(three: Federation) -> None:
    site = HttpCarrier("ftp://hub", "fh-" + "0" * 32, keys.generate, three.folder / "in")
    with pytest.raises(UsageError):
        list(site.charters())


def test_an_upload_that_was_begun_before_continues(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    path = clinic.give(task, three.drawn_update(task, clinic))
    client = http_front.Client(port, three.hub.federation)
    begun = client.begin(path)
    client.append(path.stem, begun.offset, path.read_bytes()[begun.offset : begun.offset + 300_000])
    carrier_of(three, clinic, port).put(path)
    assert judge.judge_waiting(three.hub, three.coordinator_keys)[0]["state"] == "accepted"


def test_over_an_unreliable_connection_everything_arrives_once_and_intact(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    path = clinic.give(task, three.drawn_update(task, clinic))
    fault = faulty_proxy.Fault
    breaks = [
        fault(cut=700), fault(cut_answer=10), fault(cut=150_000), fault(reset=True, cut=90_000),
        fault(again=True), fault(cut_answer=0), fault(cut=300_000, reset=True),
    ]  # fmt: skip
    with faulty_proxy.proxy_to(port, iter(breaks)) as chaos_port:
        carrier_of(three, clinic, chaos_port, give_up_after=30).put(path)
    assert three.hub.database.parcel_path(path.stem).read_bytes() == path.read_bytes()
    assert three.update_states() == {"site-001/1": "received"}
    breaks = [faulty_proxy.Fault(cut_answer=count) for count in (0, 100, 400_000, 20, 700_000, 900_000)]
    with faulty_proxy.proxy_to(port, iter(breaks)) as chaos_port:
        by_hash = {
            path_.stem: path_ for path_ in carrier_of(three, clinic, chaos_port, give_up_after=30).fetch(frozenset())
        }
    assert all(
        path_.read_bytes() == three.hub.database.parcel_path(name).read_bytes() for name, path_ in by_hash.items()
    )
    assert len(by_hash) >= 5
