"""The commands of docs/coordinator.md, typed line by line as they stand there, from the first plan to the audit."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests import command
from tests.federation import PLAN
from tests.journeys.test_a_coordinator import Coordinator
from tests.site_and_hub import succeeds

PAGE = (Path(__file__).parents[2] / "docs" / "coordinator.md").read_text(encoding="utf-8")
PLACES = {"/media/": "media/", "/backup/": "media/", "/tmp/": "media/", "$(date +%F)": "2026-11-20"}


def block(first_words: str) -> list[list[str]]:
    """The commands of the block that starts so."""
    (lines,) = re.findall(rf"```sh\n({re.escape(first_words)}.*?)```", PAGE, re.S)
    for there, here in PLACES.items():
        lines = lines.replace(there, here)
    return [words for line in lines.splitlines() if (words := shlex.split(line, comments=True))]


def run_block(coordinator: Coordinator, first_words: str) -> str:
    printed = ""
    for program, *words in block(first_words):
        done = coordinator.site(*words) if program == "fedhelp-edge" else coordinator.hub(*words)
        printed += succeeds(done).stdout
        if words[:2] == ["plan", "new"]:  # the page says "then write your classes into it"; here a small plan
            (coordinator.folder / words[2]).write_text(PLAN.replace("quorum = 2", "quorum = 1"))
    return printed


def test_a_newcomer_types_the_coordinators_page_from_the_first_plan_to_the_audit(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path, "")
    (tmp_path / "plan.toml").unlink()
    coordinator.stick = tmp_path / "media" / "stick"
    (coordinator.stick / "to-coordinator").mkdir(parents=True)

    run_block(coordinator, "# at the coordinator, before the stick travels")
    clinic = coordinator.joins(tmp_path / "clinic-a.invite")
    assert "site-001: approved" in run_block(
        coordinator, "# at the coordinator, with the clinic's request on the stick"
    )
    assert clinic.model(coordinator.stick / "from-coordinator")[0] == 0
    coordinator.round([clinic])
    output = run_block(coordinator, "# at the coordinator, with the clinic's update on the stick")
    assert "round 1: 1 update merged" in output
    assert clinic.model(coordinator.stick / "from-coordinator")[0] == 1
    run_block(coordinator, "fedhelp-coordinator backup")
    assert command.json_output(succeeds(coordinator.hub("status", "--home", "media/drill", "--json")))["round"] == 1
    assert "nothing is missing and nothing was added" in run_block(coordinator, "fedhelp-coordinator audit verify")
    assert "coordinator" in (tmp_path / "allowed_signers").read_text()
