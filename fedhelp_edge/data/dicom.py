"""Decode DICOM: rescale, then window, then polarity. The order matters: early inversion gives the wrong image.

A site without DICOM needs no pydicom. PatientID groups images; `data.store` keeps its keyed hash.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Iterator, MutableSequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, plan
from fedhelp_edge.data import budget, people, picture, source_row
from fedhelp_edge.data.shading import shade
from fedhelp_edge.data.source_row import Decoded, DicomIdentity
from fedhelp_edge.errors import FedhelpError, ImageBrokenError, ImageKindError, ImageSizeError, MissingPackageError

SUFFIXES = frozenset((".dcm", ".dicom", ".ima"))
OWN_MANUFACTURER = "fedhelp-edge"  # of our own results
_DEFLATED_SYNTAX, _PLAIN_SYNTAX = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1".ljust(22, b"\0")
_NOT_FRAME_HEADERS = frozenset((0xC4, 0xC8, 0xCC))  # JPEG markers within the range of frame headers that are none
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))  # JPEG markers without a length
_LONGEST_TEXT = 64  # characters: of a UID, and of every text that is read here
_LONGEST_NAME = 324  # characters of a person's name, in three scripts
_IDENTITY = {
    "sop_instance_uid": "SOPInstanceUID",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "accession_number": "AccessionNumber",
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "photometric_interpretation": "PhotometricInterpretation",
}
_DRAWN_MODALITIES = ("SEG", "RTDOSE")  # files with rows of numbers that are no image of a patient
_FRAME_TAGS = ["NumberOfFrames", "Modality", "RescaleSlope", "RescaleType"]
_UID = re.compile(r"[0-9.]{1,64}")
_STUDY_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_DATE, _TIME, _ANY = r"\d{8}", r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?", r".*"
_STUDY = {
    "PatientID": _ANY, "IssuerOfPatientID": _ANY, "PatientName": _ANY, "PatientBirthDate": _DATE, "PatientSex": "[MFO]",
    "AccessionNumber": ".{0,16}", "StudyID": ".{0,16}", "StudyDate": _DATE, "StudyTime": _TIME,
    "ReferringPhysicianName": _ANY, "StudyDescription": _ANY, "BurnedInAnnotation": "YES|NO",
    "InstanceNumber": r"\d{1,9}",
}  # fmt: skip
_PIXEL_TAGS = (0x7FE00010,)  # elements that are read however large they are
_INSTALL_PYDICOM = "pip install 'fedhelp-edge[medical]'"
_INSTALL_DECODERS = "pip install 'pylibjpeg[all]'"


def is_dicom(head: bytes) -> bool:
    """Whether a file starts as DICOM (132 bytes are needed)."""
    return head[128:132] == b"DICM"


@dataclass(frozen=True)
class Frame:
    """Which frame of a file, and which numbers of it are black and white to look at; without them the file decides."""

    number: int = 0
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Frames:
    """What an open file says of its frames."""

    count: int
    is_hounsfield: bool


def frames_of(file: BinaryIO) -> Frames:
    """Read how many frames an open DICOM file has; raise `FedhelpError` if that is impossible."""
    with picture.translate_errors(), budget.metered(file, budget.DICOM_READS) as (limited, _):
        dataset = read_dataset(limited, stop_before_pixels=True, specific_tags=_FRAME_TAGS)
        return Frames(int(dataset.get("NumberOfFrames") or 1), is_hounsfield(dataset))


def decode(
    file: BinaryIO, image: plan.ImageSettings, frame: Frame | None = None, *, for_screen: bool = False
) -> Decoded:
    """Decode the single image of an open DICOM file, or one frame; raise `FedhelpError` if that is impossible."""
    with picture.translate_errors(), budget.metered(file, budget.DICOM_READS) as (limited, size):
        dataset = read_dataset(limited)
        with budget.memory(size + check_and_estimate(dataset, frame)):
            values = stored_pixels(dataset, frame.number if frame else None)
            if values.ndim == 2:
                array = _render_grey(values, dataset)
            else:
                array = picture.stretch(values) if values.dtype != np.uint8 else values
            height, width = values.shape[:2]
            group, doubt = patient_of(dataset), "; ".join(doubts(dataset))
            spacing = spacing_of(dataset)
            decoded = Decoded(
                picture.fit(array, image), width, height, group, doubt, identity_of(dataset), spacing=spacing,
                sex=people.parse_sex(text_of(dataset, "PatientSex")),
                age=people.parse_age(text_of(dataset, "PatientAge")),
            )  # fmt: skip
            if for_screen:
                seen = _render_grey(values, dataset, frame.limits) if frame and frame.limits else array
                decoded = replace(decoded, screen=picture.fit_for_screen(seen, image))
            return decoded


def identify(file: BinaryIO) -> DicomIdentity:
    """Read the identity of an open DICOM file without its pixels; empty if that is impossible."""
    with suppress(FedhelpError), picture.translate_errors(), budget.metered(file, budget.DICOM_READS) as (limited, _):
        return identity_of(read_dataset(limited, stop_before_pixels=True, specific_tags=list(_IDENTITY.values())))
    return DicomIdentity()


def read_study(file: BinaryIO) -> Any:
    """What a result for an open DICOM file repeats of it, as a pydicom dataset. None if it is a result itself.

    Raise `FedhelpError` if it names no study. Text is in UTF-8. What is no value of its kind, as a date in words, is
    left out.
    """
    from pydicom import Dataset

    with picture.translate_errors(), budget.metered(file, budget.DICOM_READS) as (limited, _):
        given = read_dataset(limited, stop_before_pixels=True, specific_tags=["Manufacturer", *_STUDY, *_STUDY_UIDS])
    if is_own(given):
        return None
    study = Dataset()
    study.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _STUDY_UIDS:
        if not _UID.fullmatch(uid := text_of(given, keyword)):
            raise ImageKindError("it does not say to which study it belongs")
        setattr(study, keyword, uid)
    for keyword, form in _STUDY.items():
        text = "".join(filter(str.isprintable, text_of(given, keyword)))
        setattr(study, keyword, text if re.fullmatch(form, text) else "")
    study.InstanceNumber = max(1, int(study.InstanceNumber or 1))
    return study


def identity_of(dataset: Any) -> DicomIdentity:
    """Which image a dataset says it is."""
    return DicomIdentity(**{name: text_of(dataset, keyword) for name, keyword in _IDENTITY.items()})


def text_of(dataset: Any, keyword: str) -> str:
    """A value as text of bounded length; "" where it is missing or cannot be read."""
    try:
        longest = _LONGEST_NAME if keyword.endswith("Name") else _LONGEST_TEXT
        value = dataset.get(keyword) or ""
        text = "\\".join(map(str, value)) if isinstance(value, MutableSequence) else str(value)
        return text.strip(" \0")[:longest]
    except Exception:  # pydicom's errors have no common base; a value that it cannot read is one that is not stated
        return ""


def doubts(dataset: Any) -> Iterator[str]:
    """Why an image may be the wrong one."""
    if text_of(dataset, "PresentationIntentType") == "FOR PROCESSING":
        yield "it contains raw detector data (FOR PROCESSING)"
    if text_of(dataset, "BurnedInAnnotation") == "YES":
        yield "text is burned into the image; it may name the patient, and the model may have read it"


def spacing_of(dataset: Any) -> tuple[float, ...]:
    """mm from row to row and column to column in the patient; empty where the file does not state them."""
    steps = numbers_of(dataset, "PixelSpacing", 2)
    return steps if all(step > 0 for step in steps) else ()


def is_hounsfield(dataset: Any) -> bool:
    """Whether an image's numbers are Hounsfield units."""
    stated = text_of(dataset, "RescaleType") in ("", "HU")
    return text_of(dataset, "Modality") == "CT" and "RescaleSlope" in dataset and stated


def numbers_of(dataset: Any, keyword: str, count: int) -> tuple[float, ...]:
    """The finite numbers of a value; empty where there are not so many."""
    try:
        numbers = tuple(float(number) for number in dataset.get(keyword) or ())
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()


def read_identifier(path: Path, keyword: str) -> tuple[str, str | None]:
    """Read an identifier of a file, and its modality: None if the file is no image, as a report or our own result."""
    tags = [keyword, "Modality", "Manufacturer", "Rows"]
    with picture.translate_errors(), files.reading(path) as file:
        with budget.metered(file, budget.DICOM_READS) as (limited, _):
            dataset = read_dataset(limited, stop_before_pixels=True, specific_tags=tags)
        modality = text_of(dataset, "Modality")
        is_image = "Rows" in dataset and modality not in _DRAWN_MODALITIES and not is_own(dataset)
        return text_of(dataset, keyword), modality if is_image else None


def stated_count(path: Path) -> int:
    """How many images a file says its acquisition has; 0 if it does not say."""
    with suppress(FedhelpError, OSError, ValueError, TypeError), picture.translate_errors():
        with files.reading(path) as file, budget.metered(file, budget.DICOM_READS) as (limited, _):
            dataset = read_dataset(limited, stop_before_pixels=True, specific_tags=["ImagesInAcquisition"])
        return int(dataset.get("ImagesInAcquisition") or 0)
    return 0


def patient_of(dataset: Any) -> str:
    """The number of the patient; "" for a placeholder."""
    return source_row.parse_patient(text_of(dataset, "PatientID"))


def read_dataset(file: BinaryIO, *, largest: int = budget.DICOM_ELEMENT, **options: Any) -> Any:
    """Read a metered file as a pydicom dataset, without elements of more bytes than `largest`."""
    try:
        import pydicom
    except ImportError as error:
        raise MissingPackageError(
            "reading DICOM needs pydicom, which is not installed", remedy=_INSTALL_PYDICOM
        ) from error
    try:
        dataset = pydicom.dcmread(_inflate(file), **options)
    except pydicom.errors.InvalidDicomError as error:
        raise ImageBrokenError("it is not a DICOM file") from error
    for tag in [tag for tag in dataset.keys() if tag not in _PIXEL_TAGS]:  # noqa: SIM118  (reading a value parses it)
        if len(getattr(dataset.get_item(tag), "value", None) or b"") > largest:
            del dataset[tag]
    return dataset


def _inflate(file: Any) -> Any:
    """Return the file, inflated within the budget: pydicom would inflate any size."""
    from pydicom import filereader, uid

    filereader.read_preamble(file, False)
    syntax = filereader._read_file_meta_info(file).get("TransferSyntaxUID")
    data_offset = file.tell()
    file.seek(0)
    if syntax != uid.DeflatedExplicitVRLittleEndian:
        return file
    head = file.read(data_offset).replace(_DEFLATED_SYNTAX, _PLAIN_SYNTAX)
    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), budget.DICOM_INFLATED + 1)
    if len(data) > budget.DICOM_INFLATED:
        raise ImageSizeError(f"it is larger than {budget.DICOM_INFLATED >> 20} MiB when it is inflated")
    return budget.MeteredFile(io.BytesIO(head + data), len(data), budget.DICOM_READS)


def check_and_estimate(dataset: Any, frame: Frame | None = None) -> int:
    """Check that there is one usable image, or this frame; return how many bytes of memory decoding takes."""
    if is_own(dataset):
        raise ImageKindError("this program made it: it is a result, not an image")
    if "PixelData" not in dataset:
        raise ImageKindError("this DICOM file has no pixels")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1 and not frame:
        raise ImageKindError(f"this DICOM file has {frames} frames")
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        raise ImageKindError("this DICOM file has palette colours")
    rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    budget.check_sides(columns, rows)
    _check_frame(dataset, rows, columns, frame.number if frame else 0)
    stored = samples * -(-int(dataset.BitsAllocated) // 8)
    return rows * columns * (3 * stored + (24 if samples == 1 else 12))


def is_own(dataset: Any) -> bool:
    """Whether this program wrote a file."""
    return text_of(dataset, "Manufacturer") == OWN_MANUFACTURER


def _check_frame(dataset: Any, rows: int, columns: int, number: int) -> None:
    """Check that the compressed frame can be decoded and has the stated size: decoders trust the frame."""
    from pydicom import encaps, uid
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax.is_deflated:
        return
    try:
        decodable = get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        raise MissingPackageError(
            f"no installed package can decode its compression ({syntax.name})", remedy=_INSTALL_DECODERS
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    frame = encaps.get_frame(dataset.PixelData, number, number_of_frames=frames)
    if syntax == uid.RLELossless:
        fits = all(size <= rows * columns + 1 for size in _rle_sizes(frame))  # they are of even length
    else:
        fits = _coded_sizes(frame) == {(rows, columns)}
    if not fits:
        raise ImageBrokenError("the size of its pixel data differs from its header")
    if frame.startswith(b"\xff\xd8"):
        budget.check_scans(frame.count(b"\xff\xda"), columns, rows)


def _rle_sizes(frame: bytes) -> Iterator[int]:
    """The decoded size in bytes of each segment of an RLE frame (PS3.5 annex G)."""
    count, *offsets = np.frombuffer(frame[:64], "<u4").tolist()
    for start, end in pairwise([*offsets[:count], len(frame)]):
        size, offset = 0, start
        while offset < end:
            header = frame[offset]
            size += header + 1 if header < 128 else 257 - header if header > 128 else 0
            offset += header + 2 if header < 128 else 2 if header > 128 else 1
        yield size


def _coded_sizes(frame: bytes) -> set[tuple[int, int]]:
    """Height and width in the header of a JPEG or JPEG-LS frame, or in every place where a JPEG 2000 may begin."""
    if not frame.startswith(b"\xff\xd8"):
        starts = (match.start() for match in re.finditer(rb"\xff\x4f\xff\x51", frame))
        sides = (np.frombuffer(frame[i + 8 : i + 24].ljust(16, b"\0"), ">u4").tolist() for i in starts)
        return {(bottom - top, right - left) for right, bottom, left, top in sides}
    offset = 2
    while frame[offset : offset + 1] == b"\xff" and offset + 9 <= len(frame):
        marker, length = frame[offset + 1], int.from_bytes(frame[offset + 2 : offset + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in _NOT_FRAME_HEADERS):
            height, width = np.frombuffer(frame[offset + 5 : offset + 9], ">u2").tolist()
            return {(height, width)}
        offset += 1 if marker == 0xFF else 2 if marker in _NO_LENGTH else 2 + length
    return set()


def stored_pixels(dataset: Any, frame: int | None = None) -> NDArray[Any]:
    """The stored values, of all frames or of one; colour is converted to RGB."""
    from pydicom.pixels.utils import pixel_array

    try:
        return np.asarray(pixel_array(dataset, index=frame))
    except (FedhelpError, MemoryError):
        raise
    except Exception as error:  # of one of many decoders, each with its own classes
        raise ImageBrokenError("its pixels cannot be decoded") from error


def _render_grey(stored: NDArray[Any], dataset: Any, limits: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    return picture.map_numbers(lambda numbers: _render_numbers(numbers, dataset, limits), stored)


def _render_numbers(stored: NDArray[Any], dataset: Any, limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    mask = image_mask(stored, dataset)
    if limits:
        array = shade(values, *limits)
    elif (window := _window(dataset)) is not None:
        function = str(dataset.get("VOILUTFunction", "LINEAR"))
        array = picture.map_bands(lambda band: _apply_window(band, *window, function), values)
    elif dataset.get("VOILUTSequence"):
        array = picture.stretch(np.asarray(apply_voi(values.astype(np.int64), dataset)))
    else:
        array = picture.stretch(values, mask)
    # MONOCHROME1 asks for INVERSE too where both are given: one inversion, not two
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    return 255 - array if inverse else array


def image_mask(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """True where the image is; scanners pad the rest with a value that may lie far outside its range."""
    padding = dataset.get("PixelPaddingValue")
    return np.asarray(stored != int(padding)) if padding is not None else np.ones(stored.shape, np.bool_)


def _window(dataset: Any) -> tuple[float, float] | None:
    """Centre and width of the first window; None if there is none, or its width is not positive."""
    centre, width = (_first_number(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    return (centre, width) if centre is not None and width is not None and width > 0 else None


def _first_number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return float(value)
    return float(value[0]) if len(value) else None


def _apply_window(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """Apply a VOI window (PS3.3 C.11.2.1.2 and C.11.2.1.3); the result is from 0 to 1."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width <= 1:
        return np.asarray(values > centre - 0.5, np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
