"""What a site's images have spent: once for each training, also after kills, lost records and restored backups."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.errors import PrivacySpentError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import accountant
from fedhelp_edge.privacy.accountant import NoisySteps
from fedhelp_edge.site import privacy_budget
from fedhelp_edge.trust.task import Task
from tests.faults import kills
from tests.unit.privacy.plans import TEXT
from tests.unit.secure_sum.plans import plan_text

PLAN = plans.read(TEXT, METHODS, {"rounds": "5", "privacy.epsilon": "30"})


@dataclass(frozen=True)
class OneTask:
    """What the budget asks of a task."""

    round: int = 1
    epoch: int = 1
    federation: str = "fh-a"

    @property
    def hash(self) -> str:
        return f"{self.federation}/{self.epoch}/{self.round}"


def pay(home: Path, images: str = "images", *, plan: Plan = PLAN, arithmetic: str = "here", **task: Any) -> bytes:
    return privacy_budget.pay(home, cast("Task", OneTask(**task)), plan, (images,), arithmetic)


def pay_in_another_process(home: Path) -> None:
    pay(home, round=2)


def spent(home: Path, rounds: int = 0, federation: str = "fh-a") -> float:
    return float(privacy_budget.spent(home, federation, PLAN, rounds)["epsilon"])


def of_rounds(count: int) -> float:
    """The epsilon of so many trainings."""
    return round(accountant.epsilon([accountant.round_of(PLAN, count)], PLAN.privacy.delta), 4) if count else 0.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def test_the_same_training_pays_once_and_has_the_same_noise(home: Path) -> None:
    assert spent(home) == 0
    key = pay(home)
    assert spent(home) == of_rounds(1)
    assert pay(home) == key
    assert pay(home, arithmetic="more threads") == key  # it goes on where it was interrupted
    assert spent(home) == of_rounds(1)
    assert pay(home, round=2) != key
    assert spent(home) == of_rounds(2)


def test_training_on_other_images_pays_again_with_other_noise_and_begins_anew(home: Path) -> None:
    key = pay(home)
    checkpoint = home / "rounds" / "0001-000001" / "own" / "1.state"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    assert pay(home) == key
    assert checkpoint.exists()
    assert pay(home, "one image more") != key
    assert not checkpoint.exists()
    assert spent(home) == of_rounds(2)


def test_two_sites_have_different_noise_for_the_same_training(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert pay(home) != pay(other)


def test_a_training_that_was_sent_and_is_repeated_by_other_arithmetic_has_other_noise(home: Path) -> None:
    """Two updates of one noise would show how their last bits differ."""
    key = pay(home)
    shutil.rmtree(home / "rounds")
    assert pay(home, arithmetic="another processor") != key
    assert spent(home) == of_rounds(2)


def test_rounds_of_which_records_are_lost_count_as_trained(home: Path, tmp_path: Path) -> None:
    for round_ in (1, 2, 3):
        pay(home, round=round_)
    shutil.rmtree(home)
    shutil.rmtree(tmp_path / "home-privacy")
    home.mkdir()
    assert spent(home, rounds=3) == of_rounds(3)
    pay(home, round=4)
    assert spent(home) == of_rounds(4)


def test_a_restored_backup_does_not_forget_a_second_training(home: Path, tmp_path: Path) -> None:
    pay(home)
    shutil.copytree(home, tmp_path / "backup")
    second = pay(home, "one image more")
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "backup", home)
    assert spent(home) == of_rounds(2)
    assert pay(home, "one image more") == second
    assert spent(home) == of_rounds(2)


def test_a_round_that_a_restored_coordinator_opens_again_is_another_spend(home: Path) -> None:
    pay(home, round=1)
    pay(home, round=2)
    pay(home, round=2, epoch=2)
    assert spent(home) == of_rounds(3)


def test_each_federation_has_a_budget_of_its_own(home: Path) -> None:
    pay(home)
    pay(home, federation="fh-b")
    assert spent(home) == spent(home, federation="fh-b") == of_rounds(1)


def test_no_training_begins_that_the_budget_does_not_allow(home: Path) -> None:
    plan = plans.read(TEXT, METHODS, {"rounds": "2", "privacy.epsilon": str(of_rounds(2) + 0.01)})
    pay(home, plan=plan)
    key = pay(home, plan=plan, round=2)
    with pytest.raises(PrivacySpentError, match=r"round 2 would bring epsilon to"):
        pay(home, "one image more", plan=plan, round=2)
    assert spent(home) == of_rounds(2)  # nothing was recorded, and what was paid for goes on
    assert pay(home, plan=plan, round=2) == key


def test_a_weaker_plan_later_is_added_to_what_was_spent(home: Path) -> None:
    pay(home)
    weaker = plans.read(TEXT, METHODS, {"privacy.noise_multiplier": "0.8", "privacy.epsilon": "100"})
    pay(home, plan=weaker, round=2)
    steps = [accountant.round_of(PLAN), accountant.round_of(weaker)]
    assert spent(home) == round(accountant.epsilon(steps, PLAN.privacy.delta), 4)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX")
@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_a_spend_that_is_killed_anywhere_is_made_once(
    home: Path, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    pay(home)
    before_kill = tmp_path / "before"
    shutil.copytree(home, before_kill)
    shutil.copytree(tmp_path / "home-privacy", tmp_path / "copy")
    for step in range(2 if power_cut else 1, 100, effort(4, 1)):
        code = kills.run(pay_in_another_process, home, dies_before=step, power_cut=power_cut)
        if code == 0:
            break
        assert code == kills.KILLED
        key = pay(home, round=2)
        assert (pay(home, round=2), spent(home)) == (key, of_rounds(2))
        for folder, saved in ((home, before_kill), (tmp_path / "home-privacy", tmp_path / "copy")):
            shutil.rmtree(folder)
            shutil.copytree(saved, folder)
    assert step > 5


def test_where_noise_hides_a_site_each_round_is_paid_once_and_none_beyond_the_budget(home: Path) -> None:
    """A round that a restored hub opens again is another sum."""
    text = plan_text(keys.generate().public, rounds=4, privacy="clip = 1.0\nsite_noise = 6.0\n")
    budget = accountant.epsilon([NoisySteps(6.0, 1.0, 4)], 1e-5) + 0.01
    plan = plans.read(text, METHODS, {"privacy.epsilon": str(round(budget, 3))})
    for round_, epoch in ((1, 1), (1, 1), (2, 1), (2, 2), (3, 2)):
        privacy_budget.pay_update(home, cast("Task", OneTask(round_, epoch)), plan)
    figures = privacy_budget.spent(home, "fh-a", plan, 3)
    assert figures == {"epsilon": round(budget - 0.01, 4), "delta": 1e-5, "budget": round(budget, 3), "unit": "site"}
    with pytest.raises(PrivacySpentError, match="round 4"):
        privacy_budget.pay_update(home, cast("Task", OneTask(4, 2)), plan)
    privacy_budget.pay_update(home, cast("Task", OneTask(3, 2)), plan)
