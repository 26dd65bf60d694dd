"""Does a model know this kind of image? It answers DICOM files of the kinds that it was trained on (facts.kinds)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedhelp_edge.data.images import ImageKind
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import OtherKindError
from fedhelp_edge.infer.bundle import AnyBundle
from fedhelp_edge.infer.metadata import TrainedKinds


def collect(kinds: Sequence[ImageKind | None]) -> TrainedKinds:
    """The kinds of a site's images, for the facts of its model."""
    stated = [kind for kind in kinds if kind]
    columns = ({getattr(kind, name) for kind in stated} for name in ImageKind._fields)
    return TrainedKinds(*(tuple(sorted(values - {""})) for values in columns))


def doubt(bundle: AnyBundle, decoded: Decoded) -> str:
    """Why an image may be the wrong one; raise `OtherKindError` if it is of another kind, unless the bundle may answer.

    Nothing is known of an image that is no DICOM file, and of a model whose images were none.
    """
    if decoded.identity is None:
        return decoded.doubt
    trained, kind = bundle.facts.kinds, decoded.identity.kind
    others = list(_others(trained, kind))
    if others and not bundle.any_kind:
        raise OtherKindError("; ".join(others))
    return "; ".join(filter(None, [decoded.doubt, *others, *_unstated(trained, kind)]))


def _others(trained: TrainedKinds, kind: ImageKind) -> Iterator[str]:
    for what, value, known in _compared(trained, kind):
        if value and known and _alike(value) not in map(_alike, known):
            yield f"its {what} is {value}, but the model was trained on {', '.join(known)}"


def _unstated(trained: TrainedKinds, kind: ImageKind) -> Iterator[str]:
    for what, value, known in _compared(trained, kind):
        if known and not value:
            yield f"the file does not state its {what}; the model was trained on {', '.join(known)}"


def _compared(trained: TrainedKinds, kind: ImageKind) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    yield "modality", kind.modality, trained.modalities
    yield "body part", kind.body_part, trained.body_parts
    yield "photometric interpretation", kind.photometric_interpretation, trained.photometric_interpretations


def _alike(value: str) -> str:
    """Colour spaces are alike: an archive may convert one into another."""
    return "colour" if value.startswith(("RGB", "YBR_")) else value.upper()
