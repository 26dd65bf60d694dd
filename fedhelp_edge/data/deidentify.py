"""Write de-identified copies of DICOM images, by the Basic Application Level Confidentiality Profile (PS3.15, annex E).

The profile lists what to remove, and the list grows with every edition. So a copy holds nothing but what is listed
here. These are the pixels, what a program needs to show and measure them, and what the profile asks for. Pixels are
decoded and written anew, without what may hide in compressed data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedhelp_edge import __version__, files
from fedhelp_edge.data import budget, dicom, folder, picture
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.pseudonyms import Pseudonyms
from fedhelp_edge.errors import BurnedInError, DataError, FileMissingError, ImageKindError

_KEPT = (
    "SOPClassUID", "ImageType", "Modality", "ConversionType", "BodyPartExamined", "Laterality", "ImageLaterality",
    "PatientOrientation", "PatientPosition", "ViewPosition", "PresentationIntentType", "SeriesNumber", "InstanceNumber",
    "AcquisitionNumber", "ImagesInAcquisition", "Rows", "Columns", "PixelAspectRatio", "PixelSpacing",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
    "SliceThickness", "SpacingBetweenSlices", "SliceLocation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "BitsStored", "HighBit", "RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "PresentationLUTShape", "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod", "BurnedInAnnotation", "RecognizableVisualFeatures", "KVP", "ScanningSequence",
    "SequenceVariant", "ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength", "RepetitionTime",
    "InversionTime", "FlipAngle", "MagneticFieldStrength", "PositionerType", "DetectorType", "AnodeTargetMaterial",
    "OrganExposed", "BreastImplantPresent", "FilterMaterial", "RadiationSetting", "XRayTubeCurrent", "ExposureTime",
    "Exposure", "PositionerMotion", "PositionerPrimaryAngle", "PositionerSecondaryAngle", "VOILUTSequence",
    "ModalityLUTSequence", "ViewCodeSequence", "AnatomicRegionSequence",
)  # fmt: skip
_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
_KEPT_OF_ITEMS = {  # sequence -> what is kept of each of its items
    "VOILUTSequence": ("LUTDescriptor", "LUTData"),
    "ModalityLUTSequence": ("LUTDescriptor", "LUTData", "ModalityLUTType"),
    "ViewCodeSequence": (*_CODE, "ViewModifierCodeSequence"),
    "ViewModifierCodeSequence": _CODE,
    "AnatomicRegionSequence": _CODE,
}
_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_EMPTIED = (
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
    "Manufacturer",
)  # fmt: skip
_WRITTEN_ON = ("US", "IVUS", "OT", "DOC")  # modalities whose images often have text in their pixels
_METHOD = [f"fedhelp-edge {__version__}", "DICOM PS3.15 Basic Application Level Confidentiality Profile"]
_PROFILE = ("113100", "DCM", "Basic Application Confidentiality Profile")


def write_copies(
    source: Path, target: Path, names: Pseudonyms, *, burned_in: bool = False
) -> tuple[int, list[Problem]]:
    """Copy all DICOM images below a folder into another; return how many, and why the others were not copied.

    Images with text in their pixels are refused, unless `burned_in`.
    """
    copied, problems = 0, []
    target.mkdir(parents=True)
    with picture.without_warnings():
        for name, _ in folder.list_files(source):
            if not folder.is_dicom(source / name):
                continue
            try:
                dataset = _copy(source / name, names, burned_in=burned_in)
            except (DataError, FileMissingError) as error:
                problems.append(Problem.from_error(name, error))
                continue
            with files.writing(target / f"{dataset.SOPInstanceUID}.dcm", replace=True) as file:
                dataset.save_as(file, enforce_file_format=True)
            copied += 1
    return copied, problems


def _copy(path: Path, names: Pseudonyms, *, burned_in: bool) -> Any:
    """The de-identified copy of an image as a pydicom dataset."""
    with (
        picture.translate_errors(), files.reading(path) as file,
        budget.metered(file, budget.DICOM_READS) as (limited, size),
    ):  # fmt: skip
        original = dicom.read_dataset(limited)
        cost = dicom.check_and_estimate(original)
        if not dicom.text_of(original, "SOPInstanceUID"):
            raise ImageKindError("it has no SOPInstanceUID")
        if not burned_in and (reason := next(_burned_in(original), "")):
            raise BurnedInError(reason)
        with budget.memory(size + cost):
            copy = _kept(original, names)
            _write_pixels(copy, original)
            return copy


def _burned_in(dataset: Any) -> Iterator[str]:
    """Why the pixels of an image may name the patient."""
    stated, modality = dicom.text_of(dataset, "BurnedInAnnotation"), dicom.text_of(dataset, "Modality")
    if stated == "YES":
        yield "text is burned into it"
    if any(
        element.tag.group & 0xFF01 == 0x6000 and element.tag.elem == 0x0102 and element.value for element in dataset
    ):
        yield "an overlay is stored among its pixels"
    if stated != "NO" and (modality in _WRITTEN_ON or dicom.text_of(dataset, "ConversionType")):
        yield "it does not say that no text is burned into it, as into many of its kind"


def _kept(original: Any, names: Pseudonyms) -> Any:
    """What a copy has of an image besides the pixels."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    copy = _only(original, _KEPT)
    copy.SpecificCharacterSet = "ISO_IR 192"
    if "AcquisitionContextSequence" in original:  # several kinds must have it, and its items hold free text
        copy.AcquisitionContextSequence = []
    for keyword in _UIDS:
        if uid := dicom.text_of(original, keyword):
            setattr(copy, keyword, names.uid(uid))
    for keyword in _EMPTIED:
        setattr(copy, keyword, "")
    if "FrameOfReferenceUID" in copy:
        copy.PositionReferenceIndicator = ""
    patient = names.patient(dicom.patient_of(original))
    copy.PatientID = copy.PatientName = patient
    copy.PatientIdentityRemoved = "YES"
    copy.LongitudinalTemporalInformationModified = "REMOVED"
    copy.DeidentificationMethod = _METHOD
    profile = Dataset()
    profile.CodeValue, profile.CodingSchemeDesignator, profile.CodeMeaning = _PROFILE
    copy.DeidentificationMethodCodeSequence = [profile]
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return copy


def _only(dataset: Any, keywords: tuple[str, ...]) -> Any:
    """The elements with these keywords, in a new dataset."""
    from pydicom import Dataset

    copied = Dataset()
    for keyword in keywords:
        if keyword in dataset and (parts := _KEPT_OF_ITEMS.get(keyword)):
            setattr(copied, keyword, [_only(item, parts) for item in dataset[keyword].value])
        elif keyword in dataset:
            copied.add(dataset[keyword])
    return copied


def _write_pixels(copy: Any, original: Any) -> None:
    """Store the decoded values of an image in its copy, uncompressed."""
    values = dicom.stored_pixels(original)
    copy.SamplesPerPixel = values.shape[2] if values.ndim == 3 else 1
    copy.BitsAllocated = 8 * values.dtype.itemsize
    copy.PixelRepresentation = int(values.dtype.kind == "i")
    copy.PhotometricInterpretation = "RGB" if values.ndim == 3 else original.PhotometricInterpretation
    if values.ndim == 3:
        copy.PlanarConfiguration = 0
    data = np.ascontiguousarray(values).tobytes()
    copy.add_new("PixelData", "OB" if values.dtype.itemsize == 1 else "OW", data + b"\0" * (len(data) % 2))
