"""Methods and seeds side by side: one list of results, one table, intervals beside every difference."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.errors import BusyError, DivergedError
from fedhelp_edge.lab import compare, results, run, tables
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.results import Results
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.plan import Plan

RunMethod = Callable[[str, int, Path], dict[str, Any]]


class Cut(Exception):
    """A simulated power cut."""


@pytest.fixture(scope="module")
def run_method(run_once: Callable[..., dict[str, Any]], plan_of: Callable[..., Plan]) -> RunMethod:
    """Runs a method for a round."""

    def start(name: str, seed: int, folder: Path) -> dict[str, Any]:
        method, settings = compare.parse_method(name)
        return run_once(plan_of(method, settings, seed=seed, rounds=1), folder)

    return start


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than runs of this size."""
    monkeypatch.setattr(compare, "can_plot", lambda: False)


@pytest.fixture(scope="module")
def compared(run_method: RunMethod, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """Three methods, the last of which equals the first, and two seeds."""
    out = tmp_path_factory.mktemp("compared")
    return compare.compare(["fedavg", "local", "fedprox+mu=0"], [1, 0], out, run_method), out


def runs_in(out: Path) -> list[tuple[str, int]]:
    results = json.loads((out / "results.json").read_text())
    assert results["schema_version"] == 1
    return [(run["method"], run["seed"]) for run in results["runs"]]


def rows(out: Path, heading: str) -> Iterator[list[str]]:
    """The rows of the part of the table below this heading."""
    text = (out / "table.md").read_text(encoding="utf-8")
    for line in text[text.index(heading) :].split("\n\n")[heading[0] != "|"].splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("name", "method", "settings"),
    [
        ("fedavg", "fedavg", {}),
        ("fedhelp+sources=none", "fedhelp", {"fedhelp.sources": "none"}),
        ("fedhelp+lambda_j=0.4+top=1", "fedhelp", {"fedhelp.lambda_j": "0.4", "fedhelp.top": "1"}),
        ("fedavg+wire.norm=local", "fedavg", {"wire.norm": "local"}),
    ],
)
def test_a_name_carries_the_settings_of_its_method(name: str, method: str, settings: dict[str, str]) -> None:
    assert compare.parse_method(name) == (method, settings)


def test_results_have_the_order_of_the_arguments(compared: tuple[list[dict[str, Any]], Path]) -> None:
    runs, out = compared
    expected = [(name, seed) for name in ("fedavg", "local", "fedprox+mu=0") for seed in (1, 0)]
    assert [(run["method"], run["seed"]) for run in runs] == expected == runs_in(out)
    assert json.loads((out / "results.json").read_text())["runs"] == runs


@pytest.mark.usefixtures("without_pictures")
def test_results_and_table_are_written_again_after_each_run(run_method: RunMethod, tmp_path: Path) -> None:
    written: list[tuple[list[tuple[str, int]], str]] = []

    def watching(name: str, seed: int, folder: Path) -> dict[str, Any]:
        if (tmp_path / "results.json").exists():
            written.append((runs_in(tmp_path), (tmp_path / "table.md").read_text(encoding="utf-8")))
        return run_method(name, seed, folder)

    compare.compare(["local", "fedavg"], [0, 1], tmp_path, watching)
    everything = [("local", 0), ("local", 1), ("fedavg", 0), ("fedavg", 1)]
    assert [names for names, _ in written] == [everything[:count] for count in (1, 2, 3)]
    assert ["| fedavg |" in text for _, text in written] == [False, False, True]


def test_plots_are_written_beside_the_table(compared: tuple[list[dict[str, Any]], Path]) -> None:
    plot = pytest.importorskip("fedhelp_edge.lab.plot", exc_type=ImportError)
    runs, out = compared
    assert (out / "curves.png").read_bytes() == plot.png(plot.curves(runs))
    assert (out / "cost.png").read_bytes() == plot.png(plot.cost(runs))


def test_without_matplotlib_there_is_a_table_and_no_plot(
    run_method: RunMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not compare.can_plot()
    compare.compare(["local"], [0, 1], tmp_path, run_method)
    written = [".lock", "answers.npz", "report.html", "results.json", "runs", "table.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == written


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_fails_stops_no_other_and_ends_the_comparison_with_its_error(
    run_method: RunMethod, tmp_path: Path
) -> None:
    messages: list[str] = []

    def some(name: str, seed: int, folder: Path) -> dict[str, Any]:
        if (name, seed) == ("local", 1):
            raise DivergedError("the loss is NaN", remedy="a smaller rate")
        return run_method(name, seed, folder)

    with pytest.raises(DivergedError, match="the loss is NaN") as raised:
        compare.compare(["local", "fedavg"], [0, 1], tmp_path, some, progress=messages.append)
    assert (raised.value.cause, raised.value.remedy) == ("local-1: the loss is NaN", "a smaller rate")
    assert messages == ["local-1: the loss is NaN; the other runs go on"]
    assert runs_in(tmp_path) == [("local", 0), ("fedavg", 0), ("fedavg", 1)]
    assert (tmp_path / "table.md").read_text(encoding="utf-8").startswith("**Not finished: 3 of 4 runs.**")


@pytest.mark.usefixtures("without_pictures")
def test_runs_of_before_that_are_not_named_again_are_said_to_be_left_out(run_method: RunMethod, tmp_path: Path) -> None:
    messages: list[str] = []
    compare.compare(["local", "fedavg"], [0], tmp_path, run_method)
    compare.compare(["fedavg"], [0, 1], tmp_path, run_method, progress=messages.append)
    assert messages == [
        f"the tables leave local-0 out, which {tmp_path.name} has from before: name them in --methods and --seeds to "
        "have them in"
    ]
    assert runs_in(tmp_path) == [("fedavg", 0), ("fedavg", 1)]
    compare.compare(["local", "fedavg"], [0, 1], tmp_path, run_method, progress=messages.append)
    assert len(messages) == 1
    assert runs_in(tmp_path) == [("local", 0), ("local", 1), ("fedavg", 0), ("fedavg", 1)]


@pytest.mark.usefixtures("without_pictures")
def test_a_finished_comparison_is_written_once_not_after_each_run(
    run_method: RunMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare.compare(["local", "fedavg"], [0, 1], tmp_path, run_method)
    written, write = [], compare.write
    monkeypatch.setattr(compare, "write", lambda out, known: (written.append(len(known.runs)), write(out, known)))
    compare.compare(["local", "fedavg"], [0, 1], tmp_path, run_method)
    assert written == [4]


@pytest.mark.usefixtures("without_pictures")
def test_two_programs_do_not_compare_in_one_folder_at_once(run_method: RunMethod, tmp_path: Path) -> None:
    def second(name: str, seed: int, folder: Path) -> dict[str, Any]:
        with pytest.raises(BusyError):
            compare.compare(["fedavg"], [0], tmp_path, run_method)
        return run_method(name, seed, folder)

    compare.compare(["local"], [0], tmp_path, second)
    assert runs_in(tmp_path) == [("local", 0)]


@pytest.mark.usefixtures("without_pictures")
def test_an_interrupted_comparison_continues(
    run_method: RunMethod, compared: tuple[list[dict[str, Any]], Path], tmp_path: Path
) -> None:
    done: list[tuple[str, int]] = []

    def some(name: str, seed: int, folder: Path) -> dict[str, Any]:
        if len(done) == 3:
            raise Cut
        result = run_method(name, seed, folder)
        done.append((name, seed))
        return result

    methods, seeds = ["fedavg", "local", "fedprox+mu=0"], [1, 0]
    with pytest.raises(Cut):
        compare.compare(methods, seeds, tmp_path, some)
    records = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("run.json")}
    assert len(records) == 3
    runs = compare.compare(methods, seeds, tmp_path, run_method)
    assert all(path.read_bytes() == before for path, before in records.items())  # these were not run again

    def timeless(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        costs = {"seconds": 0, "peak_memory": 0}
        return [{**record, **costs, "curve": [{**point, **costs} for point in record["curve"]]} for record in runs]

    assert timeless(runs) == timeless(compared[0])
    costs = r"\d+ \| \d+ \|\n"  # seconds and memory
    assert re.sub(costs, "", (tmp_path / "table.md").read_text()) == re.sub(
        costs, "", (compared[1] / "table.md").read_text()
    )


def test_the_table_names_every_method_and_every_site(
    compared: tuple[list[dict[str, Any]], Path], parts: list[SiteImages]
) -> None:
    _, out = compared
    for heading in ("| method | seeds", "| method | 2 (small"):
        assert [row[0] for row in rows(out, heading)] == ["fedavg", "local", "fedprox+mu=0"]
    text = (out / "table.md").read_text(encoding="utf-8")
    for part in parts:
        assert f"{part.name} ({part.tier}, {len(part.split('train'))}/{len(part.split('test'))})" in text


def test_the_table_gives_the_mean_over_seeds_with_its_spread(compared: tuple[list[dict[str, Any]], Path]) -> None:
    runs, out = compared
    for row in rows(out, "| method | seeds"):
        accuracies = [run["mean"]["accuracy"] for run in runs if run["method"] == row[0]]
        assert row[1:3] == ["2", f"{np.mean(accuracies):.3f} ± {np.std(accuracies, ddof=1):.3f}"]


def test_only_methods_that_merge_have_a_merged_net(compared: tuple[list[dict[str, Any]], Path]) -> None:
    merged = {row[0]: row[5] for row in rows(compared[1], "| method | seeds")}
    assert merged["local"] == "–"
    assert merged["fedavg"] != "–"


def test_every_difference_from_the_first_method_has_an_interval(
    compared: tuple[list[dict[str, Any]], Path],
) -> None:
    differences = {row[0]: row[1:] for row in rows(compared[1], "Difference from one net of fedavg")}
    assert list(differences) == ["local", "fedprox+mu=0"]
    for cell in differences["local"]:
        value, low, high = map(float, re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", cell).groups())  # type: ignore[union-attr]
        assert low <= value <= high
        assert low < high


def test_a_difference_is_that_of_all_test_images_together(compared: tuple[list[dict[str, Any]], Path]) -> None:
    _, out = compared
    right: dict[str, list[bool]] = {"fedavg": [], "local": []}
    for name in right:
        for seed in (0, 1):
            with np.load(out / "runs" / f"{name}-{seed}" / "answers.npz") as archive:
                for site in ("site-001", "site-002", "site-003"):
                    right[name] += (archive[f"{site}/test_own"].argmax(1) == archive[f"{site}/test_labels"]).tolist()
    difference = next(row for row in rows(out, "Difference from one net of fedavg") if row[0] == "local")
    assert float(difference[1].split()[0]) == pytest.approx(
        np.mean(right["local"]) - np.mean(right["fedavg"]), abs=6e-4
    )


def test_equal_methods_have_no_difference(compared: tuple[list[dict[str, Any]], Path]) -> None:
    """FedProx with mu = 0 is FedAvg."""
    difference = next(row for row in rows(compared[1], "Difference from one net of fedavg") if row[0] == "fedprox+mu=0")
    assert difference[1:4] == ["+0.000 [+0.000, +0.000]"] * 3


def test_the_average_of_a_sites_nets_is_compared_with_the_first_methods_net(
    compared: tuple[list[dict[str, Any]], Path],
) -> None:
    _, out = compared
    gains = []
    for seed in (0, 1):
        together, baseline = (
            dict(np.load(out / "runs" / f"{name}-{seed}" / "answers.npz")) for name in ("fedprox+mu=0", "local")
        )
        for site in ("site-001", "site-002", "site-003"):
            labels, site_logits = together[f"{site}/test_labels"], together[f"{site}/test_own"]
            mean = site_logits * together[f"{site}/test_merged"] * baseline[f"{site}/test_own"]  # of logarithms
            gains += ((mean.argmax(1) == labels).astype(int) - (site_logits.argmax(1) == labels)).tolist()
    difference = next(row for row in rows(out, "Difference from one net of fedavg") if row[0] == "fedprox+mu=0")
    assert float(difference[4].split()[0]) == pytest.approx(np.mean(gains), abs=6e-4)


@pytest.mark.usefixtures("without_pictures")
def test_too_few_test_images_give_a_difference_and_the_reason_why_it_has_no_interval(
    run_method: RunMethod, plan_of: Callable[..., Plan], parts: list[SiteImages], tmp_path: Path
) -> None:
    def two_sites(name: str, seed: int, folder: Path) -> dict[str, Any]:
        return run.run(plan_of(name, seed=seed, rounds=1), [parts[0], parts[1]], folder, compute=Compute())

    assert sum(len(part.split("test")) for part in parts[:2]) < 10
    compare.compare(["fedavg", "local"], [0], tmp_path, two_sites)
    (row,) = rows(tmp_path, "Difference from one net of fedavg")
    assert all(re.fullmatch(r"[+-]\d\.\d{3} \(no interval: fewer than 10 images\)", cell) for cell in row[1:])


Predictions = dict[tuple[str, int], np.ndarray[Any, Any]]


def results_of(predictions: Predictions, labels: np.ndarray[Any, Any], folder: Path, **more: Any) -> Results:
    """Runs of one site with these predictions of its nets for its test images."""
    runs, folders = [], []
    for (method, seed), probabilities in predictions.items():
        run_folder = folder / "runs" / f"{method}-{seed}"
        run_folder.mkdir(parents=True)
        np.savez(run_folder / "answers.npz", **{"site-001/test_own": probabilities, "site-001/test_labels": labels})
        figures = {"accuracy": 0.5 + seed / 4, "balanced_accuracy": 0.25, "auc": None}
        site = {"name": "a", "tier": "small", "n_train": 30, "n_test": 12, **figures}
        cost = {"bytes_up": 2_500_000, "bytes_down": 1_250_000, "seconds": 4 + seed, "merged": None, "curve": []}
        runs.append({"method": method, "seed": seed, "mean": figures, "sites": [site], **cost, **more})
        folders.append(run_folder)
    return results.save(folder, Results(runs, len(runs)), folders)


def table_of(*arguments: Any, **more: Any) -> list[str]:
    return tables.markdown(results_of(*arguments, **more)).splitlines()


def test_the_average_uses_the_local_baseline_of_the_same_seed(tmp_path: Path) -> None:
    """One seed's local baseline is always right, the other's always wrong; the federation's net is undecided."""
    labels = np.array([0, 1] * 6)
    right, nothing = np.eye(2)[labels], np.full((12, 2), 0.5)
    predictions = {("local", 0): right, ("local", 1): 1 - right, ("fedavg", 0): nothing, ("fedavg", 1): nothing}
    lines = table_of(predictions, labels, tmp_path)
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| fedavg")]
    assert cells[0][6] == "0.500 ± 0.707"  # the mean of all right and all wrong
    assert cells[1][4].startswith("+0.000 ")  # equal to the local baselines


def test_the_table_has_means_spreads_costs_each_site_and_findings(tmp_path: Path) -> None:
    labels = np.array([0, 1] * 6)
    right, findings = np.eye(2)[labels], [{"sentence": "Two patients are at both sites."}]
    lines = table_of({("fedavg", 0): right, ("fedavg", 1): right}, labels, tmp_path, findings=findings)
    assert lines[2] == "| fedavg | 2 | 0.625 ± 0.177 | 0.250 ± 0.000 | – | – | 1.000 ± 0.000 | – | 2.5 | 1.2 | 4 | – |"
    assert "| method | a (small, 30/12) | mean |" in lines
    assert "| fedavg | 0.625 ± 0.177 (0.250 ± 0.000) | 0.625 ± 0.177 (0.250 ± 0.000) |" in lines
    assert [line for line in lines if line.startswith("- ")] == ["- Two patients are at both sites."]
    assert not [line for line in lines if line.startswith("Difference")]  # there is only one method
    without_baseline = table_of({("fedprox", 1): right}, labels, tmp_path / "other")
    assert without_baseline[2] == "| fedprox | 1 | 0.750 | 0.250 | – | – | 1.000 | – | 2.5 | 1.2 | 5 | – |"
    assert not [line for line in without_baseline if line.startswith(("- ", "What these"))]


def test_methods_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    labels = np.array([0, 1] * 6)
    right = np.eye(2)[labels]
    lines = table_of({("fedavg", 0): right, ("fedprox", 1): right, ("local", 0): 1 - right}, labels, tmp_path)
    begin = next(index for index, line in enumerate(lines) if line.startswith("Difference"))
    assert [line.split(" | ")[0] for line in lines[begin + 4 : begin + 6]] == ["| local", ""]


def test_every_row_of_a_table_has_as_many_cells_as_its_head(compared: tuple[list[dict[str, Any]], Path]) -> None:
    tables = (compared[1] / "table.md").read_text(encoding="utf-8").split("\n\n")
    counts = [[line.count("|") for line in block.splitlines()] for block in tables if block.startswith("|")]
    assert [len(rows) for rows in counts] == [5, 4, 4, 5, 4, 5, 4, 4]  # no net of `local` is merged, or gains
    assert all(len(set(rows)) == 1 for rows in counts)
    assert all(set(block.splitlines()[1]) == set("| -") for block in tables if block.startswith("|"))


def test_no_file_of_a_run_is_unpickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        table_of({("local", 0): np.array([[Path("x")]], object)}, np.array([0]), tmp_path)
