"""Sums that no images have are quarantined, sums over too few images are not sent; a site that leaves is subtracted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.errors import NotNowError, RevealingSumsError, remedy_of
from fedhelp_edge.merge import ridge
from fedhelp_edge.merge.ridge import COUNTS, FEATURES, GRAM, GRID
from fedhelp_edge.methods import ridge as learners
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys
from fedhelp_edge.update import Array
from server_ref.hub import models
from server_ref.intake import receive
from server_ref.rounds import reaggregate, review
from tests.federation import ENCODER_SHA256, Federation

WIDTH = 8
PLAN = f"""
name = "sums"
classes = ["a", "b"]
method = "ridge"
rounds = 2
[nets]
encoder = "tiny.onnx"
encoder_sha256 = "{ENCODER_SHA256}"
encoder_width = {WIDTH}
small = "linear"
large = "linear"
[round]
quorum = 2
[ridge]
dimensions = 0
"""


def sums(seed: int, count: int = 40) -> dict[str, Array]:
    stream = np.random.Generator(np.random.Philox(seed))
    return ridge.sums_of(np.rint(stream.standard_normal((count, WIDTH)) / GRID), np.arange(count) % 2, 2)


def send(federation: Federation, task: Any, number: int, arrays: dict[str, Array], claimed: int = 40) -> None:
    receive.receive(federation.hub, federation.clinics[number].give(task, arrays, examples=claimed))


@pytest.mark.parametrize(("tensor", "factor"), [(GRAM, 0), (FEATURES, 9), (COUNTS, 3)])
def test_sums_that_no_images_have_wait_for_a_person_who_can_only_refuse_them_and_right_ones_count(
    tensor: str, factor: int, tmp_path: Path
) -> None:
    federation = Federation(tmp_path, PLAN)
    task = federation.open()
    send(federation, task, 0, {**sums(9), tensor: sums(9)[tensor] * factor})
    (decided,) = federation.judge()
    assert (decided["state"], decided["code"]) == ("quarantined", "E_SUMS")
    assert "train or distill again" in remedy_of("E_SUMS")
    with pytest.raises(NotNowError):
        review.decide(federation.hub, federation.coordinator_keys, "site-001", release=True)
    for number in range(3):
        send(federation, task, number, sums(number))
    assert federation.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]
    merged = federation.base(federation.open())
    assert all(np.array_equal(merged[name], sum(sums(number)[name] for number in range(3))) for name in merged)


def test_a_site_that_claims_fewer_images_than_its_sums_have_is_refused_and_one_that_claims_many_waits(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path, PLAN, clinics=5)
    task = federation.open()
    for number in range(3):
        send(federation, task, number, sums(number))
    send(federation, task, 3, sums(3, 1000))
    send(federation, task, 4, sums(4, 1000), claimed=1000)
    decided = {decision["site"]: decision["code"] for decision in federation.judge()}
    assert decided["site-004"] == "E_SUMS"
    outcome = federation.aggregate(now=True)
    assert [(row["site"], row["code"]) for row in outcome["quarantined"]] == [
        ("site-004", "E_SUMS"),
        ("site-005", "E_CLAIM"),
    ]
    assert models.load(federation.hub, outcome["merged_sha256"])[COUNTS].sum() == 120


def test_a_site_that_leaves_is_subtracted_to_the_bit(tmp_path: Path) -> None:
    federation = Federation(tmp_path, PLAN)
    without = Federation(tmp_path / "without", PLAN, clinics=2)
    for fed, numbers in ((federation, (0, 1, 2)), (without, (0, 2))):
        task = fed.open()
        for place, number in enumerate(numbers):
            send(fed, task, place, sums(number))
        fed.aggregate()
    archive = keys.load(federation.folder / "hub" / "root", lambda: "")
    outcome = reaggregate.without_site(federation.hub, federation.coordinator_keys, "site-002", archive)
    assert outcome["merged_sha256"] == without.hub.newest_round()["model"]


def test_sums_over_too_few_images_are_not_sent_and_fewer_dimensions_let_the_site_take_part(tmp_path: Path) -> None:
    with pytest.raises(RevealingSumsError) as refused:
        learners.check_revealing("site-001", 7, ridge.dimensions(plans.read(PLAN, METHODS)))
    assert refused.value.code == "E_REVEALING"
    assert "fewer [ridge] dimensions" in refused.value.remedy
    fewer = plans.read(PLAN.replace("dimensions = 0", "dimensions = 7"), METHODS)
    learners.check_revealing("site-001", 7, ridge.dimensions(fewer))
