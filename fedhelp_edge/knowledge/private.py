"""Keeps private images from sources that hand them on: programs and services may see public images only.

Nobody can prove that an image is public. What shows that it may be private is refused: images that this site trains
on, by place and by look. So are DICOM files, and tables, folders and arrays that tell patients apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import arrays, dicom, folder, near_duplicates, npz, pack, store, table
from fedhelp_edge.errors import PrivateImagesError
from fedhelp_edge.plan import ImageSettings
from fedhelp_edge.safe_text import counted


def check_place(public: Path, home: Path, remembered: Path | None) -> None:
    """Raises where the images lie in a site's home, or where those lie that the site remembers."""
    place = public.resolve()
    if place.is_relative_to(home.resolve()):
        raise PrivateImagesError(f"{public.name} lies in the home of this site")
    if remembered is None:
        return
    own = remembered.resolve()
    own = own.parent if own.suffix.lower() in table.SUFFIXES else own
    if place.is_relative_to(own) or own.is_relative_to(place):
        raise PrivateImagesError(f"{public.name} holds the images that this site trains on, or lies among them")


def check_kind(public: Path) -> None:
    """Raises where a source has DICOM files, or says which images show one patient."""
    if public.suffix.lower() == ".npz":
        with arrays.open_archive(public) as archive:
            known = [f"{prefix}{key}" for prefix in ("", "train_", "val_", "test_") for key in npz.GROUP_KEYS]
            if found := next((name for name in known if name in archive), ""):
                raise PrivateImagesError(f"{public.name} has the array {found!r}, which tells patients apart")
        return
    root = public if public.is_dir() else public.parent
    sheet = root / "labels.csv" if public.is_dir() else public
    if sheet.is_file():
        columns = table.read_sheet(sheet).columns
        if heading := columns.get("patient") or columns.get("group"):
            raise PrivateImagesError(f"{sheet.name} has the column {heading!r}, which tells patients apart")
    elif any(row.group for row in folder.read(root, ImageSettings(), None).rows):
        raise PrivateImagesError(f"{public.name} has folders below those of its classes, which may be patients")
    for name, _ in folder.list_files(root):
        if dicom.is_dicom(folder.read_head(root / name)) or Path(name).suffix.lower() in dicom.SUFFIXES:
            raise PrivateImagesError(f"{public.name} has DICOM files, which come from patients")


def check_looks(pixels: NDArray[np.uint8], home: Path) -> None:
    """Raises where public images look like images that this site has decoded to train on."""
    public = pack.without_predictions(pixels, np.zeros(len(pixels), np.int64), [""])
    for own in store.decoded_images(home / "images"):
        joined = _GreyImages(own, public.resized(own.shape[1], own.shape[3]).pixels)
        firsts = near_duplicates.first_alike(joined)[len(own) :]
        if alike := [index for index, first in enumerate(firsts) if first < len(own)]:
            look = counted(len(alike), "public image looks", "public images look")
            raise PrivateImagesError(
                f"{look} like images that this site trains on, first image {alike[0]}",
                remedy="take them out of the public images; if this site trains on public images, name another --home",
            )


class _GreyImages:
    """Two arrays of images as one sequence of grey ones."""

    def __init__(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        image = self._first[index] if index < len(self._first) else self._second[index - len(self._first)]
        return np.asarray(np.rint(image.mean(2, keepdims=True)), np.uint8)
