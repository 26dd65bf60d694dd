"""Writes Fed-ISIC's four centres at four sides as NPZ: centre crops of the pictures, in the order of the table.

`FEDHELP_DATA=data python make_data.py FOLDER`.
"""

import csv
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = Path(os.environ["FEDHELP_DATA"]) / "classification" / "fedisic_mini"
CLASSES = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]
SIDES = (32, 64, 128, 224)


def picture(path: Path, side: int) -> Image.Image:
    """The largest square in the middle, at this side."""
    with Image.open(path) as image:
        shortest = min(image.size)
        left, top = (image.width - shortest) // 2, (image.height - shortest) // 2
        square = image.convert("RGB").crop((left, top, left + shortest, top + shortest))
    return square.resize((side, side), Image.Resampling.BILINEAR)


def main(folder: Path) -> None:
    rows = list(csv.DictReader((SOURCE / "labels.csv").open()))
    for side in SIDES:
        arrays = {"class_names": np.array(CLASSES)}
        for fold in ("train", "test"):
            own = [row for row in rows if row["fold"] == fold]
            paths = [(SOURCE / "images" / row["image"]).with_suffix(".jpg") for row in own]
            arrays |= {
                f"{fold}_images": np.stack([np.asarray(picture(path, side)) for path in paths]),
                f"{fold}_labels": np.array([int(row["target"]) for row in own]),
                f"{fold}_centers": np.array([int(row["center"]) for row in own]),
                f"{fold}_groups": np.array([row["lesion_id"] for row in own]),
            }
        np.savez(folder / f"isic_{side}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
