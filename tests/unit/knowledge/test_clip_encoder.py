"""An encoder of a real open_clip model, small and with random weights: its features, its text, and a bundle with it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export import graph, verify
from fedhelp_edge import plan as plans
from fedhelp_edge.encoder import onnx_file
from fedhelp_edge.errors import DisagreesError
from fedhelp_edge.infer.engine import Session
from fedhelp_edge.knowledge import clip_encoder, prompts, torchvision_shim
from fedhelp_edge.knowledge.sources.clip import ClipModel
from fedhelp_edge.nets.linear import Linear
from fedhelp_edge.nets.spec import Form
from tests.command import error_code, json_output, run_in_process

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed (extra: foundation)"
)
CLASSES, SIDE, WIDTH = ["horse", "ship"], 16, 24
NAME = "small-for-encoders"
MODEL = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weight file of a vision transformer and a text tower."""
    torchvision_shim.prepare()
    import open_clip

    folder = tmp_path_factory.mktemp("models")
    (folder / f"{NAME}.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(folder / f"{NAME}.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = open_clip.create_model(NAME)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, folder / "clip.safetensors")
    return folder / "clip.safetensors"


@pytest.fixture(scope="module")
def written(weights: Path) -> tuple[ClipModel, Path]:
    model, out = ClipModel(NAME, weights), weights.with_name("encoder.onnx")
    clip_encoder.write(model, CLASSES, prompts.read("photo", CLASSES), out)
    return model, out


def noise(count: int) -> Any:
    return np.random.Generator(np.random.Philox(7)).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


@torch.no_grad()
def test_its_features_are_the_models_for_images_that_its_own_transform_prepared(
    written: tuple[ClipModel, Path],
) -> None:
    from PIL import Image

    model, out = written
    encoder, images = onnx_file.read(out), noise(3)
    (features,) = Session(encoder.model).run(encoder.input, images, [encoder.output])
    prepared = torch.stack([model.transform(Image.fromarray(image)) for image in images])
    assert np.abs(features - model.net.encode_image(prepared).numpy()).max() <= 1e-4
    assert (encoder.side, encoder.width) == (SIDE, WIDTH)


def test_its_text_names_the_classes_as_the_source_of_knowledge_does(written: tuple[ClipModel, Path]) -> None:
    model, out = written
    text = onnx_file.read(out).text
    assert text is not None
    assert text.classes == tuple(CLASSES)
    assert np.allclose(text.features, model.class_vectors(CLASSES, prompts.read("photo", CLASSES)), atol=1e-7)
    assert text.logit_scale == pytest.approx(float(model.net.logit_scale.detach().exp()))


def test_the_file_has_no_path_and_the_same_bytes_each_time(written: tuple[ClipModel, Path], tmp_path: Path) -> None:
    model, out = written
    clip_encoder.write(model, CLASSES, prompts.read("photo", CLASSES), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()
    for secret in (str(Path.cwd()), str(out.parent), "site-packages", ".py"):
        assert secret.encode() not in out.read_bytes()


def test_a_bundle_holds_a_vision_transformer_too(written: tuple[ClipModel, Path]) -> None:
    """All its operators are of known cost; it has no heat-map."""
    encoder, nets = onnx_file.read(written[1]), [Linear("linear", Form(2, features=WIDTH))]
    image = plans.ImageSettings(SIDE)
    model = graph.build(nets, image, None, encoder).SerializeToString()
    assert verify.parity(model, nets, image, None, encoder) <= 1e-4
    assert b'"cam"' not in model


def test_a_file_that_differs_from_the_model_is_not_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_encoder, "max_difference", lambda actual, expected: 0.1)
    with pytest.raises(DisagreesError, match="in the features of 1 images"):
        clip_encoder.write(ClipModel(NAME, weights), CLASSES, prompts.read("photo", CLASSES), tmp_path / "e.onnx")
    assert not (tmp_path / "e.onnx").exists()


def test_the_command_writes_it_and_show_reads_it(weights: Path) -> None:
    words = ("encoder", "build", f"clip:{NAME}@{weights}", "--out", "built.onnx", "--classes")
    built = json_output(run_in_process(*words, "horse,ship", "--json", home=weights.parent))
    shown = json_output(run_in_process("encoder", "show", "built.onnx", "--json", home=weights.parent))
    assert (shown["sha256"], shown["width"], shown["text_classes"]) == (built["sha256"], WIDTH, CLASSES)
    assert error_code(run_in_process(*words, "horse,ship", home=weights.parent)) == "E_FILE_EXISTS"
    assert error_code(run_in_process(*words, "horse,,ship", home=weights.parent)) == "E_USAGE"
    words = ("encoder", "build", "nets:resnet20@x.safetensors", "--out", "other.onnx", "--classes", "a,b")
    assert error_code(run_in_process(*words, home=weights.parent)) == "E_USAGE"
