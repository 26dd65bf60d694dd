"""Features of images: computed once, cached by content, the same bits whoever computes them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import encoder
from fedhelp_edge import plan as plans
from fedhelp_edge.data import features, loading, pack
from fedhelp_edge.data.images import Images
from fedhelp_edge.encoder import onnx_file
from fedhelp_edge.errors import EncoderError, UsageError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from tests import encoders
from tests.unit.data import samples

SIZE = 16


def plan_with(file: Path, **keys: str) -> Plan:
    return plans.read(
        'classes = ["a", "b"]\nmethod = "fedavg"\n[image]\nsize = 16', METHODS, encoders.keys(file) | keys
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return encoders.save(tmp_path / "tiny.onnx")


def seen(tmp_path: Path, file: Path, plan: Plan, **options: Any) -> Images:
    decoded = loading.load(tmp_path / "images", plan, state_dir=tmp_path / "state")
    return encoder.embed_images(decoded, plan, encoder.find(plan, file), tmp_path / "state", **options)


def test_each_image_has_the_features_that_the_encoder_gives_it(tmp_path: Path, file: Path) -> None:
    samples.folder(tmp_path / "images", 6)
    plan = plan_with(file)
    images, opened = seen(tmp_path, file, plan), onnx_file.read(file)
    assert images.pixels.shape == (12, 1, encoders.WIDTH)
    assert images.pixels[:].dtype == np.float16
    for number, picture in enumerate(images.pictures[:]):
        assert images.pixels[number][0].tobytes() == opened.features(picture).tobytes()
    assert len(np.unique(images.pixels[:][:, 0], axis=0)) == 12


def test_no_number_of_threads_changes_a_bit(tmp_path: Path, file: Path) -> None:
    opened = onnx_file.read(file)
    pictures = samples.noise(9)
    one, three = (np.stack([*opened.all_features(([p] for p in pictures), workers)]) for workers in (1, 3))
    assert one.tobytes() == three.tobytes()


def test_a_second_run_computes_nothing_and_maps_one_file(tmp_path: Path, file: Path, monkeypatch: Any) -> None:
    samples.folder(tmp_path / "images", 4)
    plan = plan_with(file)
    first = seen(tmp_path, file, plan)
    monkeypatch.setattr(onnx_file.Encoder, "features", None)
    second = seen(tmp_path, file, plan)
    assert second.pixels[:].tobytes() == first.pixels[:].tobytes()
    assert len([*(tmp_path / "state" / "features").rglob("*.features")]) == 1
    assert pickle.loads(pickle.dumps(second.pixels))[:].tobytes() == first.pixels[:].tobytes()
    assert len(pickle.dumps(second.pixels)) < 1000  # by the path of its file


def test_only_added_images_are_computed(tmp_path: Path, file: Path) -> None:
    samples.folder(tmp_path / "images", 4)
    plan, counts = plan_with(file), []
    before = seen(tmp_path, file, plan)
    samples.save(tmp_path / "images" / "a" / "new.png", samples.noise(1, seed=9)[0])
    after = seen(tmp_path, file, plan, progress=lambda done, total, rate: counts.append(total))
    assert counts == [1]
    assert len(after) == 9
    assert {row.tobytes() for row in before.pixels[:]} < {row.tobytes() for row in after.pixels[:]}


def test_h09_a_killed_computation_goes_on_where_it_was(tmp_path: Path, file: Path) -> None:
    samples.folder(tmp_path / "images", 4)
    plan, counts = plan_with(file), []
    program = f"""
import os, signal
from pathlib import Path
from fedhelp_edge.data import features
from tests.unit.encoder import test_embed as t
features._SAVE_SECONDS = 0.0
def stop(done, total, rate):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path({str(tmp_path)!r})
t.seen(folder, folder / "tiny.onnx", t.plan_with(folder / "tiny.onnx"), progress=stop)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = seen(tmp_path, file, plan, progress=lambda done, total, rate: counts.append(total))
    assert set(counts) == {3}
    alone = replace(resumed, pixels=resumed.pictures, decoded=None)
    whole = encoder.embed_images(alone, plan, encoder.find(plan, file), tmp_path / "undisturbed")
    assert resumed.pixels[:].tobytes() == whole.pixels[:].tobytes()


@pytest.mark.parametrize("size", [0, 100, -1])
def test_h10_a_damaged_cache_is_computed_again(tmp_path: Path, file: Path, size: int) -> None:
    samples.folder(tmp_path / "images", 3)
    plan = plan_with(file)
    good = seen(tmp_path, file, plan).pixels[:].tobytes()
    (cache,) = (tmp_path / "state" / "features").rglob("*.features")
    os.truncate(cache, size if size >= 0 else cache.stat().st_size - 1)
    assert seen(tmp_path, file, plan).pixels[:].tobytes() == good


def test_another_encoder_has_features_of_its_own(tmp_path: Path, file: Path) -> None:
    samples.folder(tmp_path / "images", 3)
    other = encoders.save(tmp_path / "other.onnx", encoders.model(seed=1))
    first = seen(tmp_path, file, plan_with(file)).pixels[:]
    second = seen(tmp_path, other, plan_with(other)).pixels[:]
    assert not np.array_equal(first, second)
    assert seen(tmp_path, file, plan_with(file)).pixels[:].tobytes() == first.tobytes()


def test_a_draw_picks_a_view_and_without_one_an_image_is_as_it_is(tmp_path: Path, file: Path) -> None:
    samples.folder(tmp_path / "images", 4)
    images = seen(tmp_path, file, plan_with(file, **{"nets.encoder_views": "3"}))
    assert images.pixels.shape == (8, 3, encoders.WIDTH)
    own, everybody = images.pixels[:], np.arange(8)
    assert images.take(everybody)["images"].tobytes() == own[:, 0].tobytes()
    drawn = images.take(everybody, np.random.default_rng(3))["images"]
    views = [[np.array_equal(row, view) for view in of].index(True) for row, of in zip(drawn, own, strict=True)]
    assert set(views) == {0, 1, 2}
    halves = [images.take(everybody, np.random.default_rng(3), part)["images"] for part in (slice(0, 4), slice(4, 8))]
    assert np.concatenate(halves).tobytes() == drawn.tobytes()


def test_public_images_are_seen_at_the_encoders_side_once(tmp_path: Path, file: Path) -> None:
    plan = plan_with(file, **{"nets.encoder_views": "2"})
    grey = samples.noise(5, 8, 8, 1)
    public = pack.without_predictions(grey, np.array([0, 1, 0, 1, 0]), ("x", "y"))
    embedded = encoder.embed_pack(public, plan, encoder.find(plan, file), tmp_path)
    large = public.resized(SIZE, 3).pixels
    assert embedded.pixels.shape == (5, 1, encoders.WIDTH)
    opened = onnx_file.read(file)
    assert embedded.pixels[3, 0].tobytes() == opened.features(large[3]).tobytes()


def test_features_stay_when_images_are_split_or_left_out(tmp_path: Path, file: Path) -> None:
    samples.folder(tmp_path / "images", 8)
    images = seen(tmp_path, file, plan_with(file))
    opened, train = onnx_file.read(file), images.split("train").only(np.array([2, 0]))
    for number in range(2):
        assert train.pixels[number][0].tobytes() == opened.features(train.pictures[number]).tobytes()
        assert train.hashes[number] == features.hash_image(train.pictures[number])


def test_a_plan_with_an_encoder_needs_its_file_and_another_plan_has_none(tmp_path: Path, file: Path) -> None:
    plan = plan_with(file)
    for path in (None, tmp_path / "gone.onnx"):
        with pytest.raises(EncoderError, match=r"tiny\.onnx is not here"):
            encoder.find(plan, path)
    with pytest.raises(EncoderError, match="not given"):
        encoder.embed_images(
            loading.load(samples.folder(tmp_path / "images"), plan, state_dir=tmp_path), plan, None, tmp_path
        )
    bare = plans.read('classes = ["a", "b"]', METHODS)
    assert encoder.find(bare, None) is None
    with pytest.raises(UsageError, match="no encoder"):
        encoder.find(bare, file)
