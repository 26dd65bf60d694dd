"""Wrong training labels on purpose (property 6.3.6 of the methods' specification)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge.data.images import Images
from fedhelp_edge.errors import UsageError
from fedhelp_edge.lab import label_noise, partition
from fedhelp_edge.lab.partition import SiteImages

CLASSES = ("round", "lobed", "granular", "striped")
MANY = np.arange(20_000, dtype=np.int64) % 4


def drawn(noise: str, labels: NDArray[np.int64] = MANY, seed: int = 0) -> NDArray[np.int64]:
    draw = np.random.Generator(np.random.Philox(seed))
    return label_noise.noisy_labels(labels, label_noise.transition_matrix(noise, CLASSES), draw)


def flips(site: SiteImages, clean: SiteImages, splits: Sequence[str]) -> int:
    chosen = np.isin(clean.images.splits, splits)
    return int((site.images.labels != clean.images.labels)[chosen].sum())


@pytest.fixture(scope="module")
def many(images_of: Callable[..., Images]) -> list[SiteImages]:
    return partition.distribute(images_of({"2": 200, "9": 200}), "natural:centers", 0)


@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3, 0.6, 1.0])
def test_6_3_6_the_rate_of_flips_is_the_asked_one_within_binomial_bounds(kind: str, rate: float) -> None:
    flipped = float((drawn(f"{kind}:{rate}") != MANY).mean())
    assert abs(flipped - rate) <= 4 * (rate * (1 - rate) / len(MANY)) ** 0.5


def test_6_3_6_symmetric_noise_gives_all_other_classes_alike_and_never_the_own() -> None:
    labels = drawn("symmetric:1")
    steps = np.bincount((labels - MANY) % 4, minlength=4)
    assert steps[0] == 0
    assert np.abs(steps[1:] / len(MANY) - 1 / 3).max() < 0.02


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_6_3_6_a_pair_flip_only_goes_to_the_next_class(rate: float) -> None:
    assert set((drawn(f"pairflip:{rate}") - MANY) % 4) == ({0, 1} if rate < 1 else {1})


@pytest.mark.parametrize("noise", ["symmetric:0", "pairflip:0", "asymmetric:round=lobed:0"])
def test_6_3_6_a_rate_of_zero_changes_nothing(noise: str) -> None:
    assert np.array_equal(drawn(noise), MANY)


def test_named_pairs_flip_only_these_classes_whatever_the_case_of_their_names() -> None:
    labels = drawn("asymmetric:Round=striped:0.5,round=lobed:0.5,granular=round:0.25")
    assert set(labels[MANY == 0]) == {1, 3}
    assert set(labels[MANY == 1]) == {1}
    assert abs(float((labels[MANY == 2] == 0).mean()) - 0.25) < 0.03


def test_a_matrix_from_a_file_has_a_row_for_each_true_class(tmp_path: Path) -> None:
    (tmp_path / "noise.csv").write_text("0,1,0,0\n0,1,0,0\n0.5,0,0.5,0\n0,0,0,1\n")
    labels = drawn(f"matrix:{tmp_path / 'noise.csv'}")
    assert [set(labels[true == MANY]) for true in range(4)] == [{1}, {1}, {0, 2}, {3}]


def test_a_higher_rate_flips_the_images_of_a_lower_one_and_more() -> None:
    low, high = (drawn(f"symmetric:{rate}") != MANY for rate in (0.1, 0.3))
    assert (high | ~low).all()
    assert high.sum() > low.sum()


def test_6_3_6_validation_and_test_images_keep_their_labels_and_sites_say_what_was_flipped(
    many: list[SiteImages],
) -> None:
    noisy = label_noise.add(many, ["pairflip:0.5"], CLASSES[:3], 3)
    for site, clean in zip(noisy, many, strict=True):
        assert flips(site, clean, ["val", "test"]) == 0
        assert flips(site, clean, ["train"]) == site.flipped > 0
        assert site.noise == "pairflip:0.5"


def test_noise_follows_from_the_seed_and_differs_between_sites(many: list[SiteImages]) -> None:
    first, again, other = (label_noise.add(many, ["symmetric:0.3"], CLASSES[:3], seed) for seed in (3, 3, 4))
    where = [[site.images.labels != clean.images.labels for site, clean in zip(sites, many, strict=True)]
             for sites in (first, again, other)]  # fmt: skip
    assert all(map(np.array_equal, where[0], where[1]))
    assert not all(map(np.array_equal, where[0], where[2]))
    assert not np.array_equal(where[0][0], where[0][1])


def test_one_site_can_have_a_noise_of_its_own_by_id_or_name(many: list[SiteImages]) -> None:
    noisy = label_noise.add(many, ["symmetric:0", "9=pairflip:1"], CLASSES[:3], 0)
    assert [site.noise for site in noisy] == ["symmetric:0", "pairflip:1"]
    assert [site.flipped for site in noisy] == [0, noisy[1].images.splits.count("train")]
    (clean, only) = label_noise.add(many, ["site-002=symmetric:1"], CLASSES[:3], 0)
    assert (clean, only.noise) == (many[0], "symmetric:1")


@pytest.mark.parametrize(
    "spec",
    ["", "symmetric", "symmetric:", "symmetric:1.1", "symmetric:-0.1", "symmetric:nan", "blur:0.2", "0.2",
     "asymmetric:round=round:0.2", "asymmetric:round=lobed:0.2,round=lobed:0.2", "asymmetric:round=square:0.2",
     "asymmetric:round:0.2", "asymmetric:round=lobed:0.7,round=granular:0.7", "site-009=symmetric:0.2"],
)  # fmt: skip
def test_noise_that_cannot_be_understood_is_refused_with_an_example(many: list[SiteImages], spec: str) -> None:
    with pytest.raises(UsageError) as refused:
        label_noise.add(many, [spec], CLASSES[:3], 0)
    assert refused.value.remedy


@pytest.mark.parametrize("text", ["", "0.5,0.5\n0,1\n", "1,0,0\n0,1,0\n0,0,0.9\n", "1,0,0\n0,1,0\n0,-1,2\n", "a,b\n",
                                  "1,0,0\n0,1\n0,0,1\n", "nan,0,1\n0,1,0\n0,0,1\n"])  # fmt: skip
def test_a_file_that_is_no_matrix_of_the_plans_classes_is_refused(
    many: list[SiteImages], text: str, tmp_path: Path
) -> None:
    (tmp_path / "noise.csv").write_text(text)
    with pytest.raises(UsageError, match=r"noise\.csv"):
        label_noise.add(many, [f"matrix:{tmp_path / 'noise.csv'}"], CLASSES[:3], 0)


def test_two_kinds_of_noise_for_one_site_are_refused(many: list[SiteImages]) -> None:
    with pytest.raises(UsageError, match="two kinds"):
        label_noise.add(many, ["site-001=symmetric:0.2", "2=pairflip:0.2"], CLASSES[:3], 0)
