"""From a picture's file to the pixels that a net sees.

First frame, upright (EXIF), transparency over white, grey or colour as the plan says, then the plan's size, squeezed to
a square, bilinear with antialias. What has more than 8 bits a pixel in grey, or fractions, is stretched so that the
file's own smallest value is 0 and its largest 255; 16-bit colour keeps its upper 8 bits. Colour profiles are ignored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedhelp_edge import plan
from fedhelp_edge.data.row import Decoded
from fedhelp_edge.errors import FedhelpError, ImageBroken, ImageSize, PhonePicture, from_os

VERSION = 1  # of decoding: raised when the same file gives other pixels than before
PHONE = "HEIF"  # read by pillow-heif, which a site may lack
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".jfif", ".pjpeg")
)
_PHONE_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"))
_BEGINNINGS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"GIF8")  # WebP is told by its suffix
_WITH_FRAMES = ("GIF", "WEBP", "TIFF", "PNG")  # a phone's JPEG may carry a preview as a second frame: no doubt there


def is_picture(head: bytes) -> bool:
    """Whether a file begins as a picture does, whatever it is called."""
    return head.startswith(_BEGINNINGS)


def is_phone(head: bytes) -> bool:
    """Whether a file begins as a phone's picture (HEIC, HEIF, AVIF) does, whatever it is called."""
    return head[4:8] == b"ftyp" and head[8:12] in _PHONE_BRANDS


def reads_phone() -> bool:
    """Whether phones' pictures can be read here."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def decode_phone(file: BinaryIO, image: plan.Image) -> Decoded:
    """A phone's picture; `PhonePicture` where it cannot be read here."""
    if not reads_phone():
        raise PhonePicture("it is a phone's picture (HEIC), and pillow-heif is not installed")
    try:
        return decode(file, image, (PHONE, "AVIF"))
    except ImageBroken:
        raise PhonePicture("it is a phone's picture (HEIC) that cannot be read here") from None


def decode(file: BinaryIO, image: plan.Image, formats: tuple[str, ...] = FORMATS) -> Decoded:
    """A picture from an open file; `ImageBroken` or `ImageSize` if it is none that can be used."""
    with refusing():
        opened: Image.Image = Image.open(file, formats=formats)
        frames = getattr(opened, "n_frames", 1) if opened.format in _WITH_FRAMES else 1
        opened.load()
        with suppress(Exception):  # a damaged EXIF block says nothing about which way is up
            opened = ImageOps.exif_transpose(opened)
        doubt = f"it has {frames} frames, of which the first is used" if frames > 1 else ""
        return Decoded(_fit(opened, image), *opened.size, doubt=doubt)


def fit(array: NDArray[np.uint8], image: plan.Image) -> NDArray[np.uint8]:
    """An array of height x width (x 1, 3 or 4), as the plan wants it."""
    return _fit(_image(array), image)


def resize(array: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square of `size` from height x width x channels. What an exported model does must agree with this."""
    small = _image(array).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small).reshape(size, size, -1)


def stretch(values: NDArray[Any], count: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Any numbers to 0..255 by their own full range; only those in `count` make up the range."""
    numbers = values.astype(np.float64)
    counted = numbers if count is None or not count.any() else numbers[count]
    if not np.isfinite(counted).all():
        raise ImageBroken("some of its pixels are no numbers")
    low, high = float(counted.min()), float(counted.max())
    part = np.clip((numbers - low) / (high - low), 0, 1) if high > low else np.zeros_like(numbers)
    return (part * 255 + 0.5).astype(np.uint8)


@contextmanager
def refusing() -> Iterator[None]:
    """Whatever a decoder throws at a damaged file becomes one of our refusals."""
    try:
        yield
    except (FedhelpError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageSize(f"it has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels") from None
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno is not None:
            raise from_os(fault) from None
        ends = isinstance(fault, EOFError) or "truncated" in str(fault)
        raise ImageBroken("it ends too early" if ends else "it cannot be read as an image") from None


@contextmanager
def quietly() -> Iterator[None]:
    """Decoders' warnings are not for the person, except of a picture too large to be true, which is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _image(array: NDArray[np.uint8]) -> Image.Image:
    flat = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(flat))


def _fit(image: Image.Image, wanted: plan.Image) -> NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(stretch(np.asarray(image)))
    if image.has_transparency_data:
        over = Image.new("RGBA", image.size, "white")
        over.alpha_composite(image.convert("RGBA"))
        image = over
    return resize(np.asarray(image.convert("L" if wanted.channels == 1 else "RGB")), wanted.size)
