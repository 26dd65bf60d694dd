"""Faults G01 and G04 for what is typed once in a while: each command is killed, or its power cut, before each thing
that it makes durable, and typed again. Then all is as if it had not been disturbed, and rounds go on."""

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
from tests.faults.test_kills import age
from tests.federation import Federation, SimulatedClinic, nobody
from tests.unit.data import test_pack

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX"),
    pytest.mark.usefixtures("open_in_process"),
    pytest.mark.proof,
]

DONE_BEFORE = {  # what a command says that was killed behind its last step: that nothing is left to be done
    "E_STATE", "E_SITE", "E_FILE_EXISTS", "E_KEYS_EXIST",
}  # fmt: skip
COORDINATORS = {
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
    "aggregate": "aggregate --now",
    "exchange": "exchange {folder}/stick",
    "audit export": "audit export 1 {folder}/audit",
    "finish": "finish",
    "clock --accept": "clock --accept",
}


@dataclass
class Desk:
    """A federation in a folder, and what a command of its coordinator is about."""

    fed: Federation
    request: str
    update: str

    @property
    def folder(self) -> Path:
        return self.fed.folder

    @property
    def home(self) -> Path:
        """The hub that is there after `init` or `restore`, else the only one."""
        other = self.folder / "other"
        return other if other.exists() else self.folder / "hub"

    def type(self, name: str, **fate: Any) -> str:
        """Type a command; "" or the code that it was refused with, "killed" where it was."""
        places = {"folder": self.folder, "hub": self.folder / "hub", "request": self.request, "update": self.update}
        words = [word.format(**places) for word in COORDINATORS[name].split()]
        code = kills.run(kills.type_in, self.folder, "server_ref.cli", words, str(self.folder / "hub"), **fate)
        if code == kills.KILLED:
            return "killed"
        said = (self.folder / "said").read_text()
        assert "Traceback" not in said, said
        return (
            "" if code == 0 else next(line for line in said.splitlines() if line.startswith("error: ")).split(": ")[1]
        )

    def type_next(self) -> str:
        """Another command, which clears away what is no longer needed."""
        done = command.run_in_process(
            "audit", "verify", "--home", self.home, home=self.folder, program=command.COORDINATOR
        )
        return done.stderr if done.returncode else ""

    def copy_to(self, folder: Path) -> Desk:
        return Desk(self.fed.copy_to(folder), self.request, self.update)


@pytest.fixture(scope="module")
def base(made: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Round 1 merged but for one site's update, which is in quarantine; round 2 open, with updates of two sites.

    A fourth site is invited, and two ask on a fifth's invite, so that none of them is let in without a person.
    """
    with pytest.MonkeyPatch.context() as patch:
        kills.open_here(patch)
        fed = made.copy_to(tmp_path_factory.mktemp("base") / "federation")
        first = fed.open()
        fed.send_updates(first, without=("site-003",))
        wild = {name: (array + 3).astype("f4") for name, array in fed.drawn_update(first, fed.clinics[2]).items()}
        receive.receive(fed.hub, fed.clinics[2].give(first, wild))
        assert fed.aggregate(now=True)["accepted"] == ["site-001", "site-002"]
        packs.save(fed.folder / "old.safetensors", test_pack.sample_pack(10))
        packs.save(fed.folder / "pack.safetensors", test_pack.sample_pack(20))
        with (fed.folder / "old.safetensors").open("rb") as body:
            fed.hub.publish_knowledge(fed.coordinator_keys, body)
        second = fed.open()
        fed.send_updates(second, without=("site-003",))
        fed.judge()
        members.invite(fed.hub, "Clinic 4", "small", 14)
        code, _ = members.invite(fed.hub, "Clinic 5", "small", 14)
        asked = [
            receive.receive(fed.hub, SimulatedClinic(fed.hub.federation, fed.folder / name).enrolment_request(code))
            for name in "ab"
        ]
        fed.judge()
        (fed.folder / "plan.toml").write_text(fed.plan.text)
        (fed.folder / "stick").mkdir()
        update = fed.hub.database.row("SELECT hash FROM shares WHERE state = 'quarantined'")
        assert update
        desk = Desk(fed, asked[0].hash, update["hash"])
        fed.hub.database.close()
    assert desk.type("backup") == ""
    (fed.folder / "backup.tar").rename(fed.folder / "before.tar")
    yield desk


def seen(desk: Desk) -> dict[str, Any]:
    """All that a person would miss, and nothing that is drawn anew each time."""
    home = desk.home
    for folder in (home, desk.folder / "hub"):
        age(folder)
    with closing(Hub(home, clock=desk.fed.clock).database) as store:
        hub = Hub(home, clock=desk.fed.clock)
        coordinator_keys = hub.coordinator_keys(nobody)
        hub.check()
        store.reconcile()
        charter = hub.charter
        round_keys = sorted((home / "round-keys").iterdir())
        for path in round_keys:
            assert judge.round_key(hub, coordinator_keys, int(path.stem)).startswith("AGE-SECRET-KEY-")
            assert path.read_bytes().count(b"-> X25519") == 1, "sealed for a key that is not in force"
        found = {
            "charter": (charter.version, charter.epoch, len(charter.roots)),
            "coordinator": charter.coordinator == coordinator_keys.public.sign,
            "sites": [(site.id, site.status, site.from_round) for site in hub.roster.sites],
            "invites": [(one["site"], one["state"]) for one in invites.list_all(hub)],
            "rounds": [(row["round"], row["state"], row["base"], row["model"]) for row in store.rows(
                "SELECT * FROM rounds ORDER BY round"
            )],
            "shares": [tuple(row) for row in store.rows("SELECT hash, state, counts FROM shares ORDER BY hash")],
            "log": [(row["type"], row["subject"] if row["type"] != "knowledge" else "") for row in store.rows(
                "SELECT type, subject FROM log ORDER BY seq"
            ) if row["type"] != "received"],
            "parcels": sorted(row["kind"] for row in store.rows("SELECT kind FROM parcels")),
            "files": len(list((home / "parcels").glob("*/*"))),
            "knowledge": store.fact("knowledge"),
            "folders": sorted(path.name for path in home.iterdir()),
            "notes": sorted(path.name for path in home.glob("coordinator*/*")),
            "round keys": [path.name for path in round_keys],
            "opened": {path.name: path.read_bytes() for path in (home / "shares").iterdir()},
            "models": sorted(path.name for path in (home / "models").iterdir()),
            "outside": sorted(path.name for path in desk.folder.iterdir() if path.name[0] != "."),
            "temporary": [path.name for path in desk.folder.rglob("*.part")],
        }  # fmt: skip
        hub.database.close()
    for name in ("new-root", "other-root"):
        if (desk.folder / name).exists():
            found[name] = keys.load(desk.folder / name, nobody).public.sign in charter.roots
    if (desk.folder / "a.invite").exists():
        found["invite"] = invites._is_abandoned(Hub(home), desk.folder / "a.invite")
    return found


def lives(desk: Desk) -> None:
    """A newcomer comes in, a round is opened and merged, and whoever joins can read what the federation knows."""
    fed = desk.fed
    if desk.home != desk.folder / "hub":
        shutil.rmtree(desk.folder / "hub")
        desk.home.rename(desk.folder / "hub")
    hub = fed.hub = Hub(desk.folder / "hub", clock=fed.clock)
    fed.coordinator_keys = hub.coordinator_keys(nobody)
    known = {site.id for site in hub.roster.sites if site.status == "active"}
    fed.clinics = [clinic for clinic in fed.clinics if clinic.id in known]
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


def places(effort: Callable[[int, int], int], name: str, names: Sequence[str]) -> range:
    """Where a command is killed: everywhere; or once, at another number for each command, and the new key's oftener."""
    stride = effort(9 if name == "rotate --coordinator" else 1000, 1)
    return range(1 + (5 * names.index(name) + 7) % min(stride, 16), 1000, stride)


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("name", COORDINATORS)
def test_g01_a_command_that_was_cut_off_is_typed_again_and_the_federation_lives(
    base: Desk, name: str, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    if power_cut and effort(1, 0):
        pytest.skip("with --proofs")
    whole = base.copy_to(tmp_path / "whole")
    assert whole.type(name) == whole.type_next() == ""
    undisturbed = seen(whole)
    for before in places(effort, name, list(COORDINATORS)):
        desk = base.copy_to(tmp_path / "cut")
        if (code := desk.type(name, dies_before=before, power_cut=power_cut)) != "killed":
            assert code == ""
            break
        again = desk.type(name)
        assert again == "" or again in DONE_BEFORE, (before, again, (desk.folder / "said").read_text())
        assert desk.type_next() == ""
        assert seen(desk) == undisturbed, before
        if not power_cut:
            lives(desk)
        shutil.rmtree(desk.folder)
