"""Three sites that outline: over a stick, over the network and in the lab one model, and with it the same masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from fedhelp_edge.data import grid as grids
from fedhelp_edge.data import nifti
from fedhelp_edge.data import pack as packs
from fedhelp_edge.site import ordered_training
from tests import command
from tests.federation import nobody
from tests.journeys.test_the_same_model import by_parcels, by_the_lab, write_by_centre
from tests.unit.data import samples
from tests.unit.data.test_masks import squares

PLAN = """
name = "cells"
task = "segmentation"
classes = ["a", "b"]
method = "{method}"
rounds = {rounds}
[image]
size = 16
channels = 1
depth = {depth}
[nets]
large = "unet8"
[training]
epochs = 1
batch = 4
yardstick = false
[public]
size = 16
[fedhelp]
public_every = 2
[fedsm]
selector = "resnet8"
[round]
quorum = 3
[wire]
up = "f32"
"""
PICTURE, VOLUME = (16, 16), (10, 16, 16)


@pytest.fixture(scope="module", params=[1, 8], ids=["pictures", "volumes"])
def depth(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def drawn(folder: Path, depth: int) -> Path:
    """Writes the images and masks of all sites, by centre, a pack for those of pictures, and an image to outline."""
    images, masks = squares(17, *(VOLUME if depth > 1 else PICTURE))
    arrays = {}
    for name, part in {"train": slice(0, 5), "val": slice(5, 12), "test": slice(12, 17)}.items():
        arrays |= {f"{name}_images": images[part], f"{name}_masks": masks[part]}
        arrays[f"{name}_centers"] = np.arange(part.stop - part.start) % 5 // 2
    write_by_centre(folder, arrays)
    if depth > 1:
        image = folder / "new.nii.gz"
        image.write_bytes(nifti.encode(images[-1], grids.plain(VOLUME, (1.0, 1.0, 1.0))))
    else:
        image = samples.save(folder / "new.png", images[-1])
        maps = np.eye(3, dtype=np.uint8)[masks[:8]].transpose(0, 3, 1, 2) * np.uint8(packs.MAP_SCALE)
        packs.save(
            folder / "pack.safetensors",
            packs.of_masks(images[:8, ..., None], masks[:8], ("x", "y"), ("a",), maps[None]),
        )
    return image


@pytest.mark.usefixtures("open_in_process")
def test_each_way_gives_the_model_that_the_lab_gives_and_the_same_masks(depth: int, tmp_path: Path) -> None:
    """FedHelp on pictures, FedSM on volumes. The large site measures its nets, exports them and outlines an image."""
    image = drawn(tmp_path, depth)
    text = PLAN.format(depth=depth, method="fedsm" if depth > 1 else "fedhelp", rounds=1 if depth > 1 else 2)
    in_the_lab = by_the_lab(tmp_path, tmp_path / "lab", text)
    outlines = []
    for network in (False, True):
        way = tmp_path / ("network" if network else "stick")
        way.mkdir()
        assert by_parcels(tmp_path, way, network, text) == in_the_lab
        home = way / "s0" / "home"
        outlines.append(outlined(home, image))
    assert outlines[0] == outlines[1]
    lab_site = json.loads((tmp_path / "lab" / "run.json").read_text())["sites"][0]
    own = ordered_training.evaluate(home, None, nobody, threads=1).nets["own"].figures
    assert {name: figure.value for name, figure in own.items()} == pytest.approx({name: lab_site[name] for name in own})


def outlined(home: Path, image: Path) -> tuple[dict[str, Any], list[bytes]]:
    """What a site measures of its nets when it exports them, and the masks that the model draws."""
    model, options = home / "model.onnx", ("--home", home, "--threads", "1")
    exported = command.run_in_process("export", "--out", model, "--anyway", "--json", *options, home=home)
    predicted = command.run_in_process("predict", model, image, "--out", home / "out", *options, home=home)
    assert predicted.returncode == 0, exported.stderr + predicted.stderr
    printed = command.json_output(exported)
    masks = [path.read_bytes() for path in sorted((home / "out" / "masks").iterdir())]
    assert len(masks) == 3  # the others show the uncertain pixels, and both on the image
    return {name: printed[name] for name in ("figures", "weighing", "temperature", "parity")}, masks
