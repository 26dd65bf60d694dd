"""Open a bundle: verify the signature over its bytes, ask whether the signer is trusted, read its metadata, check its
graph.

Only then does onnxruntime load it, from the very bytes that were checked: the file is read once, so it cannot be
exchanged in between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, plan
from fedhelp_edge.errors import (
    BadBundleError,
    DisagreesError,
    FileKindError,
    MaskModelError,
    NoSignatureError,
    SigFormatError,
    SigNamespaceError,
)
from fedhelp_edge.infer import graph_check, metadata
from fedhelp_edge.parcel import sshsig

if TYPE_CHECKING:
    from fedhelp_edge.infer.engine import Engine, MaskEngine

NAMESPACE = "bundle.v1.fedhelp-edge"
MAX_SIZE = 512 << 20  # bytes of a model file
TOLERANCE = {"fp32": 1e-4, "int8": 0.05}  # absolute for probabilities, relative to the largest number for other outputs

CheckSigner = Callable[[str], str]  # public key -> "" if it is trusted, else why not; or it raises


AnyFacts = TypeVar("AnyFacts", metadata.Facts, metadata.MaskFacts)


@dataclass(frozen=True)
class SignedModel(Generic[AnyFacts]):
    """A model file whose signature and graph were verified."""

    model: bytes = field(repr=False)
    sha256: str
    signer: str  # public key of the verified signature
    why: str  # why the signer is not trusted; "" if trusted
    notes: dict[str, str] = field(repr=False)
    facts: AnyFacts = field(repr=False)
    threads: int | None = None
    any_kind: bool = False  # also answer DICOM files of kinds that the model was not trained on

    @cached_property
    def cost(self) -> graph_check.GraphCost:
        """The cost of an answer to one image, or to one block of a volume."""
        return cost_of(self.model, self.facts.image)

    def check_graph(self) -> None:
        """Raise `BadBundleError` unless the graph is allowed and its outputs match the facts."""
        if not self._fits(dict(self.cost.outputs)):
            raise BadBundleError("its outputs differ from its metadata")

    def _fits(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        """Whether the outputs for one image have the shapes that the facts ask for."""
        raise NotImplementedError

    def run(self, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        """The outputs for images, or blocks of volumes, by name: those that `parity` compares."""
        raise NotImplementedError

    @property
    def card(self) -> str:
        """The model card (Markdown), "" if it has none."""
        return self.notes.get(metadata.CARD_NOTE, "")

    def parity(self) -> float:
        """Repeat the test of the export: return the difference of the outputs in units of the tolerance, or raise
        `DisagreesError`."""
        try:
            document = json.loads(self.notes[metadata.PARITY_NOTE])
            images = metadata.decode_array(document["image"])
            expected = {name: metadata.decode_array(document[name]) for name in self.cost.outputs}
        except (ValueError, KeyError, TypeError) as error:
            raise BadBundleError("its test images cannot be read") from error
        graph_check.check_cost(self.model, images.shape)
        outputs, worst = self.run(images), 0.0
        for name, values in expected.items():
            if outputs[name].shape != values.shape:
                raise DisagreesError(f"its {name} have the wrong shape")
            worst = max(worst, max_difference(outputs[name], values))
        worst /= TOLERANCE.get(self.facts.precision, TOLERANCE["fp32"])
        if not worst <= 1:
            raise DisagreesError(
                f"its answers on this machine differ from those at export by {worst:.1f} times the tolerance"
            )
        return worst


@dataclass(frozen=True)
class Bundle(SignedModel[metadata.Facts]):
    """A model for classes."""

    @cached_property
    def engine(self) -> Engine:
        """The model, loaded into onnxruntime at first use."""
        return open_engine(self.model, self.cost, self.threads)

    def run(self, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        return self.engine(images).named()

    def _fits(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        classes, features = (1, len(self.facts.classes)), (1, len(self.facts.likeness.mean))
        cam = shapes.pop("cam", (*classes, 1, 1))
        is_heat_map = (cam[:2], len(cam)) == (classes, 4)
        return is_heat_map and shapes == {"logits": classes, "probabilities": classes, "embedding": features}


@dataclass(frozen=True)
class MaskBundle(SignedModel[metadata.MaskFacts]):
    """A model for masks."""

    @cached_property
    def engine(self) -> MaskEngine:
        """The model, loaded into onnxruntime at first use. It runs one image or block at a time."""
        from fedhelp_edge.infer.engine import MaskEngine

        return MaskEngine(self.model, self.threads)

    def run(self, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        return self.engine(images).thinned()

    def _fits(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        outputs, features = (
            (1, len(self.facts.classes) + 1, *self.facts.image.block),
            (1, len(self.facts.likeness.mean)),
        )
        return shapes == {"probabilities": outputs, "embedding": features}


AnyBundle: TypeAlias = Bundle | MaskBundle


def open_engine(model: bytes, cost: graph_check.GraphCost, threads: int | None = None) -> Engine:
    """A model in onnxruntime, which runs as many images together as memory is meant for; `cost` is of one."""
    from fedhelp_edge.infer.engine import Engine

    return Engine(model, threads, max(1, graph_check.MAX_ACTIVATIONS // max(1, cost.activations)))


def cost_of(model: bytes, image: plan.ImageSettings) -> graph_check.GraphCost:
    """The cost of a model's answer to one image; raises `BadBundleError` if its graph is not allowed."""
    return graph_check.check_cost(model, (1, *image.block, image.channels))


def max_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; relative to the largest expected number if that exceeds 1."""
    return float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))


def load_any(path: Path, check_signer: CheckSigner, *, threads: int | None = None) -> AnyBundle:
    """Open a bundle of any task; `check_signer` may refuse its signer, or return why it is not trusted."""
    with files.reading(path) as file:
        model = file.read(MAX_SIZE + 1)
    if len(model) > MAX_SIZE:
        raise BadBundleError(f"it is larger than {MAX_SIZE >> 20} MiB")
    signer = _verified_signer(model, signature_path(path))
    why = check_signer(signer)
    texts = metadata.read_notes(model)
    facts = metadata.read(texts[metadata.FACTS_NOTE])
    about = model, hashlib.sha256(model).hexdigest(), signer, why, texts
    opened = (
        MaskBundle(*about, facts, threads) if isinstance(facts, metadata.MaskFacts) else Bundle(*about, facts, threads)
    )
    opened.check_graph()
    return opened


def load(path: Path, check_signer: CheckSigner, *, threads: int | None = None) -> Bundle:
    """Open a bundle for classes, as `load_any` does; raise `MaskModelError` for one for masks."""
    return _of_classes(load_any(path, check_signer, threads=threads), path)


def load_checked(
    path: Path, check_signer: CheckSigner, *, threads: int | None = None, any_kind: bool = False
) -> Bundle:
    """Open a bundle for classes, to diagnose with, as `load_any_checked` does."""
    return _of_classes(load_any_checked(path, check_signer, threads=threads, any_kind=any_kind), path)


def load_any_checked(
    path: Path, check_signer: CheckSigner, *, threads: int | None = None, any_kind: bool = False
) -> AnyBundle:
    """Open a bundle for diagnosis: its answers on this machine must agree with those at export."""
    if path.is_dir():
        raise FileKindError(
            f"{path.name} is a folder, not a model", remedy="name the model (MODEL.onnx) first, then the images"
        )
    opened = replace(load_any(path, check_signer, threads=threads), any_kind=any_kind)
    opened.parity()
    return opened


def _of_classes(opened: AnyBundle, path: Path) -> Bundle:
    if isinstance(opened, MaskBundle):
        raise MaskModelError(f"{path.name} names the class of each pixel, not of the image")
    return opened


def signature_path(path: Path) -> Path:
    """The path of a model's signature."""
    return path.with_name(f"{path.name}.sig")


def _verified_signer(model: bytes, path: Path) -> str:
    """Verify the signature over these bytes for this purpose; return the signing key."""
    if not path.exists():
        raise NoSignatureError(f"there is no {path.name} beside the model")
    with files.reading(path) as file:
        data = file.read(sshsig.ARMOR_LIMIT + 1)
    try:
        signature = sshsig.parse(data.decode("ascii"))
    except UnicodeDecodeError as error:
        raise SigFormatError("not an SSH signature") from error
    if signature.namespace != NAMESPACE:
        raise SigNamespaceError(f"it was signed for {signature.namespace!r}, not for {NAMESPACE!r}")
    signature.verify(model)
    return sshsig.public_line(signature.key)
