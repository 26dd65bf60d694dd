"""Many runs side by side: methods and seeds over the same sites, a table with honest intervals, and pictures.

A method may carry settings of its own: `fedhelp+sources=none`. Every difference is taken against the first method
named, on the same test images of all sites, and has a paired bootstrap interval.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedhelp_edge import files
from fedhelp_edge.report import metrics
from fedhelp_edge.report.scale import SCALES, Tally

RunRecord = Mapping[str, Any]

_SCALE = SCALES["classification"]

_HEADER = (
    "method", "seeds", "accuracy", "balanced accuracy", "AUC", "merged net: accuracy", "average of nets: accuracy",
    "MB sent", "seconds",
)  # fmt: skip


def parse_method(name: str) -> tuple[str, dict[str, str]]:
    """The method's name, and the settings that stand after it."""
    method, *settings = name.split("+")
    pairs = [setting.partition("=") for setting in settings]
    return method, {key if "." in key else f"{method}.{key}": value for key, _, value in pairs}


def compare(
    methods: Sequence[str], seeds: Sequence[int], out: Path, run_one: Callable[[str, int, Path], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Runs what is missing, and writes results, table and pictures anew after each finished run.

    There are no pictures where `can_plot` says so.
    """
    runs: list[dict[str, Any]] = []
    folders: list[Path] = []
    with_pictures = can_plot()
    for name in methods:
        for seed in seeds:
            folder = out / "runs" / f"{name.replace('/', '_')}-{seed}"
            runs.append({**run_one(name, seed, folder), "method": name})
            folders.append(folder)
            files.write_atomic(
                out / "results.json", json.dumps({"schema_version": 1, "runs": runs}, indent=1).encode(), private=False
            )
            files.write_atomic(out / "table.md", table(runs, folders).encode(), private=False)
            if with_pictures:
                from fedhelp_edge.lab import plot

                files.write_atomic(out / "curves.png", plot.png(plot.curves(runs)), private=False)
                files.write_atomic(out / "cost.png", plot.png(plot.cost(runs)), private=False)
    return runs


def can_plot() -> bool:
    """Whether matplotlib is installed, for curves.png and cost.png."""
    return find_spec("matplotlib") is not None


def table(runs: Sequence[RunRecord], folders: Sequence[Path]) -> str:
    """A page in Markdown: each method's means over sites and seeds and its costs, the differences, and each site."""
    names = list(dict.fromkeys(run["method"] for run in runs))
    by_name = {
        name: [(run, folder) for run, folder in zip(runs, folders, strict=True) if run["method"] == name]
        for name in names
    }
    baselines = {run["seed"]: folder for run, folder in by_name.get("local", [])}
    lines = [f"| {' | '.join(_HEADER)} |", "| --- " * len(_HEADER) + "|"]
    for name in names:
        method_runs = [run for run, _ in by_name[name]]
        cells = [_mean_and_std([run["mean"][figure] for run in method_runs]) for figure in _SCALE.figures]
        merged = _mean_and_std([run["merged"]["accuracy"] for run in method_runs if run["merged"]])
        average = _mean_and_std(
            [_mean_accuracy(_predictions(folder, baselines.get(run["seed"]))) for run, folder in by_name[name]]
        )
        cost = [
            f"{np.mean([run['bytes_up'] for run in method_runs]) / 1e6:.1f}",
            f"{np.mean([run['seconds'] for run in method_runs]):.0f}",
        ]
        lines.append(f"| {' | '.join([name, str(len(method_runs)), *cells, merged, average, *cost])} |")
    lines += ["", *_differences(names, by_name, baselines), "", *_site_table(names, by_name)]
    if sentences := dict.fromkeys(finding["sentence"] for run in runs for finding in run.get("findings", ())):
        lines += ["", "What these images cannot tell:", "", *(f"- {sentence}" for sentence in sentences)]
    return "\n".join(lines) + "\n"


def _differences(
    names: Sequence[str], by_name: Mapping[str, Sequence[tuple[RunRecord, Path]]], baselines: Mapping[int, Path]
) -> list[str]:
    """Differences from the first method's own nets, on all sites' test images, over the seeds that both have."""
    lines = [f"Difference from {names[0]} (all sites' test images together), 95 % interval over these images:", ""]
    lines += ["| method | accuracy | balanced accuracy | AUC | average of nets: accuracy |", "| --- " * 5 + "|"]
    first = {run["seed"]: _load_predictions(folder) for run, folder in by_name[names[0]]}
    for name in names[1:]:
        pairs = [(first[run["seed"]], _predictions(folder, baselines.get(run["seed"]))) for run, folder in by_name[name]
                if run["seed"] in first]  # fmt: skip
        if not pairs:
            continue
        reference = [_tallies(predictions, "test_own") for predictions, _ in pairs]
        own, average = (
            [_tallies(predictions, net) for _, predictions in pairs] for net in ("test_own", "test_average")
        )
        cells = [_interval(figure) for figure in _SCALE.paired(own, reference).values()]
        cells.append(_interval(_SCALE.paired(average, reference)[_SCALE.figures[0]]))
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines if len(lines) > 4 else []


def _site_table(names: Sequence[str], by_name: Mapping[str, Sequence[tuple[RunRecord, Path]]]) -> list[str]:
    """Accuracy and balanced accuracy of each site."""
    sites = by_name[names[0]][0][0]["sites"]
    head = [f"{site['name']} ({site['tier']}, {site['n_train']}/{site['n_test']})" for site in sites]
    lines = ["Accuracy (balanced accuracy) of each site:", "", f"| method | {' | '.join(head)} |"]
    lines.append("| --- " * (len(head) + 1) + "|")
    for name in names:
        cells = []
        for index in range(len(sites)):
            site_runs = [run["sites"][index] for run, _ in by_name[name]]
            accuracy, balanced = (
                _mean_and_std([site_run[figure] for site_run in site_runs])
                for figure in ("accuracy", "balanced_accuracy")
            )
            cells.append(f"{accuracy} ({balanced})")
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def _predictions(folder: Path, baseline: Path | None) -> dict[str, Any]:
    """A run's predictions, and at each site the average of its own net, the merged net and the local baseline."""
    predictions = _load_predictions(folder)
    baseline_predictions = _load_predictions(baseline) if baseline and baseline != folder else {}
    for site in _site_ids(predictions):
        nets = (
            predictions[f"{site}/test_own"],
            predictions.get(f"{site}/test_merged"),
            baseline_predictions.get(f"{site}/test_own"),
        )
        predictions[f"{site}/test_average"] = np.mean(
            [probabilities for probabilities in nets if probabilities is not None], axis=0
        )
    return predictions


def _load_predictions(folder: Path) -> dict[str, Any]:
    with np.load(folder / "answers.npz", allow_pickle=False) as archive:
        return dict(archive)


def _site_ids(predictions: Mapping[str, Any]) -> list[str]:
    return sorted({name.split("/")[0] for name in predictions})


def _tallies(predictions: Mapping[str, Any], net: str) -> list[Tally]:
    """Each site's tally of a net on its test images."""
    return [
        _SCALE.tally(predictions[f"{site}/{net}"], predictions[f"{site}/test_labels"].astype(np.int64))
        for site in _site_ids(predictions)
    ]


def _mean_accuracy(predictions: Mapping[str, Any]) -> float | None:
    """The accuracy of the averaged nets, in the mean over sites."""
    figures = [_SCALE.scores([tally])[_SCALE.figures[0]] for tally in _tallies(predictions, "test_average")]
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None


def _mean_and_std(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{np.mean(known):.3f}"
    return f"{mean} ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else mean


def _interval(figure: metrics.Figure) -> str:
    if figure.value is None:
        return "–"
    if figure.low is None:
        return f"{figure.value:+.3f} ({figure.reason})"
    return f"{figure.value:+.3f} [{figure.low:+.3f}, {figure.high:+.3f}]"
