"""A site at a real front on loopback: what is cut off goes on, and nobody else's files are to be had."""

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


def line(three: Federation, clinic: SimulatedClinic, port: int, **more: object) -> HttpCarrier:
    url = f"http://127.0.0.1:{port}"
    return HttpCarrier(url, three.hub.federation, lambda: clinic.keys, clinic.folder / "in", **more)  # type: ignore[arg-type]


def test_an_update_arrives_as_it_was_sealed(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    path = clinic.give(task, three.drawn_update(task, clinic))
    line(three, clinic, port).put(path)
    assert three.hub.database.parcel_path(path.stem).read_bytes() == path.read_bytes()
    assert three.update_states() == {"site-001/1": "received"}


def test_sending_it_again_changes_nothing(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    path = clinic.give(task, three.drawn_update(task, clinic))
    for _ in range(3):
        line(three, clinic, port).put(path)
    assert len(three.update_states()) == 1


def test_a_request_to_join_is_sent_by_somebody_whom_nobody_knows(three: Federation, port: int) -> None:
    code, _ = members.invite(three.hub, "New", "small", 14)
    clinic = SimulatedClinic(three.hub.federation, three.folder / "new")
    line(three, clinic, port).put(clinic.enrolment_request(code))
    assert [decision["state"] for decision in three.judge()] == ["approved"]


def test_everything_that_a_site_needs_comes_whole(three: Federation, port: int) -> None:
    three.open()
    clinic = three.clinics[0]
    by_kind = {
        parcel.inspect(path, parcel.any_signer).statement.kind: path
        for path in line(three, clinic, port).fetch(frozenset())
    }
    assert set(by_kind) == {"charter", "roster", "task", "global", "receipt"}
    for path in by_kind.values():
        assert path.read_bytes() == three.hub.database.parcel_path(path.stem).read_bytes()


def test_what_a_site_has_is_not_fetched_again(three: Federation, port: int) -> None:
    clinic = three.clinics[0]
    first = {path.stem for path in line(three, clinic, port).fetch(frozenset())}
    assert list(line(three, clinic, port).fetch(frozenset(first))) == []
    assert list((clinic.folder / "in").iterdir()) == []  # and lies on its disk once


def test_a_download_goes_on_from_what_is_there(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    name = three.hub.newest_parcel("global")["hash"]
    whole = three.hub.database.parcel_path(name).read_bytes()
    (clinic.folder / "in").mkdir()
    (clinic.folder / "in" / f"{name}.part").write_bytes(whole[:500_000])
    by_hash = {path.stem: path for path in line(three, clinic, port).fetch(frozenset())}
    assert by_hash[name].read_bytes() == whole
    assert task.base


def test_another_key_gets_nothing_but_the_charter(three: Federation, port: int) -> None:
    stranger = SimulatedClinic(three.hub.federation, three.folder / "stranger")
    with pytest.raises(RefusedThereError, match="E_SIGNER_UNKNOWN"):
        list(line(three, stranger, port).fetch(frozenset()))
    assert len(list(line(three, stranger, port).charters())) == 1


def test_what_the_front_refuses_is_told_with_its_own_code(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    members.revoke(three.hub, three.coordinator_keys, clinic.id, 1, "")
    path = clinic.give(task, three.drawn_update(task, clinic))
    with pytest.raises(RefusedThereError, match="E_SIGNER_REVOKED") as caught:
        line(three, clinic, port).put(path)
    assert caught.value.remedy


def test_a_front_that_is_not_there_is_said_and_nothing_is_lost(three: Federation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = taken.getsockname()[1]
    with pytest.raises(OfflineError):
        list(line(three, three.clinics[0], nobody, give_up_after=0.1).fetch(frozenset()))


def test_an_address_that_is_none_is_refused(three: Federation) -> None:
    site = HttpCarrier("ftp://hub", "fh-" + "0" * 32, keys.generate, three.folder / "in")
    with pytest.raises(UsageError):
        list(site.charters())


def test_an_upload_that_was_begun_before_goes_on(three: Federation, port: int) -> None:
    task, clinic = three.open(), three.clinics[0]
    path = clinic.give(task, three.drawn_update(task, clinic))
    client = http_front.Client(port, three.hub.federation)
    begun = client.begin(path)
    client.append(path.stem, begun.offset, path.read_bytes()[begun.offset : begun.offset + 300_000])
    line(three, clinic, port).put(path)
    assert judge.judge_waiting(three.hub, three.coordinator_keys)[0]["state"] == "accepted"


def test_over_a_line_that_breaks_again_and_again_everything_arrives_once_and_whole(
    three: Federation, port: int
) -> None:
    task, clinic = three.open(), three.clinics[0]
    path = clinic.give(task, three.drawn_update(task, clinic))
    fault = faulty_proxy.Fault
    breaks = [
        fault(cut=700), fault(cut_answer=10), fault(cut=150_000), fault(reset=True, cut=90_000),
        fault(again=True), fault(cut_answer=0), fault(cut=300_000, reset=True),
    ]  # fmt: skip
    with faulty_proxy.proxy_to(port, iter(breaks)) as chaos_port:
        line(three, clinic, chaos_port, give_up_after=30).put(path)
    assert three.hub.database.parcel_path(path.stem).read_bytes() == path.read_bytes()
    assert three.update_states() == {"site-001/1": "received"}
    breaks = [faulty_proxy.Fault(cut_answer=count) for count in (0, 100, 400_000, 20, 700_000, 900_000)]
    with faulty_proxy.proxy_to(port, iter(breaks)) as chaos_port:
        by_hash = {path_.stem: path_ for path_ in line(three, clinic, chaos_port, give_up_after=30).fetch(frozenset())}
    assert all(
        path_.read_bytes() == three.hub.database.parcel_path(name).read_bytes() for name, path_ in by_hash.items()
    )
    assert len(by_hash) >= 5
