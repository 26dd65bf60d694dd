"""An encoder's file is checked by its hash and its structure before onnxruntime opens it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fedhelp_edge.encoder import onnx_file
from fedhelp_edge.errors import EncoderError
from tests import encoders
from tests.unit.data import samples
from tests.unit.encoder.test_embed import plan_with

REAL = samples.GIVEN.parent / "weights" / "efficientnet_lite0" / "efficientnet_lite0_embed.onnx"


def test_a_file_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    read = onnx_file.read(encoders.save(tmp_path / "tiny.onnx", encoders.model(side=16)))
    assert (read.input, read.output, read.side, read.width) == ("pixels", "features", 16, encoders.WIDTH)
    assert onnx_file.read(encoders.save(tmp_path / "any.onnx")).side is None


def _branch(model: Any) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["unit"], ["x"])], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["condition"], ["y"], then_branch=inner, else_branch=inner))


def _foreign(model: Any) -> None:
    model.graph.node[1].domain = "com.example"


def _foreign_set(model: Any) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _outside(model: Any) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def _outside_in_a_constant(model: Any) -> None:
    tensor = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "c")
    tensor.external_data.add(key="location", value="secret.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _function(model: Any) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("mine", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 18)]))


def _random(model: Any) -> None:
    model.graph.node.append(helper.make_node("RandomNormalLike", ["unit"], ["noise"]))


def _texts(model: Any) -> None:
    model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [1], [b"word"]))


def _floats_in(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _channels_first(model: Any) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 3, 16, 16]))


def _oblong(model: Any) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 16, 8, 3]))


def _second_input(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _maps_out(model: Any) -> None:
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 24, 4, 4]))


def _nothing_out(model: Any) -> None:
    del model.graph.output[:]


def _odd_text(model: Any) -> None:
    text = {"classes": ["a", "b"], "features": [[1.0, 2.0]], "logit_scale": 1.0}
    helper.set_model_props(model, {onnx_file.TEXT: json.dumps(text)})


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (_branch, "operator If"), (_foreign, "not ONNX's own"), (_foreign_set, "not ONNX's own"),
        (_outside, "a tensor holds"), (_outside_in_a_constant, "a tensor holds"), (_function, "the model holds"),
        (_random, "draws random numbers"), (_texts, "a tensor holds"), (_floats_in, "N x height x width x 3"),
        (_channels_first, "N x height x width x 3"), (_oblong, "square"), (_second_input, "its one input"),
        (_maps_out, "N x width"), (_nothing_out, "N x width"), (_odd_text, "text features"),
    ],
)  # fmt: skip
def test_h04_a_file_that_is_no_plain_encoder_is_refused_before_it_is_opened(
    tmp_path: Path, change: encoders.Change, cause: str
) -> None:
    with pytest.raises(EncoderError, match=cause):
        onnx_file.read(encoders.save(tmp_path / "odd.onnx", change=change))


@pytest.mark.parametrize("content", [b"", b"not a model", os.urandom(1000), b"\x08" * 5_000])
def test_h01_bytes_that_are_no_model_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.onnx").write_bytes(content)
    with pytest.raises(EncoderError):
        onnx_file.read(tmp_path / "odd.onnx")


def test_h01_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = encoders.model().SerializeToString()
    for length in range(0, len(whole), 97):
        with pytest.raises(EncoderError):
            onnx_file.parse(whole[:length], "cut.onnx").features(np.zeros((16, 16, 3), np.uint8))


def test_h02_a_file_of_the_wrong_hash_side_or_width_is_not_the_plans(tmp_path: Path) -> None:
    file = encoders.save(tmp_path / "tiny.onnx", encoders.model(side=16))
    read = onnx_file.read(file)
    onnx_file.check_plan(read, plan_with(file))
    for settings, cause in (
        ({"nets.encoder_sha256": f'"{"0" * 64}"'}, "not the plan's encoder"),
        ({"image.size": "32"}, "takes images of 16 pixels"),
        ({"nets.encoder_width": "25"}, "gives 24 features"),
    ):
        with pytest.raises(EncoderError, match=cause):
            onnx_file.check_plan(read, plan_with(file, **settings))


def test_h03_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(onnx_file.LIMIT + 1)
    with pytest.raises(EncoderError, match="larger than"):
        onnx_file.read(tmp_path / "large.onnx")


@pytest.mark.parametrize(("scale", "fits"), [(1.0, True), (1e6, False), (float("nan"), False)])
def test_h05_features_that_are_no_half_floats_are_refused(tmp_path: Path, scale: float, fits: bool) -> None:
    model = encoders.model()
    model.graph.node[-1].CopyFrom(helper.make_node("Mul", ["raw", "factor"], ["features"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(scale), "factor"))
    read, image = onnx_file.parse(model.SerializeToString(), "tiny.onnx"), samples.noise(1)[0]
    if fits:
        assert read.features(image).shape == (encoders.WIDTH,)
        return
    with pytest.raises(EncoderError, match="infinite"):
        read.features(image)


def test_text_features_come_in_the_order_of_the_plans_classes(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3, encoders.WIDTH)).astype(np.float32)
    text = {"classes": ["c", "b", "a"], "features": rows.tolist(), "logit_scale": 50.0}
    file = encoders.save(tmp_path / "t.onnx", encoders.model(metadata={onnx_file.TEXT: json.dumps(text)}))
    facts = onnx_file.read(file).facts(plan_with(file))
    assert facts.text is not None
    assert np.array_equal(facts.text, rows[[2, 1]])
    assert (facts.logit_scale, facts.width) == (50.0, encoders.WIDTH)
    bare = encoders.save(tmp_path / "tiny.onnx")
    assert onnx_file.read(bare).facts(plan_with(bare)).text is None


@pytest.mark.skipif(not REAL.exists(), reason="EfficientNet-Lite0 is not here")
def test_a_real_encoder_gives_what_onnxruntime_gives_for_a_batch() -> None:
    import onnxruntime

    read, images = onnx_file.read(REAL), samples.noise(2, 224, 224, 3)
    assert (read.side, read.width) == (224, 1280)
    session = onnxruntime.InferenceSession(REAL, providers=["CPUExecutionProvider"])
    (batch,) = session.run(None, {read.input: images})
    assert np.abs(np.stack([read.features(image) for image in images]) - batch).max() < 1e-2
