"""Images are split once: by whole groups, in proportion for each class, and by pixels and seed alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_edge import errors
from fedhelp_edge.data import loading, split
from fedhelp_edge.data.images import Images, Pixels
from fedhelp_edge.plan import Plan
from tests.unit.data import samples

Case: TypeAlias = tuple[list[str], list[int], list[str], Plan]


@st.composite
def cases(draw: st.DrawFn, *, grouped: bool = True) -> Case:
    """Hashes, labels, groups and a plan."""
    count = draw(st.integers(1, 80))
    hashes = draw(st.lists(st.integers(0, 2**40), min_size=count, max_size=count, unique=True))
    labels = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    group = st.sampled_from(["", *"pqrstuvw"]) if grouped else st.just("")
    groups = draw(st.lists(group, min_size=count, max_size=count))
    val, test = draw(st.sampled_from([(0.1, 0.2), (0.0, 0.0), (0.5, 0.5), (0.0, 0.3), (0.25, 0.0)]))
    plan = samples.plan("a", "b", "c", "d", seed=draw(st.integers(0, 2**53 - 1)), val=val, test=test)
    return [f"{value:064x}" for value in hashes], labels, groups, plan


def drawn(case: Case, given_splits: list[str] | None = None) -> list[str]:
    hashes, labels, groups, plan = case
    return split.draw(hashes, labels, groups, given_splits or [""] * len(hashes), plan)


@given(cases())
def test_every_image_and_every_whole_group_is_in_one_set(case: Case) -> None:
    splits = drawn(case)
    assert set(splits) <= {"train", "val", "test"}
    where = {(group, part) for group, part in zip(case[2], splits, strict=True) if group}
    assert len(where) == len({group for group, _ in where})


@given(cases(), st.randoms())
def test_the_order_of_the_images_changes_nothing(case: Case, random: st.random.Random) -> None:
    hashes, labels, groups, plan = case
    order = list(range(len(hashes)))
    random.shuffle(order)
    mixed = ([hashes[i] for i in order], [labels[i] for i in order], [groups[i] for i in order], plan)
    assert dict(zip(mixed[0], drawn(mixed), strict=True)) == dict(zip(hashes, drawn(case), strict=True))


@given(cases())
def test_the_names_of_groups_change_nothing(case: Case) -> None:
    hashes, labels, groups, plan = case
    renamed = [f"patient {group}" if group else "" for group in groups]
    assert drawn((hashes, labels, renamed, plan)) == drawn(case)


@given(cases(grouped=False))
def test_every_class_is_split_in_the_plans_proportions_and_has_training_images(case: Case) -> None:
    _, labels, _, plan = case
    counts = Counter(zip(labels, drawn(case), strict=True))
    for label, total in Counter(labels).items():
        assert counts[label, "train"] >= 1
        if plan.data.val + plan.data.test < 1:  # otherwise there may be none left
            assert abs(counts[label, "val"] - plan.data.val * total) <= 2
            assert abs(counts[label, "test"] - plan.data.test * total) <= 2


@pytest.mark.parametrize("fraction", [0.25, 0.33, 0.5])
def test_the_number_of_images_of_a_class_is_rounded_to_the_nearest_with_halves_up(fraction: float) -> None:
    for count in (1, 2, 3, 5, 6, 7, 53):  # a third of 53 is 17.49
        plan = samples.plan(val=fraction, test=0.0)
        splits = drawn(([f"{i:064x}" for i in range(count)], [0] * count, [""] * count, plan))
        assert splits.count("val") == min(int(fraction * count + 0.5), count - 1), count


def test_a_patient_counts_in_the_class_of_most_of_its_images() -> None:
    """Two patients are of class 0, one is of class 1, which stays in train."""
    labels = [0, 0, 1, 0, 0, 2, 1, 1, 2]
    hashes, groups = [f"{i:064x}" for i in range(9)], [group for group in "pqr" for _ in range(3)]
    for seed in range(8):
        splits = drawn((hashes, labels, groups, samples.plan(seed=seed, val=0.5, test=0.0)))
        assert splits[6:] == ["train"] * 3
        assert splits.count("val") == 3


def test_classes_too_small_for_their_own_share_contribute_together() -> None:
    hashes = [f"{i:064x}" for i in range(40)]
    splits = drawn((hashes, [i // 4 for i in range(40)], [""] * 40, samples.plan(*"abcdefghij")))
    assert Counter(splits) == {"train": 28, "test": 8, "val": 4}


def test_a_patient_named_like_an_images_hash_is_not_that_image() -> None:
    hashes = [f"{number:064x}" for number in range(20)]
    groups = [hashes[1], "", *[""] * 18]
    draws = (split.draw(hashes, [0, 1] * 10, groups, [""] * 20, samples.plan(seed=seed)) for seed in range(20))
    assert any(first != second for first, second, *_ in draws)


def test_another_seed_gives_another_split() -> None:
    hashes, labels = [f"{i:064x}" for i in range(100)], [0] * 100
    parts = {tuple(drawn((hashes, labels, [""] * 100, samples.plan(seed=seed)))) for seed in range(3)}
    assert len(parts) == 3


@given(cases(), st.data())
def test_a_given_split_is_used_and_a_missing_val_is_taken_from_its_train(case: Case, draw: st.DataObject) -> None:
    count = len(case[0])
    given_ = draw.draw(st.lists(st.sampled_from(["train", "test"]), min_size=count, max_size=count))
    splits = drawn(case, given_)
    assert [part == "test" for part in splits] == [part == "test" for part in given_]
    given_[0] = "val"
    assert drawn(case, given_) == given_


def test_an_image_without_a_given_split_follows_its_group() -> None:
    groups, says = ["p", "p", "q", "q", "", "", "r", "r"], ["test", "", "val", "", "test", "", "train", ""]
    case = [f"{i:064x}" for i in range(8)], [0] * 8, groups, samples.plan()
    assert drawn(case, says) == ["test", "test", "val", "val", "test", "train", "train", "train"]


def test_the_stored_split_counts_first_and_then_the_given_one_also_within_a_group() -> None:
    hashes, saved = list("abcdef"), {"a": "test", "b": "val"}
    groups, says = ["p", "", "p", "p", "", ""], ["train", "", "test", "", "val", ""]
    assert split.extend(hashes, groups, says, saved) == ["test", "val", "test", "", "val", "train"]


@given(cases(), st.data())
def test_new_images_join_train_and_old_ones_keep_their_split(case: Case, draw: st.DataObject) -> None:
    hashes, _, groups, _ = case
    old = draw.draw(st.integers(0, len(hashes)))
    saved = dict(zip(hashes, drawn(case), strict=True))
    earlier = {sha256: saved[sha256] for sha256 in hashes[:old]}
    splits = split.extend(hashes, groups, [""] * len(hashes), earlier)
    assert splits[:old] == [saved[sha256] for sha256 in hashes[:old]]
    held_out = {group for group, part in zip(groups[:old], splits, strict=False) if group and part != "train"}
    assert splits[old:] == ["" if group in held_out else "train" for group in groups[old:]]


def parts(images: Images) -> dict[bytes, str]:
    """The split of each image, by its pixels."""
    return {images.pixels[i].tobytes(): image_split for i, image_split in enumerate(images.splits)}


def test_a_split_stays_though_files_are_renamed_or_removed_and_the_seed_changes(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    first = parts(loading.load(source, samples.plan(), state_dir=tmp_path / "kept"))
    (source / "a" / "000.png").unlink()
    for path in sorted(source.glob("*/*.png")):
        path.rename(path.with_name(f"renamed {path.name}"))
    again = parts(loading.load(source, samples.plan(seed=7), state_dir=tmp_path / "kept"))
    assert again.items() <= first.items()
    assert len(again) == 19


def test_new_files_join_train(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    first = parts(loading.load(source, samples.plan(), state_dir=tmp_path / "kept"))
    samples.folder(source / "later", seed=1)
    again = parts(loading.load(source, samples.plan(), state_dir=tmp_path / "kept"))
    assert first.items() <= again.items()
    assert {again[pixels] for pixels in again.keys() - first.keys()} == {"train"}


def test_a_new_image_of_a_patient_in_val_or_test_is_left_out_with_a_reason(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    names = sorted(path.relative_to(source).as_posix() for path in source.glob("*/*.png"))
    table = source / "table.csv"
    table.write_text(
        "path,label,patient\n" + "".join(f"{n},{n[0]},p{i}\n" for i, n in enumerate(names)), encoding="utf-8"
    )
    first = loading.load(table, samples.plan(), state_dir=tmp_path / "kept")
    in_test, in_train = (first.groups[first.splits.index(part)] for part in ("test", "train"))
    for index, group in enumerate((in_test, in_train)):
        samples.save(source / "a" / f"new{index}.png", samples.noise(1, seed=50 + index)[0])
        with table.open("a", encoding="utf-8") as file:
            file.write(f"a/new{index}.png,a,{group}\n")
    again = loading.load(table, samples.plan(), state_dir=tmp_path / "kept")
    assert [(problem.file, problem.code) for problem in again.problems] == [("a/new0.png", "E_GROUP")]
    assert parts(first).items() <= parts(again).items()
    assert again.splits[again.names.index("a/new1.png")] == "train"


def test_each_image_size_has_its_own_split(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    small, large = (
        loading.load(source, samples.plan(size=size), state_dir=tmp_path / "kept").splits.count("test")
        for size in (8, 16)
    )
    assert small == large == 4
    saved = json.loads((tmp_path / "kept" / "split.json").read_bytes())["parts"]
    assert {kind: len(by_hash) for kind, by_hash in saved.items()} == {"8x8x3": 20, "16x16x3": 20}


def test_the_split_is_stored_in_a_new_folder_beside_those_of_other_images(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "split.json"
    assert split.load(path, "8x8x3") is None
    split.save(path, "8x8x3", {"aa": "train"})
    split.save(path, "16x16x3", {"aa": "test", "bb": "val"})
    split.save(path, "8x8x3", {"aa": "train", "cc": "val"})
    assert split.load(path, "8x8x3") == {"aa": "train", "cc": "val"}
    assert split.load(path, "16x16x3") == {"aa": "test", "bb": "val"}
    assert split.load(path, "16x16x1") is None
    assert list(path.parent.iterdir()) == [path]
    assert json.loads(path.read_bytes())["schema_version"] == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": {"16x16x3": {"00": "tset"}}}', '{"parts": {"16x16x3": 1}}'])
def test_a_damaged_split_is_not_drawn_again(text: str, tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    (tmp_path / "split.json").write_text(text, encoding="utf-8")
    with pytest.raises(errors.KeptSplitError):
        loading.load(source, samples.plan(), state_dir=tmp_path)
    assert (tmp_path / "split.json").read_text(encoding="utf-8") == text


def test_a_subset_of_the_images_is_a_view_and_not_a_copy(tmp_path: Path) -> None:
    images = loading.load(samples.folder(tmp_path / "images"), samples.plan(), state_dir=tmp_path / "kept")
    train = images.split("train")
    assert set(train.splits) == {"train"}
    assert isinstance(train.pixels, Pixels)
    assert train.pixels.shape == (len(train), 16, 16, 3)
    train_indices = [i for i, image_split in enumerate(images.splits) if image_split == "train"]
    assert np.array_equal(train.pixels[:], images.pixels[np.asarray(train_indices)])
    assert np.array_equal(train.pixels[[2, 0]], np.asarray(train.pixels)[[2, 0]])
    assert np.array_equal(train.labels, images.labels[train_indices])
    assert [images.names[i] for i in train_indices] == list(train.names)
