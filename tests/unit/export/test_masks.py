"""A model for masks: one graph of the nets, as torch runs them; weighed, calibrated and described."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export import choose, graph, mask_bundle, verify
from fedhelp_edge import plan as plans
from fedhelp_edge.errors import BadBundleError, MaskModelError, TooFewError, UnknownLayerError
from fedhelp_edge.infer import bundle, graph_check, metadata
from fedhelp_edge.infer.engine import MaskEngine
from fedhelp_edge.nets.net import Net, create
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.nets.unet import UNet
from tests import mask_bundles
from tests.threads import one_thread as one_thread
from tests.unit.export.test_walk import used

DEPTHS = [1, 8]


def image(depth: int, channels: int = 1) -> plans.ImageSettings:
    return plans.ImageSettings(16, channels, (0.4,) * channels, (0.3,) * channels, depth, (2.0, 1.0, 1.0))


def made(depth: int, norm: str, channels: int = 1, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    net = used(create("unet8", Form(3, channels, norm, 16, 0, depth)), seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    nn.init.normal_(net.head.weight, 0, 2)  # so that probabilities are far apart
    return net


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("norm", "channels"), [("batch", 1), ("group", 3)])
def test_the_graph_gives_the_probabilities_of_the_nets_mean(depth: int, norm: str, channels: int) -> None:
    nets, settings = [made(depth, norm, channels, seed) for seed in (0, 1)], image(depth, channels)
    model = graph.build_masks(nets, settings)
    graph.set_temperature(model, 0.5)
    data = model.SerializeToString()
    images = verify.noise_images(2, *settings.block, channels)
    expected, actual = verify.mask_reference(nets, settings, 0.5, images), MaskEngine(data)(images)
    assert np.ptp(expected.probabilities) > 0.5
    for one, other in zip(expected, actual, strict=True):
        assert bundle.max_difference(one, other) <= 2e-5
    cost = graph_check.check_cost(data, (1, *settings.block, channels))
    assert dict(cost.outputs) == {"probabilities": (1, 3, *settings.block), "embedding": (1, 128)}


def test_pictures_of_any_size_are_resized_as_in_training() -> None:
    net, settings = made(1, "batch"), image(1)
    assert verify.mask_parity(graph.build_masks([net], settings).SerializeToString(), [net], settings) <= 2e-5


def test_scaled_nets_are_the_sum_of_their_logits() -> None:
    nets, settings = {"own": made(1, "batch"), "alone": made(1, "batch", seed=1)}, image(1)
    images = verify.noise_images(2, *settings.block, 1)
    kept = MaskEngine(graph.build_masks(choose.scaled(nets, {"own": 0.7, "alone": 0.3}), settings).SerializeToString())
    x = torch.from_numpy(images).movedim(-1, 1).float().sub(0.4 * 255).div(0.3 * 255)
    with torch.no_grad():
        expected = (0.7 * nets["own"](x) + 0.3 * nets["alone"](x)).softmax(1).numpy()
    assert bundle.max_difference(kept(images).probabilities, expected) <= 2e-5


def test_a_layer_that_export_does_not_know_is_named() -> None:
    net = made(1, "batch")
    net.pool = nn.functional.avg_pool2d  # type: ignore[assignment]
    with pytest.raises(UnknownLayerError, match="avg_pool2d"):
        graph.build_masks([net], image(1))


class Curious(UNet):
    """Its steps depend on the image, so no graph has them all."""

    def feature_maps(self, x: Tensor) -> Tensor:
        return super().feature_maps(x if x.mean() > 0 else -x)


class Careless(UNet):
    """It raises an error of its own where a stand-in takes the place of the image."""

    def feature_maps(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise ZeroDivisionError
        return super().feature_maps(x)


@pytest.mark.parametrize("kind", [Curious, Careless])
def test_a_net_that_cannot_be_traced_is_refused_by_name_whatever_its_code_raises(kind: type[UNet]) -> None:
    with pytest.raises(UnknownLayerError, match="the steps of the net unet8 depend on the image, or cannot be traced"):
        graph.build_masks([kind("unet8", Form(3, 1, "batch", 16))], image(1))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_model_says_its_task_classes_distances_and_how_good_it_is(depth: int, tmp_path: Path) -> None:
    opened = mask_bundles.loaded_bundle(tmp_path, depth)
    assert opened.parity() <= 1
    facts, site = opened.facts, mask_bundles.site(depth)
    assert (facts.classes, facts.image) == (("a", "b"), site.plan.image)
    assert '"task":"segmentation"' in opened.notes[metadata.FACTS_NOTE]
    assert metadata.read(facts.text()).text() == facts.text()
    validation = site.images.split("val")
    assert facts.calibration.cases == facts.validation["images"] == len(validation.cases)
    assert facts.examples == len(site.images.split("train").cases)
    assert facts.validation["answered"] >= facts.calibration.cases - 1
    assert facts.figures[facts.net]["dice"] == facts.validation["dice"] > 0.4
    assert {f"dice of {name}" for name in facts.classes} <= facts.test.keys()
    card = (tmp_path / "model_CARD.md").read_text(encoding="utf-8")
    assert card == opened.card
    assert "pipeline_tag: image-segmentation" in card
    assert "In a mask 0 is the background, 1 a, 2 b." in card
    if depth > 1:
        assert "Volumes have 2 x 1 x 1 mm from slice to slice, row to row and column to column." in card
        assert "blocks of 8 x 16 x 16" in card
    else:
        assert "16 x 16 pixels inside the model" in card


def test_two_nets_are_weighed_and_each_is_measured() -> None:
    facts = mask_bundles.export_result().facts
    assert set(facts.figures) == {"own", "alone", "average", "kept"}
    assert facts.net == "kept"
    assert sum(facts.weighing["weights"].values()) == pytest.approx(1, abs=1e-3)
    assert facts.weighing["images"] == facts.calibration.cases
    assert facts.calibration.ece is not None
    before, after = facts.calibration.ece
    assert after < before


def test_the_same_nets_give_the_same_bytes() -> None:
    assert mask_bundles.site().make().model == mask_bundles.export_result().model


def test_of_one_net_that_is_there_twice_one_is_exported() -> None:
    site = mask_bundles.site()
    facts = site.make({"own": site.nets["own"], "merged": site.nets["own"]}).facts
    assert (facts.net, facts.members, set(facts.figures)) == ("own", ("own: unet8",), {"own"})


def test_too_few_validation_volumes_make_no_model() -> None:
    site = mask_bundles.site(8)
    validation = np.flatnonzero(np.array(site.images.splits) == "val")
    blocks = np.concatenate(site.images.split("val").cases[:3])
    with pytest.raises(TooFewError, match="there are 3 validation images or volumes; at least 4 are needed"):
        mask_bundle.create(
            site.nets, site.images.only(validation[np.sort(blocks)]), site.plan, mask_bundles.ORIGIN, site.keys.sign
        )


def test_a_command_for_classes_refuses_a_model_for_masks_by_name(tmp_path: Path) -> None:
    path = mask_bundles.saved_model(tmp_path)
    with pytest.raises(MaskModelError, match=r"model\.onnx names the class of each pixel"):
        bundle.load(path, lambda key: "")


@pytest.mark.parametrize(
    "change",
    [
        {"image": {"depth": 3}}, {"image": {"spacing": [1.0, 1.0]}}, {"image": {"spacing": [0.0, 1.0, 1.0]}},
        {"calibration": {"temperature": -1.0}}, {"calibration": {"most_uncertain": None}}, {"classes": []},
        {"calibration": {"cases": "six"}},
    ],
)  # fmt: skip
def test_facts_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    import json

    document = json.loads(mask_bundles.export_result(8).facts.text())
    for key, value in change.items():
        document[key] = document[key] | value if isinstance(value, dict) else value
    with pytest.raises(BadBundleError):
        metadata.read(json.dumps(document))


def test_outputs_that_the_facts_do_not_promise_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    opened = mask_bundles.loaded_bundle(tmp_path)
    with pytest.raises(BadBundleError, match="its outputs differ"):
        replace(opened, facts=replace(opened.facts, classes=("a", "b", "c"))).check_graph()
