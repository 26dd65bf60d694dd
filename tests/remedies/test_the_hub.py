"""Errors that a coordinator meets at its hub: the test follows the hint, and the federation continues."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.data import pack
from fedhelp_edge.parcel import parcel
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array
from server_ref.admin import exchange
from server_ref.hub import database, members, models
from server_ref.hub.tables import log_table
from server_ref.intake import sandbox
from server_ref.intake.sandbox import Sandbox
from tests import command, encoders
from tests.attacks.test_e_merging import honest, scaled
from tests.command import json_output
from tests.federation import PLAN, Federation
from tests.site_and_hub import Completed, SiteAndHub, fails_with, lists_refusal, succeeds
from tests.unit.server_ref import test_kit

Arrays = dict[str, Array]
program, package_index, download_once = test_kit.program, test_kit.package_index, test_kit.download_once


class HubCommands:
    """A coordinator at the command line, with clinics that draw their updates."""

    def __init__(self, fed: Federation) -> None:
        self.fed, self.folder, self.stick = fed, fed.folder, fed.folder / "stick"
        (self.stick / exchange.TO_COORDINATOR).mkdir(parents=True)

    def __call__(self, *words: str | Path) -> Completed:
        env = {"FEDHELP_HOME": str(self.folder / "hub")}
        return command.run_in_process(*words, home=self.folder, program=command.COORDINATOR, env=env)

    def give(self, task: Task, number: int, arrays: Arrays | None = None, **more: Any) -> None:
        """Puts a clinic's update on the stick."""
        clinic = self.fed.clinics[number]
        path = clinic.give(task, honest(self.fed, task, number) if arrays is None else arrays, **more)
        path.rename(self.stick / exchange.TO_COORDINATOR / path.name)

    def exchange(self) -> Completed:
        return succeeds(self("exchange", self.stick))


@pytest.fixture
def hub(federation_of: Callable[[int], Federation], tmp_path: Path) -> Iterator[HubCommands]:
    with federation_of(5).temporary_copy(tmp_path / "federation") as fed:
        yield HubCommands(fed)


def unusual_update(hub: HubCommands, task: Task, code: str) -> Arrays:
    """The update of the last clinic, unusual in the way of `code`."""
    base, honest_update = hub.fed.base(task), honest(hub.fed, task, 4)
    return {
        "E_LAZY": base, "E_COPY": honest(hub.fed, task, 3), "E_OPPOSED": scaled(base, honest_update, -1),
        "E_TOO_FAR": scaled(base, honest_update, 50), "E_CLAIM": honest_update,
    }[code]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "hint", "merged"),
    [
        ("E_LAZY", "'fedhelp-coordinator review SITE --release' admits the update all the same", 5),
        ("E_COPY", "'fedhelp-coordinator review SITE --release', refuse the other with --refuse", 4),
        ("E_OPPOSED", "look at the site's data and labels before 'fedhelp-coordinator review SITE --release'", 5),
        ("E_TOO_FAR", "look at the site's data and training before 'fedhelp-coordinator review SITE --release'", 5),
        ("E_CLAIM", "phone the site and ask how many images it trains with", 5),
    ],
)
def test_an_unusual_update_waits_until_a_person_has_reviewed_it(
    hub: HubCommands, code: str, hint: str, merged: int
) -> None:
    task = hub.fed.open()
    for number in range(4):
        hub.give(task, number)
    hub.give(task, 4, unusual_update(hub, task, code), examples=50_000 if code == "E_CLAIM" else 100)
    hub.exchange()
    fails_with(hub("aggregate"), "E_QUORUM", "--now closes before it")
    lists_refusal(hub("review"), code, hint)
    if code == "E_COPY":
        succeeds(hub("review", "site-004", "--release"))
        succeeds(hub("review", "site-005", "--refuse"))
    else:
        succeeds(hub("review", "site-005", "--release"))
    outcome = command.json_output(succeeds(hub("aggregate", "--now", "--json")))
    assert len(outcome["accepted"]) == merged


def test_an_update_sent_twice_counts_once_and_nothing_needs_to_be_done(hub: HubCommands) -> None:
    task = hub.fed.open()
    for number in range(5):
        hub.give(task, number)
    hub.exchange()
    hub.give(task, 0, examples=7)
    lists_refusal(hub("exchange", hub.stick), "E_DUPLICATE_ROUND", "the first update of a round counts")
    assert len(command.json_output(succeeds(hub("aggregate", "--json")))["accepted"]) == 5


def test_an_update_with_an_impossible_number_of_images_is_made_again(hub: HubCommands) -> None:
    task = hub.fed.open()
    hub.give(task, 0, examples=0)
    lists_refusal(hub("exchange", hub.stick), "E_SAMPLES", "update the kit, then train or distill again")
    hub.give(task, 0)
    assert "site-001: accepted" in hub.exchange().stdout


def test_an_update_that_took_too_much_memory_is_refused_and_made_again(
    hub: HubCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = hub.fed.open()
    hub.give(task, 0)
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "Sandbox", Sandbox)
        patch.setattr(Sandbox, "_ask", lambda *_: "")  # as if the process that opens it had been killed
        lists_refusal(
            hub("exchange", hub.stick), "E_RESOURCE", "'fedhelp-coordinator review SITE --refuse', and ask the site"
        )
    succeeds(hub("review", "site-001", "--refuse"))
    hub.give(task, 0)
    assert "site-001: accepted" in hub.exchange().stdout


# --- the hub itself ------------------------------------------------------------------------------------------------
def change_database(hub: HubCommands, query: str) -> None:
    with closing(sqlite3.connect(hub.folder / "hub" / "hub.db")) as db, db:
        db.execute(query)


def test_a_damaged_hub_is_moved_away_and_its_newest_backup_restored(hub: HubCommands) -> None:
    succeeds(hub("backup", "good.tar"))
    backup = (hub.folder / "good.tar").read_bytes()
    (hub.folder / "cut.tar").write_bytes(backup[: len(backup) // 2])
    (roster_path,) = (hub.folder / "hub" / "parcels").glob(f"*/{hub.fed.hub.newest_parcel('roster')['hash']}.fhx")
    roster_path.unlink()
    fails_with(hub("exchange", hub.stick), "E_HUB_DAMAGED", "move it away, and restore the newest backup")
    (hub.folder / "hub").rename(hub.folder / "damaged")
    root = ("--root-key", hub.folder / "damaged" / "root")
    fails_with(hub("restore", "cut.tar", *root), "E_BACKUP", "take another backup")
    succeeds(hub("restore", "good.tar", *root))
    hub.exchange()
    succeeds(hub("open"))


def test_a_hub_of_a_newer_program_waits_for_that_program(hub: HubCommands, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = (*database._MIGRATIONS, "CREATE TABLE later (name TEXT) STRICT;")
    with monkeypatch.context() as patch:
        patch.setattr(database, "_MIGRATIONS", newer)
        succeeds(hub("status"))
    fails_with(hub("status"), "E_HUB_VERSION", "update this program")
    monkeypatch.setattr(database, "_MIGRATIONS", newer)
    succeeds(hub("status"))


def test_a_changed_log_stays_and_a_backup_is_restored_elsewhere(hub: HubCommands) -> None:
    succeeds(hub("backup", "good.tar"))
    change_database(hub, "UPDATE log SET subject = 'site-009' WHERE seq = 3")
    fails_with(hub("audit", "verify"), "E_LOG", "a backup into another --home")
    other = ("--home", hub.folder / "other")
    succeeds(hub("restore", "good.tar", "--root-key", hub.folder / "hub" / "root", *other))
    succeeds(hub("audit", "verify", *other))
    fails_with(hub("audit", "verify"), "E_LOG", "keep it as it is")  # the log stays as evidence


def test_an_incomplete_audit_export_is_requested_again(hub: HubCommands) -> None:
    task = hub.fed.open()
    for number in range(5):
        hub.give(task, number)
    hub.exchange()
    succeeds(hub("aggregate"))
    succeeds(hub("audit", "export", "1", "first"))
    (update_path,) = (hub.folder / "first").glob(f"{models.inputs_of(hub.fed.hub, 1)[0]}.fhx")
    update_path.unlink()
    invocation = {"home": hub.folder, "program": command.SITE}
    hint = "ask the coordinator for the whole round: 'fedhelp-coordinator audit export ROUND DIR'"
    fails_with(command.run_in_process("audit", "first", **invocation), "E_AUDIT", hint)
    succeeds(hub("audit", "export", "1", "second"))
    succeeds(command.run_in_process("audit", "second", **invocation))


def test_a_package_is_fetched_again_once_the_network_is_back(
    package_index: Path, program: Callable[..., None], tmp_path: Path
) -> None:
    program("late-for-kits")
    words = ("kit", "--platform", "manylinux_2_28_x86_64", "--out", "kit")
    invocation = {"home": tmp_path, "program": command.COORDINATOR}
    fails_with(command.run_in_process(*words, **invocation), "E_KIT", "check the internet connection")
    test_kit.wheel(package_index, "late-for-kits")
    succeeds(command.run_in_process(*words, **invocation))
    assert list((tmp_path / "kit" / "wheels").glob("late_for_kits*"))


def test_a_kit_damaged_on_its_way_is_copied_again(
    package_index: Path, program: Callable[..., None], tmp_path: Path
) -> None:
    program()
    succeeds(
        command.run_in_process(
            "kit", "--platform", "win_amd64", "--out", "kit", home=tmp_path, program=command.COORDINATOR
        )
    )
    shutil.copytree(tmp_path / "kit", tmp_path / "stick")
    (tmp_path / "stick" / "kit.json").write_bytes(b"{}")
    fails_with(command.run_in_process("inspect", "stick", home=tmp_path), "E_KIT_DAMAGED", "copy the kit again")
    shutil.copytree(tmp_path / "kit", tmp_path / "stick", dirs_exist_ok=True)
    succeeds(command.run_in_process("inspect", "stick", home=tmp_path))


def test_the_knowledge_pack_of_a_task_is_downloaded(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    people = SiteAndHub(tmp_path, PLAN, locked=False)
    people.join()
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (8, 8, 8, 3), np.uint8), np.arange(8) % 3
    probabilities = draw.dirichlet(np.ones(3), (1, 8)).astype("f2")
    pack.save(tmp_path / "pack", pack.Pack(images, labels, ("a", "b", "c"), ("files:x",), probabilities))
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    succeeds(people.hub("knowledge", "publish", "pack"))
    succeeds(people.hub("open"))
    succeeds(people.hub("exchange", people.stick))
    parcels_by_size = {path.stat().st_size: path for path in (people.stick / exchange.FROM_COORDINATOR).glob("*.fhx")}
    (large,) = (path for path in parcels_by_size.values() if b'"kind":"knowledge"' in path.read_bytes()[:200])
    large.rename(tmp_path / "slow.fhx")  # a synced folder has not delivered it yet
    succeeds(people.site("download"))
    fails_with(people.site("train", "images.npz"), "E_KNOWLEDGE", "fedhelp-edge download")
    (tmp_path / "slow.fhx").rename(large)
    succeeds(people.site("download"))
    pack_file = next((tmp_path / "site" / "pack").iterdir())
    pack_file.write_bytes(pack_file.read_bytes()[:-1])
    fails_with(people.site("train", "images.npz"), "E_KNOWLEDGE", "fedhelp-edge download")
    succeeds(people.site("download"))
    succeeds(people.site("train", "images.npz"))


def test_the_encoder_of_a_plan_is_published_once_and_downloaded(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = encoders.save(tmp_path / "tiny.onnx")
    nets = f'encoder = "tiny.onnx"\nencoder_sha256 = "{encoders.digest(file)}"\nencoder_width = {encoders.WIDTH}'
    people = SiteAndHub(tmp_path, f'{PLAN}[nets]\nsmall = "linear"\nlarge = "linear"\n{nets}\n', locked=False)
    people.join()
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", images=draw.integers(0, 256, (8, 8, 8, 3), np.uint8), labels=np.arange(8) % 3)
    fails_with(people.hub("open"), "E_ENCODER", "fedhelp-coordinator encoder publish")
    other = encoders.save(tmp_path / "other.onnx", encoders.model(seed=1))
    fails_with(people.hub("encoder", "publish", other), "E_ENCODER", "fedhelp-edge encoder show")
    published = json_output(people.hub("encoder", "publish", file, "--json"))
    assert published["sha256"] == encoders.digest(file)
    assert json_output(people.hub("encoder", "publish", file, "--json")) == published
    succeeds(people.hub("open"))
    succeeds(people.hub("exchange", people.stick))
    parcels = (people.stick / exchange.FROM_COORDINATOR).glob("*.fhx")
    (sent,) = (path for path in parcels if b'"kind":"encoder"' in path.read_bytes()[:200])
    assert "an encoder" in succeeds(people.site("inspect", sent)).stdout
    sent.rename(tmp_path / "slow.fhx")
    succeeds(people.site("download"))
    status = json_output(people.site("status", "--json"))
    assert (status["state"], status["next"]) == ("waiting", "fedhelp-edge download")
    assert "needs the encoder" in status["means"]
    fails_with(people.site("train", "images.npz"), "E_ENCODER", "fedhelp-edge download")
    (tmp_path / "slow.fhx").rename(sent)
    assert "encoder" in succeeds(people.site("download")).stdout
    (stored,) = (tmp_path / "site" / "encoder").iterdir()
    stored.write_bytes(stored.read_bytes()[:-1])
    fails_with(people.site("train", "images.npz"), "E_ENCODER", "fedhelp-edge download")
    succeeds(people.site("download"))
    succeeds(people.site("train", "images.npz"))
    assert "encoder" not in succeeds(people.site("download")).stdout


def test_a_corrected_clock_is_accepted_again(hub: HubCommands) -> None:
    log_table.add(hub.fed.hub.database, "2096-01-01T00:00:00Z", "renew", "roster", {})
    fails_with(hub("open"), "E_CLOCK", "'fedhelp-coordinator clock --accept' writes that into the log")
    fails_with(hub("clock"), "E_CLOCK", "set this machine's clock")
    succeeds(hub("clock", "--accept"))
    succeeds(hub("open"))


def test_a_full_federation_has_room_again_after_an_unused_invite_is_cancelled(
    hub: HubCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = parcel.inspect(hub.fed.hub.database.parcel_path(hub.fed.hub.roster.hash), parcel.any_signer).statement.size
    monkeypatch.setattr(members, "ROSTER_LIMIT", size + 500 + members.ROSTER_SPARE)
    succeeds(hub("invite", "Clinic A", "--tier", "small"))
    fails_with(hub("invite", "Clinic B", "--tier", "small"), "E_FULL", "fedhelp-coordinator invites")
    succeeds(hub("invites", "--cancel", "Clinic A"))
    succeeds(hub("invite", "Clinic B", "--tier", "small"))
