"""A table of probabilities whose rows are none is quarantined; the site trains again, and its table counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import files
from fedhelp_edge.data import pack as packs
from fedhelp_edge.errors import NotNowError, RoundClosedError, remedy_of
from fedhelp_edge.merge.tables import PREDICTED_IN, ROWS
from fedhelp_edge.update import Array
from server_ref.intake import receive
from server_ref.rounds import reaggregate, review
from tests.federation import Federation

PLAN = """
name = "tables"
classes = ["a", "b", "c"]
method = "mdhfl"
rounds = 3
[image]
size = 8
[nets]
small = "resnet8"
[public]
size = 8
[round]
quorum = 3
"""
IMAGES = 6


def federation(folder: Path) -> Federation:
    """Three sites, and a hub that has published public images."""
    fed = Federation(folder, PLAN)
    stream = np.random.Generator(np.random.Philox(0))
    pixels = stream.integers(0, 256, (IMAGES, 8, 8, 3), np.uint8)
    public = packs.without_predictions(pixels, np.arange(IMAGES) % 2, ("x", "y"))
    packs.save(folder / "pack", public)
    with files.reading(folder / "pack") as body:
        fed.hub.publish_knowledge(fed.coordinator_keys, body, public)
    return fed


def table(seed: int) -> dict[str, Array]:
    stream = np.random.Generator(np.random.Philox(seed))
    return {ROWS: stream.dirichlet(np.ones(3), IMAGES).astype(np.float32)}


@pytest.mark.parametrize("row", [[9.0, 0.0, 0.0], [2.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
def test_a_table_that_has_no_probabilities_waits_for_a_person_and_a_right_one_counts(
    row: list[float], tmp_path: Path
) -> None:
    fed = federation(tmp_path)
    task = fed.open()
    assert [str(tensor) for tensor in task.schema.tensors] == ["table.rows F32 6x3 probabilities"]
    hostile = table(9)
    hostile[ROWS][2] = row
    receive.receive(fed.hub, fed.clinics[0].give(task, hostile))
    (decided,) = fed.judge()
    assert (decided["state"], decided["code"]) == ("quarantined", "E_PROBABILITIES")
    assert "train or distill again" in remedy_of("E_PROBABILITIES")
    with pytest.raises(NotNowError):
        review.decide(fed.hub, fed.coordinator_keys, "site-001", release=True)
    for seed, clinic in enumerate(fed.clinics):  # the mean is plain: no claim of many images is suspicious
        receive.receive(fed.hub, clinic.give(task, table(seed), examples=10 ** (2 * seed + 1)))
    assert fed.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]
    merged = fed.base(fed.open())
    expected = np.mean([table(seed)[ROWS].astype(np.float64) for seed in range(3)], axis=0)
    assert np.array_equal(merged[ROWS], expected.astype(np.float32))
    assert merged[PREDICTED_IN].tolist() == [1]


def test_a_late_table_does_not_count_and_no_round_is_merged_again_without_a_site(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    first = fed.open()
    for seed, clinic in enumerate(fed.clinics):
        receive.receive(fed.hub, clinic.give(first, table(seed)))
    fed.aggregate()
    second = fed.open()
    with pytest.raises(RoundClosedError, match="round 1"):
        receive.receive(fed.hub, fed.clinics[0].give(first, table(7)))
    with pytest.raises(NotNowError, match="mdhfl"):
        reaggregate.check_contributed(fed.hub, "site-001")
    assert second.round == 2
