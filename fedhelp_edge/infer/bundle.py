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
from fedhelp_edge.infer import allowed, metadata
from fedhelp_edge.parcel import sshsig

if TYPE_CHECKING:
    from fedhelp_edge.infer.engine import Engine

NAMESPACE = "bundle.v1.fedhelp-edge"
LIMIT = 512 << 20  # bytes of a model
TOLERANCE = {"fp32": 1e-4, "int8": 0.05}  # of probabilities and, in parts of the largest number, of all other outputs

Vouch = Callable[[str], str]  # a public key -> "" if it is trusted, else why not; or it raises


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

        return Engine(self.model, self.threads, max(1, allowed.MOST_NUMBERS // max(1, self.cost.numbers)))

    @cached_property
    def cost(self) -> allowed.Cost:
        """What an answer to one image costs."""
        image = self.facts.image
        return allowed.cost(self.model, (1, image.size, image.size, image.channels))

    def check_graph(self) -> None:
        """Raise unless the graph does no more than a model of this kit, and gives what its facts speak of."""
        classes, features = (1, len(self.facts.classes)), (1, len(self.facts.likeness.mean))
        expected = {"logits": classes, "probabilities": classes, "cam": classes, "embedding": features}
        shapes = self.cost.outputs
        if {name: shape[:2] for name, shape in shapes.items()} != expected or len(shapes["cam"]) != 4:
            raise BadBundleError("it gives other numbers than it says")

    @property
    def card(self) -> str:
        return self.notes.get(metadata.CARD, "")

    def parity(self) -> float:
        """Ask what was asked at export: how far the answers lie apart, in parts of what is allowed. Or `Disagrees`."""
        try:
            said = json.loads(self.notes[metadata.PARITY])
            images = metadata.unpacked(said["image"])
            wanted = {name: metadata.unpacked(said[name]) for name in ("logits", "probabilities", "cam", "embedding")}
        except (ValueError, KeyError, TypeError):
            raise BadBundleError("its test images cannot be read") from None
        allowed.cost(self.model, images.shape)
        found, worst = vars(self.engine(images)), 0.0
        for name, values in wanted.items():
            if found[name].shape != values.shape:
                raise DisagreesError(f"its {name} have another shape than they should")
            worst = max(worst, apart(found[name], values))
        worst /= TOLERANCE.get(self.facts.precision, TOLERANCE["fp32"])
        if not worst <= 1:
            raise DisagreesError(f"its answers here lie {worst:.1f} times further from those at export than they may")
        return worst


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference; where numbers are larger than one, in parts of the largest."""
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))


def load(path: Path, vouch: Vouch, *, threads: int | None = None) -> Bundle:
    """A bundle whose signature holds and whose signer `vouch` does not refuse."""
    with files.reading(path) as file:
        model = file.read(LIMIT + 1)
    if len(model) > LIMIT:
        raise BadBundleError(f"it is larger than {LIMIT >> 20} MiB")
    signer = _signer(model, beside(path))
    why = vouch(signer)
    found = metadata.notes(model)
    known = metadata.read(found[metadata.FACTS])
    made = Bundle(model, hashlib.sha256(model).hexdigest(), signer, why, found, known, threads)
    made.check_graph()
    return made


def ready(path: Path, vouch: Vouch, *, threads: int | None = None) -> Bundle:
    """A bundle to diagnose with: loaded, and its answers on this machine are those that it should give."""
    if path.is_dir():
        raise FileKindError(
            f"{path.name} is a folder, not a model", remedy="name the model (MODEL.onnx) first, then the images"
        )
    made = load(path, vouch, threads=threads)
    made.parity()
    return made


def beside(path: Path) -> Path:
    """Where the signature of a model lies."""
    return path.with_name(f"{path.name}.sig")


def _signer(model: bytes, path: Path) -> str:
    """The key whose signature over these bytes, for this purpose, holds."""
    if not path.exists():
        raise NoSignatureError(f"there is no {path.name} beside the model")
    with files.reading(path) as file:
        data = file.read(sshsig.LIMIT + 1)
    try:
        found = sshsig.parse(data.decode("ascii"))
    except UnicodeDecodeError:
        raise SigFormatError("not an SSH signature") from None
    if found.namespace != NAMESPACE:
        raise SigNamespaceError(f"made for {found.namespace!r}, wanted for {NAMESPACE!r}")
    found.verify(model)
    return sshsig.public_line(found.key)
