"""A net of this kit's own kind, with weights from a safetensors file: `nets:resnet56@FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_edge import update
from fedhelp_edge.data.picture import resize
from fedhelp_edge.errors import SchemaNamesError, UsageError
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.source_spec import SourceSpec
from fedhelp_edge.nets.net import create, load_arrays
from fedhelp_edge.nets.spec import NETS, Form, schema

SIDE = 32
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)


class NetSource(Source):
    """A net that was trained on the public classes."""

    def __init__(self, net: str, weights: Path, classes: int) -> None:
        arrays = update.load(weights, limit=1 << 20, metadata=("format",))
        expected = schema(net, Form(classes, 3))
        if {name: a.shape for name, a in arrays.items()} != {t.name: t.shape for t in expected.tensors}:
            raise SchemaNamesError(f"{weights.name} does not hold a {net} with {classes} classes")
        self._net = create(net, Form(classes, side=SIDE)).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        load_arrays(self._net, arrays)

    @torch.no_grad()
    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        if images.shape[1:3] != (SIDE, SIDE):
            images = np.stack([resize(image, SIDE) for image in images])
        raw = torch.from_numpy(np.broadcast_to(images, (*images.shape[:3], 3)).copy()).permute(0, 3, 1, 2).float() / 255
        logits: torch.Tensor = self._net((raw - _MEAN) / _STD)
        return np.asarray(logits.softmax(1).numpy())


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> NetSource:
    """The source of `NET@FILE`."""
    net, _, weights = spec.argument.partition("@")
    if net not in NETS or not weights:
        raise UsageError(f"write nets:NET@FILE, with NET one of {', '.join(NETS)}")
    return NetSource(net, Path(weights), len(classes))
