"""Which trial of each method is best by its validation images. No test image is looked at.

`trials.py best RUNS BEGINNING...`: of the trials that begin so, the one whose sites' own nets are most often right,
in the mean of the last two rounds. Of equal ones it is the first. RUNS is a folder of `lab compare`, or what
`trials.py keep RUNS` printed of one.
"""

import json
import sys
from pathlib import Path
from typing import Any

PROVENANCE = ("plan", "data_sha256", "pack_sha256", "versions", "commit", "machine", "split", "noise")


def kept(runs: Path) -> dict[str, Any]:
    """The sites' own accuracy on validation images in each round of each run, and where the runs come from."""
    if runs.is_file():
        return json.loads(runs.read_text())
    results = json.loads((runs / "results.json").read_text())["runs"]
    rows = [
        {
            "method": run["method"],
            "seed": run["seed"],
            "validation": [round(entry["own"]["accuracy"], 4) for entry in run["curve"]],
            "seconds": run["seconds"],
        }
        for run in results
    ]
    provenance = {key: value for key, value in results[0]["provenance"].items() if key in PROVENANCE}
    return {"provenance": provenance, "runs": rows}


def printed(runs: dict[str, Any]) -> str:
    """As JSON, with a line for each run."""
    lines = ",\n  ".join(map(json.dumps, runs["runs"]))
    return json.dumps(runs | {"runs": "@"}, indent=1).replace('"@"', f"[\n  {lines}\n ]")


def best(runs: dict[str, Any], beginning: str) -> str:
    """The best trial that begins so."""
    last = {run["method"]: sum(run["validation"][-2:]) for run in runs["runs"] if run["method"].startswith(beginning)}
    return max(last, key=last.__getitem__)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["keep", runs]:
            print(printed(kept(Path(runs))))
        case ["best", runs, *beginnings]:
            print(",".join(best(kept(Path(runs)), beginning) for beginning in beginnings))
        case _:
            sys.exit(__doc__)
