"""Decode an image file into the pixels that a net sees.

Takes the first frame, applies the EXIF orientation, blends transparency over white, and converts to grey or colour as
the plan says. Then it squeezes to a square of the plan's size (bilinear, antialiased). Grey of more than 8 bits, or of
floats, is stretched from its own minimum and maximum to 0..255. 16-bit colour keeps its upper 8 bits. Colour profiles
are ignored.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
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

DECODER_VERSION = 3  # increase it when the same file decodes to other pixels than before, or says more
PHONE_FORMAT = "HEIF"  # needs pillow-heif
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".jfif", ".pjpeg")
)
_PHONE_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"))
_MAGIC_BYTES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"GIF8")  # WebP is recognised by its suffix
# a JPEG is not one of them: a phone's may carry a preview as a second frame
_LOSSY_FORMATS = ("JPEG", "MPO", PHONE_FORMAT, "AVIF")  # MPO: a JPEG with a preview behind it
_MULTI_FRAME_FORMATS = ("GIF", "WEBP", "TIFF", "PNG")
SHARP_SIDE = 960  # pixels of an image to look at, for zooming
_SCREEN_SIDE = 480  # at least: as large as a page shows it
_FEW = 1 << 12  # pixels, which are shaded as they are
_BAND_PIXELS = 1 << 20  # pixels processed at a time where several copies are needed
_ORIENTATION = 274  # a tag of EXIF
_STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_BYTES = 279, 322, 323, 325  # tags of TIFF


def is_picture(head: bytes) -> bool:
    """Whether a file starts with the magic bytes of an image, whatever its name."""
    return head.startswith(_MAGIC_BYTES)


def is_phone_picture(head: bytes) -> bool:
    """Whether a file starts as a phone's picture (HEIC, HEIF, AVIF), whatever its name."""
    return head[4:8] == b"ftyp" and head[8:12] in _PHONE_BRANDS


def can_read_phone() -> bool:
    """Whether pillow-heif is installed; registers it."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def decode_phone(file: BinaryIO, image: plan.ImageSettings, *, for_screen: bool = False) -> Decoded:
    """Decode a phone's picture; raise `PhonePictureError` if pillow-heif cannot."""
    if not can_read_phone():
        raise PhonePictureError("it is a phone's picture (HEIC), and pillow-heif is not installed")
    try:
        return decode(file, image, (PHONE_FORMAT, "AVIF"), for_screen=for_screen)
    except ImageBrokenError as error:
        raise PhonePictureError("it is a phone's picture (HEIC) that cannot be read here") from error


def decode(
    file: BinaryIO, image: plan.ImageSettings, formats: tuple[str, ...] = FORMATS, *, for_screen: bool = False
) -> Decoded:
    """Decode an image from an open file; raise `ImageBrokenError`, `ImageSizeError` or `ImageCostError` if unusable."""
    with translate_errors(), opened(file, image, formats) as (picture, frames):
        frame_count = f"{frames}" if frames <= budget.FRAMES else f"more than {budget.FRAMES}"
        doubt = f"it has {frame_count} frames, of which the first is used" if frames > 1 else ""
        decoded = Decoded(_fit(picture, image), *picture.size, doubt=doubt)
        if for_screen:
            decoded = replace(decoded, screen=_for_screen(picture, image), is_lossy=picture.format in _LOSSY_FORMATS)
        return decoded


@contextmanager
def opened(
    file: BinaryIO, image: plan.ImageSettings, formats: tuple[str, ...] = FORMATS
) -> Iterator[tuple[Image.Image, int]]:
    """Yield the first frame of an open file, as a viewer shows it, and the number of frames."""
    with budget.metered(file) as (limited, size):
        picture: Image.Image = Image.open(limited, formats=formats)
        budget.check_sides(*picture.size)
        _check_cost(picture, limited, size)
        frames = _count_frames(picture) if picture.format in _MULTI_FRAME_FORMATS else 1
        with budget.memory(
            size + picture.width * picture.height * budget.BYTES_PER_PIXEL + 4 * image.size * picture.height
        ):
            picture.load()
            if len(picture.info.get("exif") or b"") <= budget.EXIF_SIZE:
                with suppress(Exception):  # a damaged EXIF block has no orientation
                    if picture.getexif().get(_ORIENTATION, 1) != 1:  # it would copy the image otherwise
                        file_format = picture.format
                        picture = ImageOps.exif_transpose(picture)
                        picture.format = file_format  # the turned copy has none
            yield picture, frames


def fit(array: NDArray[np.uint8], image: plan.ImageSettings) -> NDArray[np.uint8]:
    """Fit an array of height x width (x 1, 3 or 4) to the plan's size and channels."""
    return _fit(_to_pil(array), image)


def fit_for_screen(array: NDArray[np.uint8], image: plan.ImageSettings) -> NDArray[np.uint8]:
    """Fit an array of height x width (x 3) to be looked at."""
    return _for_screen(_to_pil(array), image)


def resize(array: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize height x width x channels to a square of `size`. An exported model must resize in the same way."""
    resized = _to_pil(array).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(size, size, -1)


def stretch(values: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Stretch any numbers to 0..255 by their own range; only those where `mask` is true make up the range."""
    selected = values if mask is None or mask.all() or not mask.any() else values[mask]
    low, high = float(selected.min()), float(selected.max())
    if not np.isfinite((low, high)).all():
        raise ImageBrokenError("some of its pixels are NaN or infinite")
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    return map_bands(lambda band: np.clip((band.astype(np.float64) - low) / (high - low), 0, 1), values)


def map_bands(shade: Callable[[NDArray[Any]], NDArray[np.float64]], values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map values through `shade` (to 0..1) to 0..255, a band of rows at a time: floats take much memory."""

    def map_all(values: NDArray[Any]) -> NDArray[np.uint8]:
        result = np.empty(values.shape, np.uint8)
        for band in _bands(values):
            result[band] = (shade(values[band]) * 255 + 0.5).astype(np.uint8)
        return result

    return map_numbers(map_all, values)


def map_numbers(shade: Callable[[NDArray[Any]], NDArray[np.uint8]], values: NDArray[Any]) -> NDArray[np.uint8]:
    """What `shade` makes of an array, number by number: of up to 16 bits each number that occurs is shaded once."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2 or values.size < _FEW:
        return shade(values)
    low = int(values.min())
    occurs = np.zeros(int(values.max()) - low + 1, np.bool_)
    for band in _bands(values):
        occurs[values[band].astype(np.intp) - low] = True
    numbers, table = np.flatnonzero(occurs), np.zeros(len(occurs), np.uint8)
    table[numbers] = shade((numbers + low).astype(values.dtype))
    result = np.empty(values.shape, np.uint8)
    for band in _bands(values):
        result[band] = table[values[band].astype(np.intp) - low]
    return result


def _bands(values: NDArray[Any]) -> list[slice]:
    """Some rows at a time."""
    rows = max(1, _BAND_PIXELS // max(1, values[:1].size))
    return [slice(top, top + rows) for top in range(0, len(values), rows)]


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged file into a `FedhelpError`."""
    try:
        yield
    except FedhelpError:
        raise
    except MemoryError as error:
        raise ImageCostError("there is not enough memory to open it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageSizeError(f"it has more than {budget.PIXELS:,} pixels") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise from_os(error) from error
        is_truncated = isinstance(error, EOFError) or "truncated" in str(error)
        raise ImageBrokenError("it ends too early" if is_truncated else "it cannot be read as an image") from error


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence decoders' warnings; the one about a decompression bomb becomes an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _to_pil(array: NDArray[np.uint8]) -> Image.Image:
    flat = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(flat))


def _count_frames(image: Image.Image) -> int:
    """Count the frames; those of a TIFF only up to the budget, because each is searched from the start."""
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
    """Refuse files that keep a decoder busy within one call: many JPEG scans, or TIFF strips that overlap."""
    if image.format == "JPEG":
        budget.check_scans(_count_scans(file), *image.size)
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        part_sizes = tags.get(_STRIP_BYTES) or tags.get(_TILE_BYTES) or ()
        width, height = (int(tags.get(tag) or 0) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
        tiled_pixels = -(-image.width // width) * width * -(-image.height // height) * height if width and height else 0
        total = sum(min(int(part_size), size) for part_size in part_sizes)
        if total > budget.FILE_SIZE or tiled_pixels > 2 * budget.PIXELS:
            raise ImageCostError("its strips or tiles are larger than the image")


def _count_scans(file: BinaryIO) -> int:
    """The number of scans of a JPEG, at most: within compressed data 0xFF is never followed by a scan marker."""
    file.seek(0)
    count, last_byte = 0, b""
    while block := file.read(1 << 20):
        count += (last_byte + block).count(b"\xff\xda")
        last_byte = block[-1:]
    file.seek(0)
    return count


def _fit(image: Image.Image, target: plan.ImageSettings, reducing_gap: float | None = None) -> NDArray[np.uint8]:
    mode = "L" if target.channels == 1 else "RGB"
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(stretch(np.asarray(image)))
    if image.has_transparency_data:
        image = _flatten_on_white(image, mode)
    elif image.mode != mode:
        image = image.convert(mode)
    resized = image.resize((target.size, target.size), Image.Resampling.BILINEAR, reducing_gap=reducing_gap)
    return np.asarray(resized).reshape(target.size, target.size, -1)


def _for_screen(original: Image.Image, image: plan.ImageSettings) -> NDArray[np.uint8]:
    """Fit an image to be looked at. More pixels or colours than it has would only take time.

    Means of whole squares of pixels come first: that takes half the time.
    """
    size = min(SHARP_SIDE, max(_SCREEN_SIDE, *original.size))
    is_grey = original.mode in ("1", "L", "F") or original.mode.startswith("I")
    return _fit(original, replace(image, size=size, channels=1 if is_grey else image.channels), reducing_gap=1.0)


def _flatten_on_white(image: Image.Image, mode: str) -> Image.Image:
    """Blend over white, a band of rows at a time, because it takes four copies."""
    flattened = Image.new(mode, image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        canvas = Image.new("RGBA", band.size, "white")
        canvas.alpha_composite(band)
        flattened.paste(canvas.convert(mode), (0, top))
    return flattened
