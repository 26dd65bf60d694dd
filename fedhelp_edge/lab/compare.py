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

from fedhelp_edge import console, shell
from fedhelp_edge.report import metrics

Figures = Mapping[str, Any]

_HEAD = ("method", "seeds", "accuracy", "balanced accuracy", "AUC", "merged net: accuracy", "average of nets: accuracy",
         "MB sent", "seconds")  # fmt: skip


def settings_of(name: str) -> tuple[str, dict[str, str]]:
    """The method of a name, and the settings that it carries."""
    method, *settings = name.split("+")
    pairs = [setting.partition("=") for setting in settings]
    return method, {key if "." in key else f"{method}.{key}": value for key, _, value in pairs}


def compare(
    methods: Sequence[str], seeds: Sequence[int], out: Path, one: Callable[[str, int, Path], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run what is not there yet, and write results, table and pictures anew after each finished run."""
    runs: list[dict[str, Any]] = []
    folders: list[Path] = []
    drawn = find_spec("matplotlib") is not None
    if not drawn:
        console.say(f"for curves.png and cost.png: {shell.remedy('matplotlib')}")
    for name in methods:
        for seed in seeds:
            folder = out / "runs" / f"{name.replace('/', '_')}-{seed}"
            runs.append({**one(name, seed, folder), "method": name})
            folders.append(folder)
            _write(out / "results.json", json.dumps({"schema_version": 1, "runs": runs}, indent=1).encode())
            _write(out / "table.md", table(runs, folders).encode())
            if drawn:
                from fedhelp_edge.lab import plot

                _write(out / "curves.png", plot.png(plot.curves(runs)))
                _write(out / "cost.png", plot.png(plot.cost(runs)))
    return runs


def table(runs: Sequence[Figures], folders: Sequence[Path]) -> str:
    """Every method: mean over sites and seeds with its spread over seeds, then each site, then what it costs."""
    names = list(dict.fromkeys(run["method"] for run in runs))
    by_name = {
        name: [(run, at) for run, at in zip(runs, folders, strict=True) if run["method"] == name] for name in names
    }
    alone = {run["seed"]: at for run, at in by_name.get("local", [])}
    lines = [f"| {' | '.join(_HEAD)} |", "| --- " * len(_HEAD) + "|"]
    for name in names:
        mine = [run for run, _ in by_name[name]]
        cells = [_spread([run["mean"][figure] for run in mine]) for figure in ("accuracy", "balanced_accuracy", "auc")]
        merged = _spread([run["merged"]["accuracy"] for run in mine if run["merged"]])
        average = _spread([_accuracy(_answers(at, alone.get(run["seed"]))) for run, at in by_name[name]])
        cost = [
            f"{np.mean([run['bytes_up'] for run in mine]) / 1e6:.1f}",
            f"{np.mean([run['seconds'] for run in mine]):.0f}",
        ]
        lines.append(f"| {' | '.join([name, str(len(mine)), *cells, merged, average, *cost])} |")
    lines += ["", *_differences(names, by_name, alone), "", *_sites(names, by_name)]
    if said := dict.fromkeys(finding["sentence"] for run in runs for finding in run.get("findings", ())):
        lines += ["", "What these images cannot tell:", "", *(f"- {sentence}" for sentence in said)]
    return "\n".join(lines) + "\n"


def _differences(
    names: Sequence[str], by_name: Mapping[str, Sequence[tuple[Figures, Path]]], alone: Mapping[int, Path]
) -> list[str]:
    """Against the first method's own nets: all sites' test images together, mean over the seeds that both have."""
    lines = [f"Difference from {names[0]} (all sites' test images together), 95 % interval over these images:", ""]
    lines += ["| method | accuracy | balanced accuracy | AUC | average of nets: accuracy |", "| --- " * 5 + "|"]
    first = {run["seed"]: _held(at) for run, at in by_name[names[0]]}
    for name in names[1:]:
        both = [(first[run["seed"]], _answers(at, alone.get(run["seed"]))) for run, at in by_name[name]
                if run["seed"] in first]  # fmt: skip
        if not both:
            continue
        theirs = np.stack([_all(one, "test_own") for one, _ in both])
        own, average = (np.stack([_all(one, what) for _, one in both]) for what in ("test_own", "test_average"))
        labels = _all(both[0][1], "test_labels")
        found = metrics.paired(own, theirs, labels)
        cells = [_interval(getattr(found, figure)) for figure in ("accuracy", "balanced_accuracy", "auc")]
        cells.append(_interval(metrics.paired(average, theirs, labels).accuracy))
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines if len(lines) > 4 else []


def _sites(names: Sequence[str], by_name: Mapping[str, Sequence[tuple[Figures, Path]]]) -> list[str]:
    """Accuracy and balanced accuracy of each site."""
    sites = by_name[names[0]][0][0]["sites"]
    head = [f"{site['name']} ({site['tier']}, {site['n_train']}/{site['n_test']})" for site in sites]
    lines = ["Accuracy (balanced accuracy) of each site:", "", f"| method | {' | '.join(head)} |"]
    lines.append("| --- " * (len(head) + 1) + "|")
    for name in names:
        cells = []
        for place in range(len(sites)):
            of_site = [run["sites"][place] for run, _ in by_name[name]]
            cells.append(
                f"{_spread([s['accuracy'] for s in of_site])} ({_spread([s['balanced_accuracy'] for s in of_site])})"
            )
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def _answers(at: Path, alone: Path | None) -> dict[str, Any]:
    """What each net of a run said, and the average of a site's nets: its own, the merged one, the one trained alone."""
    held = _held(at)
    beside = _held(alone) if alone and alone != at else {}
    for site in _sites_of(held):
        nets = held[f"{site}/test_own"], held.get(f"{site}/test_merged"), beside.get(f"{site}/test_own")
        held[f"{site}/test_average"] = np.mean([said for said in nets if said is not None], axis=0)
        held[f"{site}/test_labels"] = held[f"{site}/test_labels"].astype(np.int64)
    return held


def _held(at: Path) -> dict[str, Any]:
    with np.load(at / "answers.npz", allow_pickle=False) as held:
        return dict(held)


def _sites_of(answers: Mapping[str, Any]) -> list[str]:
    return sorted({name.split("/")[0] for name in answers})


def _all(answers: Mapping[str, Any], what: str) -> Any:
    """The same of every site, one after the other."""
    return np.concatenate([answers[f"{site}/{what}"] for site in _sites_of(answers)])


def _accuracy(answers: Mapping[str, Any]) -> float | None:
    """Of the averages of nets, the mean over sites."""
    each = [
        metrics.scores(answers[f"{site}/test_average"], answers[f"{site}/test_labels"]).accuracy.value
        for site in _sites_of(answers)
    ]
    known = [figure for figure in each if figure is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> str:
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


def _write(path: Path, data: bytes) -> None:
    """Replace a report by its next version, whole."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
