"""CLIP without training: the closer an image is to sentences that name a class, the likelier it is of that class.

`clip:MODEL@FILE` takes any model of open_clip with weights from a local file; nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_edge.errors import BadPackError, MissingPackageError, UsageError
from fedhelp_edge.knowledge import torchvision_shim
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.prompts import Prompts
from fedhelp_edge.knowledge.source_spec import SourceSpec


class ClipSource(Source):
    """A CLIP model, and the embeddings of the public classes' names."""

    def __init__(self, model: str, weights: Path, classes: Sequence[str], chosen: Prompts) -> None:
        torchvision_shim.prepare()
        try:
            import open_clip
        except ImportError as error:
            raise MissingPackageError(
                "open_clip is not installed", remedy="pip install 'fedhelp-edge[foundation]'"
            ) from error
        if model not in open_clip.list_models():
            raise UsageError(f"open_clip knows no model {model!r}")
        try:
            path = str(weights.resolve())  # a bare name could be a tag, which open_clip would download
            net, _, transform = open_clip.create_model_and_transforms(model, pretrained=path)
        except MemoryError:
            raise
        except Exception as error:  # the readers of its many formats raise errors of many classes
            raise BadPackError(f"{weights.name} does not hold the weights of {model}") from error
        self._net, self._transform = net.eval(), transform
        tokens = open_clip.get_tokenizer(model)
        with torch.no_grad():
            sentences = map(chosen.sentences, classes)
            means = torch.stack([_unit_length(net.encode_text(tokens(of_class))).mean(0) for of_class in sentences])
            self._classes = _unit_length(means)  # classes x width
            self._scale = net.logit_scale.exp()

    @torch.no_grad()
    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        from PIL import Image

        pictures = [
            Image.fromarray(image.squeeze() if image.shape[2] == 1 else image).convert("RGB") for image in images
        ]
        features = _unit_length(self._net.encode_image(torch.stack([self._transform(image) for image in pictures])))
        logits = self._scale * features @ self._classes.T
        return np.asarray(logits.float().softmax(1).numpy())


def _unit_length(vectors: torch.Tensor) -> torch.Tensor:
    unit: torch.Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> ClipSource:
    """The source of `MODEL@FILE`."""
    model, _, weights = spec.argument.partition("@")
    if not weights.endswith(".safetensors"):  # other files would be unpickled
        raise UsageError("write clip:MODEL@FILE with a safetensors file, as in clip:ViT-L-14@weights.safetensors")
    chosen = asking.prompts_for(spec, classes)
    assert chosen is not None  # noqa: S101 - the spec is one of clip
    return ClipSource(model, Path(weights), classes, chosen)
