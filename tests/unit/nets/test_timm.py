"""Published weights of timm become weights of our nets: by their names, tensor for tensor."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from fedhelp_edge import plan, update
from fedhelp_edge.errors import SchemaShapeError
from fedhelp_edge.infer.engine import onnxruntime
from fedhelp_edge.methods import first_weights
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec, timm
from fedhelp_edge.nets.net import create, input_tensor, load_arrays
from fedhelp_edge.nets.spec import Form
from tests.threads import one_thread as one_thread
from tests.unit.nets.test_spec import WEIGHTS

LITE0 = WEIGHTS / "efficientnet_lite0"
BLOCKS = {"mobilenetv2": (1, 2, 3, 4, 3, 3, 1), "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1)}  # of each group
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
PLAN = 'classes = ["a", "b"]\n[nets]\nlarge = "efficientnet_lite0"'


def theirs(net: str, classes: int = 4) -> dict[str, update.Array]:
    """A file as timm writes it: each of our tensors under its name, and batch norm's counters."""
    names = []
    for group, blocks in enumerate(BLOCKS[net]):
        convolutions = ("conv_pw", "conv_dw", "conv_pwl") if group else ("conv_dw", "conv_pw")
        for block in range(blocks):
            for number, convolution in enumerate(convolutions, 1):
                names += [f"blocks.{group}.{block}.{convolution}.weight"]
                names += [f"blocks.{group}.{block}.bn{number}.{part}" for part in NORM]
    names = ["conv_stem.weight", *(f"bn1.{part}" for part in NORM), *names]
    names += ["conv_head.weight", *(f"bn2.{part}" for part in NORM), "classifier.weight", "classifier.bias"]
    arrays = iter(ours(net, classes).values())  # in the same order
    return {name: np.array(7) if name.endswith("tracked") else next(arrays) for name in names}


def ours(net: str, classes: int = 4) -> dict[str, update.Array]:
    """Random numbers in every tensor, so that none can stand for another."""
    draw = np.random.default_rng(0)
    return {t.name: draw.random(t.shape, np.float32) for t in spec.schema(net, Form(classes)).tensors}


@pytest.mark.parametrize("net", BLOCKS)
def test_each_tensor_gets_the_name_of_the_layer_that_it_belongs_to(net: str) -> None:
    translated, expected = timm.translate(theirs(net)), ours(net)
    assert translated.keys() == expected.keys()
    assert all(translated[name] is not None and np.array_equal(translated[name], expected[name]) for name in expected)


@pytest.mark.parametrize("net", BLOCKS)
def test_a_file_without_the_layer_that_classifies_is_a_start_too(net: str) -> None:
    given = timm.translate({name: a for name, a in theirs(net).items() if "classifier" not in name})
    read = plan.read(f'classes = ["a", "b"]\n[nets]\nlarge = "{net}"', METHODS)
    first = first_weights.match(read, [given])
    assert first.taken == (first_weights.Taken(net, len(ours(net)) - 2, ("linear.weight", "linear.bias")),)


def changed(name: str, other: str) -> dict[str, update.Array]:
    return {other if key == name else key: array for key, array in theirs("efficientnet_lite0").items()}


@pytest.mark.parametrize(
    "given",
    [
        changed("conv_head.weight", "head.weight"), changed("conv_head.weight", "conv_head.bias"),
        {**theirs("efficientnet_lite0"), "blocks.6.1.conv_pw.weight": np.zeros((4, 4, 1, 1), np.float32)},
        {name: a[:1, :1] if a.ndim == 4 else a for name, a in theirs("efficientnet_lite0").items()},
    ],
    ids=["a layer of another name", "another part of a layer", "a block more", "other widths"],
)  # fmt: skip
def test_weights_of_another_net_are_refused(given: dict[str, update.Array]) -> None:
    with pytest.raises(SchemaShapeError) as refused:
        first_weights.match(plan.read(PLAN, METHODS), [timm.translate(given)])
    assert "take the original file, made for this net" in refused.value.remedy


def test_what_a_publisher_wrote_about_a_file_does_not_keep_it_out(tmp_path: Path) -> None:
    with io.BytesIO() as file:
        update.write(file, theirs("mobilenetv2"), {"format": "pt", "licence": "Apache-2.0"})
        (tmp_path / "published").write_bytes(file.getvalue())
    assert first_weights.load(tmp_path / "published").keys() == ours("mobilenetv2").keys()


def test_the_real_weights_give_the_features_of_the_published_encoder() -> None:
    if not LITE0.exists():
        pytest.skip("the folder 'weights' beside FEDHELP_DATA has no efficientnet_lite0")
    weights = first_weights.load(LITE0 / "efficientnet_lite0_imagenet.safetensors")
    net = create("efficientnet_lite0", Form(1000, side=224)).eval()
    load_arrays(net, weights)
    noise = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    images = np.concatenate([noise, noise[:, ::32, ::32].repeat(32, 1).repeat(32, 2)])
    session = onnxruntime.InferenceSession(LITE0 / "efficientnet_lite0_embed.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": images})
    with torch.no_grad():
        features = net.features(input_tensor(images, plan.ImageSettings(224, mean=(0.5,) * 3, std=(0.5,) * 3)))
    assert features.numpy() == pytest.approx(expected, abs=1e-4)
    assert expected.max() > 1
