"""From a picture's file to the pixels that a net sees.

First frame, upright (EXIF), transparency over white, grey or colour as the plan says, then the plan's size, squeezed to
a square, bilinear with antialias. What has more than 8 bits a pixel in grey, or fractions, is stretched so that the
file's own smallest value is 0 and its largest 255; 16-bit colour keeps its upper 8 bits. Colour profiles are ignored.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedhelp_edge import plan
from fedhelp_edge.data import budget
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import (
    FedhelpError,
    ImageBrokenError,
    ImageCostError,
    ImageSizeError,
    PhonePictureError,
    from_os,
)

DECODER_VERSION = 1  # of decoding: raised when the same file gives other pixels than before
PHONE_FORMAT = "HEIF"  # read by pillow-heif, which a site may lack
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".jfif", ".pjpeg")
)
_PHONE_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"))
_MAGIC_BYTES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"GIF8")  # WebP is told by its suffix
_MULTI_FRAME_FORMATS = (
    "GIF",
    "WEBP",
    "TIFF",
    "PNG",
)  # a phone's JPEG may carry a preview as a second frame: no doubt there
_BAND_PIXELS = 1 << 20  # pixels that are worked on at a time where that takes several copies
_STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_BYTES = 279, 322, 323, 325  # tags of TIFF


def is_picture(head: bytes) -> bool:
    """Whether a file begins as a picture does, whatever it is called."""
    return head.startswith(_MAGIC_BYTES)


def is_phone_picture(head: bytes) -> bool:
    """Whether a file begins as a phone's picture (HEIC, HEIF, AVIF) does, whatever it is called."""
    return head[4:8] == b"ftyp" and head[8:12] in _PHONE_BRANDS


def can_read_phone() -> bool:
    """Whether phones' pictures can be read here."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def decode_phone(file: BinaryIO, image: plan.ImageSettings) -> Decoded:
    """A phone's picture; `PhonePicture` where it cannot be read here."""
    if not can_read_phone():
        raise PhonePictureError("it is a phone's picture (HEIC), and pillow-heif is not installed")
    try:
        return decode(file, image, (PHONE_FORMAT, "AVIF"))
    except ImageBrokenError:
        raise PhonePictureError("it is a phone's picture (HEIC) that cannot be read here") from None


def decode(file: BinaryIO, image: plan.ImageSettings, formats: tuple[str, ...] = FORMATS) -> Decoded:
    """A picture from an open file; `ImageBroken` or `ImageSize` if it is none that can be used."""
    with translate_errors(), budget.metered(file) as (limited, size):
        opened: Image.Image = Image.open(limited, formats=formats)
        budget.check_sides(*opened.size)
        _check_cost(opened, limited, size)
        frames = _count_frames(opened) if opened.format in _MULTI_FRAME_FORMATS else 1
        with budget.memory(
            size + opened.width * opened.height * budget.BYTES_PER_PIXEL + 4 * image.size * opened.height
        ):
            opened.load()
            if len(opened.info.get("exif") or b"") <= budget.EXIF_SIZE:
                with suppress(Exception):  # a damaged EXIF block says nothing about which way is up
                    opened = ImageOps.exif_transpose(opened)
            frame_count = f"{frames}" if frames <= budget.FRAMES else f"more than {budget.FRAMES}"
            doubt = f"it has {frame_count} frames, of which the first is used" if frames > 1 else ""
            return Decoded(_fit(opened, image), *opened.size, doubt=doubt)


def fit(array: NDArray[np.uint8], image: plan.ImageSettings) -> NDArray[np.uint8]:
    """An array of height x width (x 1, 3 or 4), as the plan wants it."""
    return _fit(_to_pil(array), image)


def resize(array: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square of `size` from height x width x channels. What an exported model does must agree with this."""
    resized = _to_pil(array).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(size, size, -1)


def stretch(values: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Any numbers to 0..255 by their own full range; only those in `count` make up the range."""
    selected = values if mask is None or mask.all() or not mask.any() else values[mask]
    low, high = float(selected.min()), float(selected.max())
    if not np.isfinite((low, high)).all():
        raise ImageBrokenError("some of its pixels are no numbers")
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    return map_bands(lambda band: np.clip((band.astype(np.float64) - low) / (high - low), 0, 1), values)


def map_bands(shade: Callable[[NDArray[Any]], NDArray[np.float64]], values: NDArray[Any]) -> NDArray[np.uint8]:
    """Every value as `shade` tells, from 0 to 1, as 0..255. A band of rows at a time: fractions take much memory."""
    result = np.empty(values.shape, np.uint8)
    rows = max(1, _BAND_PIXELS // max(1, values[:1].size))
    for top in range(0, len(values), rows):
        result[top : top + rows] = (shade(values[top : top + rows]) * 255 + 0.5).astype(np.uint8)
    return result


@contextmanager
def translate_errors() -> Iterator[None]:
    """Whatever a decoder throws at a damaged file becomes one of our refusals."""
    try:
        yield
    except FedhelpError:
        raise
    except MemoryError:
        raise ImageCostError("there is not enough memory to open it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageSizeError(f"it has more than {budget.PIXELS:,} pixels") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise from_os(error) from None
        is_truncated = isinstance(error, EOFError) or "truncated" in str(error)
        raise ImageBrokenError("it ends too early" if is_truncated else "it cannot be read as an image") from None


@contextmanager
def without_warnings() -> Iterator[None]:
    """Decoders' warnings are not for the person, except of a picture too large to be true, which is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _to_pil(array: NDArray[np.uint8]) -> Image.Image:
    flat = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(flat))


def _count_frames(image: Image.Image) -> int:
    """How many frames there are; of a TIFF they are not counted beyond the budget, for each is looked for anew."""
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    count = 1
    with suppress(EOFError):
        while count <= budget.FRAMES:
            image.seek(count)
            count += 1
    image.seek(0)
    return count


def _check_cost(image: Image.Image, file: BinaryIO, size: int) -> None:
    """Refuse what would keep a decoder busy in a single call: passes over all pixels, and parts that are the same."""
    if image.format == "JPEG":
        budget.check_passes(_count_scans(file), *image.size)
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        part_sizes = tags.get(_STRIP_BYTES) or tags.get(_TILE_BYTES) or ()
        width, height = (int(tags.get(tag) or 0) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
        tiled_pixels = -(-image.width // width) * width * -(-image.height // height) * height if width and height else 0
        if (
            sum(min(int(part_size), size) for part_size in part_sizes) > budget.FILE_SIZE
            or tiled_pixels > 2 * budget.PIXELS
        ):
            raise ImageCostError("its parts are larger than the whole")


def _count_scans(file: BinaryIO) -> int:
    """How many passes a JPEG has at most. In compressed data 0xFF is never followed by what begins one."""
    file.seek(0)
    count, last_byte = 0, b""
    while block := file.read(1 << 20):
        count += (last_byte + block).count(b"\xff\xda")
        last_byte = block[-1:]
    file.seek(0)
    return count


def _fit(image: Image.Image, target: plan.ImageSettings) -> NDArray[np.uint8]:
    mode = "L" if target.channels == 1 else "RGB"
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(stretch(np.asarray(image)))
    image = _flatten_on_white(image, mode) if image.has_transparency_data else image.convert(mode)
    resized = image.resize((target.size, target.size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(target.size, target.size, -1)


def _flatten_on_white(image: Image.Image, mode: str) -> Image.Image:
    """A band of rows at a time, for it takes four copies."""
    flattened = Image.new(mode, image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        canvas = Image.new("RGBA", band.size, "white")
        canvas.alpha_composite(band)
        flattened.paste(canvas.convert(mode), (0, top))
    return flattened
