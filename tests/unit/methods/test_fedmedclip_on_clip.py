"""FedMedCLIP on a real model of open_clip: a small vision transformer and a small text tower, with 512 features."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import numpy as np
import pytest
import torch

from fedhelp_edge.data.features import EncoderFacts
from fedhelp_edge.knowledge import torchvision_shim
from fedhelp_edge.methods import schemas
from fedhelp_edge.methods.base import LearnerContext, SiteFacts
from fedhelp_edge.methods.fedmedclip import FedMedCLIP
from fedhelp_edge.train import loop
from tests.unit.methods import small

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed (extra: foundation)"
)
MODEL = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
CLASSES, COUNT = 4, 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The model with random weights, its images, and the tokens of each class's prompt."""
    torchvision_shim.prepare()
    import open_clip

    path = tmp_path_factory.mktemp("models") / "small-for-fedmedclip.json"
    path.write_text(json.dumps(MODEL))
    open_clip.add_model_config(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = open_clip.create_model("small-for-fedmedclip").eval()
    prompts = [f"a picture of a class {number}" for number in range(CLASSES)]
    images = torch.randn(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return net, images, open_clip.get_tokenizer("small-for-fedmedclip")(prompts)


@torch.no_grad()
def site(clip: Any) -> tuple[FedMedCLIP, small.Images]:
    """A learner and the features of its images, as an encoder gives them."""
    net, images, tokens = clip
    text, scale = net.encode_text(tokens).numpy(), float(net.logit_scale.exp())
    plan = small.plan("fedmedclip", nets={"encoder_width": 512})
    facts = EncoderFacts(512, text, scale)
    made = FedMedCLIP(LearnerContext(plan, SiteFacts("site-001", "small", (3,) * CLASSES), encoder=facts))
    made.receive(schemas.drawn_adapter(plan), 1)
    features = net.encode_image(images).numpy().astype(np.float16)[:, None]
    labels = np.arange(COUNT, dtype=np.int64) % CLASSES
    return made, small.Images(features, labels, tuple(map(str, range(COUNT))))


def test_an_adapter_that_weighs_all_features_alike_predicts_what_clip_does_without_training(clip: Any) -> None:
    made, images = site(clip)
    net, pictures, tokens = clip
    with torch.no_grad():
        made.net.adapter.second.weight.zero_()
        made.net.adapter.second.bias.zero_()
        image, text, scale = net(pictures, tokens)
        expected = (scale * image @ text.T).softmax(1).numpy()
    assert np.abs(loop.probabilities(made, made.net, images.pixels) - expected).max() < 5e-3  # features in f16


def test_training_changes_no_bit_of_clip_and_sends_none(clip: Any) -> None:
    net, *_ = clip
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    made, images = site(clip)
    first = made.give()
    loop.train(made, {"private": images}, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    update = made.give()
    assert small.differing(first, update) == set(update)
    assert sum(array.size for array in update.values()) == 526_336
