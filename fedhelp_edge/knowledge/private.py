"""Keeps private images from sources that hand them on: programs and services may see public images only.

Nobody can prove that an image is public. What shows that it may be private is refused: images that this site trains
on, by place and by look. So are DICOM files, and tables, folders and arrays that tell patients apart.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import arrays, dicom, folder, near_duplicates, npz, pack, store, table
from fedhelp_edge.errors import PrivateImagesError
from fedhelp_edge.plan import ImageSettings
from fedhelp_edge.safe_text import counted


def check_place(public: Path, home: Path, remembered: Path | None) -> None:
    """Raises where images lie in a site's home, or where those lie that the site remembers; links are followed."""
    own = remembered.resolve() if remembered else None
    if own and own.suffix.lower() in table.SUFFIXES:
        own = own.parent
    if own and own.is_relative_to(public.resolve()):
        raise PrivateImagesError(f"{public.name} holds the images that this site trains on")
    for path in (public, *_image_files(public)):
        if path.resolve().is_relative_to(home.resolve()):
            raise PrivateImagesError(f"{path.name} lies in the home of this site")
        if own and path.resolve().is_relative_to(own):
            raise PrivateImagesError(f"{path.name} lies among the images that this site trains on")


def check_kind(public: Path) -> None:
    """Raises where a source has DICOM files, or says which images show one patient."""
    if public.suffix.lower() == ".npz":
        with arrays.open_archive(public) as archive:
            known = [f"{prefix}{key}" for prefix in ("", "train_", "val_", "test_") for key in npz.GROUP_KEYS]
            if array := next((name for name in known if name in archive), ""):
                raise PrivateImagesError(f"{public.name} has the array {array!r}, which tells patients apart")
        return
    root = public if public.is_dir() else public.parent
    sheet = root / "labels.csv" if public.is_dir() else public
    if sheet.is_file():
        columns = table.read_sheet(sheet).columns
        if heading := columns.get("patient") or columns.get("group"):
            raise PrivateImagesError(f"{sheet.name} has the column {heading!r}, which tells patients apart")
    elif any(row.group for row in folder.read(root, ImageSettings(), None).rows):
        raise PrivateImagesError(f"{public.name} has folders below those of its classes, which may be patients")
    for path in _image_files(public):
        if dicom.is_dicom(folder.read_head(path)) or path.suffix.lower() in dicom.SUFFIXES:
            raise PrivateImagesError(f"{public.name} has DICOM files, which come from patients")


def check_looks(pixels: NDArray[np.uint8], home: Path) -> None:
    """Raises where public images look like images that this site has decoded to train on, or to measure on."""
    public = pack.without_predictions(pixels, np.zeros(len(pixels), np.int64), [""])
    for own in itertools.chain.from_iterable(store.decoded_images(home / name) for name in ("images", "others")):
        joined = _GreyImages(own, public.resized(own.shape[1], own.shape[3]).pixels)
        firsts = near_duplicates.first_alike(joined)[len(own) :]
        if alike := [index for index, first in enumerate(firsts) if first < len(own)]:
            look = counted(len(alike), "public image looks", "public images look")
            raise PrivateImagesError(
                f"{look} like images of this site, first image {alike[0]}",
                remedy="take them out of the public images; if this site works on public images, name another --home",
            )


def _image_files(public: Path) -> list[Path]:
    """All files below a folder, and those that a table names, wherever they lie."""
    sheet = public / "labels.csv" if public.is_dir() else public
    below = folder.list_files(public) if public.is_dir() else ()
    is_table = sheet.is_file() and sheet.suffix.lower() in table.SUFFIXES
    named = table.read(sheet, ImageSettings()).rows if is_table else ()
    return sorted({public / name for name, _ in below} | {sheet.parent / row.name for row in named})


class _GreyImages:
    """Two arrays of images as one sequence of grey ones."""

    def __init__(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        image = self._first[index] if index < len(self._first) else self._second[index - len(self._first)]
        return np.asarray(np.rint(image.mean(2, keepdims=True)), np.uint8)
