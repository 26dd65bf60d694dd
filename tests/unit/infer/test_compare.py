"""Comparing a newer model with an older one: which classes get better or worse, and how certain that is."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge.data import loading
from fedhelp_edge.errors import NoImagesError, OtherClassesError
from fedhelp_edge.infer import bundle, compare
from fedhelp_edge.infer.bundle import Bundle
from tests import bundles
from tests.bundles import run_command


@functools.cache
def forgetful_model() -> bytes:
    """A model that has lost the first class: its answers go to others."""
    net = bundles.site().nets["own"]
    bias = net.linear.bias.data.clone()
    net.linear.bias.data[0] -= 30
    try:
        return bundles.site().make(nets={"own": net}).model
    finally:
        net.linear.bias.data = bias


@pytest.fixture
def forgetful(opened: Bundle) -> Bundle:
    model = forgetful_model()
    notes = bundle.metadata.read_notes(model)
    return Bundle(
        model, "ff" * 32, opened.signer, "", notes, bundle.metadata.read(notes[bundle.metadata.FACTS_NOTE]), 1
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images in a folder for each class."""
    folder, test = tmp_path_factory.mktemp("labelled"), bundles.site().images.split("test")
    for index, (pixels, label) in enumerate(zip(test.pixels[:], test.labels, strict=True)):
        (folder / bundles.CLASSES[label]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / bundles.CLASSES[label] / f"{index}.png")
    return folder


def test_a_class_that_gets_worse_is_named_with_an_interval(
    opened: Bundle, forgetful: Bundle, images: Path, tmp_path: Path
) -> None:
    comparison = compare.compare(opened, forgetful, images, cache_dir=tmp_path)
    labels = bundles.site().images.split("test").labels
    assert comparison.images == len(labels)
    assert [of_class.images for of_class in comparison.classes] == np.bincount(labels).tolist()
    lost = comparison.classes[0]
    assert lost.new < lost.old / 2
    assert lost.difference.high is not None
    assert lost.difference.high < 0
    assert f"recognises fewer of {bundles.CLASSES[0]}" in comparison.verdict
    assert comparison.difference.accuracy.value == pytest.approx(
        (comparison.better - comparison.worse) / comparison.images
    )
    back = compare.compare(forgetful, opened, images, cache_dir=tmp_path)
    assert (back.better, back.worse) == (comparison.worse, comparison.better)


def test_a_model_is_no_better_than_itself(opened: Bundle, images: Path, tmp_path: Path) -> None:
    comparison = compare.compare(opened, opened, images, cache_dir=tmp_path)
    assert (comparison.better, comparison.worse, comparison.difference.accuracy.value) == (0, 0, 0)
    assert comparison.verdict.endswith("do not tell them apart")


def test_training_and_validation_images_of_the_site_are_left_out(opened: Bundle, images: Path, tmp_path: Path) -> None:
    plan = bundles.site().plan
    site_images = loading.load(images, plan, state_dir=tmp_path / "own")  # loading splits them and stores the split
    comparison = compare.compare(opened, opened, images, cache_dir=tmp_path / "kept", state_dir=tmp_path / "own")
    assert comparison.images == site_images.splits.count("test")
    assert comparison.left_out == len(site_images) - comparison.images


def test_near_duplicates_of_training_images_are_left_out(opened: Bundle, images: Path, tmp_path: Path) -> None:
    site_images = loading.load(images, bundles.site().plan, state_dir=tmp_path / "own")
    name = site_images.names[site_images.splits.index("train")]
    pixels = np.asarray(Image.open(images / name)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save((images / name).with_name("again.png"))
    comparison = compare.compare(opened, opened, images, cache_dir=tmp_path / "kept", state_dir=tmp_path / "own")
    assert (comparison.images, comparison.left_out) == (
        site_images.splits.count("test"),
        len(site_images) - site_images.splits.count("test") + 1,
    )


def test_models_with_other_classes_and_unlabelled_images_are_refused(opened: Bundle, tmp_path: Path) -> None:
    other = replace(opened, facts=replace(opened.facts, classes=("x", "y", "z")))
    with pytest.raises(OtherClassesError):
        compare.compare(opened, other, tmp_path, cache_dir=tmp_path)
    bundles.write_test_images(tmp_path / "in", 2)
    with pytest.raises(NoImagesError):
        compare.compare(opened, opened, tmp_path / "in", cache_dir=tmp_path)


def test_the_command_prints_both_sides_and_the_verdict(
    model: Path, home: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_command(capsys, "compare", model, model, images, "--home", home)
    assert code == 0
    assert "balanced accuracy" in out
    assert out.splitlines()[-1].endswith("do not tell them apart")
    result = json.loads(run_command(capsys, "compare", model, model, images, "--home", home, "--json")[1])
    assert (
        result["images"]
        == result["classes"][0]["images"] + result["classes"][1]["images"] + result["classes"][2]["images"]
    )
    assert result["verdict"] == out.splitlines()[-1]
    assert err == ""
