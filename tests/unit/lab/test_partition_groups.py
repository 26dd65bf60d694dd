"""Images of one patient or lesion: at one site and in one part of every federation, or it is said."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.data.images import SPLITS, Images
from fedhelp_edge.data.loading import load
from fedhelp_edge.demo import phantoms
from fedhelp_edge.errors import UsageError
from fedhelp_edge.lab import partition
from fedhelp_edge.lab.partition import SiteImages, distribute
from tests.command import json_output, run_in_process

PLAN = plans.Plan(classes=("a", "b", "c"), data=plans.DataSettings(val=0.2, test=0.3))
GIVEN = {
    "no splits": ("",),
    "train and test": ("train", "train", "train", "test"),
    "all three": ("train", "train", "train", "test", "val"),
    "some images without": ("train", "train", "", "test", ""),
}
KINDS = ["natural:centers", "natural:folder", "dirichlet:0.5", "dirichlet:20", "labels:2", "sizes:60/20,30/10,20/5"]


def source(seed: int, given: Sequence[str], *, whole: bool) -> Images:
    """Images of patients with one to nine images each, at three centres. `whole`: the source divides no patient."""
    draw = np.random.default_rng(seed)
    count = 240
    patient = draw.choice(70, count, p=np.arange(1, 71) / (70 * 71 / 2))
    groups = tuple("" if number < 8 else f"p{number}" for number in patient)  # eight are known by nobody
    unit = patient if whole else np.arange(count)
    splits = np.asarray(given)[draw.integers(0, len(given), count)[unit]] if whole else draw.choice(given, count)
    centres = np.asarray(("north", "south", "east"))[
        draw.integers(0, 3, count)[unit] if whole else draw.integers(0, 3, count)
    ]
    labels = draw.integers(0, 3, count)
    names = tuple(f"{centre}/{number}.png" for number, centre in enumerate(centres))
    hashes = tuple(f"{number:064x}" for number in draw.permutation(count))
    pixels = np.zeros((count, 2, 2, 3), np.uint8)
    return Images(pixels, labels, tuple(splits.tolist()), names, groups, tuple(centres.tolist()), (), groups, hashes)


def split_and_distribute(images: Images, kind: str, seed: int) -> tuple[Images, list[SiteImages]]:
    """By the lab's whole way: parts are drawn, then images go to sites."""
    unsplit = loading.UnsplitImages(images, (), (), PLAN.classes, ())
    whole = loading.assign_splits(unsplit, replace(PLAN, seed=seed), Path("nowhere.json"), write=False)
    return whole, distribute(whole, kind, seed, sites=3, large=1, val=PLAN.data.val)


def places(sites: Sequence[SiteImages]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The sites, and the parts, of each group."""
    at: dict[str, set[str]] = defaultdict(set)
    parts: dict[str, set[str]] = defaultdict(set)
    for site in sites:
        for group, part in zip(site.images.groups, site.images.splits, strict=True):
            if group:
                at[group].add(site.id)
                parts[group].add(part)
    return at, parts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("whole", [True, False], ids=["patients whole in the source", "patients divided in the source"])
def test_a_patient_is_at_one_site_and_in_one_part_unless_the_source_divides_them(
    kind: str, given: tuple[str, ...], whole: bool
) -> None:
    tried = 0
    for seed in range(8):
        images = source(seed, given, whole=whole)
        try:
            _, sites = split_and_distribute(images, kind, seed)
        except UsageError:  # a site without training images
            continue
        tried += 1
        at, parts = places(sites)
        assert {len(ids) for ids in at.values()} == {1}
        in_source: dict[str, set[str]] = defaultdict(set)
        for group, part in zip(images.groups, images.splits, strict=True):
            in_source[group] |= {part} - {""}
        divided = {group for group, of_group in parts.items() if len(of_group) > 1}
        leaks = [found for found in partition.findings(sites, PLAN.classes) if found.kind == "leak"]
        if kind.startswith("sizes") or whole:
            assert not divided
            assert not leaks
        else:
            assert all(len(parts[group]) <= len(in_source[group]) for group in divided)
            concerned = {  # images of the part that is looked at, of groups that are in an earlier part too
                part: sum(
                    bool(parts[group] & set(SPLITS[: SPLITS.index(part)]))
                    for site in sites for group in site.split(part).groups if group
                )
                for part in ("val", "test")
            }  # fmt: skip
            assert all(found.images <= concerned[found.part] for found in leaks)
            assert bool(divided) == bool(leaks)
    assert tried >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_is_at_one_site_and_keeps_the_part_that_the_source_names(kind: str) -> None:
    images = source(1, GIVEN["train and test"], whole=False)
    _, sites = split_and_distribute(images, kind, 1)
    names = [name for site in sites for name in site.images.names]
    assert len(set(names)) == len(names)
    if kind.startswith("sizes"):
        return
    assert sorted(names) == sorted(images.names)
    named = dict(zip(images.names, images.splits, strict=True))
    for site in sites:
        for name, part in zip(site.images.names, site.images.splits, strict=True):
            assert part == named[name] or (part, named[name]) == ("val", "train")


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_validation_images_are_about_as_many_as_the_plan_says_and_whole_patients(given: tuple[str, ...]) -> None:
    for seed in range(5):
        whole, _ = split_and_distribute(source(seed, given, whole=True), "dirichlet:20", seed)
        sizes = Counter(whole.splits)
        if "val" not in given:
            base = len(whole) if given == ("",) else sizes["train"] + sizes["val"]
            assert abs(sizes["val"] - PLAN.data.val * base) <= 9  # a whole patient


# --- from files -----------------------------------------------------------------------------------------------------
def drawn() -> tuple[np.ndarray, np.ndarray, list[str], list[str], list[str]]:
    """48 pictures of 24 patients with two pictures each, of two centres: of four patients one is in test."""
    pixels, labels = phantoms.draw(48, 2, size=16, seed=4, difficulty=0.0)
    patients = [f"P{number // 2}" for number in range(48)]
    parts = ["test" if number // 2 % 4 == 3 else "train" for number in range(48)]
    centres = ["east" if number // 2 % 2 else "west" for number in range(48)]
    return pixels, labels, patients, parts, centres


def as_npz(folder: Path, patients: list[str], parts: list[str]) -> Path:
    pixels, labels, _, _, centres = drawn()
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        chosen = [index for index, name in enumerate(parts) if name == part]
        columns = {"images": pixels, "labels": labels, "groups": np.array(patients), "centers": np.array(centres)}
        arrays |= {f"{part}_{name}": column[chosen] for name, column in columns.items()}
    np.savez(folder / "images.npz", class_names=np.array(["a", "b"]), **arrays)
    return folder / "images.npz"


def as_table(folder: Path, patients: list[str], parts: list[str]) -> Path:
    pixels, labels, _, _, centres = drawn()
    (folder / "images").mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "center", "fold", "dx", "lesion_id"))
        for number, image in enumerate(pixels):
            Image.fromarray(image).save(folder / "images" / f"I{number}.png")
            table.writerow((f"I{number}", centres[number], parts[number], "ab"[labels[number]], patients[number]))
    return folder / "labels.csv"


def as_folders(folder: Path, patients: list[str], parts: list[str]) -> Path:
    pixels, labels, _, _, centres = drawn()
    for number, image in enumerate(pixels):
        place = folder / "images" / centres[number] / parts[number] / "ab"[labels[number]] / patients[number]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    return folder / "images"


WAYS = {"npz": as_npz, "table": as_table, "folders": as_folders}
ON_DISK = plans.Plan(
    classes=("a", "b"), image=plans.ImageSettings(size=16), data=plans.DataSettings(val=0.25, test=0.2)
)


@pytest.mark.parametrize("way", WAYS)
def test_files_of_every_kind_give_patients_centres_and_folds_and_validation_is_cut_by_patients(
    way: str, tmp_path: Path
) -> None:
    _, _, patients, parts, _ = drawn()
    images = load(WAYS[way](tmp_path, patients, parts), ON_DISK, state_dir=tmp_path / "kept")
    sizes = Counter(images.splits)
    assert (sizes["val"] in (8, 10), sizes["test"]) == (True, 12)  # a quarter of 36, in pairs
    sites = distribute(images, "natural:folder" if way == "folders" else "natural:centers", 0)
    assert [site.name for site in sites] == ["east", "west"]
    at, of = places(sites)
    assert len(at) == 24
    assert {len(ids) for ids in at.values()} == {len(names) for names in of.values()} == {1}
    assert not [found for found in partition.findings(sites, ON_DISK.classes) if found.kind != "no-validation-images"]


@pytest.mark.parametrize("way", WAYS)
def test_a_patient_in_two_given_parts_is_refused_by_check_and_repeated_by_the_lab(way: str, tmp_path: Path) -> None:
    _, _, patients, parts, _ = drawn()
    parts[0] = "test"  # the other picture of P0 is in train
    path = WAYS[way](tmp_path, patients, parts)
    (tmp_path / "plan.toml").write_text(LAB_PLAN)
    checked = run_in_process("check", str(path), "--plan", "plan.toml", "--json", home=tmp_path)
    assert json_output(checked)["ready"] is False
    assert "E_LEAK" in {problem["code"] for problem in json_output(checked)["problems"]}
    (leak,) = [found for found in json_output(checked)["findings"] if found["kind"] == "leak"]
    split_by = "natural:folder" if way == "folders" else "natural:centers"
    ran = run_in_process("lab", "run", "plan.toml", "--data", str(path), "--split", split_by, *OUT, home=tmp_path)
    assert ran.stderr.index(f"note: {leak['sentence']}\n") < ran.stderr.index("round 1 of 1")
    assert leak in json.loads((tmp_path / "out" / "run.json").read_text())["findings"]


LAB_PLAN = """classes = ["a", "b"]
method = "fedavg"
rounds = 1
[image]
size = 16
[nets]
small = "resnet8"
large = "resnet8"
[training]
epochs = 1
precision = "fp32"
"""
OUT = ("--out", "out", "--threads", "1")


def test_what_check_refuses_and_the_lab_leaves_out_is_told_before_the_training_and_in_the_results(
    tmp_path: Path,
) -> None:
    """Copies in two parts, copies with two labels, a label that is no class, a copy in one part."""
    pixels, labels = phantoms.draw(40, 2, size=16, seed=4, difficulty=0.0)
    pixels[[1, 2, 3]] = pixels[[30, 31, 5]]
    labels[[1, 2, 3, 4]] = labels[30], 1 - labels[31], labels[5], 2
    splits = {"train": slice(0, 28), "test": slice(28, 40)}
    arrays = {f"{part}_images": pixels[rows] for part, rows in splits.items()}
    arrays |= {f"{part}_labels": labels[rows] for part, rows in splits.items()}
    arrays |= {f"{part}_centers": (np.arange(40) % 2)[rows] for part, rows in splits.items()}
    np.savez(tmp_path / "images.npz", class_names=np.array(["a", "b", "x"]), **arrays)
    (tmp_path / "plan.toml").write_text(LAB_PLAN)
    told = [
        "2 of 40 images are left out: the same picture has another label (E_CONFLICT)",
        "1 of 40 images is left out: the same picture is there already (E_DUPLICATE)",
        "1 of 40 images is left out: their label is no class of the plan (E_LABEL)",
        "1 of 40 images is left out: the same picture is in another of train, val and test (E_LEAK)",
    ]
    data = ("plan.toml", "--data", "images.npz", *OUT)
    ran = run_in_process("lab", "run", *data, home=tmp_path)
    for sentence in told:
        assert ran.stderr.index(f"note: {sentence}\n") < ran.stderr.index("round 1 of 1")
    kept = json.loads((tmp_path / "out" / "run.json").read_text())["findings"]
    assert [found["sentence"] for found in kept if found["kind"] == "left-out"] == told
    compared = run_in_process("lab", "compare", *data, "--methods", "fedavg", home=tmp_path)
    assert all(f"note: {sentence}\n" in compared.stderr for sentence in told)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [found["sentence"] for found in results["runs"][0]["findings"] if found["kind"] == "left-out"] == told
    assert all(f"- {sentence}\n" in (tmp_path / "out" / "table.md").read_text() for sentence in told)


def test_classes_that_a_site_trains_on_and_cannot_validate_are_told_by_site() -> None:
    labels = np.array([0, 1, 0, 1, 2, 0, 1, 0, 1])
    splits = ("train", "train", "val", "val", "train", "train", "train", "val", "val")
    centres = ("1",) * 5 + ("2",) * 4
    names = tuple(map(str, range(9)))
    pixels = np.zeros((9, 2, 2, 3), np.uint8)
    sites = distribute(Images(pixels, labels, splits, names, ("",) * 9, centres), "natural:centers", 0)
    (found,) = (
        found
        for found in partition.findings(sites, PLAN.classes)
        if found.kind == "no-validation-images" and found.images
    )
    expected = "at 1 of 2 sites, validation images lack a class that the site trains on. Missing: 1 (c)"
    assert (found.sentence, found.images, found.of) == (expected, 1, 5)
