"""A coordinator's weeks, as typed: every command of the coordinator's journey, over a stick."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.parcel import parcel
from fedhelp_edge.trust import charter
from server_ref.hub import models
from server_ref.hub.hub import Hub
from tests import command, federation
from tests.desk import Desk, works
from tests.federation import PLAN, Clinic


class Coordinator(Desk):
    """A coordinator's desk, and clinics that draw their shares."""

    def ask(self, *words: str | Path) -> dict[str, Any]:
        return command.answer(works(self.hub(*words, "--json")))

    def invited(self, number: int) -> Clinic:
        name, invite = f"Clinic {number}", self.folder / f"{number}.invite"
        works(self.hub("invite", name, "--tier", "small", "--out", invite))
        return self.joins(invite, number)

    def joins(self, invite_path: Path, number: int = 1) -> Clinic:
        """A clinic puts its request on the stick."""
        invite_file = json.loads(invite_path.read_text())
        first = self.folder / "charter.fhx"
        first.write_bytes(base64.b64decode(invite_file["charters"][0]))
        with parcel.open(first, parcel.any_signer) as opened:
            pinned = charter.read_first(opened.statement, opened.keys, opened.json(), invite_file["federation"])
        clinic = Clinic(pinned.federation, self.folder / f"clinic{number}")
        clinic.id = invite_file["site"]
        clinic.ask_in(invite_file["code"], f"Clinic {number}").rename(
            self.stick / "to-coordinator" / f"request {number}"
        )
        return clinic

    def round(self, clinics: list[Clinic], *, factor: float = 1.0) -> None:
        hub = Hub(self.folder / "hub")
        open_task = max(hub.tasks().values(), key=lambda task: task.round)
        for clinic in clinics:
            base = models.load(hub, open_task.base)
            arrays = {name: (array + 0.01 * factor * int(clinic.id[-1])).astype("f4") for name, array in base.items()}
            path = clinic.give(open_task, arrays)
            path.rename(self.stick / "to-coordinator" / path.name)
        hub.database.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    desk = Coordinator(tmp_path_factory.mktemp("desk"), PLAN.replace("rounds = 12", "rounds = 2"))
    (desk.stick / "to-coordinator").mkdir()
    return desk


def test_two_rounds_over_a_stick_as_typed(desk: Coordinator) -> None:
    federation_id = desk.ask("init", "--plan", "plan.toml", "--root-key", desk.folder / "root")["federation"]
    clinics = [desk.invited(number) for number in (1, 2, 3)]
    exchanged = desk.ask("exchange", desk.stick)
    assert [decision["state"] for decision in exchanged["decided"]] == ["approved"] * 3
    assert [site["status"] for site in desk.ask("roster", "--allowed-signers", "signers")["sites"]] == ["active"] * 3

    assert desk.ask("open")["round"] == 1
    works(desk.hub("exchange", desk.stick))
    desk.round(clinics[:2])
    exchanged = desk.ask("exchange", desk.stick)
    assert [decision["state"] for decision in exchanged["decided"]] == ["accepted"] * 2
    status = desk.ask("status")
    assert (status["federation"], status["state"], status["missing"]) == (federation_id, "open", ["site-003"])
    assert command.refusal(desk.hub("aggregate")) == "E_QUORUM"
    first = desk.ask("aggregate", "--now")
    assert (first["accepted"], first["published"]) == (["site-001", "site-002"], True)

    works(desk.hub("backup", desk.folder / "hub.tar"))
    desk.ask("open")
    works(desk.hub("exchange", desk.stick))
    desk.round(clinics)
    works(desk.hub("exchange", desk.stick))
    second = desk.ask("aggregate")
    assert second["accepted"] == ["site-001", "site-002", "site-003"]
    assert desk.ask("status")["state"] == "finished"
    works(desk.hub("exchange", desk.stick))
    round_, _ = clinics[0].model(desk.stick / "from-coordinator")
    assert round_ == 2
    assert desk.ask("audit", "verify")["length"] > 10
    desk.ask("audit", "export", "2", "round-2")
    assert "3 updates" in works(desk.site("audit", "round-2")).stdout


def test_a_stolen_pc_is_shut_out_and_its_work_undone(desk: Coordinator) -> None:
    desk.ask("revoke", "site-002", "--since-round", "1", "--reason", "PC stolen")
    assert [site["status"] for site in desk.ask("roster")["sites"]] == ["active", "revoked", "active"]
    reaggregated = desk.ask("reaggregate", "--without", "site-002", "--archive-key", desk.folder / "root")
    assert reaggregated["round"] == 3
    audited = command.answer(works(desk.site("audit", "round-2", "--json")))
    assert reaggregated["merged_sha256"] != audited["merged_sha256"]


def test_a_hub_comes_back_from_its_backup_with_the_root_key(desk: Coordinator) -> None:
    words = ("restore", desk.folder / "hub.tar", "--root-key", desk.folder / "root", "--home", desk.folder / "again")
    assert "epoch 2, round 1" in works(desk.hub(*words)).stdout
    assert command.refusal(desk.hub(*words)) == "E_FILE_EXISTS"


def test_what_is_not_there_is_said_with_a_remedy(desk: Coordinator) -> None:
    assert command.refusal(desk.hub("status", "--home", "nowhere")) == "E_HUB"
    assert command.refusal(desk.hub("approve", "site-009")) == "E_SITE"
    assert command.refusal(desk.hub("review", "site-001", "--release")) == "E_STATE"
    assert command.refusal(desk.hub("open")) == "E_STATE"


def test_the_unattended_coordinator_plays_all_rounds_by_itself(tmp_path: Path) -> None:
    from server_ref.admin import unattended

    three = federation.Federation(tmp_path, PLAN.replace("rounds = 12", "rounds = 2"))
    stick = tmp_path / "synced"
    is_done, news = unattended.step(three.hub, three.coordinator_keys, stick)
    for round_ in (1, 2):
        assert f"round {round_} is open" in news
        task = three.hub.tasks()[round_]
        for clinic in three.clinics:
            path = clinic.give(task, three.drawn(task, clinic))
            path.rename(stick / "to-coordinator" / path.name)
        is_done, news = unattended.step(three.hub, three.coordinator_keys, stick)
        assert f"round {round_}: 3 updates merged" in news
    assert is_done
