"""Faults G01 and G04 in a secure sum: site, helper and coordinator are killed, or their power cut, and run again.

Each ends with the bits of an undisturbed run, and no set is answered twice.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.exchange.folder import FROM_COORDINATOR, TO_COORDINATOR
from fedhelp_edge.helper import home as homes
from server_ref.hub.tables import parcels_table
from server_ref.intake import receive
from tests import http_front
from tests.clinic import Clinic
from tests.faults import kills
from tests.faults.test_kills import hub_state, make_old
from tests.unit.secure_sum.federation import SecureFederation

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX"),
    pytest.mark.proof,
    pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"]),
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFederation]:
    """A federation before its set is named, whose updates are accepted."""
    federation = SecureFederation(tmp_path_factory.mktemp("secure") / "federation", 3)
    with pytest.MonkeyPatch.context() as patch:
        kills.open_in_this_process(patch)
        task = federation.open()
        federation.send_updates(task)
        federation.judge()
    federation.hub.database.close()
    yield federation


def each_point(effort: Callable[[int, int], int], power_cut: bool) -> range:
    stride = effort(15, 1)
    return range(5 if power_cut and stride > 1 else 1, 1000, stride)


def test_g01_the_coordinator_names_one_set_and_merges_one_model(
    asked: SecureFederation, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    named = shutil.copytree(asked.folder, tmp_path / "named")
    _step(asked, named / "hub")
    after_naming = hub_state(named / "hub")
    assert [row[:2] for row in after_naming["rounds"]][1] == (1, "summing")
    answered = shutil.copytree(named, tmp_path / "answered")
    _carry_to_helper_and_back(asked, answered)
    merged = shutil.copytree(answered, tmp_path / "merged")
    _step(asked, merged / "hub")
    after_merging = hub_state(merged / "hub")
    assert [row[:2] for row in after_merging["rounds"]][1] == (1, "merged")
    for before, after in ((asked.folder, after_naming), (answered, after_merging)):
        deaths = 0
        for point in each_point(effort, power_cut):
            folder = shutil.copytree(before, tmp_path / f"{point}")
            code = _step(asked, folder / "hub", dies_before=point, power_cut=power_cut)
            if code == 0:
                break
            assert code == kills.KILLED
            deaths += 1
            assert _step(asked, folder / "hub") == 0, point
            assert hub_state(folder / "hub") == after, point
            shutil.rmtree(folder)
        shutil.rmtree(tmp_path / f"{point}", ignore_errors=True)
        assert deaths


def _step(fed: SecureFederation, home: Path, **kill: Any) -> int:
    return kills.run(kills.coordinator_step, home, "aggregate", fed.clock.time, **kill)


def _carry_to_helper_and_back(fed: SecureFederation, folder: Path) -> None:
    other = _opened(fed, folder)
    other.exchange()
    assert other.answer().state == "answered"
    other.exchange()
    other.hub.database.close()


def _opened(fed: SecureFederation, folder: Path) -> SecureFederation:
    """The federation in a copied folder."""
    other = copy.copy(fed)
    other.folder, other.helper, other.stick = folder, folder / "helper", folder / "stick"
    other.reopen()
    return other


def test_g01_the_helper_gives_the_same_bytes_and_records_one_set(
    asked: SecureFederation, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    named = shutil.copytree(asked.folder, tmp_path / "named")
    _step(asked, named / "hub")
    other = _opened(asked, named)
    other.exchange()
    other.hub.database.close()
    undisturbed = shutil.copytree(named, tmp_path / "undisturbed")
    assert kills.run(kills.answer, undisturbed / "helper", undisturbed / "stick") == 0
    (expected,) = (undisturbed / "stick" / TO_COORDINATOR).iterdir()
    deaths = 0
    for point in each_point(effort, power_cut):
        folder = shutil.copytree(named, tmp_path / f"{point}")
        kill = {"dies_before": point, "power_cut": power_cut}
        code = kills.run(kills.answer, folder / "helper", folder / "stick", **kill)
        if code == 0:
            break
        assert code == kills.KILLED
        deaths += 1
        told = list((folder / "stick" / TO_COORDINATOR).glob("*.fhx"))
        assert not told or homes.answered_sets(folder / "helper"), "an answer left before its record"
        make_old(folder)
        assert kills.run(kills.answer, folder / "helper", folder / "stick") == 0, point
        answer = folder / "stick" / TO_COORDINATOR / expected.name
        assert answer.read_bytes() == expected.read_bytes(), point
        assert homes.answered_sets(folder / "helper") == homes.answered_sets(undisturbed / "helper")
        shutil.rmtree(folder)
    assert deaths


def test_g01_a_helper_at_a_front_gives_the_same_bytes_and_records_one_set(
    asked: SecureFederation, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    pytest.importorskip("uvicorn")
    named = shutil.copytree(asked.folder, tmp_path / "named")
    _step(asked, named / "hub")
    deaths, sums = 0, set()
    for point in range(7, 1000, effort(25, 1)):
        folder = shutil.copytree(named, tmp_path / f"{point}")
        with http_front.running(folder / "hub") as port:
            way = (folder / "helper", None, f"http://127.0.0.1:{port}")
            code = kills.run(kills.answer, *way, dies_before=point, power_cut=power_cut)
            other = _opened(asked, folder)
            told = parcels_table.sum_of_round(other.hub.database, 1)
            assert not told or homes.answered_sets(folder / "helper"), "an answer left before its record"
            make_old(folder)
            for _ in range(2):  # the first run may find that a download was lost, and the second fetches it again
                assert kills.run(kills.answer, *way) == 0, point
            path = other.hub.database.parcel_path(parcels_table.sum_of_round(other.hub.database, 1))
            sums.add(path.read_bytes())
            assert len(homes.answered_sets(folder / "helper")) == 1
            other.hub.database.close()
        shutil.rmtree(folder)
        if code == 0:
            break
        assert code == kills.KILLED
        deaths += 1
    assert deaths
    assert len(sums) == 1


def test_g01_a_site_sends_one_masked_update_that_counts(
    asked: SecureFederation, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kills.open_in_this_process(monkeypatch)
    fed = SecureFederation(tmp_path / "federation", 3)
    clinic = Clinic(fed, tmp_path / "site")
    clinic.join_and_fetch_task()
    clinic.train()
    deaths = 0
    for point in each_point(effort, power_cut):
        folder = shutil.copytree(clinic.home.parent, tmp_path / f"{point}")
        kill = {"dies_before": point, "power_cut": power_cut}
        code = kills.run(kills.seal_and_upload, folder / "home", folder / "stick", **kill)
        if code == 0:
            break
        assert code == kills.KILLED
        deaths += 1
        make_old(folder)
        assert kills.run(kills.seal_and_upload, folder / "home", folder / "stick") == 0, point
        sealed = list((folder / "home" / "rounds").glob("*/*.fhx"))
        assert len(sealed) == 1, point
        assert (folder / "stick" / TO_COORDINATOR / sealed[0].name).read_bytes() == sealed[0].read_bytes()
        last = folder
    assert deaths
    receive.receive(fed.hub, last / "stick" / TO_COORDINATOR / sealed[0].name)
    fed.ask(next(iter(fed.hub.tasks().values())))
    assert fed.finish()["sum"]["examples"] == 10 + 20 + 30 + 70
    assert (fed.stick / FROM_COORDINATOR).is_dir()
