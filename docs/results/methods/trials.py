"""Three trials of each method, and the best of them by validation images. No test image is looked at.

`trials.py` prints the trials, for `lab compare --methods`. `trials.py keep FOLDER` prints what is kept of their runs.
`trials.py best FILE METHOD...` prints the best trial of each of these methods. That has the highest accuracy of the
sites' own nets in the mean of the last two rounds. Of equal ones it is the first.
"""

import json
import sys
from pathlib import Path

RATES = [f"training.lr={rate}" for rate in (0.0003, 0.001, 0.003)]
METHODS = [
    "local",
    "fedavg",
    "fedprox",
    "fedhelp",
    "fedmic",
    "fedmd",
    "mdhfl",
    "fccl",
    "fedgh",
    "fedkemf",
    "perfedavg",
    "pfedbayes",
    "fedsm",
]
TRIALS = {method: [f"{method}+{rate}" for rate in RATES] for method in METHODS} | {
    "fedbn": [f"fedavg+wire.norm=local+{rate}" for rate in RATES],
    "fedadam": [f"fedadam+lr={rate}" for rate in (0.001, 0.0032, 0.01)],  # the coordinator's; the sites have 0.001
    "scaffold": [f"scaffold+training.optimiser=sgd+training.lr={rate}" for rate in (0.01, 0.03, 0.1)],
    "pfedme": [f"pfedme+inner={rate}" for rate in (0.01, 0.03, 0.1)],
}
PROVENANCE = ("plan", "data_sha256", "pack_sha256", "versions", "commit", "machine", "split")


def summary(folder: Path) -> str:
    """The sites' own accuracy on validation images in each round of each run, and where the runs come from."""
    runs = json.loads((folder / "results.json").read_text())["runs"]
    rows = [
        {
            "method": run["method"],
            "seed": run["seed"],
            "validation": [round(entry["own"]["accuracy"], 4) for entry in run["curve"]],
            "seconds": run["seconds"],
        }
        for run in runs
    ]
    provenance = {key: runs[0]["provenance"][key] for key in PROVENANCE}
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    return json.dumps({"provenance": provenance, "runs": "@"}, indent=1).replace('"@"', f"[\n  {lines}\n ]")


def best(file: Path, method: str) -> str:
    """The best trial of a method."""
    last = {run["method"]: sum(run["validation"][-2:]) for run in json.loads(file.read_text())["runs"]}
    return max(TRIALS[method], key=last.__getitem__)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["keep", folder]:
            print(summary(Path(folder)))
        case ["best", file, *methods]:
            print(",".join(best(Path(file), method) for method in methods))
        case _:
            print(",".join(trial for trials in TRIALS.values() for trial in trials))
