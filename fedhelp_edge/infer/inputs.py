"""Iterate over the images to diagnose (files, folders, DICOM, NPZ) as items that decode themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedhelp_edge import plan
from fedhelp_edge.data import folder, nifti
from fedhelp_edge.data.source_row import Decoded, DicomIdentity
from fedhelp_edge.errors import FedhelpError, FileMissingError, ImageKindError, VolumeKindError

if TYPE_CHECKING:
    from fedhelp_edge.data.volume_files import VolumeFile


@dataclass(frozen=True)
class InputItem:
    """One image to diagnose."""

    name: str  # relative to the folder that was given
    stamp: str  # changes when the file does; "" if there is no file
    decode: Callable[[plan.ImageSettings], Decoded]
    path: Path | None = None  # of a file with one image, or of one slice of a series
    volume: VolumeFile | None = None

    def identify(self) -> DicomIdentity | None:
        """The identity of a DICOM file, also of one that cannot be decoded."""
        return folder.identify(self.path) if self.path else None


def list_items(
    paths: Sequence[Path], image: plan.ImageSettings | None = None, *, answers_dir: Path | None = None
) -> Iterator[InputItem]:
    """Yield every image of these paths, in order; an unusable file is an item that raises its error when decoded.

    `image` says whether images are pictures or volumes; without it they are pictures. Files below `answers_dir` are
    skipped: answers are written there.
    """
    image = image or plan.ImageSettings()
    names = [path.absolute().name for path in paths]
    for path, name in zip(paths, names, strict=True):
        prefix = "" if len(paths) == 1 else f"{name if names.count(name) == 1 else path.as_posix()}/"
        if path.is_dir():
            yield from _folder_items(path, prefix, image, answers_dir)
        elif path.suffix.lower() == ".npz":
            yield from _npz_items(path, name, image)
        else:
            yield _file_item(path, prefix.rstrip("/") or name, image)


def count_items(paths: Sequence[Path]) -> int:
    """Estimate quickly how many items there are."""
    total = 0
    for path in paths:
        if path.is_dir():
            total += sum(1 for _ in folder.list_files(path))
        elif path.suffix.lower() == ".npz" and path.exists():
            from fedhelp_edge.data import npz  # and all that reads masks: one photograph does without

            with suppress(FedhelpError):
                total += len(npz.read_unlabelled(path, plan.ImageSettings()).rows)
        else:
            total += 1
    return total


def _folder_items(root: Path, prefix: str, image: plan.ImageSettings, answers_dir: Path | None) -> Iterator[InputItem]:
    excluded = answers_dir.resolve() if answers_dir else None

    def is_excluded(name: str) -> bool:
        return bool(excluded and excluded in (root / name).resolve().parents)

    if image.is_volume:
        from fedhelp_edge.data import volume_files

        for each in volume_files.list_volumes(root, is_excluded):
            if isinstance(each, volume_files.VolumeFile):
                yield InputItem(prefix + each.name, each.stamp, each.decode, each.path, each)
            else:
                yield _refused_item(prefix + each[0], each[1])
        return
    for name, stamp in folder.list_files(root):
        if is_excluded(name):
            continue
        try:
            if folder.is_image(root, name):
                yield InputItem(prefix + name, stamp, _decoder(root / name, image), root / name)
        except FedhelpError as error:
            yield _refused_item(prefix + name, error)


def _npz_items(path: Path, name: str, image: plan.ImageSettings) -> Iterator[InputItem]:
    from fedhelp_edge.data import npz

    decode = npz.decode_volume if image.is_volume else npz.decode
    try:
        source = npz.read_unlabelled(path, image)
        stamp = _stamp(path)
        for row, array in zip(source.rows, source.arrays(range(len(source.rows))), strict=True):
            yield InputItem(f"{name}/{row.name}", stamp, partial(decode, array))
    except FedhelpError as error:
        yield _refused_item(name, error)


def _file_item(path: Path, name: str, image: plan.ImageSettings) -> InputItem:
    if not path.exists():
        return _refused_item(name, FileMissingError("there is no such file or folder"))
    return InputItem(name, _stamp(path), _decoder(path, image), path)


def _decoder(path: Path, image: plan.ImageSettings) -> Callable[[plan.ImageSettings], Decoded]:
    """What decodes a file; one of the other kind is refused when it is decoded."""
    if image.is_volume == nifti.is_nifti(path.name):
        return partial(nifti.decode if image.is_volume else folder.decode, path)
    if not image.is_volume:
        return _refusal(ImageKindError("it is a volume, and the model is for pictures"))
    if folder.is_dicom(path):
        return _refusal(VolumeKindError("it is one file of a series", remedy="name the folder with all its slices"))
    return _refusal(VolumeKindError("it is a picture, and the model is for volumes"))


def _refused_item(name: str, error: FedhelpError) -> InputItem:
    return InputItem(name, "", _refusal(error))


def _refusal(error: FedhelpError) -> Callable[[plan.ImageSettings], Decoded]:
    def decode(image: plan.ImageSettings) -> Decoded:
        raise error

    return decode


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
