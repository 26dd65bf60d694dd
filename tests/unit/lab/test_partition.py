"""The distribution of images to sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import SPLITS, Images, Problem
from fedhelp_edge.data.loading import load
from fedhelp_edge.demo import phantoms
from fedhelp_edge.errors import UsageError
from fedhelp_edge.lab.partition import SiteImages, distribute


@pytest.fixture(scope="module")
def many(images_of: Callable[..., Images]) -> Images:
    return images_of({"": 300})


PLAN = plans.Plan(classes=phantoms.CLASSES[:2], image=plans.ImageSettings(size=8))
OnDisk = Callable[[str], Images]


@pytest.fixture
def on_disk(tmp_path: Path) -> OnDisk:
    """Writes 60 images of two hospitals, a third of them test images, by a pattern of paths, and loads them."""

    def put(pattern: str) -> Images:
        pixels, labels = phantoms.draw(60, 2, size=8)
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            site, part = ("south", "north", "south")[number % 3], "test" if number // 3 % 3 == 0 else "train"
            folder = tmp_path / "images" / pattern.format(site=site, part=part, kind=phantoms.CLASSES[label])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
        return load(tmp_path / "images", PLAN, state_dir=tmp_path / "kept")

    return put


def names(parts: list[SiteImages]) -> list[tuple[str, ...]]:
    return [part.images.names for part in parts]


def test_a_natural_split_gives_each_centre_its_own_images_in_numeric_order(images: Images) -> None:
    parts = distribute(images, "natural:centers", 0)
    assert [(part.id, part.name) for part in parts] == [("site-001", "2"), ("site-002", "9"), ("site-003", "10")]
    for part in parts:
        assert set(part.images.centres) == {part.name}
        expected = [name for name, centre in zip(images.names, images.centres, strict=True) if centre == part.name]
        assert list(part.images.names) == expected


def test_a_natural_split_keeps_the_splits_of_the_images(images: Images) -> None:
    split_of = dict(zip(images.names, images.splits, strict=True))
    for part in distribute(images, "natural:centers", 0):
        assert part.images.splits == tuple(split_of[name] for name in part.images.names)
        assert sum(len(part.split(split)) for split in SPLITS) == len(part.images)


@pytest.mark.parametrize(
    "folder", ["{site}/{kind}", "{part}/{site}/{kind}", "{site}/{part}/{kind}", "{site}/2024/{kind}"]
)
def test_the_first_folder_that_is_not_a_split_names_the_site(on_disk: OnDisk, folder: str) -> None:
    parts = distribute(on_disk(folder), "natural:folder", 0, large=1)
    assert [(part.name, part.tier, len(part.images)) for part in parts] == [
        ("north", "small", 20),
        ("south", "large", 40),
    ]
    for part in parts:
        assert all(part.name in name for name in part.images.names)


def test_folders_name_the_sites_of_a_table_too(on_disk: OnDisk, tmp_path: Path) -> None:
    by_folder = distribute(on_disk("{site}/{kind}"), "natural:folder", 0)
    rows = [f"{name},{name.split('/')[1]}" for part in by_folder for name in part.images.names]
    (tmp_path / "images" / "labels.csv").write_text("\n".join(["path,label", *rows]))
    by_table = distribute(load(tmp_path / "images", PLAN, state_dir=tmp_path / "again"), "natural:folder", 0)
    assert names(by_table) == names(by_folder)


@pytest.mark.parametrize("how", ["natural:folder", "dirichlet:10"])
def test_a_missing_val_is_taken_from_train_and_test_stays(on_disk: OnDisk, how: str) -> None:
    for part in distribute(on_disk("{part}/{site}/{kind}"), how, 1, sites=2):
        assert len(part.split("val")) > 0
        assert all(name.startswith("train/") for name in (*part.split("val").names, *part.split("train").names))
        assert part.split("test").names == tuple(name for name in part.images.names if name.startswith("test/"))


def test_pixels_and_labels_stay_with_their_names(images: Images) -> None:
    for part in distribute(images, "dirichlet:1", 0, sites=2):
        indices = [images.names.index(name) for name in part.images.names]
        assert np.asarray(part.images.pixels).tobytes() == np.asarray(images.pixels)[indices].tobytes()
        assert part.images.labels.tolist() == images.labels[indices].tolist()


# 6.2.11
@pytest.mark.parametrize("how", ["dirichlet:0.5", "dirichlet:100"])
def test_a_dirichlet_split_gives_every_image_to_one_site(many: Images, how: str) -> None:
    parts = distribute(many, how, 3, sites=3)
    assert len(parts) == 3
    assert Counter(name for part in parts for name in part.images.names) == Counter(many.names)


def test_a_dirichlet_split_divides_train_and_test_alike(many: Images) -> None:
    """A site's part of a class is the same in each split, up to one image."""
    for part in distribute(many, "dirichlet:1", 5, sites=3):
        for label in range(3):
            fractions = []
            for split in ("train", "test"):
                labels = many.split(split).labels
                fractions.append(((part.split(split).labels == label).sum(), (labels == label).sum()))
            (train, of_train), (test, of_test) = fractions
            assert abs(train / of_train - test / of_test) <= 1 / of_train + 1 / of_test


# 6.2.11
def test_a_smaller_alpha_gives_more_unequal_sites_on_average(many: Images) -> None:
    def spread(alpha: float) -> float:
        differences = []
        for seed in range(12):
            try:
                parts = distribute(many, f"dirichlet:{alpha}", seed, sites=2)
            except UsageError:
                continue  # a site without training images: not comparable
            mixes = [np.bincount(part.split("train").labels, minlength=3) / len(part.split("train")) for part in parts]
            differences.append(np.abs(mixes[0] - mixes[1]).sum())
        assert len(differences) > 6
        return float(np.mean(differences))

    assert spread(0.2) > spread(2) > spread(100)


def test_a_dirichlet_split_depends_only_on_its_seed(many: Images) -> None:
    assert names(distribute(many, "dirichlet:1", 1, sites=3)) == names(distribute(many, "dirichlet:1", 1, sites=3))
    assert names(distribute(many, "dirichlet:1", 1, sites=3)) != names(distribute(many, "dirichlet:1", 2, sites=3))


@pytest.mark.parametrize(("per_site", "sites"), [(1, 3), (2, 3), (2, 5), (3, 2)])
def test_a_labels_split_gives_each_site_so_many_classes_and_equal_parts_of_each(
    many: Images, per_site: int, sites: int
) -> None:
    parts = distribute(many, f"labels:{per_site}", 4, sites=sites)
    assert Counter(name for part in parts for name in part.images.names) == Counter(many.names)
    for split in SPLITS:
        counts = np.array([np.bincount(part.split(split).labels, minlength=3) for part in parts])
        assert ((counts > 0).sum(1) == per_site).all()
        for of_class in counts.T:
            assert np.ptp(of_class[of_class > 0]) <= 1
    assert names(parts) != names(distribute(many, f"labels:{per_site}", 5, sites=sites))


def test_a_labels_split_keeps_groups_whole(many: Images) -> None:
    grouped = replace(many, groups=tuple(f"patient {number // 3}" for number in range(len(many))))
    owners = [set(part.images.groups) for part in distribute(grouped, "labels:2", 1, sites=3)]
    assert not set.intersection(*owners)


@pytest.mark.parametrize(
    ("how", "sites", "cause"),
    [
        ("labels:4", 3, "1 to 3 classes, not '4'"),
        ("labels:0", 3, "1 to 3 classes"),
        ("labels:two", 3, "1 to 3 classes"),
        ("labels:1", 2, "sites: 2, with 1 of 3 classes each, cannot have all"),
    ],
)
def test_a_labels_split_that_cannot_be_dealt_is_refused(many: Images, how: str, sites: int, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        distribute(many, how, 0, sites=sites)


def test_sizes_are_exact_and_val_is_taken_from_train(many: Images) -> None:
    parts = distribute(many, "sizes:100/30,50/20,20/5", 0, val=0.1)
    assert [tuple(len(part.split(split)) for split in SPLITS) for part in parts] == [
        (90, 10, 30),
        (45, 5, 20),
        (18, 2, 5),
    ]
    dealt = [name for part in parts for name in part.images.names]
    assert len(set(dealt)) == len(dealt) == 225


def test_sizes_draw_from_all_images_by_the_seed(many: Images) -> None:
    first, second = (distribute(many, "sizes:100/30,50/20", seed) for seed in (0, 1))
    assert names(first) != names(second)
    assert names(first) == names(distribute(many, "sizes:100/30,50/20", 0))
    split_of = dict(zip(many.names, many.splits, strict=True))
    assert {split_of[name] for name in first[0].split("train").names} == set(SPLITS)


def test_the_large_sites_are_those_with_most_training_images(many: Images) -> None:
    parts = distribute(many, "sizes:30/40,60/5,50/5,10/5", 0, large=2)
    assert [part.tier for part in parts] == ["small", "large", "large", "small"]
    assert {part.tier for part in distribute(many, "sizes:30/4,60/5", 0)} == {"small"}


def test_of_sites_with_equally_many_images_the_first_are_large(many: Images) -> None:
    assert [part.tier for part in distribute(many, "sizes:30/4,30/5,30/6", 0, large=1)] == ["large", "small", "small"]


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("", "a split is"),
        ("random", "a split is"),
        ("natural:centers", "no centres"),
        ("natural:folder", "no folders"),
        ("natural", "natural:centers or natural:folder"),
        ("natural:cohort", "natural:centers or natural:folder"),
        ("dirichlet:", "above 0"),
        ("dirichlet:0", "above 0"),
        ("dirichlet:-1", "above 0"),
        ("dirichlet:nan", "above 0"),
        ("dirichlet:inf", "above 0"),
        ("sizes:", "above 0"),
        ("sizes:10", "above 0"),
        ("sizes:10/", "above 0"),
        ("sizes:10/5,a/b", "above 0"),
        ("sizes:200/50,40/11", "301 images, and there are 300"),
    ],
)
def test_an_impossible_split_is_wrong_usage(many: Images, how: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        distribute(many, how, 0)


def test_class_folders_are_not_sites(on_disk: OnDisk) -> None:
    with pytest.raises(UsageError, match="the first folders are the classes, not the sites"):
        distribute(on_disk("{kind}/{site}"), "natural:folder", 0)


def test_a_site_without_training_images_is_refused(images: Images) -> None:
    with pytest.raises(UsageError, match="without training images"):
        distribute(images, "dirichlet:1", 0, sites=40)


@pytest.fixture
def patients(many: Images) -> Images:
    """These images, of 100 patients with one to eight images each in possibly several classes and splits."""
    patient_of = np.random.default_rng(5).choice(100, len(many), p=np.arange(1, 101) / 5050)
    return replace(many, groups=tuple(f"p{patient}" for patient in patient_of))


@pytest.mark.parametrize("how", ["sizes:100/30,50/20,20/5", "sizes:200/60,30/10", "dirichlet:1", "dirichlet:0.3"])
@pytest.mark.parametrize("seed", range(3))
def test_a_patient_is_at_one_site_and_in_one_set_if_sets_are_drawn(how: str, seed: int, patients: Images) -> None:
    parts = distribute(patients, how, seed, sites=3)
    where = {(group, part.id) for part in parts for group in part.images.groups}
    assert len(where) == len({group for group, _ in where})
    if how.startswith("sizes"):
        located = {
            (group, split)
            for part in parts
            for group, split in zip(part.images.groups, part.images.splits, strict=True)
        }
        assert len(located) == len({group for group, _ in located})


def test_sizes_are_met_as_closely_as_whole_patients_allow_and_the_difference_is_reported(
    many: Images, patients: Images
) -> None:
    lines: list[str] = []
    parts = distribute(patients, "sizes:100/30,50/20,20/5", 0, val=0.1, say=lines.append)
    counts = [tuple(len(part.split(split)) for split in SPLITS) for part in parts]
    assert counts == [(90, 10, 30), (45, 5, 20), (18, 2, 5)]
    assert not lines
    pairs = replace(many, groups=tuple(f"p{i // 2}" for i in range(len(many))))
    parts = distribute(pairs, "sizes:101/31,50/21", 0, val=0.0, say=lines.append)
    counts = [tuple(len(part.split(split)) for split in ("train", "test")) for part in parts]
    assert counts == [(100, 30), (50, 20)]
    assert "site 1 has -1 train, -1 test images" in lines[0]
    assert "site 2 has -1 test images" in lines[1]


def test_a_natural_split_gives_a_patient_of_two_centres_to_the_one_with_most_of_their_images(
    images: Images,
) -> None:
    lines: list[str] = []
    indices = [i for i, centre in enumerate(images.centres) if centre == "9"][:3]
    other = images.centres.index("10")
    groups = tuple("p" if i in (*indices, other) else "" for i in range(len(images)))
    parts = distribute(replace(images, groups=groups), "natural:centers", 0, say=lines.append)
    assert [part.name for part in parts for group in part.images.groups if group == "p"] == ["9"] * 4
    assert lines == ["1 image moved to the site with most images of the same patient"]


def test_the_number_of_a_patients_images_does_not_change_the_site_of_other_patients(many: Images) -> None:
    """Groups of one image are like no groups."""
    ungrouped = replace(many, groups=tuple(f"p{i}" for i in range(len(many))))
    for spec in ("sizes:100/30,50/20", "dirichlet:1"):
        assert names(distribute(ungrouped, spec, 2, sites=2)) == names(distribute(many, spec, 2, sites=2))


# --- limits --------------------------------------------------------------------------------------------------------
def in_groups(images: Images, groups: tuple[int, ...]) -> Images:
    """Training images of one class in groups of these sizes."""
    total = sum(groups)
    named = tuple(f"p{index}" for index, size in enumerate(groups) for _ in range(size))
    few = images.only(np.arange(total))
    return replace(few, groups=named, labels=np.zeros(total, np.int64), splits=("train",) * total)


def counts(parts: list[SiteImages]) -> list[tuple[int, ...]]:
    return [tuple(len(part.split(split)) for split in SPLITS) for part in parts]


def test_by_default_there_are_two_small_sites_and_a_tenth_of_train_is_val(many: Images) -> None:
    parts = distribute(many, "dirichlet:100", 0)
    assert [(part.id, part.name, part.tier) for part in parts] == [
        ("site-001", "site 1", "small"), ("site-002", "site 2", "small"),
    ]  # fmt: skip
    (part,) = distribute(many, "sizes:100/30", 0)
    assert (part.name, counts([part])) == ("site 1", [(90, 10, 30)])


@pytest.mark.parametrize("seed", range(6))
def test_a_group_goes_to_the_site_whose_part_contains_its_middle(many: Images, seed: int) -> None:
    """A group of seven and one of one in equal parts: whichever comes first, each site gets a group."""
    assert sorted(len(part.images) for part in distribute(in_groups(many, (7, 1)), "dirichlet:1e9", seed)) == [1, 7]


def test_a_class_may_have_no_images_in_a_split(many: Images) -> None:
    with np.errstate(all="raise"):
        assert len(distribute(in_groups(many, (1,) * 40), "dirichlet:100", 0)) == 2  # no val and no test


def test_centres_may_have_a_single_class(many: Images) -> None:
    centres = tuple(str(label) for label in many.labels)
    assert [part.name for part in distribute(replace(many, centres=centres), "natural:centers", 0)] == ["0", "1", "2"]


def test_a_folder_for_each_site_is_enough(many: Images) -> None:
    placed = replace(many, names=tuple(f"{'ab'[i % 2]}/{i}.png" for i in range(len(many))))
    assert [(part.name, len(part.images)) for part in distribute(placed, "natural:folder", 0)] == [
        ("a", 150),
        ("b", 150),
    ]


def test_the_site_that_has_no_training_images_is_named(images: Images) -> None:
    splits = tuple("test" if centre == "9" else "train" for centre in images.centres)
    with pytest.raises(UsageError, match="leaves '9' without training images"):
        distribute(replace(images, splits=splits), "natural:centers", 0)


def test_repeated_images_of_a_source_are_missing_from_the_largest_site(many: Images) -> None:
    lines: list[str] = []
    lacking = replace(many, problems=(Problem("a", "E_TWICE", ""), Problem("b", "E_TWICE", "")))
    assert counts(distribute(lacking, "sizes:50/42,180/30", 0, val=0, say=lines.append)) == [(50, 0, 42), (178, 0, 30)]
    assert lines == ["2 images are unusable or duplicates: site 2 has 2 fewer"]
    for sizes in ("50/42,180/31", "50/43,180/30"):
        with pytest.raises(UsageError, match="303 images, and there are 300"):
            distribute(lacking, f"sizes:{sizes}", 0)
    assert counts(distribute(lacking, "sizes:2/299", 0)) == [(1, 0, 299)]
    with pytest.raises(UsageError, match="301 images, and there are 300"):
        distribute(lacking, "sizes:1/300", 0)


@pytest.mark.parametrize(
    ("groups", "sizes", "expected"),
    [
        ((3,), "2/1", [(3, 0, 0)]),  # one image too many is closer than two too few; then nothing is left
        ((3, 3), "2/2", [(3, 0, 3)]),  # each group is used once
        ((3, 1, 1), "1/2", [(1, 0, 1)]),  # equally far with and without it: then without
        ((6, 4, 4), "4/3", [(4, 0, 4)]),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_whole_groups_come_as_close_to_the_sizes_as_possible(
    many: Images, groups: tuple[int, ...], sizes: str, expected: list[tuple[int, ...]], seed: int
) -> None:
    parts = distribute(in_groups(many, groups), f"sizes:{sizes}", seed, val=0)
    assert counts(parts) == expected
    dealt = [name for part in parts for name in part.images.names]
    assert len(set(dealt)) == len(dealt)
