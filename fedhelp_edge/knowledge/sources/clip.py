"""CLIP without training: the closer an image is to sentences that name a class, the likelier it is of that class.

`clip:MODEL@FILE` takes any model of open_clip with weights from a local file; nothing is ever downloaded. Images pass
through the net in blocks that fit into `MEMORY`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_edge.errors import BadPackError, MissingPackageError, UsageError
from fedhelp_edge.knowledge import quick_gelu, torchvision_shim
from fedhelp_edge.knowledge.asking import Asking, Source, say_nothing
from fedhelp_edge.knowledge.prompts import Prompts
from fedhelp_edge.knowledge.source_spec import SourceSpec

MEMORY = 1 << 30  # bytes for what the net computes of a block of images
_LIVE = 4  # tensors of the largest layer's size that a net holds at once
_SENTENCES = 64  # encoded at once


class ClipModel:
    """A model of open_clip with weights from a file, in eval mode. `say` gets a doubt whether they belong together."""

    def __init__(self, model: str, weights: Path, say: Callable[[str], None] = say_nothing) -> None:
        torchvision_shim.prepare()
        try:
            import open_clip
        except ImportError as error:
            raise MissingPackageError(
                "open_clip is not installed", remedy="pip install 'fedhelp-edge[foundation]'"
            ) from error
        if model not in open_clip.list_models():
            raise UsageError(f"open_clip knows no model {model!r}")
        if doubt := quick_gelu.check(model, weights, open_clip):
            say(doubt)
        try:
            from safetensors import safe_open

            path = str(weights.resolve())  # a bare name could be a tag, which open_clip would download
            with safe_open(path, "numpy"):  # a damaged file ends here, before seconds in which a net is built for it
                pass
            net, _, self.transform = open_clip.create_model_and_transforms(model, pretrained=path)
        except MemoryError:
            raise
        except Exception as error:  # the readers of its many formats raise errors of many classes
            raise BadPackError(f"{weights.name} does not hold the weights of {model}") from error
        self.net, self.scale = net.eval(), float(net.logit_scale.detach().exp())
        self._tokens = open_clip.get_tokenizer(model)

    @classmethod
    def parse(cls, argument: str, say: Callable[[str], None] = say_nothing) -> ClipModel:
        """The model of `MODEL@FILE`."""
        model, _, weights = argument.partition("@")
        if not weights.endswith(".safetensors"):  # other files would be unpickled
            raise UsageError(
                "write clip:MODEL@FILE with a safetensors file, as in clip:ViT-L-14-quickgelu@openai.safetensors"
            )
        return cls(model, Path(weights), say)

    @torch.no_grad()
    def class_vectors(self, classes: Sequence[str], chosen: Prompts) -> torch.Tensor:
        """What names each class: the mean over its sentences of their features, of length 1. Classes x width."""
        return _unit_length(torch.stack([self._mean_vector(chosen.sentences(name)) for name in classes]))

    def _mean_vector(self, sentences: Sequence[str]) -> torch.Tensor:
        blocks = (sentences[start : start + _SENTENCES] for start in range(0, len(sentences), _SENTENCES))
        return torch.cat([_unit_length(self.net.encode_text(self._tokens(block))) for block in blocks]).mean(0)

    @torch.no_grad()
    def images_at_once(self, memory: int) -> int:
        """How many images pass through the net at once, if what it computes of them shall fit into this memory."""
        sizes = [1]

        def record(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                sizes.append(output.numel() * output.element_size())

        hooks = [module.register_forward_hook(record) for module in self.net.visual.modules()]
        side = self.net.visual.image_size
        self.net.encode_image(torch.zeros(1, 3, *((side, side) if isinstance(side, int) else side)))
        for hook in hooks:
            hook.remove()
        return max(1, memory // (_LIVE * max(sizes)))


class ClipSource(Source):
    """A CLIP model, and the embeddings of the public classes' names."""

    def __init__(self, model: ClipModel, classes: Sequence[str], chosen: Prompts, memory: int = MEMORY) -> None:
        self._model, self._classes = model, model.class_vectors(classes, chosen)
        self._block = model.images_at_once(memory)

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        starts = range(0, len(images), self._block)
        return np.concatenate([self._of_block(images[start : start + self._block]) for start in starts])

    @torch.no_grad()
    def _of_block(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
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
    model = ClipModel.parse(spec.argument, asking.say)
    chosen = asking.prompts_for(spec, classes)
    assert chosen is not None  # noqa: S101 - the spec is one of clip
    return ClipSource(model, classes, chosen)
