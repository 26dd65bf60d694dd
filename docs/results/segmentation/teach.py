"""Trains a net on one half of public images with masks, and writes it as ONNX: a stand-in for a foundation model.

`python teach.py data/skin-teacher.npz CLASS,… model.onnx`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import fedhelp_edge as fh

PLAN = """name = "teacher"
task = "segmentation"
classes = {classes}
method = "local"
rounds = 12
[image]
size = 64
[nets]
small = "unet16"
[training]
epochs = 5
lr = 0.003
loss = "dice-ce"
[masks]
weights = "none"
elastic = 0.1
intensity = 0.2
"""

if __name__ == "__main__":
    data, classes, out = Path(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder, np.load(data) as archive:
        home = Path(folder)
        np.savez(home / "teacher.npz", train_images=archive["images"], train_masks=archive["masks"])
        (home / "plan.toml").write_text(PLAN.format(classes=str(classes).replace("'", '"')))
        plan = fh.read_plan(home / "plan.toml")
        report = fh.train_site(plan, home / "teacher.npz", home / "home", rounds=plan.rounds, threads=1)
        print(report["val"])
        fh.make_keys(home / "home", passphrase=None)
        print(fh.export_bundle(plan, home / "home", out, threads=1).facts.validation)
