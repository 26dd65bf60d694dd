"""With patience a run ends early by one rule for all methods and keeps its best round. Validation images decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.lab import compare, partition, results, run
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.plan import Plan

PlanOf = Callable[..., Plan]
STEADY = {
    "training.schedule": "constant",
    "training.lr": "0.02",
    "nets.norm": "group",
    "nets.small": "resnet20",
}  # rounds of any run are alike
ROUNDS = 3
BEST = {"fedavg": 2, "local": 1}  # rounds whose nets agree with no later ones about validation images


@pytest.fixture(scope="module")
def sites(images_of: Callable[..., Any]) -> list[SiteImages]:
    """Three sites, each with six validation images or more."""
    images = images_of({"1": 30, "2": 30, "3": 30})
    splits = tuple("val" if split == "test" and index % 2 else split for index, split in enumerate(images.splits))
    return partition.distribute(replace(images, splits=splits), "natural:centers", 0, large=1)


def relabelled(sites: list[SiteImages], split: str, labels: Mapping[str, Any]) -> list[SiteImages]:
    """The same sites, the images of one split with other labels."""
    changed = []
    for site in sites:
        new = site.images.labels.copy()
        new[[name == split for name in site.images.splits]] = labels[site.id]
        changed.append(replace(site, images=replace(site.images, labels=new)))
    return changed


def repainted(sites: list[SiteImages], split: str) -> list[SiteImages]:
    """The same sites, the images of one split turned into their negatives."""
    changed = []
    for site in sites:
        pixels = np.array(site.images.pixels[:])
        chosen = np.array([name == split for name in site.images.splits])
        pixels[chosen] = 255 - pixels[chosen]
        changed.append(replace(site, images=replace(site.images, pixels=pixels)))
    return changed


def answers(folder: Path, sites: list[SiteImages], name: str) -> dict[str, Any]:
    with np.load(folder / "answers.npz") as archive:
        return {site.id: archive[f"{site.id}/{name}"] for site in sites}


def go(plan: Plan, sites: list[SiteImages], folder: Path) -> dict[str, Any]:
    return run.run(plan, sites, folder, compute=Compute())


@pytest.fixture(scope="module")
def best_round(
    plan_of: PlanOf, sites: list[SiteImages], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[dict[str, Any], Path]]:
    """Gives a run that ends with what is to be the best round, and its folder."""
    runs: dict[str, tuple[dict[str, Any], Path]] = {}

    def start(method: str) -> tuple[dict[str, Any], Path]:
        if method not in runs:
            folder = tmp_path_factory.mktemp(method)
            runs[method] = go(plan_of(method, STEADY, rounds=BEST[method]), sites, folder), folder
        return runs[method]

    return start


@pytest.mark.parametrize(("method", "net"), [("fedavg", "merged"), ("local", "own")])
def test_where_patience_ends_a_run_the_round_that_validation_images_find_best_is_kept_and_judged(
    plan_of: PlanOf, sites: list[SiteImages], best_round: Callable[[str], tuple[dict[str, Any], Path]],
    tmp_path: Path, method: str, net: str,
) -> None:  # fmt: skip
    """Validation images are labelled by what the nets of a round say. So later rounds are worse."""
    record, folder = best_round(method)
    labels = {site: values.argmax(1) for site, values in answers(folder, sites, f"val_{net}").items()}
    judged = relabelled(sites, "val", labels)
    rounds = ROUNDS + 1
    kept = go(plan_of(method, {**STEADY, "round.patience": "1"}, rounds=rounds), judged, tmp_path / "kept")
    last = go(plan_of(method, {**STEADY, "round.patience": "0"}, rounds=rounds), judged, tmp_path / "last")
    assert (kept["best_round"], last["best_round"]) == (BEST[method], rounds)
    assert kept["rounds"] == BEST[method] + 1
    for split in ("val", "test"):
        for name in {"own", net}:
            both = (answers(path, sites, f"{split}_{name}") for path in (folder, tmp_path / "kept"))
            assert all(np.array_equal(*pair) for pair in zip(*(by_site.values() for by_site in both), strict=True))
    assert kept["merged_sha256"] == record["merged_sha256"] != (last["merged_sha256"] or "")
    assert [site["accuracy"] for site in kept["sites"]] == [site["accuracy"] for site in record["sites"]]
    assert not list((tmp_path / "kept").glob("round-*"))


def test_a_run_of_all_its_rounds_keeps_the_last_as_a_coordinator_does(
    plan_of: PlanOf, sites: list[SiteImages], best_round: Callable[[str], tuple[dict[str, Any], Path]], tmp_path: Path
) -> None:
    _, folder = best_round("fedavg")
    labels = {site: values.argmax(1) for site, values in answers(folder, sites, "val_merged").items()}
    judged = relabelled(sites, "val", labels)
    runs = [
        go(plan_of("fedavg", {**STEADY, "round.patience": patience}, rounds=ROUNDS), judged, tmp_path / patience)
        for patience in ("9", "0")
    ]
    assert [each["best_round"] for each in runs] == [ROUNDS, ROUNDS]
    assert runs[0]["merged_sha256"] == runs[1]["merged_sha256"]


def test_a_run_that_was_interrupted_keeps_the_same_round(
    plan_of: PlanOf, sites: list[SiteImages], best_round: Callable[[str], tuple[dict[str, Any], Path]], tmp_path: Path
) -> None:
    class Cut(Exception):
        """A simulated power cut."""

    def cut(text: str) -> None:
        raise Cut(text)

    record, folder = best_round("fedavg")
    labels = {site: values.argmax(1) for site, values in answers(folder, sites, "val_merged").items()}
    plan = plan_of(settings={**STEADY, "round.patience": "1"}, rounds=ROUNDS + 1)
    for _ in range(ROUNDS):
        with pytest.raises(Cut):
            run.run(plan, relabelled(sites, "val", labels), tmp_path, compute=Compute(), progress=cut)
    resumed = run.run(plan, relabelled(sites, "val", labels), tmp_path, compute=Compute(), progress=cut)
    assert (resumed["best_round"], resumed["merged_sha256"]) == (2, record["merged_sha256"])


def test_training_alone_ends_by_the_same_rule_as_a_federation(
    plan_of: PlanOf, sites: list[SiteImages], tmp_path: Path
) -> None:
    settings = {"round.patience": "1", "training.lr": "1e-7", "nets.norm": "group"}  # nothing moves
    rounds = {
        name: go(plan_of(name, settings, rounds=4), sites, tmp_path / name)["rounds"] for name in ("local", "fedavg")
    }
    assert rounds == {"local": 2, "fedavg": 2}


METHODS = ("local", "fedavg")
NUMBER = 0


def choices(plan_of: PlanOf, sites: list[SiteImages], folder: Path) -> dict[str, Any]:
    """All that is chosen in two runs, and their curves."""
    settings = {**STEADY, "round.patience": "1"}

    def run_one(name: str, seed: int, out: Path) -> dict[str, Any]:
        return go(plan_of(name, settings, seed=seed, rounds=ROUNDS), sites, out)

    runs = compare.compare(METHODS, [NUMBER], folder, run_one)
    known = results.load(folder)
    curves = [[{k: v for k, v in point.items() if k != "seconds"} for point in each["curve"]] for each in runs]
    kept = [[(site["weights"], site["images"], site["gain"]) for site in each["kept"]] for each in runs]
    scales = [known.kept(each, site).scales for each in known.runs for site in known.site_names(each)]  # type: ignore[union-attr]
    return {
        "rounds": [each["rounds"] for each in runs], "best": [each["best_round"] for each in runs],
        "model": [each["merged_sha256"] for each in runs], "curves": curves, "kept": kept, "scales": scales,
        "test": [(each["mean"], each["merged"]) for each in runs],
    }  # fmt: skip


def test_swapping_test_images_changes_no_choice_and_swapping_validation_images_changes_all(
    plan_of: PlanOf, sites: list[SiteImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early stop, best round, curves and what sites keep. Figures on test images change with test images."""
    monkeypatch.setattr(compare, "can_plot", lambda: False)
    before = choices(plan_of, sites, tmp_path / "before")
    (best, *_), (rounds, *_) = before["best"], before["rounds"]
    assert f"| local | {best} of {rounds} |" in (tmp_path / "before" / "table.md").read_text(encoding="utf-8")
    wrong = {site.id: (site.split("test").labels + 1) % 3 for site in sites}
    other_test = choices(plan_of, repainted(relabelled(sites, "test", wrong), "test"), tmp_path / "test")
    assert other_test.pop("test") != before["test"]
    assert other_test == {name: values for name, values in before.items() if name != "test"}
    labels = {site.id: (site.split("val").labels + 1) % 3 for site in sites}
    other_val = choices(plan_of, relabelled(sites, "val", labels), tmp_path / "val")
    decided = ("rounds", "best", "curves", "kept", "scales")
    assert not [name for name in decided if other_val[name] == before[name]]
