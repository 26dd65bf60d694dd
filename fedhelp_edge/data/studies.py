"""Find the DICOM images that a table names by an identifier: of an image, a series, a study, a request or a patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from fedhelp_edge.data import dicom, folder, picture
from fedhelp_edge.errors import FileMissingError, ImageBrokenError, ImageKindError, StudyError, StudyUnlabelledError
from fedhelp_edge.safe_text import counted

KEYWORDS = {  # a table's column -> the attribute; the first that a table has counts
    "instance": "SOPInstanceUID",
    "series": "SeriesInstanceUID",
    "study": "StudyInstanceUID",
    "accession": "AccessionNumber",
    "patient": "PatientID",
}
_NOUNS = {  # what a line is for, one and several
    "instance": ("image", "images"),
    "series": ("series", "series"),
    "study": ("study", "studies"),
    "accession": ("study", "studies"),
    "patient": ("patient", "patients"),
}


class StudyIndex:
    """The DICOM files below a folder by one of their identifiers."""

    def __init__(self, root: Path, names: Iterable[str], column: str) -> None:
        """Read the headers of all files; what is not DICOM is passed over."""
        self._noun = _NOUNS[column]
        self._images: dict[str, dict[str, list[str]]] = defaultdict(dict)  # identifier -> modality -> names of files
        with picture.without_warnings():
            for name in names:
                try:
                    if not folder.is_image(root, name):
                        continue
                    identifier, modality = dicom.read_identifier(root / name, KEYWORDS[column])
                except (ImageKindError, ImageBrokenError, FileMissingError):  # no row can mean it
                    continue
                by_modality = self._images[identifier]
                if modality is not None:
                    by_modality.setdefault(modality, []).append(name)

    def find(self, identifier: str, modality: str) -> list[str]:
        """The files of the images with an identifier, of this modality if one is given.

        Raise `StudyError` if there is none, or if a label could mean images of several modalities.
        """
        by_modality = self._images.get(identifier) if identifier else None
        if by_modality is None:
            raise FileMissingError("no DICOM file below the table's folder has this identifier")
        if not by_modality:
            raise StudyError("none of its files is an image")
        listed = ", ".join(sorted(by_modality))
        if modality and modality not in by_modality:
            raise StudyError(f"it has no image of the modality {modality}, but of {listed}")
        if not modality and len(by_modality) > 1:
            raise StudyError(f"its images are of several modalities ({listed})")
        return by_modality[modality] if modality else next(iter(by_modality.values()))

    def why_left_out(self, identifiers: Collection[str]) -> StudyUnlabelledError | None:
        """How many studies have images though a table with these identifiers has no line for them; None if none."""
        counts = [
            sum(map(len, by_modality.values()))
            for identifier, by_modality in self._images.items()
            if by_modality and identifier not in identifiers
        ]
        studies, images = counted(len(counts), *self._noun), counted(sum(counts), "image")
        cause = f"without a line: {studies}" + (f", with {images}" if images != studies else "")
        return StudyUnlabelledError(cause) if counts else None
