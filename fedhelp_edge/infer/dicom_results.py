"""Write an answer as DICOM, into the study of its image: a report (Comprehensive SR, TID 1500) and the heat-map
(secondary capture).

The same model, image and kind of result have the same UIDs. So a result that is made or sent twice is one in an
archive.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sc import SCImage
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from fedhelp_edge import __version__, files
from fedhelp_edge.data import dicom
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.infer import answer_formats, codes
from fedhelp_edge.infer.bundle import AnyBundle, Bundle
from fedhelp_edge.infer.decide import Answer
from fedhelp_edge.infer.inputs import InputItem
from fedhelp_edge.parcel import sshsig

SIDE = 512  # pixels of the longer side of a heat-map
_REPORT_SERIES, _HEATMAP_SERIES = 9001, 9002  # series numbers, above those of scanners
_TEXT = 64  # characters of a DICOM long string
_UNIQUE = uuid.UUID("6d9fdc52-3c0b-5b5c-9c0e-6a1d4c1f7f1e")  # our own name space


@dataclass(frozen=True)
class ResultWriter:
    """Writes the results of a model into a folder."""

    folder: Path
    bundle: Bundle
    heatmap: bool = True

    @property
    def side(self) -> int:
        """The size at which it wants an image; 0 if it needs none."""
        return SIDE if self.heatmap else 0

    def __call__(
        self, item: InputItem, row: Mapping[str, Any], answer: Answer | None, shown: Decoded | None
    ) -> list[str]:
        """Write the results for one image; return the names of the files: none where it names no study.

        `answer` and `shown` (the image at `side`) are None where the image could not be used: the report says why.
        """
        source = read_source(item)
        if source is None or not row["sop_instance_uid"]:
            return []
        results: list[Dataset] = [report(self.bundle, source, row)]
        if answer and shown and answer.verdict != "unlike" and answer.heatmaps is not None:
            results.append(_heatmap(self.bundle, source, answer, answer.heatmaps, shown))
        return [write(self.folder, result) for result in results]


def read_source(item: InputItem) -> Dataset | None:
    """What a result repeats of the image; None if it names no study, is a result itself or cannot be read."""
    if not item.path:
        return None
    try:
        with files.reading(item.path) as file:
            source: Dataset | None = dicom.read_study(file)
    except (FedhelpError, OSError):
        return None
    return source


def write(folder: Path, result: Dataset) -> str:
    """Write a result into a folder, in place of an earlier one; return the file's name."""
    name = f"{result.SOPInstanceUID}.dcm"
    with files.writing(folder / name, replace=True) as file:
        result.save_as(file, enforce_file_format=True)
    return name


def unique_uid(*parts: str) -> str:
    """The UID of a result: the same parts give the same one."""
    return f"2.25.{uuid.uuid5(_UNIQUE, '/'.join(parts)).int}"


def equipment(bundle: AnyBundle) -> dict[str, Any]:
    """Which program and model made a result."""
    return {
        "manufacturer": dicom.OWN_MANUFACTURER, "manufacturer_model_name": bundle.facts.name[:_TEXT],
        "software_versions": [f"fedhelp-edge {__version__}", f"round {bundle.facts.round}"],
        "device_serial_number": bundle.sha256,
    }  # fmt: skip


def provenance(bundle: AnyBundle) -> Iterator[str]:
    """Which model a result comes from, for people."""
    facts = bundle.facts
    yield f"model sha256: {bundle.sha256}"
    yield f"federation: {facts.federation or 'none'}"
    yield f"round: {facts.round}"
    yield f"program: fedhelp-edge {__version__}"
    yield f"signed by: {sshsig.fingerprint(bundle.signer)}"
    yield f"signer trusted: {'no' if bundle.why else 'yes'}"


def series(bundle: AnyBundle, source: Dataset, kind: str, number: int, description: str) -> dict[str, Any]:
    """The series of a kind of result, and its place there."""
    return {
        "series_instance_uid": unique_uid(kind, bundle.sha256, source.SeriesInstanceUID),
        "series_number": number, "series_description": description,
        "sop_instance_uid": unique_uid(kind, bundle.sha256, source.SOPInstanceUID),
        "instance_number": source.InstanceNumber,
    }  # fmt: skip


def report(bundle: AnyBundle, source: Dataset, row: Mapping[str, Any]) -> Dataset:
    """The report of an answer, or of why there is none."""
    own_series = series(bundle, source, "report", _REPORT_SERIES, "fedhelp-edge: answers")
    return sr.ComprehensiveSR(
        [source], _report_content(bundle, source, row), **own_series, **equipment(bundle), is_complete=True,
        coding_schemes=[CodingSchemeIdentificationItem(codes.LOCAL, name="fedhelp-edge")],
    )  # fmt: skip


def _report_content(bundle: AnyBundle, source: Dataset, row: Mapping[str, Any]) -> sr.MeasurementReport:
    facts = bundle.facts
    device = sr.DeviceObserverIdentifyingAttributes(
        unique_uid("model", bundle.sha256), "fedhelp-edge", dicom.OWN_MANUFACTURER, facts.name, bundle.sha256
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(unique_uid("tracking", bundle.sha256, source.SOPInstanceUID), "answer"),
        finding_type=codes.of_classes(facts)[row["answer"]] if row["answer"] is not None else codes.NOT_CLASSIFIED,
        algorithm_id=sr.AlgorithmIdentification(facts.name, f"round {facts.round}", list(provenance(bundle))),
        measurements=[
            sr.Measurement(codes.probability(name), probability, standard.UCUM.NoUnits)
            for name, probability in (row["probabilities"] if row["verdict"] != "unlike" else {}).items()
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(concept, value) for concept, value in _evaluations(bundle, row)
        ],
        source_images=[sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
    )
    for text in filter(None, (row["reason"], row["doubt"], answer_formats.NOTICE)):
        group[0].ContentSequence.append(
            sr.TextContentItem(standard.DCM.Comment, text, sr.RelationshipTypeValues.CONTAINS)
        )
    return sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=sr.ObserverContext(standard.DCM.Device, device)),
        standard.SCT.ImagingProcedure,
        [group],
        title=standard.DCM.ImagingMeasurementReport,
    )


def _evaluations(bundle: AnyBundle, row: Mapping[str, Any]) -> Iterator[tuple[Code, Code]]:
    """What is to be said beside the finding: coded names and values."""
    if row["answer"] is None:
        yield codes.REASON, codes.REASONS[row["verdict"]]
    if row["verdict"] != "unlike":
        code_of = codes.of_classes(bundle.facts)
        yield from ((codes.POSSIBLE, code_of[name]) for name in row["set"])
        yield from ((codes.FLAGGED, code_of[name]) for name in row["flags"])


def _heatmap(bundle: Bundle, source: Dataset, answer: Answer, heatmaps: NDArray[np.float32], shown: Decoded) -> Dataset:
    likeliest = max(answer.probabilities, key=answer.probabilities.__getitem__)
    pixels = _in_proportion(
        answer_formats.overlay(shown.pixels, heatmaps, bundle.facts.classes.index(likeliest)), shown
    )
    patient: dict[str, Any] = {
        name: source.get(keyword) or None
        for name, keyword in {
            "patient_id": "PatientID", "patient_name": "PatientName", "patient_birth_date": "PatientBirthDate",
            "patient_sex": "PatientSex", "study_id": "StudyID", "accession_number": "AccessionNumber",
            "study_date": "StudyDate", "study_time": "StudyTime",
            "referring_physician_name": "ReferringPhysicianName",
        }.items()
    }  # fmt: skip
    result = SCImage(
        pixels, "RGB", 8, "PATIENT", source.StudyInstanceUID,
        **series(bundle, source, "heatmap", _HEATMAP_SERIES, "fedhelp-edge: heat-maps"),
        **equipment(bundle), **patient, patient_orientation=("L", "F"), specific_character_set="ISO_IR 192",
    )  # fmt: skip
    for unknown in ("PatientOrientation", "Laterality"):  # the picture does not know them
        setattr(result, unknown, None)
    result.BurnedInAnnotation = "YES" if source.get("BurnedInAnnotation") == "YES" else "NO"
    result.DerivationDescription = (
        f"Heat-map: orange speaks for {likeliest}, blue against it. {answer_formats.NOTICE} "
        f"{'; '.join(provenance(bundle))}"
    )[:1024]
    origin = Dataset()
    origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    result.SourceImageSequence = [origin]
    return result


def _in_proportion(square: NDArray[np.uint8], shown: Decoded) -> NDArray[np.uint8]:
    scale = SIDE / max(shown.width, shown.height)
    size = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
    return np.asarray(Image.fromarray(square).resize(size, Image.Resampling.BILINEAR))
