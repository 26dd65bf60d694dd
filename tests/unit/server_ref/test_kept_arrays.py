"""What a merger keeps for the next merge: FedAdam's moments stay with the coordinator, whatever happens to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedhelp_edge.errors import HubDamagedError
from fedhelp_edge.merge.closing import STATE, merger_state
from fedhelp_edge.methods import registry
from fedhelp_edge.parcel import keys
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array
from server_ref.admin import recovery
from server_ref.hub import models
from server_ref.hub.hub import Hub
from server_ref.rounds import opening, reaggregate
from tests.federation import PLAN, Federation, SimulatedClinic, nobody

pytestmark = pytest.mark.usefixtures("open_in_process")

Model = dict[str, Array]
TEXT = PLAN.replace('"fedavg"', '"fedadam"')


@pytest.fixture(scope="module")
def one_round(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Three clinics and a coordinator with FedAdam, after a round."""
    fed = Federation(tmp_path_factory.mktemp("fed"), TEXT)
    fed.send_updates(fed.open())
    fed.aggregate()
    return fed


@pytest.fixture
def fed(one_round: Federation, tmp_path: Path) -> Iterator[Federation]:
    with one_round.temporary_copy(tmp_path / "copy") as copy:
        yield copy


def merged_by_hand(fed: Federation, base: Model, task: Task, clinics: list[SimulatedClinic]) -> Model:
    """A round's updates, as changes of their own base, merged upon another one."""
    began, updates = fed.base(task), {}
    for clinic in clinics:
        drawn = fed.drawn_update(task, clinic)
        moved = {name: base[name] + (array - began[name]) for name, array in drawn.items()}
        updates[clinic.id] = drawn if all((base[name] == began[name]).all() for name in drawn) else moved
    return registry.merge(fed.plan, task.round, base, updates, dict.fromkeys(updates, 100))


def same(first: Model, second: Model) -> bool:
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def second_round(fed: Federation) -> str:
    fed.send_updates(fed.open())
    return str(fed.aggregate()["merged_sha256"])


def test_the_second_merge_goes_on_from_what_the_first_one_kept(fed: Federation) -> None:
    base = models.load(fed.hub, fed.hub.newest_round()["model"])
    assert merger_state(base)
    fed.reopen()
    task = fed.open()
    fed.send_updates(task)
    merged = models.load(fed.hub, fed.aggregate()["merged_sha256"])
    assert same(merged, merged_by_hand(fed, base, task, fed.clinics))
    forgotten = {name: array for name, array in base.items() if STATE not in name}
    assert not same(merged, merged_by_hand(fed, forgotten, task, fed.clinics))


def test_no_site_receives_what_is_kept(fed: Federation) -> None:
    fed.hub.database.close()
    task = fed.reopen().newest_round()
    travelled = models.read(fed.hub, task["model"])
    assert b"linear.weight" in travelled
    assert STATE.encode() + b"linear.weight" not in travelled


def test_a_model_without_anything_kept_has_no_second_file(tmp_path: Path) -> None:
    fed = Federation(tmp_path, clinics=0)
    assert len(list((fed.folder / "hub" / "models").iterdir())) == 1
    assert not fed.hub.database.rows("SELECT name FROM facts WHERE name LIKE 'kept %'")


def test_a_merge_that_was_cut_before_its_commit_gives_the_same_model_again(
    fed: Federation, one_round: Federation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fed.send_updates(fed.open())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(models, "publish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        fed.aggregate()
    fed.reopen()
    with one_round.temporary_copy(tmp_path / "undisturbed") as other:
        assert fed.aggregate()["merged_sha256"] == second_round(other)


def test_a_restored_hub_merges_as_the_one_that_was_backed_up(fed: Federation, tmp_path: Path) -> None:
    recovery.backup(fed.hub, tmp_path / "backup.tar")
    before = models.load(fed.hub, fed.hub.newest_round()["model"])
    root = keys.load(fed.folder / "hub" / "root", nobody)
    restored: Hub = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root, nobody)
    task = opening.open_next(restored, restored.coordinator_keys(nobody))
    assert same(models.load(restored, task.base), before)
    restored.database.close()


def test_reaggregation_builds_the_moments_anew_without_the_site(tmp_path: Path) -> None:
    fed = Federation(tmp_path, TEXT)
    tasks = []
    for _ in range(2):
        tasks.append(fed.open())
        fed.send_updates(tasks[-1])
        fed.aggregate()
    archive = keys.load(fed.folder / "hub" / "root", nobody)
    outcome = reaggregate.without_site(fed.hub, fed.coordinator_keys, "site-002", archive)
    base = fed.base(tasks[0])
    assert not merger_state(base)
    for task in tasks:
        base = merged_by_hand(fed, base, task, [fed.clinics[0], fed.clinics[2]])
    assert same(models.load(fed.hub, outcome["merged_sha256"]), base)
    fed.hub.database.close()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x")], ids=["gone", "other"])
def test_damage_to_what_is_kept_is_noticed_before_a_merge(fed: Federation, damage: Callable[[Path], object]) -> None:
    fed.send_updates(fed.open())
    name = fed.hub.newest_round()["base"]
    damage(fed.hub.database.model_path(fed.hub.database.fact(f"kept {name}")))
    with pytest.raises(HubDamagedError):
        fed.aggregate()
