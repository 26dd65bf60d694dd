"""What each site keeps, in the laboratory: decided by validation images, measured on test images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export import keep
from fedhelp_edge.lab import compare, page, results, tables
from fedhelp_edge.lab.results import Results

Arrays = dict[str, NDArray[Any]]
TIERS = ("small", "small", "large")
COUNTS = {"val": 24, "test": 60}
SKILL = {"local": 1.0, "fedavg": 1.6}  # how well nets know the truth


def answers_of(method: str, seed: int, sites: int = 3) -> Arrays:
    """Predictions of three classes for validation and test images: better for one method, and best if merged."""
    arrays: Arrays = {}
    for site in range(1, sites + 1):
        for split, count in COUNTS.items():
            truths = np.random.Generator(np.random.Philox([site, count])).integers(0, 3, count)
            arrays[f"site-{site:03}/{split}_labels"] = truths.astype(float)
            arrays[f"site-{site:03}/{split}_groups"] = np.arange(count) // 2.0
            for number, net in enumerate(("own", "merged")[: 1 + (method != "local")]):
                generator = np.random.Generator(np.random.Philox([site, count, seed, number, len(method)][:4]))
                logits = SKILL[method] * np.eye(3)[truths] + generator.normal(size=(count, 3))
                arrays[f"site-{site:03}/{split}_{net}"] = np.exp(keep.log_softmax(logits))
    return arrays


def compared(folder: Path, answers: Mapping[tuple[str, int], Arrays], tiers: tuple[str, ...] = TIERS) -> Results:
    """The results of runs with these answers."""
    runs, folders = [], []
    for (method, seed), arrays in answers.items():
        folders.append(folder / "runs" / f"{method}-{seed}")
        folders[-1].mkdir(parents=True)
        np.savez(folders[-1] / "answers.npz", **arrays)  # type: ignore[arg-type]
        figures = {"accuracy": 0.5, "balanced_accuracy": 0.5, "auc": 0.5}
        sites = [{"name": str(n), "tier": tier, "n_train": 9, "n_test": 60, **figures} for n, tier in enumerate(tiers)]
        cost = {"bytes_up": 0, "seconds": 1.0, "merged": None if method.startswith("local") else figures, "curve": []}
        runs.append({"method": method, "seed": seed, "mean": figures, "sites": sites, **cost})
    known = results.save(folder, Results(runs, len(runs)), folders)
    compare.write(folder, known)
    return known


ANSWERS = {(method, seed): answers_of(method, seed) for method in SKILL for seed in (0, 1)}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    folder = tmp_path_factory.mktemp("kept")
    return compared(folder, ANSWERS), folder


def test_training_alone_counts_also_with_settings_of_its_own(known: tuple[Results, Path], tmp_path: Path) -> None:
    """`local+training.lr=0.003` is the local baseline where no plain `local` is there, and the first of several."""
    named = {"local": "local+training.lr=0.003", "fedavg": "fedavg"}
    tuned = {(named[method], seed): arrays for (method, seed), arrays in ANSWERS.items()}
    other = {("local+training.lr=1", seed): answers_of("local", seed + 7) for seed in (0, 1)}
    results_of_tuned = compared(tmp_path, {**tuned, **other})
    assert results_of_tuned.alone == "local+training.lr=0.003"
    for run, plain in zip(results_of_tuned.of("fedavg"), known[0].of("fedavg"), strict=True):
        assert {keep.ALONE, "own", "merged"} >= set(results_of_tuned.kept(run, "site-001").weights)  # type: ignore[union-attr]
        assert results_of_tuned.kept(run, "site-001") == known[0].kept(plain, "site-001")


@pytest.fixture(autouse=True, scope="module")
def without_pictures() -> Any:
    """Pictures take longer than runs of this size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "can_plot", lambda: False)
        yield


def kept_of(folder: Path, method: str = "fedavg") -> list[Any]:
    """What each site keeps, from the file of results, for each seed."""
    runs = json.loads((folder / "results.json").read_text())["runs"]
    return [run["kept"] for run in runs if run["method"] == method]


def block(folder: Path, start: str) -> list[list[str]]:
    """The rows of a table below the line that begins so."""
    text = (folder / "table.md").read_text(encoding="utf-8")
    lines = text[text.index(start) :].split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in [lines[0], *lines[2:]]]


def test_what_a_site_keeps_is_what_the_same_rule_of_a_real_site_says(known: tuple[Results, Path]) -> None:
    together, alone = ANSWERS["fedavg", 1], ANSWERS["local", 1]
    nets = {"own": (together, "own"), "merged": (together, "merged"), "alone": (alone, "own")}
    logits = {name: np.log(arrays[f"site-002/val_{net}"]) for name, (arrays, net) in nets.items()}
    site = keep.keep(logits, together["site-002/val_labels"].astype(int), np.arange(24) // 2)
    lab = kept_of(known[1])[1][1]
    assert lab["weights"] == pytest.approx(site.weights, abs=2e-3)  # answers are kept in half precision
    assert lab["gain"]["accuracy"] == site.to_json()["gain"]["accuracy"]
    assert lab["images"] == 24


def test_test_images_never_enter_the_choice(known: tuple[Results, Path], tmp_path: Path) -> None:
    turned: dict[tuple[str, int], Arrays] = {}
    for key, arrays in ANSWERS.items():
        turned[key] = {name: 2 - values if name.endswith("test_labels") else values for name, values in arrays.items()}
        turned[key] |= {f"site-{site:03}/test_own": arrays[f"site-{site:03}/test_own"][:, ::-1] for site in (1, 2, 3)}
        del turned[key]["site-001/test_groups"]
    compared(tmp_path, turned)
    names = ("weights", "images", "gain")
    for before, after in zip(kept_of(known[1]), kept_of(tmp_path), strict=True):
        assert [[site[name] for name in names] for site in before] == [[site[name] for name in names] for site in after]


def test_the_figures_of_what_is_kept_are_those_of_the_scaled_nets_on_test_images(known: tuple[Results, Path]) -> None:
    results_, folder = known
    for seed, run in enumerate(results_.of("fedavg")):
        for index, site in enumerate(kept_of(folder)[seed], 1):
            nets = {"own": ANSWERS["fedavg", seed], "merged": ANSWERS["fedavg", seed], "alone": ANSWERS["local", seed]}
            choice = results_.kept(run, f"site-{index:03}")
            assert choice is not None
            logits = sum(scale * np.log(nets[name][f"site-{index:03}/test_{'own' if name == 'alone' else name}"])
                         for name, scale in choice.scales.items())  # fmt: skip
            right = np.asarray(logits).argmax(1) == ANSWERS["local", seed][f"site-{index:03}/test_labels"]
            assert site["accuracy"] == pytest.approx(right.mean(), abs=1 / 60)


def test_the_tables_show_what_sites_keep_beside_the_other_nets(known: tuple[Results, Path]) -> None:
    overview = {row[0]: row[7] for row in (line.strip("| ").split(" | ") for line in
                tables.markdown(known[0]).splitlines()[4:6])}  # fmt: skip
    means = [np.mean([site["accuracy"] for site in sites]) for sites in kept_of(known[1])]
    assert overview["fedavg"] == f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}"
    (head, *rows) = block(known[1], "Accuracy (balanced accuracy) of what a site keeps")
    assert head == ["method", "0 (small, 9/60)", "1 (small, 9/60)", "2 (large, 9/60)", "mean"]
    assert [row[0] for row in rows] == ["local", "fedavg"]


def test_the_gain_over_the_local_baseline_has_intervals_by_site_and_for_small_sites_together(
    known: tuple[Results, Path],
) -> None:
    _, (method, *cells) = block(known[1], "Accuracy of what each site keeps, less")
    assert method == "fedavg" and len(cells) == 3
    assert all("; expected +" in cell and cell.count("[") + cell.count(" (too few seeds)") == 2 for cell in cells)
    assert "[-1.000, +1.000]" not in tables.markdown(known[0])  # of two seeds that disagree
    head, row = block(known[1], "The same on the test images of several sites")
    assert head[1:5] == ["small sites: accuracy", "small sites: balanced accuracy", "all sites: accuracy",
                         "all sites: balanced accuracy"]  # fmt: skip
    gains = []
    for seed in (0, 1):
        for index in (1, 2):
            labels = ANSWERS["local", seed][f"site-{index:03}/test_labels"]
            alone = ANSWERS["local", seed][f"site-{index:03}/test_own"].argmax(1) == labels
            gains.append(kept_of(known[1])[seed][index - 1]["accuracy"] - alone.mean())
    value, reason = row[1].split(maxsplit=1)
    assert float(value) == pytest.approx(np.mean(gains), abs=6e-4)
    assert reason == "(too few seeds)"  # two that disagree
    assert row[5].endswith("of 3")


def test_lab_table_computes_what_is_kept_again_from_the_answers(known: tuple[Results, Path], tmp_path: Path) -> None:
    for name in ("answers.npz", "results.json"):
        (tmp_path / name).write_bytes((known[1] / name).read_bytes())
    record = json.loads((tmp_path / "results.json").read_text())
    for run in record["runs"]:
        del run["kept"]  # as of an earlier version
    (tmp_path / "results.json").write_text(json.dumps(record))
    compare.rebuild(tmp_path)
    for name in ("results.json", "table.md", "report.html"):
        assert (tmp_path / name).read_bytes() == (known[1] / name).read_bytes()
    assert "kept: accuracy" in page.html(known[0])


def test_runs_whose_validation_answers_are_not_there_are_read_as_before(tmp_path: Path) -> None:
    old = {key: {name: values for name, values in arrays.items() if "/val_" not in name}
           for key, arrays in ANSWERS.items()}  # fmt: skip
    known = compared(tmp_path, old)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "what each site keeps" not in text
    assert tables.markdown(known).splitlines()[5].split(" | ")[7] == "–"
    assert all("kept" not in run for run in json.loads((tmp_path / "results.json").read_text())["runs"])


def test_without_training_alone_sites_choose_among_their_own_and_the_merged_net(tmp_path: Path) -> None:
    compared(tmp_path, {key: arrays for key, arrays in ANSWERS.items() if key[0] != "local"})
    assert all(set(site["weights"]) == {"own", "merged"} for sites in kept_of(tmp_path) for site in sites)
    assert "no local baseline" in kept_of(tmp_path)[0][0]["gain"]["accuracy"]["reason"]
    assert "less that of training alone" not in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_a_net_with_answers_that_are_no_numbers_is_not_kept(known: tuple[Results, Path], tmp_path: Path) -> None:
    broken = {key: dict(arrays) for key, arrays in ANSWERS.items()}
    broken["fedavg", 0]["site-001/val_merged"] = np.full((24, 3), np.nan)
    broken["fedavg", 0]["site-001/test_merged"] = np.full((60, 3), np.nan)
    compared(tmp_path, broken)
    assert set(kept_of(tmp_path)[0][0]["weights"]) == {"own", "alone"}
    assert kept_of(tmp_path)[0][0]["accuracy"] > 0.4


def test_a_site_without_validation_images_keeps_the_plain_average(tmp_path: Path) -> None:
    none = {key: {name: values[:0] if "/val_" in name else values for name, values in arrays.items()}
            for key, arrays in ANSWERS.items()}  # fmt: skip
    known = compared(tmp_path, none)
    for run in known.of("fedavg"):
        assert np.allclose(known.answers(run, "kept", "site-001"), known.answers(run, "average", "site-001"))
    assert replace(known, answers_of={}).kept(known.runs[0], "site-001") is None
