"""Prints each method's Dice on test images by class: the mean over all sites' cases, then seeds.

Then which part that is of the Dice of a net that learns from all images together.

`python by_class.py FOLDER TOGETHER`: two folders of results.
"""

import json
import sys
from pathlib import Path

import numpy as np

from fedhelp_edge.lab import answers, results
from fedhelp_edge.report import outlines


def dice(folder: Path) -> dict[str, np.ndarray]:
    """Of each method, the Dice of each class."""
    runs = json.loads((folder / "results.json").read_text())["runs"]
    names = [results.run_name(run["method"], run["seed"]) for run in runs]
    kept = answers.load(folder / answers.NAME, names, probabilities=False)
    found: dict[str, list[np.ndarray]] = {}
    for run, name in zip(runs, names, strict=True):
        sites = [rows for key, rows in kept[name].items() if key.endswith("/test_own")]
        found.setdefault(run["method"], []).append(np.nanmean(outlines.by_case(np.concatenate(sites))["dice"], 0))
    return {method: np.mean(seeds, 0) for method, seeds in found.items()}


if __name__ == "__main__":
    (together,) = dice(Path(sys.argv[2])).values()
    print("together", together.round(3))
    for method, figures in dice(Path(sys.argv[1])).items():
        print(method, figures.round(3), f"{figures.mean() / together.mean():.1%}")
