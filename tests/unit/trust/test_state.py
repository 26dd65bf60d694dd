from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fedhelp_edge.errors import ExpiredError, ParcelKindError, SignerRoleError, SignerUnknownError, TrustError
from fedhelp_edge.parcel import keys
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.state import TrustedState
from tests.attacks.federation import BASE, DAY, START, Federation, SignedParcel

FED = Federation()
ROSTER = FED.read_roster(FED.roster())
TASK = FED.read_task(FED.task(FED.roster()), ROSTER)

moments = st.datetimes(datetime(1970, 1, 1), datetime(2199, 1, 1), timezones=st.just(timezone.utc))
spans = st.timedeltas(timedelta(), timedelta(days=400))


def state(charter: datetime, roster: datetime, task: datetime, expires: datetime = START) -> TrustedState:
    """A trusted state whose documents have these dates."""
    return TrustedState(
        replace(FED.pinned, created=charter),
        replace(ROSTER, created=roster, expires=expires),
        replace(TASK, created=task),
    )


# --- time ------------------------------------------------------------------------------------------------------------
@given(moments, moments, moments, moments)
def test_the_time_is_the_latest_known_one(clock: datetime, first: datetime, second: datetime, third: datetime) -> None:
    assert state(first, second, third).latest_time(clock) == sorted([clock, first, second, third])[-1]


@given(moments, spans, moments, moments, moments)
def test_the_time_never_runs_backwards_while_the_clock_advances(
    clock: datetime, passed: timedelta, first: datetime, second: datetime, third: datetime
) -> None:
    trusted = state(first, second, third)
    assert trusted.latest_time(clock) <= trusted.latest_time(clock + passed) <= trusted.latest_time(clock) + passed


@given(moments, moments, spans, st.timedeltas(timedelta(seconds=1), timedelta(days=400)))
def test_no_clock_revives_a_roster_that_expired_by_verified_time(
    clock: datetime, expires: datetime, grace: timedelta, late: timedelta
) -> None:
    with pytest.raises(ExpiredError):
        state(START, START, expires + grace + late, expires).check_fresh(clock, grace)


@given(moments, moments, moments)
def test_a_slow_clock_does_not_lock_a_clinic_out(clock: datetime, expires: datetime, news: datetime) -> None:
    assume(clock <= expires and news <= expires)
    state(news, news, news, expires).check_fresh(clock, timedelta())


def test_a_charter_alone_also_gives_the_time() -> None:
    assert TrustedState(FED.pinned).latest_time(START - 9 * DAY) == START


# --- permitted signers -----------------------------------------------------------------------------------------------
def test_a_state_trusts_the_rosters_signer_of_each_kind() -> None:
    rests_on = FED.roster()
    trusted, first, new = FED.trusted(rests_on, FED.task(rests_on)), FED.site_keys["site-001"], keys.generate()
    signed = [
        FED.charter(FED.pinned),
        FED.roster(2),
        FED.task(rests_on, 2),
        FED.receipt("front", FED.front),
        FED.receipt("coordinator", FED.coordinator),
        FED.enrol("FH1-AAAAA-AAAAA-AAAAA-AAAAA-0", new),
    ]
    assert [trusted.check_signers(parcel.statement, parcel.signers) for parcel in signed] == [None] * len(signed)
    assert trusted.check_signers(FED.model(1), signed[1].signers) is None
    for of_site in (
        FED.update("site-001", FED.task(rests_on)),
        FED.rotate("site-001", new.public, first.sign, new.sign),
    ):
        assert trusted.check_signers(of_site.statement, of_site.signers) == FED.site("site-001")


@pytest.mark.parametrize("kind", ["charter", "roster", "task", "global", "receipt", "update", "rotate"])
def test_a_state_trusts_no_stranger(kind: str) -> None:
    rests_on, stranger = FED.roster(), keys.generate()
    statement = {
        "charter": FED.charter(FED.pinned).statement,
        "roster": FED.roster(2).statement,
        "task": FED.task(rests_on).statement,
        "global": FED.model(1),
        "receipt": FED.receipt("coordinator", FED.coordinator).statement,
        "update": FED.update("site-001", FED.task(rests_on)).statement,
        "rotate": FED.rotate("site-001", stranger.public, stranger.sign).statement,
    }[kind]
    with pytest.raises(SignerUnknownError):
        FED.trusted(rests_on).check_signers(statement, (stranger.public.sign,))


@pytest.mark.parametrize("kind", ["update", "rotate", "receipt"])
def test_without_a_roster_parcels_of_sites_are_not_trusted(kind: str) -> None:
    first = FED.site_keys["site-001"]
    news = {
        "update": FED.update("site-001", FED.task(FED.roster())),
        "rotate": FED.rotate("site-001", first.public, first.sign),
        "receipt": FED.receipt("front", FED.front),
    }[kind]
    with pytest.raises(ExpiredError):
        FED.trusted().check_signers(news.statement, news.signers)


def test_without_a_roster_the_charters_keys_are_trusted_and_requests_are_possible() -> None:
    signed = [FED.charter(FED.pinned), FED.roster(), FED.enrol("FH1-AAAAA-AAAAA-AAAAA-AAAAA-0", keys.generate())]
    assert [FED.trusted().check_signers(parcel.statement, parcel.signers) for parcel in signed] == [None] * len(signed)


def test_a_parcel_of_one_kind_is_not_taken_for_another() -> None:
    trusted = FED.trusted().with_charter(*FED.charter(FED.pinned))
    for version in (1, 2, 3):
        with pytest.raises(ParcelKindError):
            trusted.with_charter(*FED.roster(version))
    with pytest.raises(ParcelKindError):
        trusted.with_model(FED.roster().statement)


def test_the_first_model_of_a_federation_is_accepted() -> None:
    assert FED.trusted().with_model(FED.model(0)).models == {0: BASE}


def test_a_task_is_accepted_only_from_the_coordinator() -> None:
    rests_on = FED.roster()
    with pytest.raises(SignerRoleError):
        FED.trusted(rests_on).with_task(*FED.task(rests_on, signer=FED.site_keys["site-001"].sign))
    with pytest.raises(SignerUnknownError):
        FED.trusted(rests_on).with_task(*FED.task(rests_on, signer=keys.generate().sign))


def test_a_task_stays_valid_under_a_newer_roster() -> None:
    task = FED.task(FED.roster(1))
    trusted = FED.trusted(FED.roster(2)).with_task(*task)
    assert trusted.task and trusted.task.hash == task.statement.hash


def test_a_newer_charter_keeps_the_known_state() -> None:
    rests_on = FED.roster()
    trusted = FED.trusted(rests_on, FED.task(rests_on)).with_model(FED.model(1))
    after = trusted.with_charter(*FED.charter(FED.pinned))
    assert after == replace(trusted, charter=after.charter)


# --- the state never goes back ----------------------------------------------------------------------------------------
few = st.integers(1, 4)
variants = st.integers(0, 1)
charters = st.integers(0, 20)


class AnyParcels(RuleBasedStateMachine):
    """Parcels of any age and origin in any order, compared with a model that stores the highest of each kind."""

    @initialize()
    def pin(self) -> None:
        self.trusted = TrustedState(FED.pinned)
        self.charters: list[tuple[Charter, SignedParcel]] = [(FED.pinned, FED.charter())]
        self.forget()

    def forget(self) -> None:
        self.roster: tuple[int, str] | None = None
        self.task: tuple[int, str] | None = None
        self.heads: dict[int, str] = {}
        self.longest = 0
        self.models: dict[int, str] = {}

    def offer(self, welcome: bool, accept: Any, *news: Any) -> bool:
        before = self.trusted
        try:
            self.trusted = accept(*news)
        except TrustError:
            assert not welcome
        else:
            assert welcome or self.trusted == before
        return welcome

    @staticmethod
    def newer(old: tuple[int, str] | None, number: int, name: str) -> bool:
        return old is None or number > old[0] or (number, name) == old

    def under(self, index: int) -> Charter:
        """The current charter, or less often an earlier one."""
        return self.charters[index if index < len(self.charters) else -1][0]

    @rule(version=few, variant=variants, index=charters)
    def roster_arrives(self, version: int, variant: int, index: int) -> None:
        charter = self.under(index)
        news = FED.roster(version, under=charter, expires=START + (90 + variant) * DAY)
        welcome = charter == self.trusted.charter and self.newer(self.roster, version, news.statement.hash)
        if self.offer(welcome, self.trusted.with_roster, *news):
            self.roster = version, news.statement.hash

    @rule(version=few, variant=variants, index=charters, number=few, base=variants, length=few, head=variants)
    def task_arrives(
        self, version: int, variant: int, index: int, number: int, base: int, length: int, head: int
    ) -> None:
        charter, log = self.under(index), Log(length, f"{head:064x}")
        rests_on = FED.roster(version, under=charter, expires=START + (90 + variant) * DAY)
        news = FED.task(rests_on, number, log=log, base=f"{base:064x}")
        fits = self.roster is not None and self.newer((version, rests_on.statement.hash), *self.roster)
        again = self.task == (number, news.statement.hash)
        grows = length >= self.longest and self.heads.get(length, log.head) == log.head
        fresh = self.newer(self.task, number, news.statement.hash) and grows
        welcome = charter.epoch == self.trusted.charter.epoch and fits and (again or fresh)
        if self.offer(welcome, self.trusted.with_task, *news) and not again:
            self.task, self.longest = (number, news.statement.hash), length
            self.heads[length] = log.head

    @rule(length=few, head=variants)
    def log_is_seen(self, length: int, head: int) -> None:
        log = Log(length, f"{head:064x}")
        if self.offer(self.heads.get(length, log.head) == log.head, self.trusted.with_log, log):
            self.heads[length] = log.head

    @rule(number=few, base=variants, epoch=few)
    def model_arrives(self, number: int, base: int, epoch: int) -> None:
        name = f"{base:064x}"
        trusted = self.models.get(number) == name
        newest = number > max(self.models, default=0)
        welcome = epoch == self.trusted.charter.epoch and (trusted or newest)
        if self.offer(welcome, self.trusted.with_model, FED.model(number, name, epoch=epoch)):
            self.models[number] = name

    @rule(raised=st.sampled_from([0, 0, 1]), index=charters)
    def charter_arrives(self, raised: int, index: int) -> None:
        charter = self.under(index)
        news = FED.charter(charter, epoch=charter.epoch + raised)
        trusted = news.statement.hash in [known_charter.hash for known_charter, _ in self.charters]
        if self.offer(charter == self.trusted.charter, self.trusted.with_charter, *news):
            assert not trusted
            self.charters.append((self.trusted.charter, news))
            if raised:
                self.forget()

    @rule(index=charters)
    def charter_comes_again(self, index: int) -> None:
        charter, news = self.charters[index % len(self.charters)]
        self.offer(charter == self.trusted.charter, self.trusted.with_charter, *news)

    @rule(version=few)
    def stranger_sends_orders(self, version: int) -> None:
        stranger = Ed25519PrivateKey.generate()
        self.offer(False, self.trusted.with_roster, *FED.roster(version, under=self.trusted.charter, signer=stranger))

    @invariant()
    def stands_where_the_model_does(self) -> None:
        trusted = self.trusted
        assert trusted.charter == self.charters[-1][0]
        assert (trusted.roster and (trusted.roster.version, trusted.roster.hash)) == self.roster
        assert (trusted.task and (trusted.task.round, trusted.task.hash)) == self.task
        assert trusted.heads == self.heads
        assert trusted.models == self.models


TestTheStateNeverGoesBack = AnyParcels.TestCase
TestTheStateNeverGoesBack.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
