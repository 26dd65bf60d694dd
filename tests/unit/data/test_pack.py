"""Knowledge packs: written and read, reduced to a size, converted to a plan's images, and refused if invalid."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fedhelp_edge import update
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import BadPackError, TargetExistsError

Arrays = dict[str, Any]


def sample_pack(images: int = 40, side: int = 8, channels: int = 3, seed: int = 0) -> Pack:
    """Noise in three classes, one of them rare, and the answers of two sources."""
    draw = np.random.Generator(np.random.Philox(seed))
    return Pack(
        draw.integers(0, 256, (images, side, side, channels), np.uint8),
        np.array([0, 0, 0, 1, 1, 1, 1, 2, 0, 1] * (images // 10), np.int64),
        ("a", "b", "c"),
        ("clip:one@w", "files:two.npz"),
        draw.dirichlet(np.ones(3), (2, images)).astype(np.float16),
        {"origin": "noise.npz", "licence": "CC0"},
    )


def arrays_of(pack: Pack) -> Arrays:
    return {"images": pack.pixels, "labels": pack.labels, "probabilities": pack.probabilities}


def names(pack: Pack) -> dict[str, str]:
    return {"classes": json.dumps(pack.classes), "sources": json.dumps(pack.sources)}


def indices_of(subset: Pack, pack: Pack) -> list[int]:
    """The indices of a subset's images in the pack."""
    index_of = {image.tobytes(): index for index, image in enumerate(pack.pixels)}
    return [index_of[image.tobytes()] for image in subset.pixels]


def test_a_pack_is_read_as_written(tmp_path: Path) -> None:
    pack = sample_pack()
    packs.save(tmp_path / "pack.safetensors", pack)
    loaded = packs.load(tmp_path / "pack.safetensors")
    for name in ("pixels", "labels", "probabilities"):
        actual, expected = getattr(loaded, name), getattr(pack, name)
        assert (actual.dtype, actual.shape, actual.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    assert (loaded.classes, loaded.sources, dict(loaded.provenance)) == (pack.classes, pack.sources, pack.provenance)
    assert len(loaded) == 40


def test_public_images_without_answers_are_a_valid_pack(tmp_path: Path) -> None:
    with_predictions = sample_pack()
    packs.save(
        tmp_path / "pack.safetensors",
        packs.without_predictions(with_predictions.pixels, with_predictions.labels, with_predictions.classes),
    )
    loaded = packs.load(tmp_path / "pack.safetensors")
    assert (loaded.sources, loaded.probabilities.shape) == ((), (0, 40, 3))
    assert loaded.pixels.tobytes() == with_predictions.pixels.tobytes()
    assert loaded.subset(7).resized(4, 1).probabilities.shape == (0, 7, 3)


FACTS = ({"asked": "2026-11-26", "sha256": "0" * 64}, {"model": "levels 1", "prompts": "skin: {}", "protocol": "p"})


def test_a_pack_says_how_its_sources_were_asked(tmp_path: Path) -> None:
    packs.save(tmp_path / "pack.safetensors", replace(sample_pack(), asked=FACTS))
    assert packs.load(tmp_path / "pack.safetensors").asked == FACTS
    assert packs.load(tmp_path / "pack.safetensors").subset(5).asked == FACTS


@pytest.mark.parametrize(
    "asked",
    ["[{}]", "[{}, {}, {}]", "{}", '{"a": 1, "b": 2}', '["ab", "cd"]', "[1, 2]", "5", "null", "", "[",
     '[{"accuracy": "1"}, {}]', '[{"asked": 5}, {}]', '[{"name": "x"}, {}]', "[" * 5000],
)  # fmt: skip
def test_facts_of_another_form_make_no_pack(tmp_path: Path, asked: str) -> None:
    pack = sample_pack()
    with (tmp_path / "pack").open("wb") as file:
        update.write(file, arrays_of(pack), {**names(pack), "asked": asked})
    with pytest.raises(BadPackError):
        packs.load(tmp_path / "pack")


def test_other_libraries_can_read_a_pack(tmp_path: Path) -> None:
    pack = sample_pack()
    packs.save(tmp_path / "pack.safetensors", pack)
    with safe_open(tmp_path / "pack.safetensors", "numpy") as file:
        assert {name: file.get_tensor(name).tobytes() for name in file.keys()} == {  # noqa: SIM118 - no mapping
            name: array.tobytes() for name, array in arrays_of(pack).items()
        }
        assert file.metadata() == {**names(pack), **pack.provenance}


def test_a_pack_that_another_program_wrote_is_read(tmp_path: Path) -> None:
    pack = sample_pack()
    save_file(arrays_of(pack), tmp_path / "pack.safetensors", names(pack))
    assert packs.load(tmp_path / "pack.safetensors").pixels.tobytes() == pack.pixels.tobytes()


def test_a_pack_is_never_overwritten(tmp_path: Path) -> None:
    packs.save(tmp_path / "pack.safetensors", sample_pack())
    with pytest.raises(TargetExistsError):
        packs.save(tmp_path / "pack.safetensors", sample_pack(seed=1))


@pytest.mark.parametrize("size", [1, 3, 7, 20, 39])
def test_a_subset_has_its_size_and_keeps_the_class_proportions(size: int) -> None:
    pack = sample_pack()
    part = pack.subset(size)
    assert len(part) == len(part.pixels) == part.probabilities.shape[1] == size
    fair = np.bincount(pack.labels) * size / len(pack)
    assert (np.abs(np.bincount(part.labels, minlength=3) - fair) < 1).all()


def test_answers_stay_with_their_images() -> None:
    pack = sample_pack()
    part = pack.subset(13)
    chosen = indices_of(part, pack)
    assert part.labels.tolist() == pack.labels[chosen].tolist()
    assert part.probabilities.tobytes() == pack.probabilities[:, chosen].tobytes()


def test_a_smaller_subset_is_part_of_every_larger_one() -> None:
    pack = sample_pack()
    choices = [set(indices_of(pack.subset(size), pack)) for size in range(1, 41)]
    assert all(small < big for small, big in pairwise(choices))


def test_a_subset_depends_only_on_its_seed() -> None:
    pack = sample_pack()
    assert pack.subset(10).pixels.tobytes() == pack.subset(10).pixels.tobytes()
    assert pack.subset(10).pixels.tobytes() != pack.subset(10, seed=1).pixels.tobytes()


def test_a_subset_larger_than_the_pack_is_the_pack() -> None:
    pack = sample_pack()
    assert pack.subset(41) is pack


def test_grey_becomes_colour_with_three_equal_channels() -> None:
    pack = sample_pack(channels=1)
    loaded = pack.resized(8, 3).pixels
    assert loaded.shape == (40, 8, 8, 3)
    assert (loaded == pack.pixels).all()


def test_colour_becomes_the_grey_of_its_mean() -> None:
    pack = sample_pack(channels=3)
    loaded = pack.resized(8, 1).pixels
    assert (loaded.shape, loaded.dtype) == ((40, 8, 8, 1), np.uint8)
    assert np.abs(loaded[..., 0] - pack.pixels.mean(3)).max() <= 0.5


@pytest.mark.parametrize("side", [4, 16])
def test_images_are_resized_to_the_plans_size(side: int) -> None:
    flat = replace(sample_pack(), pixels=np.full((40, 8, 8, 3), 77, np.uint8))
    loaded = flat.resized(side, 3)
    assert loaded.pixels.shape == (40, side, side, 3)
    assert (loaded.pixels == 77).all()
    assert loaded.probabilities is flat.probabilities


def test_images_of_the_right_size_stay_unchanged() -> None:
    pack = sample_pack()
    assert pack.resized(8, 3).pixels is pack.pixels


def rows(change: Callable[[Any], None]) -> Callable[[Arrays], None]:
    """A change of the sources' answers."""

    def changed(arrays: Arrays) -> None:
        answers = arrays["probabilities"].copy()
        change(answers)
        arrays["probabilities"] = answers

    return changed


ODD: dict[str, Callable[[Arrays], Any]] = {
    "no images": lambda a: a.pop("images"),
    "no labels": lambda a: a.pop("labels"),
    "no probabilities": lambda a: a.pop("probabilities"),
    "something more": lambda a: a.update(more=np.zeros(3, np.float32)),
    "fewer labels": lambda a: a.update(labels=a["labels"][:-1]),
    "fewer images": lambda a: a.update(images=a["images"][:-1]),
    "fewer answers": lambda a: a.update(probabilities=a["probabilities"][:, :-1]),
    "one source less": lambda a: a.update(probabilities=a["probabilities"][:1]),
    "one class less": lambda a: a.update(probabilities=a["probabilities"][:, :, :2]),
    "images without channels": lambda a: a.update(images=a["images"][..., 0]),
    "two channels": lambda a: a.update(images=a["images"][..., :2].copy()),
    "images of floats": lambda a: a.update(images=a["images"].astype(np.float32)),
    "labels of 32 bit": lambda a: a.update(labels=a["labels"].astype(np.int32)),
    "labels in two columns": lambda a: a.update(labels=np.stack([a["labels"]] * 2, 1)),
    "answers of 32 bit": lambda a: a.update(probabilities=a["probabilities"].astype(np.float32)),
    "a label too large": lambda a: a.update(labels=a["labels"] + 1),
    "a label below zero": lambda a: a.update(labels=a["labels"] - 1),
    "a sum that is not one": rows(lambda answers: answers.__setitem__((0, 0), [0.5, 0.2, 0.2])),
    "a sum of zero": rows(lambda answers: answers.__setitem__((1, 3), 0)),
    "below zero": rows(lambda answers: answers.__setitem__((0, 1), [1.5, -0.5, 0])),
    "no number": rows(lambda answers: answers.__setitem__((0, 0, 0), np.nan)),
    "infinite": rows(lambda answers: answers.__setitem__((0, 0, 0), np.inf)),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_a_pack_with_invalid_arrays_is_refused(tmp_path: Path, change: Callable[[Arrays], Any]) -> None:
    pack = sample_pack()
    arrays = arrays_of(pack)
    change(arrays)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tmp_path / "pack", names(pack))
    with pytest.raises(BadPackError):
        packs.load(tmp_path / "pack")


@pytest.mark.parametrize(
    "notes",
    [
        {},
        {"classes": '["a", "b", "c"]'},
        {"classes": "a, b, c", "sources": '["x", "y"]'},
        {"classes": "3", "sources": '["x", "y"]'},
        {"classes": '["a", "b"]', "sources": '["x", "y"]'},
        {"classes": '["a", "b", "c"]', "sources": '["x"]'},
        {"classes": '["a", "b", "c"]', "sources": "[]"},
        {"classes": "[" * 20000, "sources": '["x", "y"]'},
    ],
)
def test_a_pack_with_invalid_names_is_refused(tmp_path: Path, notes: dict[str, str]) -> None:
    save_file(arrays_of(sample_pack()), tmp_path / "pack", notes or None)
    with pytest.raises(BadPackError):
        packs.load(tmp_path / "pack")


def test_a_pack_with_unknown_metadata_is_refused(tmp_path: Path) -> None:
    pack = sample_pack()
    save_file(arrays_of(pack), tmp_path / "pack", {**names(pack), "more": "of them"})
    with pytest.raises(BadPackError, match="metadata that is not allowed"):
        packs.load(tmp_path / "pack")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "pack"
    path.write_bytes(pickle.dumps({"images": [1, 2, 3]}))
    with pytest.raises(BadPackError, match="never opened"):
        packs.load(path)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_pack_is_refused(tmp_path: Path, size: int) -> None:
    packs.save(tmp_path / "pack", sample_pack())
    (tmp_path / "cut").write_bytes((tmp_path / "pack").read_bytes()[:size])
    with pytest.raises(BadPackError):
        packs.load(tmp_path / "cut")
