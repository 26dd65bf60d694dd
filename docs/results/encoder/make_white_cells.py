"""Writes the white blood cells of Jiangxi Tecom with their four kinds as NPZ; the only basophil is left out.

`FEDHELP_DATA=data python make_white_cells.py FILE.npz`. Three of ten are test images, drawn once.
"""

import os
import sys
from pathlib import Path

import numpy as np

KINDS = 4  # neutrophils, lymphocytes, monocytes, eosinophils


def main(out: Path) -> None:
    source = np.load(Path(os.environ["FEDHELP_DATA"]) / "segmentation" / "wbc_jiangxi_120.npz")
    members = np.flatnonzero(source["labels"] < KINDS)
    drawn = np.random.Generator(np.random.Philox(0)).permutation(members)
    arrays = {"class_names": source["class_names"][:KINDS]}
    for fold, own in (("test", drawn[: len(drawn) * 3 // 10]), ("train", drawn[len(drawn) * 3 // 10 :])):
        arrays |= {f"{fold}_images": source["images"][own], f"{fold}_labels": source["labels"][own]}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
