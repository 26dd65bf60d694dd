"""What differs in the demo for masks: cells with their outlines, and a net that outlines public ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export import bundle as exporting
from export import mask_bundle
from fedhelp_edge import plan as plans
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.masks import IMAGES, MASKS, encode
from fedhelp_edge.demo import phantoms
from fedhelp_edge.infer import bundle, inputs, mask_answering, mask_files
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.infer.drawing import Drawn
from fedhelp_edge.knowledge.asking import Asking
from fedhelp_edge.knowledge.build import Building
from fedhelp_edge.knowledge.source_spec import SourceSpec
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import signer_check
from fedhelp_edge.site.local_training import Watch
from fedhelp_edge.train import learners, loop, machine

if TYPE_CHECKING:
    from fedhelp_edge.demo.play import DemoSite

_SAMPLES = 3  # images of a site on the page
_PUBLIC_SITE = 9  # stains, lights and focuses as no site of the demo does
_SOURCE_VAL = 20  # validation images of the source, by which its model is weighed and calibrated
_VERDICTS = {"answered": "outlined", "uncertain": "outlined, but uncertain", "unlike": None, None: None}


def draw_images(splits: Sequence[str], plan: Plan, site: int, difficulty: float, seed: int = 0) -> Images:
    """Draw cells with masks, stained and lit as a site does."""
    pixels, masks = phantoms.draw_outlined(
        len(splits), size=plan.image.size, site=site, difficulty=difficulty, seed=seed
    )
    pack = packs.of_masks(pixels, masks, plan.classes)
    names = tuple(f"{index:04}.png" for index in range(len(splits)))
    nothing = ("",) * len(splits)
    return Images(
        pixels, pack.labels, tuple(splits), names, nothing, nothing, masks=masks, mask_pixels=pack.mask_pixels
    )


def write_masks(folder: Path, images: Images) -> None:
    """Write the masks beside the images of a site, which have numbers as names in a folder for each split."""
    for index, (mask, split) in enumerate(zip(np.asarray(images.masks), images.splits, strict=True)):
        path = folder / MASKS / split / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(mask))


def build_pack(
    out: Path, plan: Plan, watch: Watch, difficulty: float, source_count: int, public_count: int
) -> dict[str, float]:
    """Build a pack of cells that no site has, with what a net trained on others outlines in them.

    Returns which part of the pixels the net has right.
    """
    text = (
        f'task = "segmentation"\nname = "source"\nclasses = {json.dumps(plan.classes)}\nmethod = "local"\nrounds = 1\n'
    )
    text += f'image.size = {plan.image.size}\ntraining.epochs = 6\ntraining.lr = 0.003\ntraining.loss = "dice-ce"\n'
    source_plan = plans.read(text, METHODS)
    splits = ("train",) * source_count + ("val",) * _SOURCE_VAL
    images = draw_images(splits, source_plan, _PUBLIC_SITE, difficulty, seed=1)
    learner = learners.create(source_plan, "source 1", "small", images.split("train"), None, machine.compute())
    learner.receive(METHODS["local"].start(source_plan), 1)
    sets = learners.image_sets(images.split("train"), None)
    loop.train(learner, sets, 1, progress=watch("source 1"))
    origin = exporting.Origin("", 1, "small", 1, None)
    model = mask_bundle.create({"own": learner.net}, images, source_plan, origin, keys.generate().sign)
    path = out / "sources" / "source-1.onnx"
    path.parent.mkdir(exist_ok=True)
    model.write(path)
    pixels, truth = phantoms.draw_outlined(
        public_count, size=plan.image.size, site=_PUBLIC_SITE, difficulty=difficulty, seed=2
    )
    public = packs.of_masks(pixels, truth, plan.classes)
    pack = Building(public, [SourceSpec.parse(f"masks:{path}")], out / "sources" / "answers", Asking()).run()
    packs.save(out / "pack.safetensors", pack)
    return {"source 1": round(float((pack.probabilities[0].argmax(1) == truth).mean()), 3)}


def sample_pictures(images: Images) -> list[tuple[str, NDArray[np.uint8]]]:
    """Some images of a site with their outlines."""
    nothing = np.zeros(0)
    masks = np.asarray(images.masks)[:_SAMPLES]
    drawn = [Drawn(mask, mask > len(phantoms.PARTS), nothing, {}, 0.0) for mask in masks]
    names = " and ".join(phantoms.PARTS)
    return [(names, mask_files.overlay(images.pixels[index], each)[::2, ::2]) for index, each in enumerate(drawn)]


def sample_answers(site: DemoSite, models: Path, plan: Plan) -> list[dict[str, Any]]:
    """What a site's model outlines in some of its test images."""
    path = models / f"{site.home.name}.onnx"
    model = bundle.load_any(path, lambda key: signer_check.model_warning(site.home, key, None))
    assert isinstance(model, MaskBundle)  # noqa: S101 - the plan's task says so
    paths = sorted((site.images / IMAGES / "test").glob("*"))[: 2 * _SAMPLES]
    rows = mask_answering.answer_items(model, inputs.list_items(paths), pictures=True)
    return [{"true": row["file"], "answer": _VERDICTS[row["verdict"]], **_shown(row)} for row in rows]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("reason", "picture")}
