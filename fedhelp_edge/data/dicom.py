"""DICOM in: rescale, then window, then polarity. The order matters: early inversion gives the wrong picture.

A site that has no DICOM needs no pydicom. PatientID groups images but never leaves this file: only its hash does.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL.Image import MAX_IMAGE_PIXELS

from fedhelp_edge import files, plan
from fedhelp_edge.data import picture, row
from fedhelp_edge.data.row import Decoded
from fedhelp_edge.errors import Extra, FedhelpError, ImageBroken, ImageKind, ImageSize

SUFFIXES = frozenset((".dcm", ".dicom", ".ima"))
_INFLATED = 4 * (MAX_IMAGE_PIXELS or 0)  # bytes that a deflated file may become
_INSTALL = "pip install 'fedhelp-edge[medical]'"
_DECODERS = "pip install 'pylibjpeg[all]'"


def is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def decode(file: BinaryIO, image: plan.Image) -> Decoded:
    """One grey or colour image from an open DICOM file, or the reason why it cannot be had."""
    with picture.refusing():
        dataset = _read(file)
        _refuse(dataset)
        values = _pixels(dataset)
        array = picture.stretch(values) if values.dtype != np.uint8 else values
        if values.ndim == 2:
            array = _grey(values, dataset)
        raw = dataset.get("PresentationIntentType") == "FOR PROCESSING"
        doubt = "it holds raw data of the detector (FOR PROCESSING)" if raw else ""
        height, width = values.shape[:2]
        return Decoded(picture.fit(array, image), width, height, digest(str(dataset.get("PatientID", ""))), doubt)


def who(path: Path) -> tuple[str, str]:
    """SOPInstanceUID and PatientID of a file."""
    with picture.refusing(), files.reading(path) as file:
        dataset = _read(file, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "PatientID"])
        return str(dataset.get("SOPInstanceUID", "")).strip(), str(dataset.get("PatientID", "")).strip()


def digest(patient: str) -> str:
    """What stands for a patient in the kit's own files."""
    name = row.patient(patient)
    return hashlib.sha256(b"patient" + name.encode()).hexdigest()[:16] if name else ""


def _read(file: BinaryIO, **options: Any) -> Any:
    try:
        import pydicom
    except ImportError:
        raise Extra("reading DICOM needs pydicom, which is not installed", remedy=_INSTALL) from None
    try:
        _no_bomb(file)
        return pydicom.dcmread(file, **options)
    except pydicom.errors.InvalidDicomError:
        raise ImageBroken("it is no DICOM file") from None


def _no_bomb(file: BinaryIO) -> None:
    """A deflated file is inflated whole by pydicom, however large it becomes."""
    from pydicom import filereader, uid

    filereader.read_preamble(file, False)
    syntax = filereader._read_file_meta_info(file).get("TransferSyntaxUID")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while part := file.read(1 << 14):  # which becomes 16 MiB at most
            size += len(inflater.decompress(part))
            if size > _INFLATED:
                raise ImageSize(f"it becomes larger than {_INFLATED >> 20} MiB when it is opened")
    file.seek(0)


def _refuse(dataset: Any) -> None:
    if "PixelData" not in dataset:
        raise ImageKind("this DICOM file has no pixels")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise ImageKind(f"this DICOM file has {frames} frames")
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        raise ImageKind("this DICOM file has palette colours")
    if dataset.Rows * dataset.Columns > (MAX_IMAGE_PIXELS or 0):
        raise ImageSize(f"it has more than {MAX_IMAGE_PIXELS:,} pixels")


def _pixels(dataset: Any) -> NDArray[Any]:
    """The stored values; colour comes as RGB whatever it was stored as."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decodable = not syntax.is_compressed or syntax.is_deflated or get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        raise Extra(f"it is compressed as {syntax.name}, and nothing here can open that", remedy=_DECODERS)
    try:
        return np.asarray(pixel_array(dataset))
    except FedhelpError:
        raise
    except Exception:
        raise ImageBroken("its pixels cannot be decoded") from None


def _grey(stored: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    counted = _not_padding(stored, dataset)
    if (window := _window(dataset)) is not None:
        array = (_through(values, *window, str(dataset.get("VOILUTFunction", "LINEAR"))) * 255 + 0.5).astype(np.uint8)
    elif dataset.get("VOILUTSequence"):
        array = picture.stretch(np.asarray(apply_voi(values.astype(np.int64), dataset)))
    else:
        array = picture.stretch(values, counted)
    # MONOCHROME1 asks for INVERSE too where both are given: one inversion, not two
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    return 255 - array if inverse else array


def _not_padding(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Where the image is; scanners fill the rest with a value that may lie far outside."""
    padding = dataset.get("PixelPaddingValue")
    return np.asarray(stored != int(padding)) if padding is not None else np.ones(stored.shape, np.bool_)


def _window(dataset: Any) -> tuple[float, float] | None:
    """The first window's centre and width; none where the width makes no sense."""
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    return (centre, width) if centre is not None and width is not None and width > 0 else None


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return float(value)
    return float(value[0]) if len(value) else None


def _through(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, from 0 to 1."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width <= 1:
        return np.asarray(values > centre - 0.5, np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
