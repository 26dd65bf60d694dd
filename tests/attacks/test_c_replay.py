"""Faults C04-C16 of the catalogue: genuine parcels in the wrong place, or sent again.

C01-C03 (the same update twice, two updates for one round, eight at once) need a hub and are tested with it. The format
has no kind `proxy` (C10), and no time in its HTTP signatures (C15). In place of a Merkle tree (C14) it has the length
and head of a chained log.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge import update
from fedhelp_edge.errors import (
    BaseModelError,
    EquivocationError,
    ExpiredError,
    InnerContextError,
    LogRollbackError,
    ParcelKindError,
    PayloadSizeError,
    RecipientsError,
    ReplayError,
    RollbackError,
    RoundClosedError,
    RoundUnknownError,
    SplitViewError,
    WrongTaskError,
)
from fedhelp_edge.errors import FederationError as OtherFederation
from fedhelp_edge.parcel import parcel, sshsig
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import task
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.roster import Site
from fedhelp_edge.trust.state import TrustedState
from fedhelp_edge.trust.task import SenderHistory
from tests.attacks.federation import DAY, SCHEMA, START, Federation, SignedParcel, weights, write_parcel


@pytest.fixture(scope="module")
def fed() -> Federation:
    return Federation()


@pytest.fixture(scope="module")
def rests_on(fed: Federation) -> SignedParcel:
    return fed.roster()


@pytest.fixture(scope="module")
def tasks(fed: Federation, rests_on: SignedParcel) -> dict[int, SignedParcel]:
    """The tasks of rounds 1 to 3; round 3 is open."""
    return {number: fed.task(rests_on, number) for number in (1, 2, 3)}


class Intake:
    """Judges an update's statement as the hub does, without a hub."""

    def __init__(self, fed: Federation, rests_on: SignedParcel, tasks: dict[int, SignedParcel]) -> None:
        self.roster = fed.read_roster(rests_on)
        self.tasks = {number: fed.read_task(task, self.roster) for number, task in tasks.items()}

    def judge(self, update: SignedParcel, seen: SenderHistory | None = None, stale: int = 0) -> Site:
        return task.judge_update(
            update.statement, update.signers, self.roster, self.tasks, seen or SenderHistory(), stale_rounds=stale
        )


@pytest.fixture(scope="module")
def intake(fed: Federation, rests_on: SignedParcel, tasks: dict[int, SignedParcel]) -> Intake:
    return Intake(fed, rests_on, tasks)


def test_the_honest_update_is_accepted(fed: Federation, tasks: dict[int, SignedParcel], intake: Intake) -> None:
    assert intake.judge(fed.update("site-001", tasks[3])).id == "site-001"


def test_c04_an_update_of_the_previous_round_is_too_late(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    with pytest.raises(RoundClosedError):
        intake.judge(fed.update("site-001", tasks[2]))


def test_c04_an_update_may_be_as_stale_as_the_plan_allows_and_no_staler(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    assert intake.judge(fed.update("site-001", tasks[2]), stale=1).id == "site-001"
    with pytest.raises(RoundClosedError):
        intake.judge(fed.update("site-001", tasks[1]), stale=1)


def test_c04_an_update_of_a_round_that_was_never_opened_is_refused(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    with pytest.raises(RoundUnknownError):
        intake.judge(fed.update("site-001", tasks[3], round=4))


def test_c05_an_update_for_the_task_of_another_round_is_refused(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    with pytest.raises(WrongTaskError):
        intake.judge(fed.update("site-001", tasks[3], task=tasks[2].statement.hash))


def test_c06_an_update_for_another_federation_is_refused(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    with pytest.raises(OtherFederation):
        intake.judge(fed.update("site-001", tasks[3], federation="fh-" + "e" * 32))


@pytest.mark.parametrize("kind", ["roster", "task", "global", "receipt", "rotate"])
def test_c06_any_other_parcel_of_another_federation_is_refused(
    fed: Federation, rests_on: SignedParcel, kind: str
) -> None:
    other = "fh-" + "e" * 32
    first = fed.site_keys["site-001"]
    model = fed.model(1, federation=other)
    news = {
        "roster": lambda: fed.roster(federation=other),
        "task": lambda: fed.task(rests_on, federation=other),
        "global": lambda: SignedParcel(model, fed.roster().signers, {}),
        "receipt": lambda: fed.receipt("front", fed.front, federation=other),
        "rotate": lambda: fed.rotate("site-001", first.public, first.sign, federation=other),
    }[kind]()
    with pytest.raises(OtherFederation):
        fed.trusted(rests_on).check_signers(news.statement, news.signers)


def test_c07_an_update_that_starts_from_another_model_is_refused(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    with pytest.raises(BaseModelError):
        intake.judge(fed.update("site-001", tasks[3], base="e" * 64))


@pytest.mark.parametrize("number", [0, 6, 7])
def test_c08_a_sequence_number_that_does_not_rise_is_a_replay(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake, number: int
) -> None:
    with pytest.raises(ReplayError):
        intake.judge(fed.update("site-001", tasks[3], seq=number), SenderHistory(seq=7))


def test_c08_a_sequence_number_that_jumps_is_accepted(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    assert intake.judge(fed.update("site-001", tasks[3], seq=1000), SenderHistory(seq=7))


def test_c09_a_nonce_seen_before_is_a_replay_whatever_its_number(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    again = fed.update("site-001", tasks[3], seq=8, nonce="7" * 32)
    with pytest.raises(ReplayError):
        intake.judge(again, SenderHistory(7, frozenset({"7" * 32})))


def test_a_parcel_of_another_kind_is_not_an_update(tasks: dict[int, SignedParcel], intake: Intake) -> None:
    with pytest.raises(ParcelKindError):
        intake.judge(tasks[3])


def test_c11_an_update_that_others_can_read_too_is_refused(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    more = [*fed.recipients, fed.site_keys["site-002"].public.recipient]
    with pytest.raises(RecipientsError):
        intake.judge(fed.update("site-001", tasks[3], recipients=more))


def test_c11_an_update_that_leaves_the_archive_out_is_refused(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    with pytest.raises(RecipientsError):
        intake.judge(fed.update("site-001", tasks[3], recipients=fed.recipients[:1]))


def test_an_update_larger_than_the_task_allows_is_refused_by_its_statement(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake
) -> None:
    statement, keys, _ = fed.update("site-001", tasks[3])
    intake.judge(SignedParcel(Statement(statement.context, statement.form, statement.sha256, 1 << 20), keys, {}))
    with pytest.raises(PayloadSizeError):
        intake.judge(
            SignedParcel(Statement(statement.context, statement.form, statement.sha256, (1 << 20) + 1), keys, {})
        )


class Theft:
    """site-002 intercepts site-001's update and signs it as its own."""

    def __init__(self, fed: Federation, task: SignedParcel, folder: Path, **changes: Any) -> None:
        body = BytesIO()
        update.write(body, weights())
        mine = folder / "mine.fhx"
        first, second = (fed.site_keys[name] for name in ("site-001", "site-002"))
        parcel.seal(
            mine,
            fed.update_context("site-001", task),
            body.getvalue(),
            first.sign,
            fed.recipients,
            facts={"examples": 40},
        )
        inspected = parcel.inspect(mine, parcel.any_signer)
        payload = mine.read_bytes()[inspected.offset :]
        context = {
            **inspected.statement.context,
            "sender": "site-002",
            "sender_key": sshsig.fingerprint(second.public.sign),
            **changes,
        }
        statement = Statement(context, "age", inspected.statement.sha256, inspected.statement.size)
        self.mine = mine
        self.stolen = write_parcel(
            folder / "stolen.fhx", statement, [sshsig.sign(statement.line, second.sign, statement.namespace)], payload
        )


@pytest.mark.parametrize("changes", [{}, {"seq": 9}, {"nonce": "7" * 32}], ids=str)
def test_c12_a_stolen_update_passes_inspection_and_is_refused_when_opened(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake, tmp_path: Path, changes: dict[str, Any]
) -> None:
    theft = Theft(fed, tasks[3], tmp_path, **changes)

    def verifier(statement: Statement, keys: tuple[str, ...]) -> Site:
        return intake.judge(SignedParcel(statement, keys, {}))

    parcel.inspect(theft.stolen, verifier)
    with pytest.raises(InnerContextError):
        parcel.open(theft.stolen, verifier, [fed.round_key])


def test_c12_the_update_of_its_true_sender_opens(
    fed: Federation, tasks: dict[int, SignedParcel], tmp_path: Path
) -> None:
    theft = Theft(fed, tasks[3], tmp_path)
    with parcel.open(theft.mine, fed.trusted(fed.roster()).check_signers, [fed.round_key]) as opened:
        arrays = update.read(BytesIO(opened.body.read()), SCHEMA)
        assert opened.facts == {"examples": 40}
        assert (arrays["linear.bias"] == weights()["linear.bias"]).all()


def test_c13_an_older_model_that_was_never_received_is_a_rollback(fed: Federation) -> None:
    state = fed.trusted().with_model(fed.model(4))
    with pytest.raises(RollbackError):
        state.with_model(fed.model(3))


def test_c13_another_model_of_a_known_round_is_an_equivocation(fed: Federation) -> None:
    state = fed.trusted().with_model(fed.model(3)).with_model(fed.model(4))
    for round_ in (3, 4):
        with pytest.raises(EquivocationError):
            state.with_model(fed.model(round_, "e" * 64))


def test_c13_the_same_model_sealed_again_for_a_new_site_is_accepted(fed: Federation) -> None:
    state = fed.trusted().with_model(fed.model(3)).with_model(fed.model(4))
    again = fed.model(3, readers={"count": 4, "sha256": "e" * 64})
    assert state.with_model(again) == state


def test_c13_a_model_from_before_a_restored_backup_is_a_rollback(fed: Federation) -> None:
    state = fed.trusted().with_charter(*fed.charter(fed.pinned, epoch=2))
    with pytest.raises(RollbackError):
        state.with_model(fed.model(4))


def test_c13_an_older_task_is_a_rollback(
    fed: Federation, rests_on: SignedParcel, tasks: dict[int, SignedParcel]
) -> None:
    with pytest.raises(RollbackError):
        fed.trusted(rests_on, tasks[3]).with_task(*tasks[2])


def test_c14_another_task_for_the_same_round_is_an_equivocation(
    fed: Federation, rests_on: SignedParcel, tasks: dict[int, SignedParcel]
) -> None:
    with pytest.raises(EquivocationError):
        fed.trusted(rests_on, tasks[3]).with_task(*fed.task(rests_on, 3, base="e" * 64))


def test_c14_a_log_with_another_line_at_the_same_number_is_a_split_view(
    fed: Federation, rests_on: SignedParcel
) -> None:
    state = fed.trusted(rests_on, fed.task(rests_on, 1, log=Log(5, "a" * 64)))
    with pytest.raises(SplitViewError):
        state.with_task(*fed.task(rests_on, 2, log=Log(5, "b" * 64)))


def test_c14_a_log_that_grew_shorter_is_a_log_rollback(fed: Federation, rests_on: SignedParcel) -> None:
    state = fed.trusted(rests_on, fed.task(rests_on, 1, log=Log(5, "a" * 64)))
    with pytest.raises(LogRollbackError):
        state.with_task(*fed.task(rests_on, 2, log=Log(4, "a" * 64)))


def test_c14_a_refused_view_leaves_the_trusted_state_as_it_was(fed: Federation, rests_on: SignedParcel) -> None:
    first = fed.task(rests_on, 1, log=Log(5, "a" * 64))
    state = fed.trusted(rests_on, first)
    with pytest.raises(SplitViewError):
        state.with_log(Log(5, "b" * 64))
    assert state == fed.trusted(rests_on, first)


def test_c14_a_task_received_again_is_not_a_log_rollback(fed: Federation, rests_on: SignedParcel) -> None:
    task = fed.task(rests_on, 1, log=Log(5, "a" * 64))
    state = fed.trusted(rests_on, task).with_log(Log(6, "b" * 64))
    assert state.with_task(*task) == state


def test_c14_a_hub_restored_by_the_root_key_may_begin_a_new_log(fed: Federation, rests_on: SignedParcel) -> None:
    state = fed.trusted(rests_on, fed.task(rests_on, 1, log=Log(5, "a" * 64)))
    assert state.with_charter(*fed.charter(fed.pinned, epoch=2)).with_log(Log(2, "b" * 64)).heads == {2: "b" * 64}


@pytest.mark.parametrize("year", [1970, 2099])
def test_c15_the_date_on_an_update_changes_nothing(
    fed: Federation, tasks: dict[int, SignedParcel], intake: Intake, year: int
) -> None:
    dated = fed.update("site-001", tasks[3], created=datetime(year, 1, 1, tzinfo=timezone.utc))
    assert intake.judge(dated) == intake.judge(fed.update("site-001", tasks[3]))


def test_c16_a_clock_set_back_two_years_does_not_revive_an_expired_roster(fed: Federation) -> None:
    rests_on = fed.roster(expires=START + 10 * DAY)
    state = fed.trusted(rests_on, fed.task(rests_on, created=START + 30 * DAY))
    with pytest.raises(ExpiredError):
        state.check_fresh(START - 730 * DAY, grace=7 * DAY)


def test_c16_a_clock_set_back_locks_nobody_out(fed: Federation) -> None:
    fed.trusted(fed.roster()).check_fresh(START - 730 * DAY, grace=timedelta())


def test_c16_a_clock_set_forward_ten_years_does_no_lasting_harm(
    fed: Federation, rests_on: SignedParcel, tasks: dict[int, SignedParcel]
) -> None:
    state = fed.trusted(rests_on, tasks[1])
    with pytest.raises(ExpiredError):
        state.check_fresh(START + 3650 * DAY, grace=DAY)
    after: TrustedState = state.with_task(*tasks[2])
    after.check_fresh(START + 2 * DAY, grace=DAY)
