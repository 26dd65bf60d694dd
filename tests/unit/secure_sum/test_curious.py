"""Somebody tries to learn more than the sum of a round: a coordinator from its helper, or a helper's older self."""

from __future__ import annotations

import itertools
import random
import shutil
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.errors import FedhelpError, PrivacyChangedError
from fedhelp_edge.exchange.folder import FROM_COORDINATOR, TO_COORDINATOR, FolderCarrier
from fedhelp_edge.helper import answering
from fedhelp_edge.helper import home as homes
from fedhelp_edge.parcel import age, keys, parcel
from fedhelp_edge.secure_sum import arithmetic, parcels
from fedhelp_edge.site import inbox, outbox
from server_ref.hub import members
from server_ref.hub.hub import to_json
from server_ref.rounds import lifecycle
from tests.clinic import Clinic
from tests.unit.secure_sum.federation import SecureFederation


def refusal(fed: SecureFederation, home: Path | None = None) -> str:
    """The code with which the helper refuses, after which it must have told nothing."""
    with pytest.raises(FedhelpError) as caught:
        fed.answer(home)
    assert not fed.on_stick("sum", TO_COORDINATOR) if (fed.stick / TO_COORDINATOR).exists() else True
    return caught.value.code


def cancel(fed: SecureFederation) -> None:
    lifecycle.cancel_round(fed.hub, fed.hub.newest_round())


# --- the coordinator -------------------------------------------------------------------------------------------------
def test_the_coordinator_alone_sees_words_that_say_nothing(fed: SecureFederation) -> None:
    """Of all but one site's updates the coordinator may know everything: the last one still looks like random words."""
    task = fed.open()
    clinic = fed.clinics[0]
    plain = fed.format.quantise(fed.base(task), fed.drawn_update(task, clinic), fed.counts(clinic))
    for path in (fed.give(task, clinic), fed.give(task, clinic)):
        with parcel.open(path, parcel.any_signer, [_round_key(fed)]) as opened:
            arrays = dict(_load(opened.body))
            assert opened.facts == {}
        masked = arithmetic.as_words(arrays["masked"])
        assert not (masked == plain).any()
        assert abs(np.unpackbits(masked.view(np.uint8)).mean() - 0.5) < 0.01
        seed = parcels.read_seed(arrays["seed"].tobytes())
        with pytest.raises(FedhelpError):  # and the seed is for the helper alone
            parcels.open_seed(seed, _round_key(fed))


def _round_key(fed: SecureFederation) -> str:
    from server_ref.intake.judge import round_key

    return round_key(fed.hub, fed.coordinator_keys, 1)


def _load(body: Any) -> Any:
    from fedhelp_edge import update

    return update.load(body)


def test_a_set_with_one_site_missing_after_the_answer_is_refused(fed: SecureFederation) -> None:
    fed.ask()
    fed.answer()
    shutil.rmtree(fed.stick / TO_COORDINATOR)
    fed.restated_set(fed.seeds()[1:])
    assert refusal(fed) == "E_SET_ANSWERED"


def test_a_set_of_one_or_two_is_refused(fed: SecureFederation) -> None:
    fed.ask()
    seeds = fed.seeds()
    for chosen in (seeds[:1], seeds[:2], []):
        fed.restated_set(chosen)
        assert refusal(fed) == "E_SET"


def test_one_site_twice_or_one_seed_twice_does_not_fill_a_set(fed: SecureFederation) -> None:
    fed.ask()
    first, second, third, _ = fed.seeds()
    fed.restated_set([first, first, first])
    assert refusal(fed) == "E_SET"
    fed.restated_set([second, first, third])
    assert refusal(fed) == "E_SET"


def test_a_seed_of_an_earlier_round_is_refused(fed: SecureFederation) -> None:
    fed.ask()
    old = fed.seeds()
    fed.finish()
    shutil.rmtree(fed.stick / TO_COORDINATOR)
    fed.ask()
    fed.restated_set([old[0], *fed.seeds()[1:]])
    assert refusal(fed) == "E_SET"
    fed.restated_set(old)
    assert refusal(fed) == "E_SET"


def test_an_old_set_is_not_answered_after_a_newer_one(fed: SecureFederation, tmp_path: Path) -> None:
    fed.ask()
    fed.answer()
    old = shutil.copytree(fed.stick / FROM_COORDINATOR, tmp_path / "old")
    fed.finish()
    fed.ask()
    fed.answer()
    for path in fed.on_stick("set"):
        path.unlink()
    shutil.rmtree(fed.stick / TO_COORDINATOR)
    shutil.copytree(old, fed.stick / FROM_COORDINATOR, dirs_exist_ok=True)
    assert refusal(fed) == "E_SET"


def test_a_seed_that_its_site_did_not_sign_is_refused(fed: SecureFederation) -> None:
    """The coordinator makes seeds of its own for all but one site, to subtract their masks."""
    fed.ask()
    seeds = fed.seeds()
    context = dict(parcels.read_seed(seeds[0]).statement.context)
    for signer in (fed.coordinator_keys, keys.generate()):
        path = fed.folder / "forged"
        parcel.seal(path, context, bytes(32), signer.sign, context["recipients"])
        fed.restated_set([path.read_bytes(), *seeds[1:]])
        path.unlink()
        assert refusal(fed).startswith("E_SIGNER")


def test_a_set_that_somebody_else_names_is_passed_over(fed: SecureFederation) -> None:
    fed.ask()
    path = fed.named_set()
    context = parcel.inspect(path, parcel.any_signer).statement.context
    body = to_json(parcels.set_body(fed.seeds()))
    path.unlink()
    parcel.seal(path, context, body, keys.generate().sign)
    outcome = fed.answer()
    assert outcome.state == "nothing"
    assert [each["code"] for each in outcome.refused] == ["E_SIGNER_UNKNOWN"]


def test_a_forged_roster_is_not_followed(fed: SecureFederation) -> None:
    """Whoever lets sites in that the coordinator did not: the helper keeps the roster that it verified."""
    fed.ask()
    roster = next(iter(fed.on_stick("roster")))
    with parcel.open(roster, parcel.any_signer) as opened:
        payload, context = opened.json(), dict(opened.statement.context)
    payload["sites"][0]["sign"] = keys.generate().public.sign
    roster.unlink()
    parcel.seal(roster, {**context, "version": context["version"] + 1}, to_json(payload), keys.generate().sign)
    assert refusal(fed) in ("E_SET", "E_ROSTER", "E_TASK_ROSTER", "E_EXPIRED")  # without a roster no task is accepted


def test_a_task_under_another_plan_is_refused(fed: SecureFederation) -> None:
    """The coordinator lowers the quorum, or changes any other byte of what the helper agreed to."""
    fed.ask()
    pinned = fed.helper / "plan.toml"
    pinned.write_bytes(pinned.read_bytes() + b"# agreed\n")
    assert refusal(fed) == "E_SET"


@pytest.mark.parametrize("field", ["task", "base"])
def test_a_set_for_another_task_or_model_is_refused(fed: SecureFederation, field: str) -> None:
    fed.ask()
    fed.restated_set(fed.seeds(), **{field: "0" * 64})
    assert refusal(fed) == "E_SET"


# --- differencing across rounds --------------------------------------------------------------------------------------
def test_a_set_that_differs_by_one_from_the_same_model_is_refused(fed: SecureFederation) -> None:
    fed.ask()
    fed.answer()
    cancel(fed)  # the next round begins from the same model
    shutil.rmtree(fed.stick / TO_COORDINATOR)
    task = fed.open()
    fed.ask(task, without=("site-003",))
    assert refusal(fed) == "E_SET_ANSWERED"


def test_the_same_sites_from_the_same_model_are_answered(fed: SecureFederation) -> None:
    fed.ask()
    fed.answer()
    cancel(fed)
    fed.ask()
    assert fed.answer().sites == [clinic.id for clinic in fed.clinics]
    fed.exchange()
    assert fed.aggregate()["published"]


@pytest.mark.parametrize(
    ("before", "now", "allowed"),
    [
        ("abcd", "abcd", True),
        ("abcd", "abc", False),
        ("abcd", "abce", False),
        ("abcd", "abcde", False),
        ("abcdef", "abc", True),  # three differ: their difference is a sum of three
        ("abc", "def", True),
        ("abc def", "abcdefg", False),  # it differs from each by four, from their sum by one
        ("abc def", "abcdefghi", True),
    ],
)
def test_no_sums_from_one_model_show_fewer_than_three_sites(
    tmp_path: Path, before: str, now: str, allowed: bool
) -> None:
    sets = before.split()
    for number, sites in enumerate(sets, 1):
        ask_for(tmp_path, number, sites)
    with nullcontext() if allowed else pytest.raises(FedhelpError, match="from the same model"):
        ask_for(tmp_path, len(sets) + 1, now)


def ask_for(folder: Path, number: int, sites: str) -> None:
    """A helper is asked for a set, and answers it unless it refuses; all sets are from one model."""
    home = folder / "helper"
    home.mkdir(exist_ok=True)
    asked = homes.AnsweredSet(1, number, "b" * 64, tuple(sites), str(number))
    homes.check_new(home, asked, 3)
    homes.record(home, asked)


def test_whatever_sets_were_answered_no_combination_of_their_sums_shows_one_or_two_sites(tmp_path: Path) -> None:
    """Random sets of nine sites, each asked for after those that were answered; all their sums and differences."""
    stream = random.Random(1)
    several = 0
    for trial in range(20):
        (tmp_path / str(trial)).mkdir()
        answered = set()
        for number in range(12):
            sites = "".join(sorted(stream.sample("abcdefghi", stream.choice((3, 3, 6, 6, 9)))))
            with suppress(FedhelpError):
                ask_for(tmp_path / str(trial), number, sites)
                answered.add(sites)
        several += len(answered) > 1
        for factors in itertools.product((-1, 0, 1), repeat=len(answered)):
            sums = [sum(f for f, sites in zip(factors, answered, strict=True) if site in sites) for site in "abcdefghi"]
            assert sum(map(bool, sums)) not in (1, 2), (answered, factors)
    assert several > 5


# --- the helper ------------------------------------------------------------------------------------------------------
def test_a_helper_that_is_rolled_back_still_refuses_a_second_set(fed: SecureFederation, tmp_path: Path) -> None:
    fed.ask()
    backup = shutil.copytree(fed.helper, tmp_path / "backup")
    fed.answer()
    shutil.rmtree(fed.helper)
    shutil.copytree(backup, fed.helper)  # the copy of the records beside the folder is newer
    shutil.rmtree(fed.stick / TO_COORDINATOR)
    fed.restated_set(fed.seeds()[1:])
    assert refusal(fed) == "E_SET_ANSWERED"


def test_a_damaged_record_stops_the_helper(fed: SecureFederation) -> None:
    fed.ask()
    fed.answer()
    shutil.rmtree(fed.stick / TO_COORDINATOR)
    (record,) = (fed.helper / "answers").glob("*.json")
    record.write_bytes(b"{}")
    assert refusal(fed) == "E_SET_ANSWERED"


def test_the_helper_keeps_no_seed(fed: SecureFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    fed.ask()
    seeds: list[bytes] = []
    open_seed = parcels.open_seed
    monkeypatch.setattr(parcels, "open_seed", lambda *how: seeds.append(open_seed(*how)) or seeds[-1])
    fed.answer()
    stored = b"".join(path.read_bytes() for path in fed.helper.rglob("*") if path.is_file())
    assert len(seeds) == 4
    assert not any(seed in stored for seed in seeds)


def test_the_answer_is_the_sum_of_the_masks_and_no_single_one(fed: SecureFederation) -> None:
    fed.ask()
    sealed = [parcels.read_seed(seed) for seed in fed.seeds()]
    identity = keys.load(fed.helper, lambda: "").identity
    masks = [arithmetic.mask(parcels.open_seed(s, identity), fed.format.length) for s in sealed]
    fed.answer()
    (path,) = fed.on_stick("sum", TO_COORDINATOR)
    with parcel.open(path, parcel.any_signer) as opened:
        told = arithmetic.as_words(_load(opened.body)["masks"])
    assert (told == arithmetic.total(masks, fed.format.length)).all()
    assert not any((told == mask).any() for mask in masks)


def test_the_helper_alone_cannot_open_an_update(fed: SecureFederation) -> None:
    task = fed.open()
    path = fed.give(task, fed.clinics[0])
    with (
        pytest.raises(FedhelpError),
        parcel.open(path, parcel.any_signer, [keys.load(fed.helper, lambda: "").identity, age.new_identity()]),
    ):
        pass


def test_a_helper_that_agreed_to_nothing_answers_nothing(fed: SecureFederation, tmp_path: Path) -> None:
    homes.create(tmp_path / "other", lambda: None)
    fed.ask()
    assert refusal(fed, tmp_path / "other") == "E_NOT_YET"


def test_a_helper_agrees_once_and_only_to_a_plan_with_its_keys(fed: SecureFederation, tmp_path: Path) -> None:
    homes.pin(fed.helper, fed.plan, fed.hub.federation)  # the same again
    with pytest.raises(FedhelpError) as caught:
        homes.pin(fed.helper, fed.plan, "fh-" + "0" * 32)
    assert caught.value.code == "E_FILE_EXISTS"
    homes.create(tmp_path / "other", lambda: None)
    with pytest.raises(FedhelpError, match="another helper's keys"):
        homes.pin(tmp_path / "other", fed.plan, fed.hub.federation)


def test_a_site_that_changed_its_keys_after_its_update_is_still_in_the_set(fed: SecureFederation) -> None:
    fed.ask()
    new = keys.generate().public
    sites = [s for s in fed.hub.roster.sites if s.id != "site-001"]
    with fed.hub.database.transaction():
        first = fed.hub.roster.site("site-001")
        assert first
        changed = type(first)(**{**vars(first), "sign": new.sign, "recipient": new.recipient})
        members.write_roster(fed.hub, fed.coordinator_keys, [changed, *sites])
    fed.exchange()
    assert fed.finish()["published"]


def test_a_stick_of_another_federation_leads_to_no_answer(fed: SecureFederation, tmp_path: Path) -> None:
    (tmp_path / "empty" / FROM_COORDINATOR).mkdir(parents=True)
    with pytest.raises(FedhelpError) as caught:
        answering.answer(fed.helper, FolderCarrier(tmp_path / "empty"), lambda: "")
    assert caught.value.code == "E_NOT_YET"


def test_a_site_sends_nothing_where_the_helper_has_a_key_of_the_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = SecureFederation(tmp_path / "federation", 2)
    clinic = Clinic(fed, tmp_path / "site")
    clinic.join_and_fetch_task()
    clinic.train()
    task = next(iter(fed.hub.tasks().values()))
    honest, other = fed.plan, keys.generate().public
    own_keys = {"helper_sign": fed.hub.charter.coordinator}, {"helper_key": task.recipients[0]}
    for own_key in own_keys:
        plan = replace(honest, privacy=replace(honest.privacy, **own_key))
        monkeypatch.setattr(inbox, "plan_of", lambda _, plan=plan: plan)
        with pytest.raises(PrivacyChangedError, match="a key of the coordinator"):
            outbox.seal_current(clinic.home, lambda: "")
    plan = replace(honest, privacy=replace(honest.privacy, helper_sign=other.sign, helper_key=other.recipient))
    monkeypatch.setattr(inbox, "plan_of", lambda _, plan=plan: plan)
    assert outbox.seal_current(clinic.home, lambda: "")
