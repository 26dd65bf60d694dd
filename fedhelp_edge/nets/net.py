"""What all nets have in common, their input, and the way of their tensors into arrays and back."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedhelp_edge.nets.spec import NETS, Form
from fedhelp_edge.plan import ImageSettings
from fedhelp_edge.update import Array

_PIXELS_AT_ONCE = 1 << 19  # of EfficientNet-Lite0 the largest maps of these take 200 MB


class Net(nn.Module):
    """A net: the features of an image, or of an encoder's features of it, and a last layer that classifies them.

    A net for masks has features of each pixel, and its last layer classifies each.
    """

    width: int  # of the features

    def __init__(self, name: str, form: Form) -> None:
        super().__init__()
        self.name, self.form = name, form

    @property
    def head(self) -> nn.Linear:
        """The layer that classifies the features."""
        raise NotImplementedError

    def feature_maps(self, x: Tensor) -> Tensor:
        """The last feature maps: N x width x h x w."""
        raise NotImplementedError

    def contracting_maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps of each level of a U-Net's contracting path, the coarsest last."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """What the head classifies, N x width: the mean of each feature map."""
        return self.feature_maps(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))  # N x classes; export traces this, so nothing depends on x
        return logits


def classify(head: nn.Linear, features: Tensor) -> Tensor:
    """What a layer says of features: of each image (N x width), or of each pixel (N x width x sides)."""
    logits: Tensor = head(features) if features.ndim == 2 else head(features.movedim(1, -1)).movedim(-1, 1)
    return logits


def create(name: str, form: Form) -> Net:
    """A net by its name in `spec.NETS`, with random first weights."""
    module, _, kind = NETS[name].module.partition(":")
    net: Net = getattr(importlib.import_module(module), kind)(name, form)
    return net


def input_tensor(pixels: NDArray[Any], image: ImageSettings, device: str = "cpu") -> Tensor:
    """What a net sees of images: their pixels normalised by the plan, or float32 features.

    Pixels are B x channels x side x side, of volumes B x channels x depth x side x side. Features are B x width; of
    several views of an image the first counts.
    """
    if pixels.dtype == np.float16:
        features = pixels[:, 0] if pixels.ndim == 3 else pixels
        return torch.from_numpy(features.astype(np.float32)).to(device)
    raw = torch.from_numpy(pixels).to(device).movedim(-1, 1)  # a view: channels last already
    sides = (1,) * (raw.ndim - 2)
    mean = torch.tensor(image.mean, device=device).view(-1, *sides) * 255
    std = torch.tensor(image.std, device=device).view(-1, *sides) * 255
    return raw.float().sub_(mean).div_(std)


def images_at_once(net: Net) -> int:
    """How many images a net sees at once where it does not learn: fewer large ones, whose maps take memory."""
    return 256 if net.form.features else max(1, min(256, _PIXELS_AT_ONCE // (net.form.side**2 * net.form.depth)))


@contextmanager
def frozen_bn_stats(net: nn.Module) -> Iterator[None]:
    """Batch norm normalises by the batch, as in training, but its running statistics stay as they are."""
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def arrays_of(module: nn.Module) -> dict[str, Array]:
    """Copies of a module's tensors in the order of its schema, without batch norm's counters."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in _travelling(module)}


def load_arrays(module: nn.Module, values: Mapping[str, Array]) -> None:
    """Loads arrays into a module. Names and shapes must be exactly the module's; batch norm's counters stay."""
    own = dict(_travelling(module))
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if mismatched := shapes.items() ^ {name: value.shape for name, value in values.items()}.items():
        raise ValueError(f"these arrays are for another net: {min(mismatched)[0]}")
    for name, value in values.items():
        own[name].copy_(torch.from_numpy(np.array(value)))


def _travelling(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return (item for item in module.state_dict().items() if not item[0].endswith("num_batches_tracked"))
