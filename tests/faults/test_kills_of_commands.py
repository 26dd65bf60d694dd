"""Faults G01 and G04 for the coordinator's commands: each is killed, or its power cut, before each durable step, and
typed again. Then everything is as if undisturbed, and rounds continue."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.data import pack as packs
from fedhelp_edge.parcel import keys, parcel
from server_ref.admin import invites
from server_ref.hub import members
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.intake import judge, receive
from server_ref.rounds import lifecycle
from tests import command
from tests.faults import kills
from tests.faults.test_kills import make_old
from tests.federation import Federation, SimulatedClinic, nobody
from tests.unit.data import test_pack

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX"),
    pytest.mark.usefixtures("open_in_process"),
    pytest.mark.proof,
]

DONE_BEFORE = {  # the codes of a command that was killed after its last step, so that nothing is left to do
    "E_STATE", "E_SITE", "E_FILE_EXISTS", "E_KEYS_EXIST",
}  # fmt: skip
COMMANDS = {
    "rotate --coordinator": "rotate --coordinator --root-key {hub}/root",
    "rotate --root": "rotate --root --root-key {hub}/root --new-root-key {folder}/new-root",
    "init": "init --plan {folder}/plan.toml --no-passphrase --root-key {folder}/other-root --home {folder}/other",
    "restore": "restore {folder}/before.tar --root-key {hub}/root --home {folder}/other",
    "backup": "backup {folder}/backup.tar",
    "knowledge publish": "knowledge publish {folder}/pack.safetensors",
    "invite": "invite Clinic --tier small --out {folder}/a.invite",
    "invites --cancel": "invites --cancel site-004",
    "approve": "approve {request}",
    "review --release": "review {update} --release",
    "review --refuse": "review {update} --refuse",
    "revoke": "revoke site-001 --since-round 1 --reason stolen",
    "reaggregate": "reaggregate --without site-001 --root-key {hub}/root",
    "requests": "requests",
    "aggregate": "aggregate --now",
    "exchange": "exchange {folder}/stick",
    "audit export": "audit export 1 {folder}/audit",
    "finish": "finish",
    "clock --accept": "clock --accept",
}


@dataclass
class HubFolder:
    """A federation in a folder, and the request and update that its coordinator's commands name."""

    fed: Federation
    request: str
    update: str

    @property
    def folder(self) -> Path:
        return self.fed.folder

    @property
    def home(self) -> Path:
        """The hub that `init` or `restore` created, else the only one."""
        other = self.folder / "other"
        return other if other.exists() else self.folder / "hub"

    def type(self, name: str, **kill: Any) -> str:
        """Types a command; returns "", its error code, or "killed"."""
        placeholders = {
            "folder": self.folder,
            "hub": self.folder / "hub",
            "request": self.request,
            "update": self.update,
        }
        words = [word.format(**placeholders) for word in COMMANDS[name].split()]
        code = kills.run(kills.type_in, self.folder, "server_ref.cli", words, str(self.folder / "hub"), **kill)
        if code == kills.KILLED:
            return "killed"
        output = (self.folder / "output").read_text()
        assert "Traceback" not in output, output
        return (
            "" if code == 0 else next(line for line in output.splitlines() if line.startswith("error: ")).split(": ")[1]
        )

    def type_next(self) -> str:
        """Types another command, which removes what is no longer needed."""
        done = command.run_in_process(
            "audit", "verify", "--home", self.home, home=self.folder, program=command.COORDINATOR
        )
        return done.stderr if done.returncode else ""

    def copy_to(self, folder: Path) -> HubFolder:
        return HubFolder(self.fed.copy_to(folder), self.request, self.update)


@pytest.fixture(scope="module")
def base(made: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubFolder]:
    """Round 1 is merged except one quarantined update; round 2 is open, with updates of two sites.

    A fourth site is invited, and two requests use a fifth's invite, so that a person must decide.
    """
    with pytest.MonkeyPatch.context() as patch:
        kills.open_in_this_process(patch)
        fed = made.copy_to(tmp_path_factory.mktemp("base") / "federation")
        first = fed.open()
        fed.send_updates(first, without=("site-003",))
        scaled = {name: (array + 3).astype("f4") for name, array in fed.drawn_update(first, fed.clinics[2]).items()}
        receive.receive(fed.hub, fed.clinics[2].give(first, scaled))
        assert fed.aggregate(now=True)["accepted"] == ["site-001", "site-002"]
        packs.save(fed.folder / "old.safetensors", test_pack.sample_pack(10))
        packs.save(fed.folder / "pack.safetensors", test_pack.sample_pack(20))
        with (fed.folder / "old.safetensors").open("rb") as body:
            fed.hub.publish_knowledge(fed.coordinator_keys, body, test_pack.sample_pack(10))
        second = fed.open()
        fed.send_updates(second, without=("site-003",))
        fed.judge()
        members.invite(fed.hub, "Clinic 4", "small", 14)
        code, _ = members.invite(fed.hub, "Clinic 5", "small", 14)
        requests = [
            receive.receive(fed.hub, SimulatedClinic(fed.hub.federation, fed.folder / name).enrolment_request(code))
            for name in "ab"
        ]
        fed.judge()
        (fed.folder / "plan.toml").write_text(fed.plan.text)
        (fed.folder / "stick").mkdir()
        update = fed.hub.database.row("SELECT hash FROM shares WHERE state = 'quarantined'")
        assert update
        hub_folder = HubFolder(fed, requests[0].hash, update["hash"])
        fed.hub.database.close()
    assert hub_folder.type("backup") == ""
    (fed.folder / "backup.tar").rename(fed.folder / "before.tar")
    yield hub_folder


def hub_state(hub_folder: HubFolder) -> dict[str, Any]:
    """The state of the hub without anything random."""
    home = hub_folder.home
    for folder in (home, hub_folder.folder / "hub"):
        make_old(folder)
    with closing(Hub(home, clock=hub_folder.fed.clock).database) as database:
        hub = Hub(home, clock=hub_folder.fed.clock)
        coordinator_keys = hub.coordinator_keys(nobody)
        hub.check()
        database.reconcile()
        charter = hub.charter
        round_keys = sorted((home / "round-keys").iterdir())
        for path in round_keys:
            assert judge.round_key(hub, coordinator_keys, int(path.stem)).startswith("AGE-SECRET-KEY-")
            assert path.read_bytes().count(b"-> X25519") == 1, "sealed for a key that is not current"
        state = {
            "charter": (charter.version, charter.epoch, len(charter.roots)),
            "coordinator": charter.coordinator == coordinator_keys.public.sign,
            "sites": [(site.id, site.status, site.from_round) for site in hub.roster.sites],
            "invites": [(invite["site"], invite["state"]) for invite in invites.list_all(hub)],
            "rounds": [(row["round"], row["state"], row["base"], row["model"]) for row in database.rows(
                "SELECT * FROM rounds ORDER BY round"
            )],
            "shares": [tuple(row) for row in database.rows("SELECT hash, state, counts FROM shares ORDER BY hash")],
            "log": [(row["type"], row["subject"] if row["type"] != "knowledge" else "") for row in database.rows(
                "SELECT type, subject FROM log ORDER BY seq"
            ) if row["type"] != "received"],
            "parcels": sorted(row["kind"] for row in database.rows("SELECT kind FROM parcels")),
            "files": len(list((home / "parcels").glob("*/*"))),
            "knowledge": database.fact("knowledge"),
            "folders": sorted(path.name for path in home.iterdir()),
            "notes": sorted(path.name for path in home.glob("coordinator*/*")),
            "round keys": [path.name for path in round_keys],
            "opened": {path.name: path.read_bytes() for path in (home / "shares").iterdir()},
            "models": sorted(path.name for path in (home / "models").iterdir()),
            "outside": sorted(path.name for path in hub_folder.folder.iterdir() if path.name[0] != "."),
            "temporary": [path.name for path in hub_folder.folder.rglob("*.part")],
        }  # fmt: skip
        hub.database.close()
    for name in ("new-root", "other-root"):
        if (hub_folder.folder / name).exists():
            state[name] = keys.load(hub_folder.folder / name, nobody).public.sign in charter.roots
    if (hub_folder.folder / "a.invite").exists():
        state["invite"] = invites._is_abandoned(Hub(home), hub_folder.folder / "a.invite")
    return state


def check_next_round(hub_folder: HubFolder) -> None:
    """Admits a site if needed, opens and merges a round; checks that the coordinator has signed the knowledge."""
    fed = hub_folder.fed
    if hub_folder.home != hub_folder.folder / "hub":
        shutil.rmtree(hub_folder.folder / "hub")
        hub_folder.home.rename(hub_folder.folder / "hub")
    hub = fed.hub = Hub(hub_folder.folder / "hub", clock=fed.clock)
    fed.coordinator_keys = hub.coordinator_keys(nobody)
    active_ids = {site.id for site in hub.roster.sites if site.status == "active"}
    fed.clinics = [clinic for clinic in fed.clinics if clinic.id in active_ids]
    for clinic in fed.clinics:
        clinic.federation = hub.federation
    fed.judge()
    if hub.newest_round()["state"] == State.OPEN:
        lifecycle.cancel_round(hub, hub.newest_round())
    if lifecycle.is_finished(hub):
        return
    while len(fed.clinics) < 2:
        fed.join()
    task = fed.open()
    fed.send_updates(task)
    outcome = fed.aggregate(now=True)
    assert {clinic.id for clinic in fed.clinics} <= set(outcome["accepted"])
    if hub.database.fact("knowledge"):
        sealed = hub.database.parcel_path(hub.newest_parcel("knowledge")["hash"])
        assert parcel.inspect(sealed, parcel.any_signer).keys == (hub.charter.coordinator,)
    hub.check()
    hub.database.close()


def kill_points(effort: Callable[[int, int], int], name: str, names: Sequence[str]) -> range:
    """The steps at which a command is killed: each with --proofs, else few, different for each command."""
    stride = effort(9 if name == "rotate --coordinator" else 1000, 1)
    return range(1 + (5 * names.index(name) + 7) % min(stride, 16), 1000, stride)


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("name", COMMANDS)
def test_g01_an_interrupted_command_is_typed_again_and_the_federation_continues(
    base: HubFolder, name: str, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    if power_cut and effort(1, 0):
        pytest.skip("with --proofs")
    undisturbed_hub = base.copy_to(tmp_path / "whole")
    assert undisturbed_hub.type(name) == undisturbed_hub.type_next() == ""
    undisturbed = hub_state(undisturbed_hub)
    for before in kill_points(effort, name, list(COMMANDS)):
        hub_folder = base.copy_to(tmp_path / "cut")
        if (code := hub_folder.type(name, dies_before=before, power_cut=power_cut)) != "killed":
            assert code == ""
            break
        again = hub_folder.type(name)
        assert again == "" or again in DONE_BEFORE, (before, again, (hub_folder.folder / "output").read_text())
        assert hub_folder.type_next() == ""
        assert hub_state(hub_folder) == undisturbed, before
        if not power_cut:
            check_next_round(hub_folder)
        shutil.rmtree(hub_folder.folder)
