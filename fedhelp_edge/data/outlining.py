"""Outline a folder of pictures or volumes by hand: a mask for each, as `check` and `train` read them.

A drawing is a draft until a person says that it is done. Drafts lie in a hidden folder, so nothing learns from half an
outline. Every change replaces a whole file: a kill at any moment loses nothing that was saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import files, plan
from fedhelp_edge.data import folder, masks
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError, MaskKindError, MaskPairError, MaskSizeError, NoImagesError, UsageError

State: TypeAlias = Literal["", "draft", "done"]
Limits: TypeAlias = tuple[float, float]  # the numbers that are black and white

DRAFTS = ".drafts"
_SCREEN = 1024  # pixels of the longer side of a picture on the screen, at least where it has them
_SCREEN_LIMIT = 2048


class Listed(NamedTuple):
    """An image that may be outlined, and how a mask names it."""

    name: str
    key: str  # a mask's path without its suffix
    uid: Callable[[], str]  # by which a DICOM segmentation names it


@dataclass(frozen=True)
class OnScreen:
    """A picture, or one slice of a volume, to draw on."""

    pixels: NDArray[np.uint8]  # rows x columns x 1 or 3
    size: tuple[int, int]  # rows and columns of its mask
    aspect: float  # width on the screen for a height of 1
    is_hounsfield: bool = False


class Outlining:
    """A folder of images while a person outlines what they show. A picture is a volume of one slice."""

    kinds: str  # what it outlines, for messages
    has_slices = False
    suffixes: tuple[str, ...]  # of masks that are changed; a new one has the first

    def __init__(self, source: Path, classes: Sequence[str], masks_dir: Path | None = None) -> None:
        """Read the images of `source`, or of its folder `images`, and what is outlined already.

        Masks lie in its folder `masks`, or beside it in SOURCE-masks, unless another folder is named.
        """
        has_pairs = (source / masks.IMAGES).is_dir()
        named = source if source.name.strip(".") else source.resolve()
        beside = source / masks.MASKS if has_pairs else named.parent / f"{named.name}-masks"
        self.root, self.classes = source / masks.IMAGES if has_pairs else source, tuple(classes)
        self.masks_dir = masks_dir or beside
        if self.masks_dir.resolve().is_relative_to(self.root.resolve()):
            raise UsageError(
                "the masks would lie among the images, and a mask could replace its image",
                remedy="name another folder with --masks, or none",
            )
        self.problems: list[Problem] = []
        listed = [*self._list()]
        drawn = masks.MaskFiles(self.masks_dir, self._is_mask, has_images=False) if self.masks_dir.is_dir() else None
        count_of = Counter(each.key for each in listed)
        self._path_of: dict[str, Path] = {}
        for each in listed:
            try:
                self._path_of[each.name] = self._find_mask(each, drawn, is_alone=count_of[each.key] == 1)
            except FedhelpError as error:
                self.problems.append(Problem.from_error(each.name, error))
        self.names = tuple(self._path_of)
        if not self.names:
            raise NoImagesError(f"{self.root.name} has no {self.kinds} that can be outlined", remedy=self._remedy)
        for name in self.names:
            self._drop_finished_draft(name)

    _remedy: str

    def state(self, name: str) -> State:
        """Whether an image is done, or has a draft that nobody has called done."""
        if self._has_draft(name):
            return "draft"
        return "done" if self._path_of[name].exists() else ""

    def states(self) -> list[State]:
        """The states of all images, in order."""
        return [self.state(name) for name in self.names]

    def next_open(self, after: int = -1) -> int | None:
        """The next image that is not done, wrapping around at the end; None if there is none."""
        indices = [*range(after + 1, len(self.names)), *range(after + 1)]
        return next((index for index in indices if self.state(self.names[index]) != "done"), None)

    def slices(self, name: str) -> int:
        """The slices of an image."""
        return 1

    def first_slice(self, name: str) -> int:
        """The slice that is shown first."""
        return 0

    def decode(self, name: str, image: plan.ImageSettings) -> Decoded:
        """An image as a net sees it."""
        raise NotImplementedError

    def on_screen(self, name: str, at: int = 0, limits: Limits | None = None) -> OnScreen:
        """One slice to draw on."""
        raise NotImplementedError

    def small(self, name: str, side: int) -> OnScreen | None:
        """A small picture for a list; None if it would take long."""
        return None

    def labels(self, name: str, size: tuple[int, int], at: int = 0) -> NDArray[np.uint8]:
        """The class of each pixel of a slice (rows x columns) as drawn so far, the draft first."""
        raise NotImplementedError

    def as_shown(self, name: str, at: int, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One slice of a model's mask of the whole image, as the screen shows it."""
        return mask

    def between(self, name: str, at: int) -> NDArray[np.uint8] | None:
        """What the nearest drawn slices on both sides suggest; None without any."""
        return None

    def save_draft(self, name: str, labels: NDArray[np.uint8], at: int = 0) -> None:
        """Save what is drawn on a slice so far. Without any drawing, or if it equals the mask, no draft is left."""
        raise NotImplementedError

    def finish(self, name: str, labels: NDArray[np.uint8], at: int = 0) -> None:
        """Save the mask of an image, which a person calls done while this slice is on the screen."""
        raise NotImplementedError

    def _list(self) -> Iterable[Listed]:
        """The images; those that cannot be read become problems."""
        raise NotImplementedError

    def _is_mask(self, name: str) -> bool:
        raise NotImplementedError

    def _has_draft(self, name: str) -> bool:
        raise NotImplementedError

    def _drop_finished_draft(self, name: str) -> None:
        """Remove a draft that equals the mask: a kill came between the two steps of `finish`."""
        raise NotImplementedError

    @contextmanager
    def _reading_draft(self, draft: Path) -> Iterator[None]:
        """Let an error name the draft, and say what to do with it."""
        try:
            yield
        except FedhelpError as error:
            raise type(error)(
                f"its draft {draft.name}: {error.cause}",
                remedy=f"remove {draft.relative_to(self.masks_dir)} from the folder of masks, and load this page again",
            ) from error

    def _find_mask(self, image: Listed, drawn: masks.MaskFiles | None, *, is_alone: bool) -> Path:
        """Where the mask of an image lies, or will lie."""
        if not is_alone:
            raise MaskPairError(
                "another file has its name with another ending, and a mask belongs to one image",
                remedy="give each image a name of its own",
            )
        mask = drawn.find(image.key, image.uid) if drawn else None
        if mask and not mask[0].name.lower().endswith(self.suffixes):
            raise MaskKindError(f"its mask {mask[0].name} is no {self.suffixes[0]}, and only those are changed here")
        return mask[0] if mask else self.masks_dir / f"{image.key}{self.suffixes[0]}"


class PictureOutlining(Outlining):
    """A folder of pictures."""

    kinds, suffixes, _remedy = "pictures", (".png",), "name a folder of PNG, JPEG or DICOM"

    def decode(self, name: str, image: plan.ImageSettings) -> Decoded:
        return folder.decode(self.root / name, image)

    def on_screen(self, name: str, at: int = 0, limits: Limits | None = None) -> OnScreen:
        """A picture in its proportions, pixel by pixel unless it is large."""
        decoded = self.decode(name, plan.ImageSettings(size=_SCREEN))
        longer = max(decoded.width, decoded.height)
        if longer != _SCREEN and (reduced := min(longer, _SCREEN_LIMIT)) != _SCREEN:
            decoded = self.decode(name, plan.ImageSettings(size=reduced))
        return _in_proportion(decoded)

    def small(self, name: str, side: int) -> OnScreen | None:
        return _in_proportion(self.decode(name, plan.ImageSettings(size=side)))

    def labels(self, name: str, size: tuple[int, int], at: int = 0) -> NDArray[np.uint8]:
        draft, done = self._draft(name), self._path_of[name]
        if draft.exists():
            with self._reading_draft(draft):
                return self._read_sized(draft, size)
        return self._read_sized(done, size) if done.exists() else np.zeros(size, np.uint8)

    def save_draft(self, name: str, labels: NDArray[np.uint8], at: int = 0) -> None:
        done = self._path_of[name]
        saved = self._read(done) if done.exists() else np.zeros_like(labels)
        if np.array_equal(labels, saved):
            self._draft(name).unlink(missing_ok=True)
        else:
            write(self._draft(name), masks.encode(labels))

    def finish(self, name: str, labels: NDArray[np.uint8], at: int = 0) -> None:
        write(self._path_of[name], masks.encode(labels))
        self._draft(name).unlink(missing_ok=True)

    def _list(self) -> Iterable[Listed]:
        image_folder = folder.read(self.root, plan.ImageSettings(), None)
        self.problems += image_folder.problems
        for row in image_folder.rows:
            yield Listed(row.name, masks.key(row.name), partial(masks.instance, self.root / row.name))

    def _is_mask(self, name: str) -> bool:
        return masks.is_picture(name)

    def _has_draft(self, name: str) -> bool:
        return self._draft(name).exists()

    def _draft(self, name: str) -> Path:
        return self.masks_dir / DRAFTS / f"{masks.key(name)}.png"

    def _read(self, path: Path) -> NDArray[np.uint8]:
        return masks.to_labels(masks.read_values(path, plan.ImageSettings()), len(self.classes))

    def _read_sized(self, path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
        labels = self._read(path)
        if labels.shape != size:
            (rows, columns), (height, width) = labels.shape, size
            raise MaskSizeError(f"its mask has {columns} x {rows} pixels, and its image {width} x {height}")
        return labels

    def _drop_finished_draft(self, name: str) -> None:
        draft, done = self._draft(name), self._path_of[name]
        if draft.exists() and done.exists() and draft.read_bytes() == done.read_bytes():
            draft.unlink()


def write(path: Path, data: bytes) -> None:
    """Write a file in place of an earlier one."""
    files.make_folder(path.parent)
    files.write_atomic(path, data)


def _in_proportion(decoded: Decoded) -> OnScreen:
    """A picture that was squeezed to a square, in its proportions."""
    scale = decoded.pixels.shape[0] / max(decoded.width, decoded.height)
    size = max(1, round(decoded.width * scale)), max(1, round(decoded.height * scale))
    pixels = np.asarray(Image.fromarray(decoded.pixels).resize(size, Image.Resampling.BILINEAR))
    return OnScreen(pixels, (decoded.height, decoded.width), decoded.width / decoded.height)
