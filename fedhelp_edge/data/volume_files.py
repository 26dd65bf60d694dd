"""Find the volumes below a folder: NIfTI files, and DICOM series. A series is the slices of one folder that belong
together, and is named like that folder."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedhelp_edge import plan
from fedhelp_edge.data import dicom_series, folder, nifti
from fedhelp_edge.data.dicom_series import Series, Slice
from fedhelp_edge.data.grid import Grid
from fedhelp_edge.data.shading import Voxels
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError, VolumeKindError


@dataclass(frozen=True)
class VolumeFile:
    """A volume before it is decoded. What it says of itself is checked when it is asked for."""

    name: str  # of a NIfTI file or of the folder of a series, relative to the folder that was listed
    stamp: str
    path: Path  # of a file of it
    slices: tuple[Slice, ...] = ()  # of a series
    content: bytes | None = None  # of a NIfTI file that came without a disk

    @cached_property
    def series(self) -> Series:
        """The series; raise `FedhelpError` unless its slices are one volume."""
        return dicom_series.of_slices(self.slices)

    def uid(self) -> str:
        """The UID of the series, by which a segmentation names it; "" for a NIfTI file."""
        return self.slices[0].identity.series_instance_uid if self.slices else ""

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""
        return self.series.grid if self.slices else nifti.read_header(self.path).grid

    def read(self) -> Voxels:
        """Read all voxels."""
        return dicom_series.read(self.series) if self.slices else nifti.read(self.path, self.content)

    def decode(self, image: plan.ImageSettings) -> Decoded:
        """Decode it: slices x rows x columns x channels, at the plan's distances."""
        return self.read().decoded(image)


def list_volumes(
    root: Path, is_skipped: Callable[[str], bool] = lambda name: False
) -> Iterator[VolumeFile | tuple[str, FedhelpError]]:
    """Yield the volumes below a folder, series last; and the name and error of what a person may mean as one."""
    slices: dict[str, dict[str, list[Slice]]] = defaultdict(lambda: defaultdict(list))
    for name, stamp in folder.list_files(root):
        try:
            if is_skipped(name):
                continue
            if nifti.is_nifti(name):
                yield VolumeFile(name, stamp, root / name)
            elif folder.is_dicom(root / name):
                if (header := dicom_series.read_slice(root / name)) is not None:
                    slices[name.rpartition("/")[0]][header.identity.series_instance_uid].append(header)
            elif folder.is_image(root, name):
                raise VolumeKindError("it is a picture, not a volume")
        except FedhelpError as error:
            yield name, error
    for folder_name, by_series in slices.items():
        for uid, headers in by_series.items():
            name = folder_name if len(by_series) == 1 else f"{folder_name}/{uid or 'unnamed'}".lstrip("/")
            size, newest = sum(each.size for each in headers), max(each.modified for each in headers)
            yield VolumeFile(name or root.absolute().name, f"{size}:{newest}", headers[0].path, tuple(headers))


def of_contents(contents: Iterable[tuple[str, bytes]]) -> Iterator[VolumeFile | tuple[str, FedhelpError]]:
    """Yield the volumes among files that came without a disk, each with its name; series last, named by a slice."""
    slices: dict[str, list[Slice]] = defaultdict(list)
    for name, content in contents:
        path = Path(name)
        try:
            if nifti.is_nifti(name):
                yield VolumeFile(name, "", path, content=content)
            elif not folder.is_dicom_open(io.BytesIO(content), name):
                raise VolumeKindError("it is not a volume")
            elif (header := dicom_series.read_slice(path, content)) is not None:
                slices[header.identity.series_instance_uid].append(header)
        except FedhelpError as error:
            yield name, error
    for headers in slices.values():
        yield VolumeFile(headers[0].path.name, "", headers[0].path, tuple(headers))
