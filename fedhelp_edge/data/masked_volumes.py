"""Volumes with masks, in overlapping blocks: NIfTI files and DICOM series, with NIfTI files or DICOM segmentations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from fedhelp_edge import plan
from fedhelp_edge.data import masks, nifti, segmentation, source_row, volume, volume_files
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.labels import ClassNames
from fedhelp_edge.data.source_row import BlockRow, Decoded, DecodeJob
from fedhelp_edge.data.volume import Block
from fedhelp_edge.data.volume_files import VolumeFile
from fedhelp_edge.errors import FedhelpError, MaskKindError


@dataclass(frozen=True)
class MaskedVolume:
    """A volume and the file of its mask."""

    volume: VolumeFile
    mask: Path

    def decode(self, image: plan.ImageSettings, classes: ClassNames) -> Decoded:
        """Decode both, at the plan's distances."""
        decoded = self.volume.decode(image)
        if nifti.is_nifti(self.mask.name):
            values = nifti.read_labels(self.mask, self.volume.grid, decoded.pixels.shape[:3])
        elif self.volume.slices:
            values = segmentation.read_volume(self.mask, self.volume.series, image, classes)
        else:
            raise MaskKindError("its mask is a DICOM segmentation, and it is no DICOM series")
        labels = masks.to_labels(values, len(classes.names))
        return replace(decoded, mask=labels, copied=hashlib.sha256(decoded.pixels.tobytes()).digest())


@dataclass(frozen=True)
class MaskedVolumes:
    """A source whose rows are blocks of volumes with masks."""

    image: plan.ImageSettings
    classes: ClassNames
    rows: Sequence[BlockRow]
    problems: Sequence[Problem]
    pairs: Mapping[str, MaskedVolume]  # by the volume's name

    def jobs(self, indices: Sequence[int]) -> Iterator[DecodeJob]:
        """Jobs that cut blocks out of volumes. Each volume is decoded once, for all its blocks."""
        for name, blocks in groupby((self.rows[i].block for i in indices), key=lambda block: block.volume):
            whole: Decoded | FedhelpError
            try:
                whole = self.pairs[name].decode(self.image, self.classes)
            except FedhelpError as error:
                whole = error
            for block in blocks:
                yield partial(_cut, whole, block, self.image)


def read_folder(source: Path, masks_dir: Path | None, image: plan.ImageSettings, classes: ClassNames) -> MaskedVolumes:
    """Read the pairs of a folder `images` beside a folder `masks`, or of any two folders."""
    root, files = masks.find_folders(source, masks_dir, nifti.is_nifti)
    rows, problems, pairs = list[BlockRow](), list[Problem](), dict[str, MaskedVolume]()
    for each in volume_files.list_volumes(root):
        if not isinstance(each, VolumeFile):
            problems.append(Problem.from_error(*each))
            continue
        try:
            mask, stamp = files.of(each.name if each.slices else masks.key(each.name), each.uid)
            row = masks.named_row(each.name, f"{each.stamp}+{stamp}")
            rows += source_row.block_rows(row, each.grid.sides_at(image), image.block)
            pairs[each.name] = MaskedVolume(each, mask)
        except FedhelpError as error:
            problems.append(Problem.from_error(each.name, error))
    return MaskedVolumes(image, classes, rows, [*problems, *files.problems()], pairs)


def _cut(whole: Decoded | FedhelpError, block: Block, image: plan.ImageSettings) -> Decoded:
    """A block of a volume, and of its mask; raise the error of one that cannot be used."""
    if isinstance(whole, FedhelpError):
        raise whole
    pixels, labels = (volume.cut(np.asarray(part), block, image.block) for part in (whole.pixels, whole.mask))
    return replace(whole, pixels=pixels, mask=labels, grid=None, copied=whole.copied + repr(block.start).encode())
