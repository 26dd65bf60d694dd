"""Outline a folder of pictures by hand: a mask for each, as `check` and `train` read them.

A drawing is a draft until a person says that it is done. Drafts lie in a hidden folder, so nothing learns from half an
outline. Every change replaces a whole file: a kill at any moment loses nothing that was saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import files, plan
from fedhelp_edge.data import folder, masks
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError, MaskKindError, MaskPairError, MaskSizeError, NoImagesError

State: TypeAlias = Literal["", "draft", "done"]

DRAFTS = ".drafts"
_SCREEN = 1024  # pixels of the longer side of a picture on the screen, at least where it has them
_SCREEN_LIMIT = 2048


class Outlining:
    """A folder of pictures while a person outlines what they show."""

    def __init__(self, source: Path, classes: Sequence[str], masks_dir: Path | None = None) -> None:
        """Read the pictures of `source`, or of its folder `images`, and what is outlined already.

        Masks lie in its folder `masks`, or beside it in SOURCE-masks, unless another folder is named.
        """
        has_pairs = (source / masks.IMAGES).is_dir()
        self.root, self.classes = source / masks.IMAGES if has_pairs else source, tuple(classes)
        self.masks_dir = masks_dir or (source / masks.MASKS if has_pairs else source.with_name(f"{source.name}-masks"))
        image_folder = folder.read(self.root, plan.ImageSettings(), None)
        self.problems = list(image_folder.problems)
        drawn = masks.MaskFiles(self.masks_dir, masks.is_picture, has_images=False) if self.masks_dir.is_dir() else None
        count_of = Counter(masks.key(row.name) for row in image_folder.rows)
        self._path_of: dict[str, Path] = {}
        for row in image_folder.rows:
            try:
                self._path_of[row.name] = self._find_mask(row.name, drawn, is_alone=count_of[masks.key(row.name)] == 1)
            except FedhelpError as error:
                self.problems.append(Problem.from_error(row.name, error))
        self.names = tuple(self._path_of)
        if not self.names:
            raise NoImagesError(
                f"{self.root.name} has no pictures that can be outlined", remedy="name a folder of PNG, JPEG or DICOM"
            )
        for name in self.names:
            self._drop_finished_draft(name)

    def state(self, name: str) -> State:
        """Whether a picture is done, or has a draft that nobody has called done."""
        if self._draft(name).exists():
            return "draft"
        return "done" if self._path_of[name].exists() else ""

    def states(self) -> list[State]:
        """The states of all pictures, in order."""
        return [self.state(name) for name in self.names]

    def next_open(self, after: int = -1) -> int | None:
        """The next picture that is not done, wrapping around at the end; None if there is none."""
        indices = [*range(after + 1, len(self.names)), *range(after + 1)]
        return next((index for index in indices if self.state(self.names[index]) != "done"), None)

    def decode(self, name: str, image: plan.ImageSettings) -> Decoded:
        """A picture as a net sees it."""
        return folder.decode(self.root / name, image)

    def decode_for_screen(self, name: str, side: int | None = None) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """A picture in its proportions, and its rows and columns; pixel by pixel unless it is large, or by `side`."""
        decoded = self.decode(name, plan.ImageSettings(size=side or _SCREEN))
        longer = max(decoded.width, decoded.height)
        if side is None and longer != _SCREEN and (reduced := min(longer, _SCREEN_LIMIT)) != _SCREEN:
            decoded = self.decode(name, plan.ImageSettings(size=reduced))
        scale = decoded.pixels.shape[0] / longer
        size = max(1, round(decoded.width * scale)), max(1, round(decoded.height * scale))
        shown = np.asarray(Image.fromarray(decoded.pixels).resize(size, Image.Resampling.BILINEAR))
        return shown, (decoded.height, decoded.width)

    def labels(self, name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The class of each pixel of a picture (rows x columns) as drawn so far, the draft first."""
        draft, done = self._draft(name), self._path_of[name]
        path = draft if draft.exists() else done
        if not path.exists():
            return np.zeros(size, np.uint8)
        labels = self._read(path)
        if labels.shape != size:
            (rows, columns), (height, width) = labels.shape, size
            raise MaskSizeError(f"its mask has {columns} x {rows} pixels, and its image {width} x {height}")
        return labels

    def save_draft(self, name: str, labels: NDArray[np.uint8]) -> None:
        """Save what is drawn so far. Without any drawing, or if it equals the mask, no draft is left."""
        done = self._path_of[name]
        saved = self._read(done) if done.exists() else np.zeros_like(labels)
        if np.array_equal(labels, saved):
            self._draft(name).unlink(missing_ok=True)
        else:
            _write(self._draft(name), labels)

    def finish(self, name: str, labels: NDArray[np.uint8]) -> None:
        """Save the mask of a picture, which a person calls done."""
        _write(self._path_of[name], labels)
        self._draft(name).unlink(missing_ok=True)

    def _find_mask(self, name: str, drawn: masks.MaskFiles | None, *, is_alone: bool) -> Path:
        """Where the mask of a picture lies, or will lie."""
        key = masks.key(name)
        if not is_alone:
            raise MaskPairError(
                "another file has its name with another ending, and a mask belongs to one picture",
                remedy="give each picture a name of its own",
            )
        mask = drawn.find(key, partial(masks.instance, self.root / name)) if drawn else None
        if mask and mask[0].suffix.lower() != ".png":
            raise MaskKindError(f"its mask {mask[0].name} is no PNG, and only those are changed here")
        return mask[0] if mask else self.masks_dir / f"{key}.png"

    def _draft(self, name: str) -> Path:
        return self.masks_dir / DRAFTS / f"{masks.key(name)}.png"

    def _read(self, path: Path) -> NDArray[np.uint8]:
        return masks.to_labels(masks.read_values(path, plan.ImageSettings()), len(self.classes))

    def _drop_finished_draft(self, name: str) -> None:
        """Remove a draft that equals the mask: a kill came between the two steps of `finish`."""
        draft, done = self._draft(name), self._path_of[name]
        if draft.exists() and done.exists() and draft.read_bytes() == done.read_bytes():
            draft.unlink()


def _write(path: Path, labels: NDArray[np.uint8]) -> None:
    files.make_folder(path.parent)
    files.write_atomic(path, masks.encode(labels))
