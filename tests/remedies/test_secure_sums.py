"""Errors of a secure sum, as people meet them: the test follows the hint, and the next round goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.errors import PrivacyChangedError, SumRangeError
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import PrivacySettings
from fedhelp_edge.site import privacy_pin
from server_ref.intake import receive
from tests import command
from tests.faults import kills
from tests.federation import PLAN
from tests.site_and_hub import Completed, SiteAndHub, fails_with, succeeds
from tests.unit.secure_sum.federation import SecureFederation


@pytest.fixture
def fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecureFederation]:
    kills.open_in_this_process(monkeypatch)
    federation = SecureFederation(tmp_path / "federation")
    yield federation
    federation.hub.database.close()


def helper(fed: SecureFederation, *words: str | Path) -> Completed:
    return command.run_in_process(
        *words, home=fed.folder, program=command.HELPER, env={"FEDHELP_HOME": str(fed.helper)}
    )


def test_a_refused_set_is_followed_by_the_next_round(fed: SecureFederation) -> None:
    fed.ask()
    fed.restated_set(fed.seeds()[:2])
    fails_with(helper(fed, "sum", fed.stick), "E_SET", "in the next round")
    fed.exchange()  # the hub leaves its own set again
    for path in fed.on_stick("set"):
        if path.stem != fed.hub.named_set():
            path.unlink()
    succeeds(helper(fed, "sum", fed.stick))
    fed.exchange()
    assert fed.aggregate()["published"]
    fed.ask()
    assert command.json_output(helper(fed, "sum", fed.stick, "--json"))["state"] == "answered"


def test_after_an_answer_the_coordinator_takes_the_one_that_is_there(fed: SecureFederation) -> None:
    fed.ask()
    succeeds(helper(fed, "sum", fed.stick))
    fed.restated_set(fed.seeds()[1:])
    fails_with(helper(fed, "sum", fed.stick), "E_SET_ANSWERED", "the answer that is in the carrier folder")
    fed.exchange()
    assert fed.aggregate()["published"]


def test_a_sum_that_is_none_fails_the_round_and_the_next_one_opens(fed: SecureFederation) -> None:
    task = fed.open()
    words = np.random.default_rng(0).integers(0, 2**64, fed.format.length, np.uint64)
    receive.receive(fed.hub, fed.give(task, fed.clinics[0], words=words))
    fed.ask(task, without=("site-001",))
    fed.answer()
    fed.exchange()
    with pytest.raises(SumRangeError) as caught:
        fed.aggregate()
    assert (caught.value.code, "open the next round" in caught.value.remedy) == ("E_SUM_RANGE", True)
    fed.ask()
    assert fed.finish()["published"]


def test_an_unusual_sum_is_looked_at_and_released(fed: SecureFederation) -> None:
    def coordinator(*words: str) -> Completed:
        env = {"FEDHELP_HOME": str(fed.hub.home)}
        return command.run_in_process(*words, home=fed.folder, program=command.COORDINATOR, env=env)

    for _ in range(3):
        fed.ask()
        fed.finish()
    task = fed.open()
    for clinic in fed.clinics:
        receive.receive(fed.hub, fed.give(task, clinic, fed.drawn_update(task, clinic, 0.05)))
    fed.aggregate()
    fed.exchange()
    held = fed.finish()["held"]
    assert held["code"] == "E_SUM_UNUSUAL"
    assert "'fedhelp-coordinator review sum --release'" in coordinator("review").stdout
    succeeds(coordinator("review", "sum", "--release"))
    assert "round 4: 4 updates merged" in succeeds(coordinator("aggregate")).stdout


def test_a_site_that_agrees_to_other_privacy_leaves_and_joins_again(tmp_path: Path) -> None:
    people = SiteAndHub(tmp_path, PLAN, locked=False)
    people.join()
    public, home = keys.generate().public, tmp_path / "site"
    agreed = PrivacySettings("secure-sum", public.recipient, public.sign)
    privacy_pin.check(home, PrivacySettings())
    privacy_pin.check(home, agreed)  # from plain to more
    privacy_pin.check(home, agreed)
    other = keys.generate().public
    for weaker in (PrivacySettings(), replace(agreed, helper_key=other.recipient, helper_sign=other.sign)):
        with pytest.raises(PrivacyChangedError) as caught:
            privacy_pin.check(home, weaker)
        assert (caught.value.code, "leave" in caught.value.remedy) == ("E_PRIVACY", True)
    succeeds(people.site("leave"))
    privacy_pin.check(home, PrivacySettings())


def test_a_helper_by_its_commands(fed: SecureFederation) -> None:
    new = command.run_in_process(
        "init", "--no-passphrase", "--json", home=fed.folder, program=command.HELPER,
        env={"FEDHELP_HOME": str(fed.folder / "new")},
    )  # fmt: skip
    assert command.json_output(new)["helper_key"].startswith("age1")
    fails_with(helper(fed, "init", "--post-quantum"), "E_KEYS_EXIST", "choose another folder with --home")
    other = helper(fed, "init", "--post-quantum", "--no-passphrase", "--json", "--home", fed.folder / "post-quantum")
    assert command.json_output(other)["helper_key"].startswith("age1pq1")
    (fed.folder / "plan.toml").write_text(fed.plan.text)
    agreed = helper(fed, "init", "--plan", "plan.toml", "--federation", fed.hub.federation, "--json")
    assert command.json_output(agreed)["federation"] == fed.hub.federation
    fails_with(helper(fed, "init", "--plan", "plan.toml"), "E_USAGE", "--help")
    fed.ask()
    assert "round 1: the sum of 4 masks" in succeeds(helper(fed, "sum", fed.stick)).stdout
    state = command.json_output(helper(fed, "status", "--json"))
    assert state["answered"] == [{"round": 1, "sites": [clinic.id for clinic in fed.clinics]}]
    assert [len(site["words"].split()) for site in state["sites"]] == [8, 8, 8, 8]
    assert "at least 3 sites" in succeeds(helper(fed, "status")).stdout
