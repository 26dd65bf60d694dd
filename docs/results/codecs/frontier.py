"""What each codec of a comparison saves, and what it costs: `frontier.py FOLDER`, after `lab compare --out FOLDER`.

Reads the results and their answers, and writes `frontier.json`, `frontier.md` and `frontier.png` into the folder. The
first method named is the reference. A difference is that of the merged nets' accuracy on all sites' validation images,
paired by image, over the seeds that both have. Its 95 % interval is the lab's: for other seeds and other images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedhelp_edge.lab import plot, results
from fedhelp_edge.lab.results import Results, RunRecord, run_name
from fedhelp_edge.report import seeds
from fedhelp_edge.report.seeds import Draws

WORST = -0.015  # a loss that an interval should exclude
HEADER = ("codec", "seeds", "bytes of f32", "accuracy", "difference from f32, points", "as good")


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Of each method: its bytes as a fraction of the reference's, its accuracy, the difference and its interval."""
    known = results.load(folder)
    runs = {method: {run["seed"]: run for run in known.of(method)} for method in known.methods}
    drawn = {method: {seed: _draw(known, run) for seed, run in by_seed.items()} for method, by_seed in runs.items()}
    reference = drawn[known.first]
    for method, by_seed in drawn.items():
        both = sorted(by_seed.keys() & reference.keys())
        compared = seeds.paired([by_seed[seed] for seed in both], [reference[seed] for seed in both], "accuracy")
        if compared.value is None or compared.low is None or compared.high is None:
            raise SystemExit(f"{method} against {known.first}: {compared.reason}")
        ours, theirs = (sum(runs[side][seed]["bytes_up"] for seed in both) for side in (method, known.first))
        yield {
            "method": method,
            "seeds": both,
            "units": by_seed[both[0]].units,
            "bytes": ours,
            "of_f32": ours / theirs,
            "accuracy": float(np.mean([by_seed[seed].figures["accuracy"][0] for seed in both])),
            "difference": compared.value, "low": compared.low, "high": compared.high,
            "as_good": compared.high >= 0 and compared.low > WORST,
        }  # fmt: skip


def _draw(known: Results, run: RunRecord) -> Draws:
    """The accuracy of a run's merged net on all sites' validation images, and on draws of them."""
    answers = known.answers_of[run_name(run["method"], run["seed"])]
    sites = known.site_names(run)
    tallies = [(answers[f"{site}/val_merged"], answers[f"{site}/val_labels"].astype(np.int64)) for site in sites]
    return known.scale.draw(tallies, [answers[f"{site}/val_groups"] for site in sites])


def name(method: str) -> str:
    """A method's name without what all of them have."""
    settings = (part.rpartition(".")[2] for part in method.split("+")[1:])
    return ", ".join(part.removeprefix("up=") for part in settings) or "f32"


def table(found: Sequence[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(HEADER)} |", "| --- " * len(HEADER) + "|"]
    for row in found:
        interval = f"{100 * row['difference']:+.2f} [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"
        cells = [name(row["method"]), str(len(row["seeds"])), f"{100 * row['of_f32']:.1f} %", f"{row['accuracy']:.4f}"]
        lines.append(f"| {' | '.join([*cells, interval, 'yes' if row['as_good'] else 'no'])} |")
    units = f"{found[0]['units']} validation images, or groups of them"
    return "\n".join(lines) + f"\n\n{units}. The interval is for other seeds and other images.\n"


def picture(found: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy against bytes, with the intervals."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for index, row in enumerate(found):
        low, high = (100 * abs(row[end] - row["difference"]) for end in ("low", "high"))
        axes.errorbar(
            100 * row["of_f32"], 100 * row["difference"], [[low], [high]], capsize=3, color=f"C{index % 10}",
            fmt="osD^v<>P*X"[index % 10], label=name(row["method"]),
        )  # fmt: skip
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.axhline(100 * WORST, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(xlabel="% of the bytes of f32", ylabel="difference from f32 in accuracy, points", xscale="log")
    axes.set_xticks([5, 10, 15, 27, 50, 100], ["5", "10", "15", "27", "50", "100"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    home = Path(sys.argv[1])
    found = list(rows(home))
    (home / "frontier.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (home / "frontier.md").write_text(table(found), encoding="utf-8")
    (home / "frontier.png").write_bytes(plot.png(picture(found)))
    print(table(found))
