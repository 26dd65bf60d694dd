"""Sample images for tests: different noise as files, arrays and DICOM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import Images

GIVEN = Path(__file__).parents[3] / os.environ.get("FEDHELP_DATA", "../shared/data")


def plan(*classes: str, size: int = 16, channels: int = 3, seed: int = 0, val: float = 0.1, test: float = 0.2) -> Any:
    mean = (0.5,) * channels
    return plans.Plan(
        classes=classes or ("a", "b"),
        seed=seed,
        image=plans.ImageSettings(size, channels, mean, mean),
        data=plans.DataSettings(val, test),
    )


def noise(count: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (16, 16, 3))), dtype=np.uint8)


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(path, **options)
    return path


def folder(root: Path, count: int = 10, classes: tuple[str, ...] = ("a", "b"), seed: int = 0) -> Path:
    """`count` PNGs of each class, all different, of the size that `plan` has."""
    for index, name in enumerate(classes):
        for i, pixels in enumerate(noise(count, seed=seed * 100 + index)):
            save(root / name / f"{i:03}.png", pixels)
    return root


def codes(images: Images) -> list[tuple[str, str]]:
    """The unusable files, each with its error code."""
    return sorted((problem.file, problem.code) for problem in images.problems)


def dicom(path: Path, pixels: NDArray[Any], **tags: Any) -> Path:
    """A DICOM file; a tag that is None is left out."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = tags.get("SOPInstanceUID") or generate_uid()
    bits = pixels.dtype.itemsize * 8
    attributes = {
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": pixels.shape[2] if pixels.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
        **({"PlanarConfiguration": 0} if pixels.ndim == 3 else {}),
        **tags,
    }
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    for tag, value in attributes.items():
        if value is not None:
            setattr(dataset, tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
