"""How much each net counts at a site, and the figures of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export import calibrate, choose
from fedhelp_edge import plan
from fedhelp_edge.data.images import Images
from fedhelp_edge.nets.net import arrays_of, input_tensor
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.report import metrics
from tests import bundles
from tests.threads import one_thread as one_thread

IMAGE = plan.ImageSettings(8, 1, (0.5,), (0.25,))
LABELS = np.arange(20) % 2


def images(labels: NDArray[np.int64]) -> Images:
    blank = ("",) * len(labels)
    return Images(bundles.noise(len(labels), 8, 8, 1), labels, blank, blank, blank, blank)


def net_answering(logits: NDArray[np.float64]) -> ResNet:
    """A net with these answers; only `choose.logits` runs it."""
    net = ResNet("resnet20", Form(2, 1))
    net.answers = torch.from_numpy(logits)
    return net


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the choice among nets with these answers for validation images, without test images."""

    def choice(answers: Mapping[str, NDArray[np.float64]]) -> choose.Choice:
        def asked(net: ResNet, pixels: Any, *how: object) -> NDArray[np.float64]:
            return np.asarray(net.answers)[: len(pixels)]

        monkeypatch.setattr(choose, "logits", asked)
        nets = {name: net_answering(logits) for name, logits in answers.items()}
        return choose.choose(nets, images(LABELS), images(LABELS[:0]), IMAGE, None)

    return choice


def answers(right: int, logit: float) -> NDArray[np.float64]:
    """Answers that are right for so many of twenty images, with equal certainty."""
    truth = LABELS.copy()
    truth[right:] = 1 - truth[right:]
    return np.eye(2)[truth] * logit


def test_a_net_that_is_never_right_hardly_counts(chosen: Any) -> None:
    weights = chosen({"own": answers(0, 3.0), "merged": answers(18, 3.0)}).kept.weights
    assert weights["own"] < 0.15 < 0.85 < weights["merged"]


def test_of_equally_accurate_nets_the_figures_show_the_smaller_loss(chosen: Any) -> None:
    vague = answers(20, 1.0)
    vague[:10] *= 0.1
    choice = chosen({"own": vague, "merged": answers(20, 40.0)})
    assert choice.name == "kept"
    assert (choice.figures["own"]["accuracy"], choice.figures["merged"]["accuracy"]) == (1, 1)
    assert (choice.figures["own"]["loss"] or 0) > (choice.figures["merged"]["loss"] or 0) == 0


def test_the_loss_of_a_net_is_that_of_its_calibrated_answers(chosen: Any) -> None:
    logits = answers(15, 6.0)
    calibrated = calibrate.softmax(logits / calibrate.fit_temperature(logits, LABELS))
    assert chosen({"own": logits}).figures["own"]["loss"] == round(calibrate.log_loss(calibrated, LABELS), 4)


def test_one_net_has_no_average_and_several_have_one(chosen: Any) -> None:
    assert set(chosen({"own": answers(15, 6.0)}).figures) == {"own"}
    both = chosen({"own": answers(15, 6.0), "alone": answers(9, 1.0)})
    assert set(both.figures) == {"own", "alone", "average", "kept"}
    assert both.kept.gain.accuracy.value is not None


def test_a_net_whose_answers_are_no_numbers_has_no_figures_and_does_not_count(chosen: Any) -> None:
    choice = chosen({"own": answers(15, 6.0), "merged": answers(15, 6.0) * np.nan})
    assert (choice.name, choice.kept.weights) == ("own", {"own": 1})
    assert choice.figures["merged"]["loss"] is choice.figures["merged"]["accuracy"] is None


def test_without_validation_images_all_nets_count_alike_and_nothing_is_calibrated() -> None:
    site = bundles.site()
    none, test = images(LABELS[:0]), site.images.split("test")
    choice = choose.choose(site.nets, none, test, site.plan.image, None)
    bare = calibrate.softmax(choose.logits(site.nets["own"], test.pixels, site.plan.image, None))
    assert choice.kept.weights == dict.fromkeys(site.nets, 1 / len(site.nets))
    assert choice.figures["own"]["accuracy"] is None and choice.figures["own"]["loss"] is None
    assert choice.test["own"] == metrics.scores(bare, test.labels)


def test_a_net_runs_in_eval_mode_and_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    net, pixels = ResNet("resnet20", Form(2, 1)), images(np.zeros(300, np.int64)).pixels
    net.bn1.running_mean.normal_()
    before = arrays_of(net.train())
    logits = choose.logits(net, pixels, IMAGE, None)
    with torch.no_grad():
        expected = net.eval()(input_tensor(np.asarray(pixels), IMAGE)).numpy()
    assert logits == pytest.approx(expected, abs=1e-5)
    assert all(np.array_equal(array, before[name]) for name, array in arrays_of(net).items())
    assert choose.logits(net, pixels[:0], IMAGE, None).shape == (0, 2)


def test_nets_of_different_depth_are_distinguished() -> None:
    nets = {name: ResNet(name, Form(2, 1)) for name in ("resnet20", "resnet32")}
    assert list(choose.distinct(nets)) == ["resnet20", "resnet32"]
    assert choose.name_of(nets, nets["resnet32"]) == "resnet32"
