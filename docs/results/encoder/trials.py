"""`trials.py`: the trials of each method, for `lab compare --methods`. `trials.py FOLDER`: the best of each method.

That is the trial with the highest accuracy of the sites' own models on validation images, in the mean of the last two
rounds. Of equal ones it is the first. No test image is looked at.
"""

import json
import sys
from pathlib import Path

RATES = [f"training.lr={rate}" for rate in (0.001, 0.003, 0.01, 0.03)]
WIRE = "merge.weight=method+wire.up=f16+wire.down=f16"
TRIALS = {
    "local": [f"local+{rate}" for rate in RATES],
    "fedavg": [f"fedavg+{rate}" for rate in RATES],
    "balanced local": [f"local+training.loss=logit-adjusted+{rate}" for rate in RATES],
    "balanced fedavg": [f"fedavg+training.loss=logit-adjusted+{rate}" for rate in RATES],
    "fedhelp": [f"fedhelp+{rate}" for rate in RATES],
    "fedmedclip": [
        f"fedmedclip+lr={rate}+classifier_lr={own}+{WIRE}"
        for rate, own in ((0.00005, 0.001), (0.0002, 0.001), (0.0005, 0.001), (0.0005, 0.003))
    ],
    "ridge": [
        f"ridge+dimensions={count}+logits={logits}" for count in (48, 64) for logits in ("discriminant", "scores")
    ],
}

if sys.argv[1:]:
    trials: dict[str, dict[str, float]] = {}
    for run in json.loads((Path(sys.argv[1]) / "results.json").read_text())["runs"]:
        last = [entry["own"]["accuracy"] for entry in run["curve"][-2:]]
        settings = run["method"].split("+")
        method = "+".join([settings[0], *(one for one in settings if one.startswith(("wire.norm", "training.loss")))])
        trials.setdefault(method, {})[run["method"]] = sum(last) / len(last)
    print(",".join(max(each, key=each.__getitem__) for each in trials.values()))
else:
    print(",".join(trial for each in TRIALS.values() for trial in each))
