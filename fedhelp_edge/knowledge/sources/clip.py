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


class ClipModel:
    """A model of open_clip with weights from a file, in eval mode."""

    def __init__(self, model: str, weights: Path) -> None:
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
            net, _, self.transform = open_clip.create_model_and_transforms(model, pretrained=path)
        except MemoryError:
            raise
        except Exception as error:  # the readers of its many formats raise errors of many classes
            raise BadPackError(f"{weights.name} does not hold the weights of {model}") from error
        self.net, self.scale = net.eval(), float(net.logit_scale.detach().exp())
        self._tokens = open_clip.get_tokenizer(model)

    @classmethod
    def parse(cls, argument: str) -> ClipModel:
        """The model of `MODEL@FILE`."""
        model, _, weights = argument.partition("@")
        if not weights.endswith(".safetensors"):  # other files would be unpickled
            raise UsageError("write clip:MODEL@FILE with a safetensors file, as in clip:ViT-L-14@weights.safetensors")
        return cls(model, Path(weights))

    @torch.no_grad()
    def class_vectors(self, classes: Sequence[str], chosen: Prompts) -> torch.Tensor:
        """What names each class: the mean over its sentences of their features, of length 1. Classes x width."""
        sentences = map(chosen.sentences, classes)
        encoded = (_unit_length(self.net.encode_text(self._tokens(of_class))).mean(0) for of_class in sentences)
        return _unit_length(torch.stack(list(encoded)))


class ClipSource(Source):
    """A CLIP model, and the embeddings of the public classes' names."""

    def __init__(self, model: ClipModel, classes: Sequence[str], chosen: Prompts) -> None:
        self._model, self._classes = model, model.class_vectors(classes, chosen)

    @torch.no_grad()
    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        from PIL import Image

        pictures = [
            Image.fromarray(image.squeeze() if image.shape[2] == 1 else image).convert("RGB") for image in images
        ]
        pixels = torch.stack([self._model.transform(image) for image in pictures])
        logits = self._model.scale * _unit_length(self._model.net.encode_image(pixels)) @ self._classes.T
        return np.asarray(logits.float().softmax(1).numpy())


def _unit_length(vectors: torch.Tensor) -> torch.Tensor:
    unit: torch.Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> ClipSource:
    """The source of `MODEL@FILE`."""
    model = ClipModel.parse(spec.argument)
    chosen = asking.prompts_for(spec, classes)
    assert chosen is not None  # noqa: S101 - the spec is one of clip
    return ClipSource(model, classes, chosen)
