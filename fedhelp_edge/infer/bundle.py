"""A bundle, opened: first the signature over its bytes, then whether its signer is trusted, then what it says.

Then whether its graph may do no more than a model of this kit does. Only then does onnxruntime see it, and it sees the
bytes that were judged: the file is read once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedhelp_edge import files
from fedhelp_edge.errors import (
    BadBundleError,
    DisagreesError,
    FileKindError,
    NoSignatureError,
    SigFormatError,
    SigNamespaceError,
)
from fedhelp_edge.infer import graph_check, metadata
from fedhelp_edge.parcel import sshsig

if TYPE_CHECKING:
    from fedhelp_edge.infer.engine import Engine

NAMESPACE = "bundle.v1.fedhelp-edge"
MAX_SIZE = 512 << 20  # bytes of a model
TOLERANCE = {"fp32": 1e-4, "int8": 0.05}  # of probabilities and, in parts of the largest number, of all other outputs

CheckSigner = Callable[[str], str]  # a public key -> "" if it is trusted, else why not; or it raises


@dataclass(frozen=True)
class Bundle:
    model: bytes = field(repr=False)
    sha256: str
    signer: str  # the public key whose signature holds
    why: str  # it is not trusted, or "" if it is
    notes: dict[str, str] = field(repr=False)
    facts: metadata.Facts = field(repr=False)
    threads: int | None = None

    @cached_property
    def engine(self) -> Engine:
        from fedhelp_edge.infer.engine import Engine

        return Engine(self.model, self.threads, max(1, graph_check.MAX_ACTIVATIONS // max(1, self.cost.numbers)))

    @cached_property
    def cost(self) -> graph_check.GraphCost:
        """What an answer to one image costs."""
        image = self.facts.image
        return graph_check.check_cost(self.model, (1, image.size, image.size, image.channels))

    def check_graph(self) -> None:
        """Raise unless the graph does no more than a model of this kit, and gives what its facts speak of."""
        classes, features = (1, len(self.facts.classes)), (1, len(self.facts.likeness.mean))
        expected = {"logits": classes, "probabilities": classes, "cam": classes, "embedding": features}
        shapes = self.cost.outputs
        if {name: shape[:2] for name, shape in shapes.items()} != expected or len(shapes["cam"]) != 4:
            raise BadBundleError("it gives other numbers than it says")

    @property
    def card(self) -> str:
        return self.notes.get(metadata.CARD_NOTE, "")

    def parity(self) -> float:
        """Ask what was asked at export: how far the answers lie apart, in parts of what is allowed. Or `Disagrees`."""
        try:
            document = json.loads(self.notes[metadata.PARITY_NOTE])
            images = metadata.decode_array(document["image"])
            expected = {
                name: metadata.decode_array(document[name]) for name in ("logits", "probabilities", "cam", "embedding")
            }
        except (ValueError, KeyError, TypeError):
            raise BadBundleError("its test images cannot be read") from None
        graph_check.check_cost(self.model, images.shape)
        outputs, worst = vars(self.engine(images)), 0.0
        for name, values in expected.items():
            if outputs[name].shape != values.shape:
                raise DisagreesError(f"its {name} have another shape than they should")
            worst = max(worst, max_difference(outputs[name], values))
        worst /= TOLERANCE.get(self.facts.precision, TOLERANCE["fp32"])
        if not worst <= 1:
            raise DisagreesError(f"its answers here lie {worst:.1f} times further from those at export than they may")
        return worst


def max_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference; where numbers are larger than one, in parts of the largest."""
    return float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))


def load(path: Path, check_signer: CheckSigner, *, threads: int | None = None) -> Bundle:
    """A bundle whose signature holds and whose signer `vouch` does not refuse."""
    with files.reading(path) as file:
        model = file.read(MAX_SIZE + 1)
    if len(model) > MAX_SIZE:
        raise BadBundleError(f"it is larger than {MAX_SIZE >> 20} MiB")
    signer = _verified_signer(model, signature_path(path))
    why = check_signer(signer)
    texts = metadata.read_notes(model)
    facts = metadata.read(texts[metadata.FACTS_NOTE])
    opened = Bundle(model, hashlib.sha256(model).hexdigest(), signer, why, texts, facts, threads)
    opened.check_graph()
    return opened


def load_checked(path: Path, check_signer: CheckSigner, *, threads: int | None = None) -> Bundle:
    """A bundle to diagnose with: loaded, and its answers on this machine are those that it should give."""
    if path.is_dir():
        raise FileKindError(
            f"{path.name} is a folder, not a model", remedy="name the model (MODEL.onnx) first, then the images"
        )
    opened = load(path, check_signer, threads=threads)
    opened.parity()
    return opened


def signature_path(path: Path) -> Path:
    """Where the signature of a model lies."""
    return path.with_name(f"{path.name}.sig")


def _verified_signer(model: bytes, path: Path) -> str:
    """The key whose signature over these bytes, for this purpose, holds."""
    if not path.exists():
        raise NoSignatureError(f"there is no {path.name} beside the model")
    with files.reading(path) as file:
        data = file.read(sshsig.ARMOR_LIMIT + 1)
    try:
        signature = sshsig.parse(data.decode("ascii"))
    except UnicodeDecodeError:
        raise SigFormatError("not an SSH signature") from None
    if signature.namespace != NAMESPACE:
        raise SigNamespaceError(f"made for {signature.namespace!r}, wanted for {NAMESPACE!r}")
    signature.verify(model)
    return sshsig.public_line(signature.key)
