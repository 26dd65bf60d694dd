"""Secure sums with noise: that hides a site in the sum, or each image of a site whose update nobody sees either."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.errors import BadPlanError, SumRangeError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys
from fedhelp_edge.privacy import accountant, noise
from fedhelp_edge.privacy.accountant import NoisySteps
from fedhelp_edge.secure_sum import arithmetic
from fedhelp_edge.secure_sum.arithmetic import SumFormat
from fedhelp_edge.update import Schema, TensorSpec
from server_ref.cli import aggregate
from tests.faults import kills
from tests.unit.secure_sum.federation import SecureFederation
from tests.unit.secure_sum.plans import plan_text

HELPER = keys.generate().public
NOISE = "clip = 0.5\nsite_noise = 6.0\n"
SCHEMA = Schema((TensorSpec("w", "F32", (4000,)), TensorSpec("v", "F32", (3, 4))))


def mistakes(privacy: str, mode: str = "secure-sum", **changes: str) -> dict[str, str]:
    with pytest.raises(BadPlanError) as caught:
        plans.read(plan_text(HELPER, privacy=privacy, mode=mode), METHODS, changes)
    return {mistake.where: mistake.cause for mistake in caught.value.mistakes}


# --- what epsilon is -------------------------------------------------------------------------------------------------
def exact_delta(epsilon: float, noise_multiplier: float, rounds: int) -> float:
    """Of the Gaussian mechanism, by Balle and Wang (2018), theorem 8."""
    mu = math.sqrt(rounds) / noise_multiplier

    def below(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    return below(mu / 2 - epsilon / mu) - math.exp(epsilon) * below(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(("noise_multiplier", "rounds"), [(1.0, 1), (3.0, 1), (3.0, 8), (10.0, 50), (30.0, 50)])
def test_epsilon_of_a_site_is_above_the_exact_one_and_not_far(noise_multiplier: float, rounds: int) -> None:
    plan = plans.read(plan_text(HELPER, privacy=f"{NOISE}epsilon = 1000"), METHODS)
    assert accountant.round_of(plan, rounds) == NoisySteps(6.0, 1.0, rounds)
    epsilon = accountant.epsilon([NoisySteps(noise_multiplier, 1.0, rounds)], 1e-5)
    assert exact_delta(epsilon, noise_multiplier, rounds) <= 1e-5
    assert exact_delta(0.8 * epsilon, noise_multiplier, rounds) > 1e-5


def test_the_page_for_data_protection_officers_has_these_figures() -> None:
    page = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text(encoding="utf-8")
    rows = [
        [float(cell) for cell in row.split("|")]
        for row in re.findall(r"^\| (\d+ \|(?: [\d.]+ \|){3} [\d.]+) \|$", page, re.M)
    ]
    assert [row[0] for row in rows] == [1, 8, 50]
    for rounds, *cells in rows:
        for noise_multiplier, cell in zip((1, 3, 10, 30), cells, strict=True):
            epsilon = accountant.epsilon([NoisySteps(noise_multiplier, 1.0, int(rounds))], 1e-5)
            assert cell == pytest.approx(epsilon, rel=0.02, abs=0.05)


def test_each_site_adds_its_part_and_all_but_one_of_the_quorum_add_what_the_plan_names() -> None:
    plan = plans.read(plan_text(HELPER, privacy=NOISE), METHODS, {"round.quorum": "6"})
    assert accountant.noise_of_a_site(plan) == pytest.approx(0.5 * 6.0 / math.sqrt(5))


def test_normal_numbers_are_normal_and_of_no_other_step() -> None:
    drawn = [noise.normal(bytes(32), step, 20_000) for step in (0, 1)]
    for numbers in drawn:
        assert abs(numbers.mean()) < 4 / 20_000**0.5
        assert abs(numbers.var() - 1) < 4 * (2 / 20_000) ** 0.5
        below = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in np.sort(numbers)])
        assert np.abs(below - np.arange(20_000) / 20_000).max() < 2 / 20_000**0.5  # Kolmogorov and Smirnov
        assert np.abs(numbers).max() < noise.LARGEST
    assert abs(np.corrcoef(drawn)[0, 1]) < 4 / 20_000**0.5


def test_the_smallest_uniform_number_gives_the_largest_normal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "uniform", lambda key, step, count: np.full(count, 2.0**-53))
    assert 8 < noise.normal(bytes(32), 0, 1)[0] <= noise.LARGEST


def test_the_noise_of_a_mean_is_that_of_its_sites_together() -> None:
    format_ = SumFormat(SCHEMA, 1, clip=0.5, noise=0.1)
    base = {"w": np.ones(4000, np.float32), "v": np.zeros((3, 4), np.float32)}
    vectors = [format_.quantise(base, base, {"examples": 1}, noise.new_key()) for _ in range(5)]
    mean, counts = format_.decode(base, arithmetic.total(vectors, format_.length), 5)
    assert counts == {"examples": 5, "val": 0, "correct": 0}
    assert (mean["w"] - 1).std() == pytest.approx(0.1 / math.sqrt(5), rel=0.06)
    again = format_.quantise(base, base, {"examples": 1}, bytes(32))
    assert (again == format_.quantise(base, base, {"examples": 1}, bytes(32))).all()


def test_one_update_moves_the_sum_by_no_more_than_the_limit() -> None:
    """With the same noise, to see what it hides."""
    format_ = SumFormat(SCHEMA, 1, clip=0.5, noise=0.1)
    base = {"w": np.zeros(4000, np.float32), "v": np.zeros((3, 4), np.float32)}
    moved = {name: array + 7 for name, array in base.items()}
    still, far = (format_.quantise(base, each, {"examples": 1}, bytes(32)) for each in (base, moved))
    change = (far - still).view(np.int64)[:-3] / 2.0**format_.bits
    assert np.linalg.norm(change) == pytest.approx(0.5, rel=1e-6)


def test_noise_needs_a_key_and_counts_towards_the_bound() -> None:
    base = {"w": np.zeros(4000, np.float32), "v": np.zeros((3, 4), np.float32)}
    for added, key in ((0.1, b""), (0.0, bytes(32))):
        with pytest.raises(ValueError, match="needs a key"):
            SumFormat(SCHEMA, 1, noise=added).quantise(base, base, {"examples": 1}, key)
    with pytest.raises(SumRangeError):
        SumFormat(SCHEMA, 1, noise=1e5).quantise(base, base, {"examples": 1}, bytes(32))


# --- what a plan may ask ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("privacy", "changes", "place", "reason"),
    [
        ("site_noise = 6.0", {}, "[privacy] clip", "in multiples of it"),
        (NOISE, {"merge.weight": "examples"}, "[merge] weight", "do not send"),
        (NOISE, {"round.patience": "3"}, "[round] patience", "send no figures"),
        (NOISE, {"rounds": "200"}, "[privacy] site_noise", "or more here"),
        ("clip = 1000.0\nsite_noise = 10.0", {}, "[privacy] clip", "a sum holds 20000"),
        (NOISE, {"method": "scaffold"}, "[privacy] site_noise", "not limit all that scaffold sends"),
        (NOISE, {"method": "ridge"}, "[privacy] site_noise", "not limit all that ridge sends"),
        (
            NOISE, {"nets.small": "resnet8", "nets.large": "resnet8", "nets.encoder": "", "nets.encoder_sha256": "",
                    "nets.encoder_width": "0"}, "[nets] norm", "statistics of batch norm",
        ),
    ],
)  # fmt: skip
def test_what_noise_cannot_hide_or_a_sum_cannot_hold_is_refused_with_the_reason(
    privacy: str, changes: dict[str, str], place: str, reason: str
) -> None:
    assert reason in mistakes(privacy, **changes)[place]


def test_images_and_sites_are_not_hidden_at_once() -> None:
    assert "0" in mistakes("site_noise = 6.0", "dp")["[privacy] site_noise"]


def test_a_helper_of_a_dp_plan_needs_both_keys_and_what_a_sum_needs() -> None:
    assert plans.read(plan_text(HELPER, mode="dp"), METHODS).privacy.is_secure_sum
    assert not plans.read(plan_text(HELPER, mode="dp").partition("helper_key")[0], METHODS).privacy.is_secure_sum
    assert "[privacy] helper_sign" in mistakes("", "dp", **{"privacy.helper_sign": '""'})
    assert "[privacy] helper_key" in mistakes("", "dp", **{"privacy.helper_key": '""'})
    assert "cannot be added" in mistakes("", "dp", **{"wire.up": "f16"})["[wire] up"]


# --- a round ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("mode", "privacy"), [("dp", ""), ("secure-sum", NOISE)])
def test_the_sum_of_a_round_has_the_noise_and_tells_no_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: str, privacy: str
) -> None:
    kills.open_in_this_process(monkeypatch)
    fed = SecureFederation(tmp_path / "federation", 3, mode=mode, privacy=privacy)
    task = fed.open()
    fed.ask(task)
    outcome = fed.finish()
    assert outcome["sum"] == {"updates": 3, "examples": 3, "val": 0, "correct": 0}
    assert outcome["claims"] == []
    aggregate.show_counts(outcome, fed.plan)
    assert capsys.readouterr().out == "  sites send no numbers of images: noise hides these\n"
    base, merged = fed.base(task), fed.merged_model()
    moved = {name: fed.expected_model(task, outcome["accepted"])[name] - base[name] for name in base}
    length = math.sqrt(sum(float(np.square(part).sum()) for part in moved.values()))
    limit = min(1.0, 0.5 / length) if privacy else 1.0  # drawn updates are nearly of one length
    rest = np.concatenate([(merged[name] - base[name] - limit * moved[name]).ravel() for name in base])
    expected = accountant.noise_of_a_site(fed.plan) / math.sqrt(3)
    assert rest.std() == pytest.approx(expected, rel=0.1, abs=1e-6)
    fed.hub.database.close()
