"""A comparison as one page to send."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.lab import page, results, tables
from fedhelp_edge.lab.results import Results

ORIGIN = {
    "plan": 'name = "skin"\n', "settings": {"name": "<skin>"}, "command": "fedhelp-edge lab compare",
    "commit": "c0ffee+", "split": "natural:centers", "versions": {"torch": "2.13"}, "machine": {"cores": 2},
    "data_sha256": "ab" * 32, "pack_sha256": None, "start_sha256": [],
}  # fmt: skip


def some(folder: Path, missing: int = 0) -> Results:
    """Two methods, each with two seeds, of one site."""
    labels = np.array([0, 1] * 8)
    runs: list[dict[str, Any]] = []
    folders = []
    for method in ("local", "fedavg+<b>"):
        for seed in (0, 1):
            folders.append(folder / "runs" / results.run_name(method, seed))
            folders[-1].mkdir(parents=True)
            answers = np.random.default_rng(len(runs)).dirichlet([1, 1], 16)
            np.savez(folders[-1] / "answers.npz", **{"a/test_own": answers, "a/test_labels": labels})
            figures = {"accuracy": 0.5, "balanced_accuracy": 0.5, "auc": 0.5}
            curve = [{"round": n, "own": figures, "bytes_up": n * 1_000_000, "seconds": n * 2} for n in (1, 2, 3)]
            site = {"name": "a", "tier": "small", "n_train": 9, "n_test": 16, **figures}
            cost = {"bytes_up": 1, "seconds": 2, "peak_memory": 3_000_000, "curve": curve}
            about = {"method": method, "seed": seed, "provenance": ORIGIN}
            runs.append({**about, "sites": [site], "mean": figures, "merged": None, **cost})
    return results.save(folder, Results(runs, len(runs) + missing), folders)


def test_the_page_is_one_file_without_script_and_with_all_tables(tmp_path: Path) -> None:
    known = some(tmp_path)
    html = page.html(known)
    assert not re.search(r"<script|<link|src=|href=|url\(|http:|https:|<b>", html)
    assert html.count("<table>") == len(tables.all_of(known)) == 5
    assert "&lt;skin&gt;: methods compared" in html
    assert "Not finished" not in html


def test_the_page_draws_accuracy_by_round_bytes_and_seconds(tmp_path: Path) -> None:
    html = page.html(some(tmp_path))
    assert re.findall(r'aria-label="accuracy, ([^:]+):', html) == ["round", "MB sent by all sites", "seconds"]


def test_the_page_says_where_the_figures_come_from(tmp_path: Path) -> None:
    html = page.html(some(tmp_path))
    for text in ("c0ffee+", "torch 2.13", "cores 2", "ab" * 32, "fedhelp-edge lab compare", "name = &quot;skin&quot;"):
        assert text in html


def test_while_runs_are_missing_the_page_and_the_table_say_so(tmp_path: Path) -> None:
    known = some(tmp_path, missing=3)
    assert "Not finished: 4 of 7 runs." in page.html(known)
    assert tables.markdown(known).startswith("**Not finished: 4 of 7 runs.**")


def test_a_page_of_an_earlier_version_says_what_it_lacks(tmp_path: Path) -> None:
    known = some(tmp_path)
    runs = []
    for run in known.runs:
        curve = [{"round": entry["round"], "own": entry["own"]} for entry in run["curve"]]
        runs.append({**run, "provenance": {}, "curve": curve})
    html = page.html(replace(known, runs=runs, answers_of={}))
    assert tables.NOT_KEPT.replace("'", "&#x27;") in html
    assert "kept no provenance" in html
    assert html.count("<svg") == 1  # accuracy by round: costs by round are not kept


@pytest.mark.parametrize("probability", [0.0, 1.0, 1e-30, 1 - 1e-9, 0.3])
def test_small_files_keep_probabilities_closely(probability: float) -> None:
    kept = np.exp(results.answers.compact(np.array([probability])).astype(float))
    assert kept == pytest.approx(probability, rel=0.05, abs=1e-20)
    close = np.exp(results.answers.compact(np.array([0.5])).astype(float))
    assert close == pytest.approx(0.5, rel=5e-4)


def test_the_order_of_confident_answers_survives() -> None:
    """In half precision itself, they would be two numbers."""
    sure = 1 - np.geomspace(1e-3, 1e-5, 100)
    kept = results.answers.compact(sure).astype(float)
    assert (np.diff(kept) >= 0).all()
    assert len(np.unique(kept)) == 100


def test_a_long_cell_has_lines_that_keep_its_column_narrow() -> None:
    text = "+0.063 [-0.038, +0.163]; expected: fewer than 10 validation images to measure by"
    assert page._in_lines(text).split("\n") == [
        "+0.063", "[-0.038, +0.163]", "expected: fewer than 10", "validation images to measure by",
    ]  # fmt: skip
    assert page._in_lines("0.750 ± 0.018") == "0.750 ± 0.018"
    name = "fedhelp+fedhelp.lambda_j=0+training.schedule=constant"
    assert page._in_lines(name).split("\n") == ["fedhelp+fedhelp.lambda_j=0+", "training.schedule=constant"]
