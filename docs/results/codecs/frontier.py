"""What each codec of a comparison saves, and what it costs: `frontier.py FOLDER`, after `lab compare --out FOLDER`.

Reads the results and their answers, and writes `frontier.json`, `frontier.md` and `frontier.png` into the folder. The
first method named is the reference. A difference is that of the merged nets' accuracy on all sites' validation images,
paired by image, over the seeds that both have. Its 95 % interval is over the images, and says nothing of other seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedhelp_edge.lab import plot, results
from fedhelp_edge.lab.results import Results, RunRecord, run_name

WORST = -0.015  # a loss that an interval should exclude
HEADER = ("codec", "seeds", "bytes of f32", "accuracy", "difference from f32, points", "as good")


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Of each method: its bytes as a fraction of the reference's, its accuracy, the difference and its interval."""
    known = results.load(folder)
    runs = {method: {run["seed"]: run for run in known.of(method)} for method in known.methods}
    reference = runs[known.first]
    for method, by_seed in runs.items():
        seeds = sorted(by_seed.keys() & reference.keys())
        labels = _validation(known, reference[seeds[0]])[1]
        ours, theirs = ([_validation(known, side[seed])[0] for seed in seeds] for side in (by_seed, reference))
        right, reference_right = (np.mean([each.argmax(1) == labels for each in side], 0) for side in (ours, theirs))
        difference, low, high = _interval(right - reference_right)
        yield {
            "method": method,
            "seeds": seeds,
            "images": len(labels),
            "bytes": sum(by_seed[seed]["bytes_up"] for seed in seeds),
            "of_f32": sum(by_seed[seed]["bytes_up"] for seed in seeds)
            / sum(reference[seed]["bytes_up"] for seed in seeds),
            "accuracy": float(right.mean()),
            "difference": difference, "low": low, "high": high,
            "as_good": high >= 0 and low > WORST,
        }  # fmt: skip


def _interval(gains: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean of what each image gains, over the seeds, and the percentiles of 1,000 draws of the images."""
    draws = np.random.Generator(np.random.Philox(0)).integers(0, len(gains), (1000, len(gains)))
    low, high = np.percentile(gains[draws].mean(1), [2.5, 97.5])
    return float(gains.mean()), float(low), float(high)


def _validation(known: Results, run: RunRecord) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What the merged net of a run says of all sites' validation images, and their labels."""
    answers = known.answers_of[run_name(run["method"], run["seed"])]
    merged, labels = (
        np.concatenate([answers[f"{site}/{part}"] for site in known.site_names(run)])
        for part in ("val_merged", "val_labels")
    )
    return merged, labels.astype(np.int64)


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
    return "\n".join(lines) + f"\n\n{found[0]['images']} validation images.\n"


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
