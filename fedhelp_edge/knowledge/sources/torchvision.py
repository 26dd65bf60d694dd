"""A torchvision classifier that was trained on the public classes: `torchvision:MODEL@FILE`, FILE in safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_edge import update
from fedhelp_edge.data.picture import resize
from fedhelp_edge.errors import SchemaNamesError, UsageError
from fedhelp_edge.knowledge import torchvision_shim
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.source_spec import SourceSpec

SIDE = 224
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)


class TorchvisionSource(Source):
    """A classifier of torchvision's."""

    def __init__(self, model: str, weights: Path, classes: int) -> None:
        torchvision_shim.prepare()
        import torchvision

        if model not in torchvision.models.list_models(module=torchvision.models):
            raise UsageError(f"torchvision knows no classifier {model!r}")
        arrays = update.load(weights, limit=4 << 20, metadata=("format",))
        self._net = torchvision.models.get_model(model, weights=None, num_classes=classes).eval()
        state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        try:
            self._net.load_state_dict(state)
        except RuntimeError as error:
            raise SchemaNamesError(f"{weights.name} does not hold a {model} with {classes} classes") from error

    @torch.no_grad()
    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        parts = []
        for image in images:
            resized = np.broadcast_to(resize(image, SIDE), (SIDE, SIDE, 3)).copy()
            raw = torch.from_numpy(resized).permute(2, 0, 1).float() / 255
            parts.append(self._net(((raw - _MEAN) / _STD)[None]).softmax(1))
        return np.asarray(torch.cat(parts).numpy())


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> TorchvisionSource:
    """The source of `MODEL@FILE`."""
    model, _, weights = spec.argument.partition("@")
    if not weights:
        raise UsageError("write torchvision:MODEL@FILE, as in torchvision:resnet18@weights.safetensors")
    return TorchvisionSource(model, Path(weights), len(classes))
