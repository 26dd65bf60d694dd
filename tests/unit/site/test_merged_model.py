"""A site sees how good the merged models are on its own validation images, whatever the coordinator sees."""

from __future__ import annotations

import json

import pytest

from fedhelp_edge.site import status
from tests import command
from tests.clinic import Clinic


def arrive(clinic: Clinic, *right: int, val: int = 100) -> None:
    """Rounds were trained, and their merged models had these numbers of right validation images as they came."""
    for number, correct in enumerate(right, 1):
        round_dir = clinic.home / "rounds" / f"0001-{number:06}"
        round_dir.mkdir(parents=True, exist_ok=True)
        report = {"round": number, "figure": "accuracy", "base": {"val": val, "correct": correct}}
        (round_dir / "report.json").write_text(json.dumps(report))


@pytest.fixture
def joined(clinic: Clinic) -> Clinic:
    clinic.join()
    return clinic


def shown(clinic: Clinic) -> str:
    done = command.run_in_process("status", home=clinic.home.parent, env={"FEDHELP_HOME": str(clinic.home)})
    return done.stdout


def test_status_tells_a_site_how_good_the_merged_model_is_here(joined: Clinic) -> None:
    assert status.status(joined.home)["merged"] is None
    arrive(joined, 50, 90, 92, 91, 89)
    assert status.status(joined.home)["merged"] == {
        "round": 4, "figure": "accuracy", "val": 100, "correct": 89, "fallen_from": None,
    }  # fmt: skip
    assert "the merged model of round 4: accuracy 0.89 on your validation images" in shown(joined)
    assert "WORSE" not in shown(joined)


def test_a_merged_model_that_is_far_worse_here_is_told_to_the_site(joined: Clinic) -> None:
    arrive(joined, 90, 92, 91, 60)
    assert "WORSE: those before it had 0.91. Phone the coordinator" in shown(joined)


@pytest.mark.parametrize("right", [(90, 50), (50, 70, 90, 69)])
def test_first_rounds_and_rounds_that_differ_among_themselves_are_no_alarm(
    joined: Clinic, right: tuple[int, ...]
) -> None:
    arrive(joined, *right)
    assert "WORSE" not in shown(joined)


def test_few_validation_images_may_differ_by_chance(joined: Clinic) -> None:
    arrive(joined, 9, 9, 9, 6, val=10)
    assert "WORSE" not in shown(joined)


def test_a_site_without_validation_images_or_with_a_damaged_report_is_told_nothing(joined: Clinic) -> None:
    arrive(joined, 0, val=0)
    assert status.status(joined.home)["merged"] is None
    (joined.home / "rounds" / "0001-000001" / "report.json").write_text("{")
    assert status.status(joined.home)["merged"] is None
