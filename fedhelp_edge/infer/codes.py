"""The codes of a report: DICOM's own where it has them, and local ones."""

from __future__ import annotations

import hashlib
import re

from pydicom.sr.coding import Code

from fedhelp_edge import plan
from fedhelp_edge.infer.metadata import Facts, MaskFacts

LOCAL = "99FEDHELP"
_MEANING = 64  # characters
_VALUE = re.compile(r"[A-Za-z0-9_.-]{1,13}")  # of a local code; with a prefix it has 16 characters at most

NOT_CLASSIFIED = Code("not-classified", LOCAL, "Not classified")
REASON = Code("reason", LOCAL, "Why it is not classified")
REASONS = {
    "uncertain": Code("uncertain", LOCAL, "The model is uncertain"),
    "unlike": Code("unlike", LOCAL, "Unlike the training images"),
    None: Code("not-usable", LOCAL, "The image cannot be used"),
}
UNCERTAIN_PIXELS = Code("uncertain-pixels", LOCAL, "Uncertain pixels")
POSSIBLE = Code("possible", LOCAL, "Class that cannot be ruled out")
FLAGGED = Code("flagged", LOCAL, "Class that reaches its threshold")


def of_classes(facts: Facts | MaskFacts) -> dict[str, Code]:
    """The code of each class: the plan's, or a local one."""
    return {
        name: _plans_code(facts, name) or Code(f"c-{_value(name)}", LOCAL, name[:_MEANING]) for name in facts.classes
    }


def _plans_code(facts: Facts | MaskFacts, name: str) -> Code | None:
    parts = plan.CODE.fullmatch(facts.codes.get(name, ""))
    return Code(parts[2], parts[1], parts[3]) if parts else None


def probability(name: str) -> Code:
    """The code of a class's probability."""
    return Code(f"p-{_value(name)}", LOCAL, f"Probability of {name}"[:_MEANING])


def _value(name: str) -> str:
    """A short name as it is; of another one a hash."""
    return name if _VALUE.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:13]
