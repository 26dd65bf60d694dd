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
from tests.federation import PLAN, SimulatedClinic
from tests.site_and_hub import SiteAndHub, succeeds


class Coordinator(SiteAndHub):
    """A coordinator who types commands, and clinics that draw their updates."""

    def ask(self, *words: str | Path) -> dict[str, Any]:
        return command.json_output(succeeds(self.hub(*words, "--json")))

    def invited(self, number: int) -> SimulatedClinic:
        name, invite = f"Clinic {number}", self.folder / f"{number}.invite"
        succeeds(self.hub("invite", name, "--tier", "small", "--out", invite))
        return self.joins(invite, number)

    def joins(self, invite_path: Path, number: int = 1) -> SimulatedClinic:
        """Puts a clinic's request on the stick."""
        invite_file = json.loads(invite_path.read_text())
        first = self.folder / "charter.fhx"
        first.write_bytes(base64.b64decode(invite_file["charters"][0]))
        with parcel.open(first, parcel.any_signer) as opened:
            pinned = charter.read_first(opened.statement, opened.keys, opened.json(), invite_file["federation"])
        clinic = SimulatedClinic(pinned.federation, self.folder / f"clinic{number}")
        clinic.id = invite_file["site"]
        clinic.enrolment_request(invite_file["code"], f"Clinic {number}").rename(
            self.stick / "to-coordinator" / f"request {number}"
        )
        return clinic

    def round(self, clinics: list[SimulatedClinic], *, factor: float = 1.0) -> None:
        hub = Hub(self.folder / "hub")
        open_task = max(hub.tasks().values(), key=lambda task: task.round)
        for clinic in clinics:
            base = models.load(hub, open_task.base)
            arrays = {name: (array + 0.01 * factor * int(clinic.id[-1])).astype("f4") for name, array in base.items()}
            path = clinic.give(open_task, arrays)
            path.rename(self.stick / "to-coordinator" / path.name)
        hub.database.close()


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    coordinator = Coordinator(tmp_path_factory.mktemp("coordinator"), PLAN.replace("rounds = 12", "rounds = 2"))
    (coordinator.stick / "to-coordinator").mkdir()
    return coordinator


def test_two_rounds_over_a_stick_as_typed(coordinator: Coordinator) -> None:
    federation_id = coordinator.ask("init", "--plan", "plan.toml", "--root-key", coordinator.folder / "root")[
        "federation"
    ]
    clinics = [coordinator.invited(number) for number in (1, 2, 3)]
    exchanged = coordinator.ask("exchange", coordinator.stick)
    assert [decision["state"] for decision in exchanged["decided"]] == ["approved"] * 3
    assert [site["status"] for site in coordinator.ask("roster", "--allowed-signers", "signers")["sites"]] == [
        "active"
    ] * 3

    assert coordinator.ask("open")["round"] == 1
    succeeds(coordinator.hub("exchange", coordinator.stick))
    coordinator.round(clinics[:2])
    exchanged = coordinator.ask("exchange", coordinator.stick)
    assert [decision["state"] for decision in exchanged["decided"]] == ["accepted"] * 2
    status = coordinator.ask("status")
    assert (status["federation"], status["state"], status["missing"]) == (federation_id, "open", ["site-003"])
    assert command.error_code(coordinator.hub("aggregate")) == "E_QUORUM"
    first = coordinator.ask("aggregate", "--now")
    assert (first["accepted"], first["published"]) == (["site-001", "site-002"], True)

    succeeds(coordinator.hub("backup", coordinator.folder / "hub.tar"))
    coordinator.ask("open")
    succeeds(coordinator.hub("exchange", coordinator.stick))
    coordinator.round(clinics)
    succeeds(coordinator.hub("exchange", coordinator.stick))
    second = coordinator.ask("aggregate")
    assert second["accepted"] == ["site-001", "site-002", "site-003"]
    assert coordinator.ask("status")["state"] == "finished"
    succeeds(coordinator.hub("exchange", coordinator.stick))
    round_, _ = clinics[0].model(coordinator.stick / "from-coordinator")
    assert round_ == 2
    assert coordinator.ask("audit", "verify")["length"] > 10
    coordinator.ask("audit", "export", "2", "round-2")
    assert "3 updates" in succeeds(coordinator.site("audit", "round-2")).stdout


def test_a_site_with_a_stolen_pc_is_revoked_and_its_updates_are_removed(coordinator: Coordinator) -> None:
    coordinator.ask("revoke", "site-002", "--since-round", "1", "--reason", "PC stolen")
    assert [site["status"] for site in coordinator.ask("roster")["sites"]] == ["active", "revoked", "active"]
    reaggregated = coordinator.ask("reaggregate", "--without", "site-002", "--archive-key", coordinator.folder / "root")
    assert reaggregated["round"] == 3
    audited = command.json_output(succeeds(coordinator.site("audit", "round-2", "--json")))
    assert reaggregated["merged_sha256"] != audited["merged_sha256"]


def test_a_hub_is_restored_from_its_backup_with_the_root_key(coordinator: Coordinator) -> None:
    words = (
        "restore",
        coordinator.folder / "hub.tar",
        "--root-key",
        coordinator.folder / "root",
        "--home",
        coordinator.folder / "again",
    )
    assert "epoch 2, round 1" in succeeds(coordinator.hub(*words)).stdout
    assert command.error_code(coordinator.hub(*words)) == "E_FILE_EXISTS"


def test_commands_for_missing_things_fail_with_a_remedy(coordinator: Coordinator) -> None:
    assert command.error_code(coordinator.hub("status", "--home", "nowhere")) == "E_HUB"
    assert command.error_code(coordinator.hub("approve", "site-009")) == "E_SITE"
    assert command.error_code(coordinator.hub("review", "site-001", "--release")) == "E_STATE"
    assert command.error_code(coordinator.hub("open")) == "E_STATE"


def test_the_unattended_coordinator_completes_all_rounds(tmp_path: Path) -> None:
    from server_ref.admin import unattended

    three = federation.Federation(tmp_path, PLAN.replace("rounds = 12", "rounds = 2"))
    stick = tmp_path / "synced"
    is_done, news = unattended.step(three.hub, three.coordinator_keys, stick)
    for round_ in (1, 2):
        assert f"round {round_} is open" in news
        task = three.hub.tasks()[round_]
        for clinic in three.clinics:
            path = clinic.give(task, three.drawn_update(task, clinic))
            path.rename(stick / "to-coordinator" / path.name)
        is_done, news = unattended.step(three.hub, three.coordinator_keys, stick)
        assert f"round {round_}: 3 updates merged" in news
    assert is_done
