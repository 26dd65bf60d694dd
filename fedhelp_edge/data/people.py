"""What a table or a DICOM file states of a patient that tells groups of people apart: the sex, and a band of ages.

The age itself is not stored: a band is enough to judge a model by.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right

from fedhelp_edge.data.source_row import normalise

_SEXES = {  # without accents
    "female": ("f", "female", "w", "weiblich", "frau", "femme", "feminin", "femenino", "mujer", "woman"),
    "male": ("m", "male", "mannlich", "mann", "homme", "masculin", "masculino", "hombre", "man"),
    "other": ("o", "other", "d", "diverse", "divers", "autre", "otro"),
}
_SEX_OF = {word: sex for sex, words in _SEXES.items() for word in words}
_BAND_STARTS = (0, 18, 40, 65, 80)
_BANDS = ("0-17", "18-39", "40-64", "65-79", "80 or older")
_AGE = re.compile(r"(\d{1,3})(?:[.,]\d+)?\s*([ymwd]?)", re.IGNORECASE)
_PER_YEAR = {"": 1, "y": 1, "m": 12, "w": 52, "d": 365}
_OLDEST = 130  # years


def parse_sex(word: str) -> str:
    """Return female, male or other, or "" if the word says none of them."""
    plain = unicodedata.normalize("NFKD", normalise(word)).encode("ascii", "ignore").decode()
    return _SEX_OF.get(plain, "")


def parse_age(word: str) -> str:
    """Return the band of an age in years, or as DICOM writes it (063Y, 018M); "" if it is none."""
    match = _AGE.fullmatch(word.strip())
    if match is None:
        return ""
    years = int(match[1]) / _PER_YEAR[match[2].lower()]
    return _BANDS[bisect_right(_BAND_STARTS, years) - 1] if years <= _OLDEST else ""
