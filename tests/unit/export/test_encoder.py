"""A head on an encoder's features and the encoder are one model: raw pixels in, and the same answers as in training."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export import choose, graph, verify
from fedhelp_edge import plan as plans
from fedhelp_edge.data.picture import resize
from fedhelp_edge.demo import phantoms
from fedhelp_edge.encoder import Encoder, onnx_file
from fedhelp_edge.errors import EncoderError
from fedhelp_edge.infer import bundle, graph_check
from fedhelp_edge.infer.engine import Engine, Outputs
from fedhelp_edge.methods.fedmedclip import ClassVectors
from fedhelp_edge.nets.adapter import Masks, Mixture, Similarity
from fedhelp_edge.nets.linear import Linear
from fedhelp_edge.nets.net import Net
from fedhelp_edge.nets.spec import Form
from tests import bundles, encoders
from tests.bundles import noise

SIDE, CLASSES = 16, 3
IMAGE = plans.ImageSettings(SIDE)


def maps_encoder(*, keepdims: bool = False, axes: tuple[int, ...] = (2, 3), opset: int = 18) -> Any:
    """Convolves, and gives the means of its maps. The padding is computed from the image's sides, as exporters do."""
    kernel = np.random.default_rng(1).normal(0, 0.2, (encoders.WIDTH, 3, 3, 3)).astype(np.float32)
    constants = {
        "scale": np.float32(255), "kernel": kernel, "side": np.array([2]), "left": np.array([0, 0]),
        "one": np.array([1]), "two": np.array([2]), "axes": np.array(axes), "zeros": np.array([0, 0]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["chw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["chw"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("Shape", ["unit"], ["shape"]),
        helper.make_node("Gather", ["shape", "side"], ["rows"]),
        helper.make_node("Div", ["rows", "rows"], ["pad"]),  # 1, whatever the side
        helper.make_node("Concat", ["left", "pad", "pad", "zeros", "pad", "pad"], ["pads"], axis=0),
        helper.make_node("Pad", ["unit", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "kernel"], ["maps"], strides=[2, 2]),
        helper.make_node("Relu", ["maps"], ["last"]),
    ]
    mean = helper.make_node("ReduceMean", ["last", "axes"], ["mean"], keepdims=int(keepdims))
    if opset < 18:
        mean = helper.make_node("ReduceMean", ["last"], ["mean"], keepdims=int(keepdims), axes=list(axes))
    nodes += [mean, helper.make_node("Flatten", ["mean"], ["features"])]
    used = {name for node in nodes for name in node.input}
    return helper.make_model(
        helper.make_graph(
            nodes, "maps",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", "width"])],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items() if name in used],
        ),
        opset_imports=[helper.make_opsetid("", opset)], ir_version=8,
    )  # fmt: skip


def opened(made: Any) -> Encoder:
    return onnx_file.parse(made.SerializeToString(), "tiny.onnx")


def heads(count: int, width: int = encoders.WIDTH) -> list[Linear]:
    torch.manual_seed(0)
    return [Linear("linear", Form(CLASSES, features=width)) for _ in range(count)]


def run(encoder: Encoder, nets: Sequence[Net], images: Any, prior: tuple[float, ...] | None = None) -> Outputs:
    model = graph.build(nets, IMAGE, prior, encoder).SerializeToString()
    graph_check.check_cost(model, images.shape)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    return Engine(model)(images)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("make", [encoders.model, maps_encoder, lambda: maps_encoder(opset=17)])
def test_the_graph_gives_what_encoder_and_heads_give_one_after_the_other(make: Callable[[], Any], count: int) -> None:
    encoder, nets, prior = opened(make()), heads(count), (0.2, 0.3, 0.5)
    images = noise(5, SIDE, SIDE, 3)
    expected, actual = verify.on_features(nets, prior, 1.0, encoder, images), run(encoder, nets, images, prior)
    for name, values in expected.named().items():
        assert np.abs(actual.named()[name] - values).max() <= 1e-5
    model = graph.build(nets, IMAGE, prior, encoder).SerializeToString()
    assert verify.parity(model, nets, IMAGE, prior, encoder) <= 1e-5


def test_the_heat_maps_mean_and_the_bias_are_the_logit_where_features_are_means_of_maps() -> None:
    encoder, nets = opened(maps_encoder(keepdims=True)), heads(2)
    outputs, (_, bias) = run(encoder, nets, noise(4, SIDE, SIDE, 3)), graph.last_layer(nets, None)
    assert outputs.cam is not None
    assert outputs.cam.shape == (4, CLASSES, 8, 8)
    assert np.abs(outputs.cam.mean((2, 3)) + bias - outputs.logits).max() <= 1e-5


@pytest.mark.parametrize("make", [encoders.model, lambda: maps_encoder(axes=(1, 3), keepdims=True)])
def test_there_is_no_heat_map_where_features_are_made_otherwise(make: Callable[[], Any]) -> None:
    encoder, images = opened(make()), noise(2, SIDE, SIDE, 3)
    assert run(encoder, heads(1, len(encoder.features(images[0]))), images).cam is None


def test_larger_images_are_resized_in_the_graph_as_they_are_in_training() -> None:
    encoder, nets = opened(maps_encoder()), heads(1)
    large = noise(2, 40, 48, 3)
    small = np.stack([resize(picture, SIDE) for picture in large])
    assert np.abs(run(encoder, nets, large).logits - run(encoder, nets, small).logits).max() <= 0.02


def test_what_no_image_changes_is_constant() -> None:
    """The encoder's arithmetic on sides is gone: what is left are operators whose cost a site can know."""
    model = graph.build(heads(1), IMAGE, None, opened(maps_encoder()))
    assert {node.op_type for node in model.graph.node} == {
        "Transpose", "Cast", "Shape", "Concat", "Resize", "Div", "Pad", "Conv", "Relu", "ReduceMean", "Flatten", "Gemm",
        "Softmax",
    }  # fmt: skip
    assert sum(node.op_type == "Shape" for node in model.graph.node) == 1  # of our own resize


def test_an_encoder_of_newer_operators_is_refused() -> None:
    made = encoders.model()
    made.opset_import[0].version = 21
    with pytest.raises(EncoderError, match="of ONNX's version 21: a bundle has those of version 18"):
        graph.build(heads(1), IMAGE, None, opened(made))


def test_an_encoder_that_looks_at_no_image_is_refused() -> None:
    made = encoders.model()
    made.graph.node[0].CopyFrom(helper.make_node("ConstantOfShape", ["sides"], ["float"]))
    made.graph.initializer.append(numpy_helper.from_array(np.array([1, 16, 16, 3]), "sides"))
    with pytest.raises(EncoderError, match="do not depend on the image"):
        graph.build(heads(1), IMAGE, None, opened(made))


def test_an_operator_of_unknown_cost_is_refused_by_name() -> None:
    made = encoders.model()
    made.graph.node[-1].op_type = "Acosh"
    with pytest.raises(EncoderError, match="it uses the operator 'Acosh'"):
        graph.build(heads(1), IMAGE, None, opened(made))


def test_a_real_encoder_gives_a_heat_map_and_the_same_features() -> None:
    """EfficientNet-Lite0, as PyTorch exported it: its padding is computed from the image's sides."""
    data_dir = Path(os.environ.get("FEDHELP_DATA", "../shared/data"))
    path = data_dir.parent / "weights/efficientnet_lite0/efficientnet_lite0_embed.onnx"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    encoder, image = onnx_file.read(path), plans.ImageSettings(224)
    nets = [Linear("linear", Form(CLASSES, features=1280))]
    model = graph.build(nets, image, None, encoder).SerializeToString()
    assert verify.parity(model, nets, image, None, encoder) <= 1e-4
    assert graph_check.check_cost(model, (1, 224, 224, 3)).outputs["cam"] == (1, CLASSES, 7, 7)


@pytest.mark.parametrize("method", ["fedavg", "fedmedclip"])
def test_a_site_trains_on_features_and_diagnoses_pictures_with_one_file(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels, labels = phantoms.draw(60, 2, size=SIDE, seed=5, difficulty=0.0)
    for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / "images" / bundles.CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    encoder = encoders.save(tmp_path / "tiny.onnx", maps_encoder())
    keys = "\n".join(f"{name.removeprefix('nets.')} = {value}" for name, value in encoders.keys(encoder).items())
    classes = list(bundles.CLASSES[:2])
    (tmp_path / "plan.toml").write_text(
        f'classes = {classes}\nmethod = "{method}"\n[image]\nsize = {SIDE}\n[nets]\n{keys}\n[training]\nepochs = 5\n'
    )

    def site(*words: str | Path) -> str:
        code, out, err = bundles.run_command(capsys, *words, "--home", tmp_path / "home")
        assert code == 0, err
        return out

    site("keys", "new", "--no-passphrase")
    site("train", tmp_path / "images", "--plan", tmp_path / "plan.toml", "--threads", "1")
    model = tmp_path / "model.onnx"
    site("export", "--plan", tmp_path / "plan.toml", "--out", model, "--anyway", "--threads", "1")
    loaded = bundle.load_checked(model, lambda key: "", threads=1)
    assert loaded.engine(pixels).cam is not None or method != "fedavg"
    answers = json.loads(site("predict", model, tmp_path / "images", "--format", "json", "--threads", "1"))
    assert len(answers["results"]) == 60
    assert not any(row["error"] for row in answers["results"])


@pytest.mark.parametrize("members", [("mixture",), ("similarity",), ("mixture", "similarity", "linear")])
def test_heads_of_other_kinds_are_exported_as_they_are(members: tuple[str, ...]) -> None:
    """FedMedCLIP's: masked layers, cosines with class vectors, and a mixture by entropy."""
    torch.manual_seed(3)
    form = Form(CLASSES, features=encoders.WIDTH)
    text = np.random.default_rng(2).normal(0, 1, (CLASSES, encoders.WIDTH)).astype(np.float32)
    similarity = Similarity(form, Masks(), ClassVectors(CLASSES, encoders.WIDTH, 1, text), 30.0)
    mixture = Mixture(similarity, Masks())
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    torch.nn.init.constant_(similarity.adapter.second.threshold, 0.24)  # some rows are off
    nets = [{"mixture": mixture, "similarity": similarity, "linear": heads(1)[0]}[name] for name in members]
    encoder, prior = opened(maps_encoder()), (0.2, 0.3, 0.5)
    images = noise(5, SIDE, SIDE, 3)
    outputs = run(encoder, nets, images, prior)
    expected = verify.on_features(nets, prior, 1.0, encoder, images)
    assert outputs.cam is None
    for name, values in expected.named().items():
        assert np.abs(outputs.named()[name] - values).max() <= 1e-4
    assert 0 < int(similarity.adapter.second.mask().sum()) < encoders.WIDTH
    scales = dict(zip(members, (0.5, 0.3, 0.2), strict=False))
    scaled = run(encoder, choose.scaled(dict(zip(members, nets, strict=True)), scales), images, prior)
    each = [verify.on_features([net], None, 1.0, encoder, images).logits for net in nets]
    together = sum(scale * logits for scale, logits in zip(scales.values(), each, strict=True))
    assert np.abs(scaled.logits - together - np.log(prior)).max() <= 1e-4
