"""Outline volumes by hand, slice by slice, as radiologists look at them: the topmost first, with the front up.

A mask is a NIfTI file that lies where its volume does. A draft has a file for each slice that differs from the mask, so
a change writes one slice. One volume is in memory at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import plan
from fedhelp_edge.data import masks, nifti, outlining, resample, shading, volume_files
from fedhelp_edge.data.grid import as_viewed
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.outlining import Limits, Listed, OnScreen, Outlining
from fedhelp_edge.data.shading import Voxels
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.data.volume_files import VolumeFile
from fedhelp_edge.errors import FedhelpError, MaskSizeError, MissingPackageError

try:
    from scipy import ndimage
except ImportError as error:
    raise MissingPackageError("masks need scipy", remedy="pip install 'fedhelp-edge[train]'") from error

_DRAFT = f"{'[0-9]' * 5}.png"  # not a copy that a synced folder makes


@dataclass(frozen=True)
class _Opened:
    """A volume in memory, with its mask and what is drawn so far: from the feet up, in the patient's directions."""

    files: tuple[str, float, float]  # its name, and when its file and its mask were written
    voxels: Voxels
    limits: Limits
    saved: NDArray[np.uint8]
    drawn: NDArray[np.uint8]

    def index(self, at: int) -> int:
        """The place of a slice, of which the first one is the topmost."""
        return len(self.drawn) - 1 - at


class VolumeOutlining(Outlining):
    """A folder of volumes: NIfTI files and DICOM series."""

    has_slices = True
    kinds, suffixes, _remedy = "volumes", (".nii.gz", ".nii"), "name a folder of NIfTI files or DICOM series"

    def __init__(self, source: Path, classes: Sequence[str], masks_dir: Path | None = None) -> None:
        self._volumes: dict[str, VolumeFile] = {}
        self._opened: _Opened | None = None
        super().__init__(source, classes, masks_dir)

    def slices(self, name: str) -> int:
        return len(self._open(name).drawn)

    def first_slice(self, name: str) -> int:
        """The slice that shows most; the middle one of a volume without any outline."""
        opened = self._open(name)
        counts = np.count_nonzero(opened.drawn, axis=(1, 2))
        return opened.index(int(counts.argmax()) if counts.any() else len(counts) // 2)

    def decode(self, name: str, image: plan.ImageSettings) -> Decoded:
        return self._volumes[name].decode(image)

    def on_screen(self, name: str, at: int = 0, limits: Limits | None = None) -> OnScreen:
        opened = self._open(name)
        values, (_, down, across) = opened.voxels.values[opened.index(at)], opened.voxels.grid.spacing
        grey = shading.shade(as_viewed(values), *(limits or opened.limits))
        rows, columns = grey.shape
        return OnScreen(grey[..., None], (rows, columns), columns * across / (rows * down), opened.voxels.is_hounsfield)

    def labels(self, name: str, size: tuple[int, int], at: int = 0) -> NDArray[np.uint8]:
        opened = self._open(name)
        return as_viewed(opened.drawn[opened.index(at)])

    def as_shown(self, name: str, at: int, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        opened = self._open(name)
        plane = mask[resample.nearest(len(mask), len(opened.drawn))[opened.index(at)]]
        return as_viewed(resample.to_sides_nearest(plane[None], (1, *opened.drawn.shape[1:]))[0])

    def between(self, name: str, at: int) -> NDArray[np.uint8] | None:
        opened = self._open(name)
        suggested = between(opened.drawn, opened.index(at), len(self.classes), opened.voxels.grid.spacing[1:])
        return None if suggested is None else as_viewed(suggested)

    def save_draft(self, name: str, labels: NDArray[np.uint8], at: int = 0) -> None:
        opened, drafts = self._open(name), self._drafts(name)
        index = opened.index(at)
        opened.drawn[index] = as_viewed(labels)
        path = drafts / f"{index:05}.png"
        if not np.array_equal(opened.drawn[index], opened.saved[index]):
            outlining.write(path, masks.encode(opened.drawn[index]))
        elif path.exists():
            path.unlink()
            if not [*drafts.iterdir()]:
                drafts.rmdir()

    def finish(self, name: str, labels: NDArray[np.uint8], at: int = 0) -> None:
        opened = self._open(name)
        opened.drawn[opened.index(at)] = as_viewed(labels)
        path = self._path_of[name]
        outlining.write(path, nifti.encode(opened.drawn, opened.voxels.grid, is_packed=path.suffix.lower() == ".gz"))
        shutil.rmtree(self._drafts(name), ignore_errors=True)

    def _open(self, name: str) -> _Opened:
        files = name, _modified(self._volumes[name].path), _modified(self._path_of[name])
        if self._opened is None or self._opened.files != files:
            self._opened = None  # its memory is free before the next one is read
            voxels = self._volumes[name].read()
            saved = np.zeros(voxels.grid.sides, np.uint8)
            if (path := self._path_of[name]).exists():
                values = nifti.read_labels(path, voxels.grid, voxels.grid.sides)
                saved[:] = masks.to_labels(values, len(self.classes))
            opened = _Opened(files, voxels, voxels.limits(), saved, saved.copy())
            for draft in self._drafts_of(name):
                with self._reading_draft(draft):
                    labels = masks.to_labels(masks.read_values(draft, plan.ImageSettings()), len(self.classes))
                    if int(draft.stem) >= len(saved) or labels.shape != saved.shape[1:]:
                        raise MaskSizeError("it is of another volume")
                opened.drawn[int(draft.stem)] = labels
            self._opened = opened
        return self._opened

    def _list(self) -> Iterable[Listed]:
        for each in volume_files.list_volumes(self.root):
            if isinstance(each, VolumeFile):
                self._volumes[each.name] = each
                yield Listed(each.name, each.name if each.slices else masks.key(each.name), each.uid)
            else:
                self.problems.append(Problem.from_error(*each))

    def _is_mask(self, name: str) -> bool:
        return nifti.is_nifti(name)

    def _has_draft(self, name: str) -> bool:
        return bool(self._drafts_of(name))

    def _drafts_of(self, name: str) -> list[Path]:
        return sorted(self._drafts(name).glob(_DRAFT))

    def _drafts(self, name: str) -> Path:
        return self.masks_dir / outlining.DRAFTS / f"{name}.slices"

    def _drop_finished_draft(self, name: str) -> None:
        drafts = self._drafts_of(name)
        if not drafts or max(map(_modified, drafts)) > _modified(self._path_of[name]):
            return
        try:
            opened = self._open(name)
        except FedhelpError:  # its page says why
            return
        if np.array_equal(opened.drawn, opened.saved):
            shutil.rmtree(self._drafts(name), ignore_errors=True)


def between(
    drawn: NDArray[np.uint8], at: int, classes: int, spacing: Sequence[float] = (1, 1)
) -> NDArray[np.uint8] | None:
    """A slice of an outlined volume by the nearest outlined ones on both sides; None without any.

    A pixel has the class that it is deepest inside: by its distances to the outlines in both slices, weighted. Each
    class has nearest slices of its own, since people outline one class after the other.
    """
    nearest = _nearest(drawn, at)
    if not any(nearest):
        return None
    depths = [np.full(drawn.shape[1:], 1e-9)]  # of the background
    for label in range(1, classes + 1):
        inside = drawn == label
        below, above = (own or other for own, other in zip(_nearest(inside, at), nearest, strict=True))
        low, high = (below or above)[0], (above or below)[0]
        share = (at - low) / max(1, high - low)
        depths.append((1 - share) * _depth(inside[low], spacing) + share * _depth(inside[high], spacing))
    return np.asarray(np.argmax(depths, 0), np.uint8)


def _nearest(drawn: NDArray[Any], at: int) -> tuple[list[int], list[int]]:
    """The nearest slices below and above this one that have an outline, if there are any."""
    indices = np.flatnonzero(drawn.any(axis=(1, 2))).tolist()
    return [index for index in indices if index < at][-1:], [index for index in indices if index > at][:1]


def _depth(inside: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """The mm from each pixel to the outline: above 0 inside, below outside; far outside where there is none."""
    far = float(max(np.multiply(inside.shape, spacing)))
    if not inside.any() or inside.all():
        return np.full(inside.shape, far if inside.all() else -far)
    into, away = (ndimage.distance_transform_edt(part, spacing) for part in (inside, ~inside))
    return np.asarray(into - away, np.float64)


def _modified(path: Path) -> float:
    """When a file was written; 0 if it is not there."""
    return path.stat().st_mtime if path.exists() else 0.0
