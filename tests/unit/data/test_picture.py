"""Images are decoded as a person sees them, at the plan's size, from any common format."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import errors, plan
from fedhelp_edge.data import picture
from fedhelp_edge.data.picture import resize
from fedhelp_edge.data.source_row import Decoded
from tests.unit.data import samples

GREY, COLOUR = plan.ImageSettings(16, 1), plan.ImageSettings(16, 3)


def through(image: Image.Image, image_plan: plan.ImageSettings, kind: str = "PNG", **options: Any) -> NDArray[np.uint8]:
    """The pixels after saving and decoding."""
    return decoded(image, image_plan, kind, **options).pixels


def decoded(image: Image.Image, image_plan: plan.ImageSettings, kind: str, **options: Any) -> Decoded:
    file = io.BytesIO()
    image.save(file, kind, **options)
    with picture.without_warnings():
        return picture.decode(file, image_plan)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
@pytest.mark.parametrize("image_plan", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_common_format_gives_the_plans_size_and_channels(kind: str, image_plan: plan.ImageSettings) -> None:
    decoded_image = decoded(Image.new("RGB", (40, 24), (200, 100, 50)), image_plan, kind)
    assert decoded_image.pixels.shape == (16, 16, image_plan.channels)
    assert (decoded_image.width, decoded_image.height) == (40, 24)
    expected = [200, 100, 50] if image_plan.channels == 3 else [124]
    assert np.abs(decoded_image.pixels.reshape(-1, image_plan.channels).astype(int) - expected).max() <= 3


def test_a_photo_taken_sideways_is_turned_upright() -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was rotated: the top is on the right
    pixels_read = through(Image.fromarray(pixels), COLOUR, exif=turned)
    assert pixels_read[:, 8:].min() == 255
    assert pixels_read[:, :8].max() == 0


@pytest.mark.parametrize(("longest", "side"), [(40, 480), (700, 700), (1200, 960)])
def test_one_decoding_also_gives_an_image_to_look_at_that_is_hardly_larger_than_the_original(
    longest: int, side: int
) -> None:
    file = io.BytesIO()
    Image.fromarray(samples.noise(1, longest // 2, longest, 3)[0]).save(file, "PNG")
    both = picture.decode(file, COLOUR, for_screen=True)
    assert np.array_equal(both.pixels, picture.decode(file, COLOUR).pixels)
    assert np.array_equal(both.screen, picture.decode(file, plan.ImageSettings(side, 3)).pixels)
    Image.open(file).convert("L").save(grey := io.BytesIO(), "PNG")
    assert picture.decode(grey, COLOUR, for_screen=True).screen.shape == (side, side, 1)


def test_a_palette_is_looked_up() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert through(image, COLOUR)[0, 0].tolist() == [10, 20, 30]


def test_cmyk_becomes_rgb() -> None:
    assert through(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), COLOUR, "TIFF")[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white(mode: str) -> None:
    clear = Image.new(mode, (16, 16), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert through(clear, COLOUR).min() == 255
    solid = Image.new(mode, (16, 16), (9, 9, 9, 255) if mode == "RGBA" else (9, 255))
    assert through(solid, COLOUR).max() == 9


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_stretched_by_the_files_own_range(kind: str) -> None:
    values = np.linspace(1000, 1255, 256).astype(np.uint16).reshape(16, 16)
    pixels_read = through(Image.fromarray(values), GREY, kind)
    assert np.array_equal(pixels_read[..., 0], (values - 1000).astype(np.uint8))


def test_floats_in_a_tiff_are_stretched_and_nan_is_refused() -> None:
    values = np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16)
    pixels_read = through(Image.fromarray(values), GREY, "TIFF")
    assert (pixels_read.min(), pixels_read.max()) == (0, 255)
    values[3, 3] = np.nan
    with pytest.raises(errors.ImageBrokenError):
        through(Image.fromarray(values), GREY, "TIFF")


def test_a_flat_16_bit_image_is_black_without_a_division_by_zero() -> None:
    assert through(Image.fromarray(np.full((16, 16), 700, np.uint16)), GREY).max() == 0


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_an_animation_is_used_with_a_warning(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black", "red")]
    decoded_image = decoded(frames[0], COLOUR, kind, save_all=True, append_images=frames[1:])
    assert decoded_image.pixels.min() >= 250
    assert decoded_image.doubt == "it has 3 frames, of which the first is used"


def test_a_still_image_has_no_warning() -> None:
    assert decoded(Image.new("RGB", (16, 16)), COLOUR, "PNG").doubt == ""


def test_an_image_of_impossible_size_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 100):  # PIL warns of the first and refuses the second
        with pytest.raises(errors.ImageSizeError):
            through(Image.new("L", (side, side)), GREY)


def test_a_truncated_image_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    with pytest.raises(errors.ImageBrokenError, match="ends too early"):
        picture.decode(io.BytesIO(file.getvalue()[:-500]), COLOUR)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"BM"]),
)
def test_any_bytes_give_an_image_or_a_refusal(junk: bytes, magic: bytes) -> None:
    with picture.without_warnings():
        try:
            assert picture.decode(io.BytesIO(magic + junk), COLOUR).pixels.shape == (16, 16, 3)
        except errors.FedhelpError as fault:
            assert fault.code in ("E_IMAGE", "E_IMAGE_SIZE")


def test_an_unlisted_format_is_not_decoded(tmp_path: Path) -> None:
    with pytest.raises(errors.ImageBrokenError):
        through(Image.new("RGB", (4, 4)), COLOUR, "PPM")


def test_resizing_averages_what_it_drops() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, 8)
    assert small.shape == (8, 8, 3)
    assert np.abs(small.astype(int) - 127).max() <= 6


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_is_unchanged(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, channels), dtype=np.uint8)
    assert np.array_equal(resize(pixels, 16), pixels)
    assert np.array_equal(picture.fit(pixels, plan.ImageSettings(16, channels)), pixels)


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.dtype(">i2"), np.int32]),
        st.sampled_from([(4096,), (3, 1400), (80, 60), (5, 30, 40)]),
    )
)
def test_each_number_that_occurs_is_shaded_once_and_alike(values: NDArray[Any]) -> None:
    asked = []

    def shade(numbers: NDArray[Any]) -> NDArray[np.uint8]:
        asked.append(numbers)
        return picture.stretch(numbers)

    assert np.array_equal(picture.map_numbers(shade, values), picture.stretch(values))
    assert len(asked) == 1
    assert set(np.unique(asked[0])) == set(np.unique(values))
    assert values.dtype.itemsize > 2 or len(np.unique(asked[0])) == asked[0].size
