"""Packs with WebP images: the same pixels in fewer bytes, or similar ones in far fewer; invalid ones are refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from fedhelp_edge.data import pack as packs
from fedhelp_edge.data import webp
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.demo import phantoms
from fedhelp_edge.errors import BadPackError

SIDE, COUNT = 16, 12


def sample_pack(channels: int = 3) -> Pack:
    """Phantoms in three classes, and one source's answers."""
    pixels, labels = phantoms.draw(COUNT, 3, size=SIDE, family="tissue")
    probabilities = np.full((1, COUNT, 3), 1 / 3, np.float16)
    return Pack(pixels[..., :channels].copy(), labels, ("a", "b", "c"), ("files:a",), probabilities, {"licence": "CC0"})


def enlarged(pack: Pack) -> Pack:
    """Enlarges a pack's images to be as smooth as photographs: noise does not compress."""
    return replace(pack, pixels=np.repeat(np.repeat(pack.pixels, 4, 1), 4, 2))


def saved(path: Path, pack: Pack, quality: int | None = None) -> Path:
    packs.save(path, pack, quality)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_images_have_every_pixel_in_fewer_bytes(channels: int, tmp_path: Path) -> None:
    pack = enlarged(sample_pack(channels))
    small, raw = saved(tmp_path / "small", pack, webp.LOSSLESS), saved(tmp_path / "raw", pack)
    loaded = packs.load(small)
    assert (loaded.pixels.dtype, loaded.pixels.shape) == (np.uint8, pack.pixels.shape)
    assert loaded.pixels.tobytes() == pack.pixels.tobytes()
    assert small.stat().st_size < raw.stat().st_size


def test_a_lower_quality_has_similar_pixels_in_even_fewer_bytes(tmp_path: Path) -> None:
    pack = enlarged(sample_pack())
    paths = [saved(tmp_path / f"{quality}", pack, quality) for quality in (30, 90, 100)]
    sizes = [path.stat().st_size for path in paths]
    assert sizes == sorted(set(sizes))
    far = [np.abs(packs.load(path).pixels.astype(int) - pack.pixels).mean() for path in paths]
    assert far[0] > far[1] > far[2] == 0
    assert far[1] < 5


@pytest.mark.parametrize("quality", [None, 90, 100])
def test_everything_except_the_images_is_equal_in_any_format(quality: int | None, tmp_path: Path) -> None:
    pack = sample_pack()
    loaded = packs.load(saved(tmp_path / "pack", pack, quality))
    assert loaded.labels.tolist() == pack.labels.tolist()
    assert loaded.probabilities.tobytes() == pack.probabilities.tobytes()
    assert (loaded.classes, loaded.sources, dict(loaded.provenance)) == (pack.classes, pack.sources, pack.provenance)


def test_images_may_be_taller_than_wide(tmp_path: Path) -> None:
    pack = replace(sample_pack(), pixels=sample_pack().pixels[:, :, : SIDE // 2].copy())
    assert packs.load(saved(tmp_path / "pack", pack, 100)).pixels.tobytes() == pack.pixels.tobytes()


def test_any_webp_reader_opens_the_images(tmp_path: Path) -> None:
    pack = sample_pack()
    tensors = load_file(saved(tmp_path / "pack", pack, 100))
    for index, (begin, end) in enumerate(zip([0, *tensors["ends"]], tensors["ends"], strict=False)):
        opened = Image.open(io.BytesIO(tensors["webp"][begin:end].tobytes()))
        assert opened.format == "WEBP"
        assert np.array_equal(np.asarray(opened), pack.pixels[index])


# --- refusals ------------------------------------------------------------------------------------------------------

Tensors = dict[str, Any]


def sample_tensors() -> Tensors:
    row, ends = webp.encode(sample_pack().pixels, 100)
    pack = sample_pack()
    return {"webp": row, "ends": ends, "labels": pack.labels, "probabilities": pack.probabilities,
            "shape": json.dumps([SIDE, SIDE, 3])}  # fmt: skip


def replace_image(index: int, data: bytes) -> Callable[[Tensors], None]:
    """Replaces an image's bytes."""

    def change(tensors: Tensors) -> None:
        ends = tensors["ends"]
        begin, end = (int(ends[index - 1]) if index else 0), int(ends[index])
        row = tensors["webp"].tobytes()
        tensors["webp"] = np.frombuffer(row[:begin] + data + row[end:], np.uint8)
        tensors["ends"] = np.where(np.arange(COUNT) < index, ends, ends + len(data) - (end - begin))

    return change


def picture(kind: str = "WEBP", side: int = SIDE, mode: str = "RGB", frames: int = 1) -> bytes:
    file = io.BytesIO()
    first, *rest = (Image.new(mode, (side, side), (n * 40,) * len(mode)) for n in range(frames))
    more = {"save_all": True, "append_images": rest} if rest else {}
    first.putpixel((0, 0), (0,) * len(mode))
    first.save(file, kind, lossless=True, **more) if kind == "WEBP" else first.save(file, kind)
    return file.getvalue()


ODD: dict[str, Callable[[Tensors], Any]] = {
    "another size": replace_image(3, picture(side=SIDE + 1)),
    "much larger": replace_image(3, picture(side=4000)),
    "see-through": replace_image(3, picture(mode="RGBA")),
    "moving": replace_image(3, picture(frames=2)),
    "a PNG": replace_image(3, picture("PNG")),
    "no picture": replace_image(0, b"no picture at all"),
    "cut short": replace_image(COUNT - 1, picture()[:-9]),
    "no shape": lambda h: h.pop("shape"),
    "a shape of two": lambda h: h.update(shape="[16, 16]"),
    "a shape of fractions": lambda h: h.update(shape="[16.0, 16, 3]"),
    "a shape of nothing": lambda h: h.update(shape="[0, 16, 3]"),
    "a number for a shape": lambda h: h.update(shape="16"),
    "two channels": lambda h: h.update(shape="[16, 16, 2]"),
    "larger than any plan asks for": lambda h: h.update(shape="[1025, 16, 3]"),
    "no ends": lambda h: h.pop("ends"),
    "an end too few": lambda h: h.update(ends=h["ends"][:-1]),
    "ends beyond the bytes": lambda h: h.update(ends=h["ends"] + 1),
    "ends that go back": lambda h: h.update(ends=np.sort(h["ends"])[np.r_[1, 0, 2:COUNT]]),
    "an image of no bytes": lambda h: h.update(ends=np.r_[h["ends"][0], h["ends"][0], h["ends"][2:]]),
    "ends in 32 bit": lambda h: h.update(ends=h["ends"].astype(np.int32)),
    "bytes in two columns": lambda h: h.update(webp=np.stack([h["webp"]] * 2, 1)),
    "pixels as well": lambda h: h.update(images=sample_pack().pixels),
    "a label too few": lambda h: h.update(labels=h["labels"][:-1]),
}


def write_tensors(path: Path, tensors: Tensors) -> Path:
    notes = {"classes": '["a", "b", "c"]', "sources": '["files:a"]'}
    if "shape" in tensors:
        notes["shape"] = tensors.pop("shape")
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, notes)
    return path


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_invalid_bytes_are_refused(change: Callable[[Tensors], Any], tmp_path: Path) -> None:
    assert len(packs.load(write_tensors(tmp_path / "whole", sample_tensors()))) == COUNT
    tensors = sample_tensors()
    change(tensors)
    with pytest.raises(BadPackError):
        packs.load(write_tensors(tmp_path / "odd", tensors))


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    tensors = sample_tensors()
    replace_image(3, b"no picture at all")(tensors)
    with pytest.raises(BadPackError, match=r"odd: public image 3 is not a WebP"):
        packs.load(write_tensors(tmp_path / "odd", tensors))


def test_too_many_pixels_are_refused_before_any_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tensors(tmp_path / "pack", sample_tensors())
    monkeypatch.setattr(webp, "MAX_SIZE", COUNT * SIDE * SIDE * 3 - 1)
    monkeypatch.setattr(webp.Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(BadPackError, match="too many"):
        packs.load(path)


@given(st.integers(0, 5000), st.integers(1, 255))
def test_a_changed_byte_gives_other_pixels_or_a_refusal(offset: int, by: int) -> None:
    row, ends = webp.encode(sample_pack().pixels, 100)
    changed: NDArray[np.uint8] = row.copy()
    changed[offset % len(row)] ^= by
    try:
        decoded = webp.decode(changed, ends, (SIDE, SIDE, 3))
    except packs.ImageBrokenError:
        return
    assert decoded.shape == (COUNT, SIDE, SIDE, 3)
