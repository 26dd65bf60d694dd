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
from fedhelp_edge.parcel import keys
from server_ref.hub.tables import parcels_table
from server_ref.intake import receive
from tests import http_front
from tests.clinic import Clinic
from tests.faults import kills
from tests.faults.test_kills import hub_state, make_old
from tests.unit.secure_sum.federation import SecureFederation
from tests.unit.secure_sum.plans import plan_text

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


# --- commands, as people type them -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFederation]:
    """Three rounds are merged. The fourth has a sum unlike theirs, which nobody has looked at yet."""
    federation = SecureFederation(tmp_path_factory.mktemp("answered") / "federation", 3)
    with pytest.MonkeyPatch.context() as patch:
        kills.open_in_this_process(patch)
        for _ in range(3):
            federation.ask()
            assert federation.finish()["published"]
        task = federation.open()
        for clinic in federation.clinics:
            longer = federation.drawn_update(task, clinic, 0.05)
            receive.receive(federation.hub, federation.give(task, clinic, longer))
        federation.aggregate()
        federation.exchange()
        federation.answer()
        federation.exchange()
    federation.hub.database.close()
    yield federation


def _type(folder: Path, program: str, home: Path, words: str, **kill: Any) -> str:
    """Types a command; returns "", its error code, or "killed"."""
    code = kills.run(kills.type_in, folder, program, words.split(), str(home), **kill)
    output = (folder / "output").read_text() if (folder / "output").exists() else ""
    assert "Traceback" not in output, output
    if code == kills.KILLED:
        return "killed"
    return "" if code == 0 else output.partition("error: ")[2].partition(":")[0]


def test_g01_a_held_sum_is_released_or_refused_once(
    answered: SecureFederation, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    def type_in(folder: Path, words: str, **kill: Any) -> str:
        return _type(folder, "server_ref.cli", folder / "hub", words, **kill)

    held = shutil.copytree(answered.folder, tmp_path / "held")
    assert type_in(held, "aggregate") == ""
    released = shutil.copytree(held, tmp_path / "released")
    assert type_in(released, "review sum --release") == ""
    for before, words, end in (
        (answered.folder, "aggregate", "summing"),
        (held, "review sum --release", "summing"),
        (held, "review sum --refuse", "failed"),
        (released, "aggregate", "merged"),
    ):
        undisturbed = shutil.copytree(before, tmp_path / "undisturbed")
        assert type_in(undisturbed, words) == type_in(undisturbed, "audit verify") == ""
        expected = hub_state(undisturbed / "hub")
        assert expected["rounds"][-1][1] == end
        deaths = 0
        for point in range(3, 1000, effort(100, 1)):
            folder = shutil.copytree(before, tmp_path / "cut")
            code = type_in(folder, words, dies_before=point, power_cut=power_cut)
            deaths += code == "killed"
            assert type_in(folder, words) in ("", "E_STATE"), (words, point)
            assert type_in(folder, "audit verify") == ""  # the next command destroys what is no longer needed
            assert hub_state(folder / "hub") == expected, (words, point)
            shutil.rmtree(folder)
            if code != "killed":
                assert code == ""
                break
        assert deaths, words
        shutil.rmtree(undisturbed)


def test_g01_a_helper_that_is_set_up_again_has_whole_keys_and_one_plan(
    asked: SecureFederation, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    def init(folder: Path, words: str, **kill: Any) -> str:
        return _type(folder, "fedhelp_edge.helper.cli", folder / "helper", f"init {words}", **kill)

    agreed = f"--plan plan.toml --federation {asked.hub.federation}"
    for point in range(2, 1000, effort(100, 1)):
        folder = tmp_path / f"{point}"
        folder.mkdir()
        first = init(folder, "--no-passphrase", dies_before=point, power_cut=power_cut)
        assert init(folder, "--no-passphrase") == "", point
        helper_keys = keys.load(folder / "helper", lambda: "").public
        assert keys.load_public(folder / "helper") == helper_keys
        (folder / "plan.toml").write_text(plan_text(helper_keys))
        second = init(folder, agreed, dies_before=point, power_cut=power_cut)
        assert init(folder, agreed) == "", point
        assert homes.load_pins(folder / "helper").plan.text == plan_text(helper_keys)
        shutil.rmtree(folder)
        if "killed" not in (first, second):
            break
    assert point > 2
