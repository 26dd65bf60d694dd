"""Appearance features of pixels, beside a net's embedding: numbers that depend only on the image."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from export import bundle as exporting
from export import calibrate
from fedhelp_edge.data.images import Images
from fedhelp_edge.errors import BadBundleError
from fedhelp_edge.infer import appearance, decide, metadata
from fedhelp_edge.infer.bundle import Bundle
from tests import bundles


@pytest.mark.parametrize("side", [appearance.MIN_SIDE, 13, 28, 64, 65, 200])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_has_the_formats_number_of_finite_features(side: int, channels: int) -> None:
    images = np.concatenate([bundles.noise(2, side, side, channels), np.zeros((1, side, side, channels), np.uint8)])
    for name, look in appearance.KINDS.items():
        numbers = look(images)
        assert numbers.shape == (3, appearance.SIZES[name][channels])
        assert np.isfinite(numbers).all()
        assert look(images[1:2])[0] == pytest.approx(
            numbers[1], abs=1e-12
        )  # independent of the other images of the batch


def test_layout_features_do_not_depend_on_brightness_or_contrast() -> None:
    image = bundles.site().images.split("test").pixels[:1].astype(float)
    paler = (60 + 0.7 * image).astype(np.uint8)
    assert appearance.layout(paler) == pytest.approx(appearance.layout(image.astype(np.uint8)), abs=0.3)


def test_an_image_that_the_net_cannot_tell_apart_is_unlike_by_its_appearance() -> None:
    """Embeddings have one distribution; images of another kind are coarser."""
    random = np.random.default_rng(3)
    train, validation, other, same = (random.normal(size=(count, 8)) for count in (300, 100, 60, 400))

    def drawn(count: int, coarse: int) -> np.ndarray:
        small = random.integers(60, 200, (count, 24 // coarse, 24 // coarse, 1)).astype(np.uint8)
        return small.repeat(coarse, 1).repeat(coarse, 2)

    fine = [drawn(count, 2) for count in (300, 100, 400)]
    seen = {name: (look(fine[0]), look(fine[1])) for name, look in appearance.KINDS.items()}
    answers = calibrate.likeness(train, validation, seen)

    def unlike(embedding: np.ndarray, images: np.ndarray) -> float:
        away = [cloud.distance(appearance.KINDS[name](images)) for name, cloud in answers.looks.items()]
        return float((np.max([answers.distance(embedding), *away], 0) > 1).mean())

    assert (calibrate.likeness(train, validation).distance(other) > 1).mean() < 0.1
    assert unlike(other, drawn(60, 6)) > 0.95
    assert unlike(same, fine[2]) < 0.06


def test_three_kinds_of_distance_give_no_more_false_alarms_than_promised() -> None:
    alarms = []
    for key in range(40):
        random = np.random.default_rng(key)
        kinds = [[random.normal(size=(count, 12)) for count in (200, 100, 500)] for _ in range(3)]
        likeness = calibrate.likeness(*kinds[0][:2], {str(index): (t, v) for index, (t, v, _) in enumerate(kinds[1:])})
        clouds = [likeness, *likeness.looks.values()]
        away = np.max([cloud.distance(kind[2]) for cloud, kind in zip(clouds, kinds, strict=True)], 0)
        alarms.append((away > 1).mean())
    assert likeness.level == calibrate.UNLIKE_RATE
    assert np.mean(alarms) == pytest.approx(calibrate.UNLIKE_RATE, abs=0.012)


def test_an_answer_uses_the_appearance_statistics_of_the_model(opened: Bundle) -> None:
    pixels = np.asarray(bundles.site().images.split("test").pixels[:4])
    assert set(opened.facts.likeness.looks) == set(appearance.KINDS)
    cloud = opened.facts.likeness.looks["texture"]
    strict = replace(opened.facts.likeness, looks={"texture": replace(cloud, limit=cloud.limit / 1000)})
    answers = decide.answer_images(replace(opened, facts=replace(opened.facts, likeness=strict)), pixels)
    assert [answer.verdict for answer in answers] == ["unlike"] * 4


def test_an_older_model_without_appearance_statistics_still_answers(opened: Bundle) -> None:
    document = json.loads(opened.facts.text())
    del document["likeness"]["looks"]
    before = metadata.read(json.dumps(document))
    assert before.likeness.looks == {}
    pixels = np.asarray(bundles.site().images.split("test").pixels[:2])
    answers = decide.answer_images(replace(opened, facts=before), pixels)
    assert [answer.distance for answer in answers] == pytest.approx(
        before.likeness.distance(opened.engine(pixels).embedding)
    )


def test_appearance_statistics_of_a_later_version_are_ignored_and_invalid_ones_refused(opened: Bundle) -> None:
    document = json.loads(opened.facts.text())
    document["likeness"]["looks"]["smell"] = document["likeness"]["looks"]["texture"]
    assert set(metadata.read(json.dumps(document)).likeness.looks) == set(appearance.KINDS)
    document["likeness"]["looks"]["layout"] = document["likeness"]["looks"]["texture"]
    with pytest.raises(BadBundleError):
        metadata.read(json.dumps(document))


def test_a_model_of_few_images_has_no_appearance_statistics() -> None:
    site = bundles.site()
    few = site.images.split("train").only(np.arange(exporting.MIN_LOOK_IMAGES - 1))
    validation = site.images.split("val")
    pixels = np.concatenate([few.pixels[:], validation.pixels[:]])
    splits = ("train",) * len(few) + ("val",) * len(validation)
    blank = ("",) * len(splits)
    images = Images(pixels, np.concatenate([few.labels, validation.labels]), splits, blank, blank, blank)
    assert site.make(images=images).facts.likeness.looks == {}


def test_appearance_statistics_add_little_to_a_models_size() -> None:
    document = json.loads(bundles.export_result().facts.text())["likeness"]["looks"]
    assert len(json.dumps(document)) < 50_000


@pytest.mark.parametrize("count", [2, 144, 333, 1024])
def test_quantiles_are_numpys_own(count: int) -> None:
    values = np.random.default_rng(count).random((20, count))
    expected = np.quantile(values, appearance._QUANTILES, 1)
    assert np.stack([*appearance._quantiles(values)]) == pytest.approx(expected, abs=1e-15)
