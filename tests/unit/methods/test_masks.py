"""What holds of learners whose images have masks: a pixel is an image of its own, and weights are those of Eq. 10."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedhelp_edge import plan as plans
from fedhelp_edge.data import border, loading
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import BadPlanError, UsageError
from fedhelp_edge.methods import losses
from fedhelp_edge.methods.base import Batch, Compute, Learner
from fedhelp_edge.methods.fedhelp import Proxy, Surrogate, mix_kl_divergence
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.net import classify
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.nets.spec import NETS
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import learners, loop
from fedhelp_edge.train.visit import judge
from tests.threads import one_thread as one_thread
from tests.unit.data.test_masks import npz, squares
from tests.unit.methods import small
from tests.unit.methods.tiny import shrink

SIDE = 16
ABLE = [name for name, method in METHODS.items() if method.masks]


def agreed(method: str = "fedavg", *settings: str, depth: int = 1) -> Plan:
    text = [
        'task = "segmentation"', 'classes = ["a", "b"]', f'method = "{method}"', "rounds = 2", "seed = 5",
        "[image]", f"size = {SIDE}", "channels = 1", f"depth = {depth}",
        "[nets]", 'large = "unet8"', "[training]", "epochs = 1", "batch = 4", 'precision = "fp32"',
    ]  # fmt: skip
    return plans.read("\n".join(text), METHODS, dict(setting.split("=") for setting in settings))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("images")
    return loading.load(npz(folder / "a.npz", *squares(24)), agreed(), state_dir=folder)


def learner_of(plan: Plan, images: Images, tier: str = "small", pack: Pack | None = None) -> Learner:
    return learners.create(plan, "site-001", tier, images.split("train"), pack, Compute())


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(values: Tensor) -> Tensor:
    """A row for each pixel, classes last."""
    return values.movedim(1, -1).reshape(-1, values.shape[1])


# --- losses -----------------------------------------------------------------------------------------------------------
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ce": lambda a, b, y: losses.pixel_loss(F.cross_entropy, a, y, None),
    "weighted": lambda a, b, y: losses.pixel_loss(F.cross_entropy, a, y, torch.full(y.shape, 2.0, dtype=a.dtype)),
    "kl": lambda a, b, y: losses.kl_divergence(b.softmax(1), a),
    "ranking": lambda a, b, y: losses.ranking_loss(a, b, 1),
    "ranking of two": lambda a, b, y: losses.ranking_loss(a, b, 2),
    "mix": lambda a, b, y: mix_kl_divergence(
        losses.mix_sources(b.softmax(1)[:, None], torch.ones(len(b), 1, dtype=a.dtype)), a
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sides", [(1, 1), (1, 1, 1)])
def test_a_loss_of_one_pixel_is_that_of_an_image(name: str, sides: tuple[int, ...]) -> None:
    logits, guide, labels = random(0, 6, 4), random(1, 6, 4), torch.arange(6) % 4
    of_images = LOSSES[name](logits, guide, labels)
    maps = [values.reshape(6, 4, *sides) for values in (logits, guide)]
    assert torch.equal(LOSSES[name](*maps, labels.reshape(6, *sides)), of_images)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_maps_is_that_of_their_pixels_as_a_batch(name: str) -> None:
    logits, guide, labels = random(0, 3, 4, 5, 6), random(1, 3, 4, 5, 6), torch.arange(90).reshape(3, 5, 6) % 4
    as_rows = LOSSES[name](rows(logits), rows(guide), labels.reshape(-1))
    torch.testing.assert_close(LOSSES[name](logits, guide, labels), as_rows)


def test_weights_of_1_are_cross_entropy() -> None:
    logits, labels = random(0, 2, 3, 4, 4), torch.arange(32).reshape(2, 4, 4) % 3
    weighted = losses.pixel_loss(F.cross_entropy, logits, labels, torch.ones(2, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(weighted, F.cross_entropy(logits, labels))


def test_classes_weigh_alike_or_as_they_are_frequent_and_borders_add_beta_0() -> None:
    pixels = torch.tensor([700, 200, 100])
    labels, borders = torch.tensor([[[0, 1, 2]]]), torch.tensor([[[0.0, 0.5, 1.0]]])
    balanced = losses.pixel_weights(labels, torch.zeros(1, 1, 3), pixels, 10.0, 1.0)[0, 0]
    torch.testing.assert_close(balanced * torch.tensor([0.7, 0.2, 0.1]), torch.full((3,), 1 / 3))
    torch.testing.assert_close(
        losses.pixel_weights(labels, borders, pixels, 10.0, 0.0)[0, 0], torch.tensor([1.0, 6, 11])
    )
    absent = losses.pixel_weights(torch.tensor([2]), torch.zeros(1), torch.tensor([5, 5, 0]), 1.0, 1.0)
    assert absent.isfinite().all()


def test_dice_is_0_for_a_sure_and_right_mask_and_nearly_1_for_a_wrong_one() -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[:, 2:6, 2:6] = 1
    sure = 50.0 * (2.0 * F.one_hot(labels, 2).movedim(-1, 1) - 1)
    assert losses.dice_and_cross_entropy(sure, labels) < 1e-6
    dice = losses.dice_and_cross_entropy(-sure, labels) - F.cross_entropy(-sure, labels)
    assert 0.95 < dice < 1
    wrong = random(0, 2, 2, 8, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.dice_and_cross_entropy(x, labels), wrong)


# --- learners ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tier", ["small", "large"])
@pytest.mark.parametrize("method", [*((name,) for name in ABLE), ("fedmic", "fedmic.aux_at=decision")], ids="-".join)
def test_every_able_method_learns_from_masks(method: tuple[str, ...], tier: str, images: Images) -> None:
    learner = learner_of(agreed(*method), images, tier)
    learner.begin(1)
    report = loop.train(learner, {"private": images.split("train")}, 1)
    assert all(np.isfinite(value) for parts in report.means().values() for value in parts.values())
    rows, shown = judge(learner, learner.model, images.split("val"))
    assert (rows.shape[1], len(shown)) == (9 + 2, len(images.split("val")))
    assert rows[:, :9].sum(1).tolist() == [SIDE**2] * len(rows)


class OnePixel(ResNet):
    """A net whose answer is a map of one pixel."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x)[..., None, None]

    def forward(self, x: Tensor) -> Tensor:
        return classify(self.head, self.features(x))


@pytest.mark.parametrize(("method", "tier"), [*((method, "small") for method in ABLE), ("fedhelp", "large")])
def test_a_step_on_masks_of_one_pixel_is_one_on_classes(
    method: str, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch)
    settings = {"selector": "resnet32"} if method == "fedsm" else {}
    plan = small.plan(method, **{method: settings})

    def states(shape: tuple[int, ...]) -> list[dict[str, NDArray[Any]]]:
        """As training begins, and after a step of each phase."""
        learner, seen = small.learner(plan, tier), []
        for phase in learner.phases(1, False):
            seen.append(learner.state())
            batches = small.batches(phase, plan)
            masks = {name: replace(each, labels=each.labels.reshape(shape)) for name, each in batches.items()}
            learner.step(phase, masks)
        return [*seen, learner.state()]

    of_classes = states((-1,))
    for name in ("resnet8", "resnet20"):
        monkeypatch.setitem(NETS, name, replace(NETS[name], module=f"{__name__}:OnePixel"))  # type: ignore[index]
    of_pixels = states((-1, 1, 1))
    for before, after, pixel in zip(of_classes, of_classes[1:], of_pixels[1:], strict=False):
        assert any((before[name] != array).any() for name, array in after.items())
        for name, array in after.items():
            np.testing.assert_allclose(pixel[name], array, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ABLE])
def test_a_method_that_does_not_do_masks_says_why(method: str) -> None:
    with pytest.raises(BadPlanError, match=f"{method} does not do segmentation, as .*: name one of fedhelp"):
        agreed(method)


@pytest.mark.parametrize("settings", [("training.loss=dice-ce",), ("masks.weights=outlines",)])
def test_training_learns_to_outline(settings: tuple[str, ...], tmp_path: Path) -> None:
    plan = agreed("fedavg", "training.epochs=15", "training.lr=0.01", "rounds=1", *settings)
    images = loading.load(npz(tmp_path / "a.npz", *squares(24)), plan, state_dir=tmp_path)
    learner = learner_of(plan, images)
    learner.begin(1)
    loop.train(learner, {"private": images.split("train")}, 1)
    truth, answers = [*images.split("test").case_masks()], [*loop.masks(learner, learner.net, images.split("test"))]
    right = [
        ((mask > 0) & (answer > 0)).sum() / ((mask > 0) | (answer > 0)).sum()
        for mask, answer in zip(truth, answers, strict=True)
    ]
    assert np.mean(right) > 0.7


def test_the_weights_of_a_batch_are_those_of_the_sites_masks(images: Images) -> None:
    train = images.split("train")
    learner, seen = learner_of(agreed("fedavg", "masks.beta_0=3.0"), images), []
    learner.begin(1)
    learner.step = lambda phase, batches: (seen.append(batches["private"]), {"loss": 0.0})[1]  # type: ignore[method-assign]
    loop.train(learner, {"private": train}, 1)
    assert train.mask_pixels is not None
    frequency = train.mask_pixels.sum(0) / train.mask_pixels.sum()
    for batch in seen:
        assert batch.weight is not None
        of_class = torch.tensor(1 / (3 * frequency), dtype=torch.float32)[batch.labels]
        assert ((batch.weight - of_class > -1e-5) & (batch.weight - of_class < 3.001)).all()


def batch_of(images: Images, seed: int = 0) -> Batch:
    pixels = torch.from_numpy(np.asarray(images.pixels[:4])).movedim(-1, 1).float() / 255
    masks = torch.from_numpy(np.asarray(images.masks[:4]).astype(np.int64))  # type: ignore[index]
    return Batch(pixels, masks, torch.arange(4))


def test_a_proxy_takes_the_losses_of_equations_11_to_14(images: Images) -> None:
    proxy = learner_of(agreed("fedhelp"), images, "large")
    assert isinstance(proxy, Proxy)
    assert proxy.top == 1
    proxy.begin(1)
    batch = replace(batch_of(images), weight=torch.full((4, SIDE, SIDE), 2.0))
    with torch.no_grad():
        teacher, own = proxy.teacher.train()(batch.images), proxy.net.train()(batch.images)
    parts = proxy.step(proxy.phases(1, False)[0], {"private": batch})
    of_teacher, of_proxy, labels = rows(teacher), rows(own), batch.labels.reshape(-1)
    expected = {
        "loss": 2 * F.cross_entropy(of_teacher, labels),
        "backward": 0.2 * F.cross_entropy(of_teacher, of_proxy.argmax(1)),
        "forward": F.kl_div(of_proxy.log_softmax(1), of_teacher.softmax(1), reduction="batchmean"),
        "proxy": 2 * F.cross_entropy(of_proxy, labels),
    }
    assert parts == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-4)


@pytest.mark.parametrize("sources", [0, 2])
def test_a_surrogate_takes_the_losses_of_equations_8_and_9(images: Images, sources: int) -> None:
    """The public masks have other classes than the site's. Maps of probabilities are 8-bit numbers."""
    draw = np.random.default_rng(0)
    shape = (sources, 4, 4, SIDE, SIDE)
    maps = draw.dirichlet(np.ones(4), (sources, 4, SIDE, SIDE)).transpose(0, 1, 4, 2, 3).reshape(shape)
    truth = draw.integers(0, 4, (4, SIDE, SIDE), np.uint8)
    pack = Pack(
        np.asarray(images.pixels[:4]), np.zeros(4, np.int64), ("x", "y", "z"), ("s", "t")[:sources],
        np.rint(maps * 255).astype(np.uint8), masks=truth,
    )  # fmt: skip
    learner = learner_of(agreed("fedhelp", "fedhelp.public_every=1"), images, pack=pack)
    assert isinstance(learner, Surrogate)
    assert learner.public is not None
    learner.begin(1)
    learner.net.train()
    index = torch.tensor([2, 0])
    batch = Batch(batch_of(images).images[index], torch.from_numpy(truth.astype(np.int64))[index], index)
    with torch.no_grad():
        logits = learner.public.head(rows(learner.net.features(batch.images)))
        parts = learner.public_losses(learner.public, batch)
    assert float(parts["public"]) == pytest.approx(
        0.2 * float(F.cross_entropy(logits, batch.labels.reshape(-1))), rel=1e-4
    )
    if not sources:
        assert parts.keys() == {"public"}
        return
    mix = torch.from_numpy(np.rint(maps * 255)[:, [2, 0]].mean(0) / 255).float()  # alpha begins with all alike
    divergence = F.kl_div(logits.log_softmax(1), rows(mix), reduction="batchmean")
    assert float(parts["sources"]) == pytest.approx(0.2 * 0.1 * float(divergence), rel=1e-3)
    report = loop.train(learner, learners.image_sets(images.split("train"), pack), 1)
    assert report.means()["surrogate"].keys() == {"loss", "public", "sources"}


def test_public_pixels_are_weighed_as_private_ones_are(images: Images, tmp_path: Path) -> None:
    """By the frequencies of the public classes, and by the outlines of public masks (Eq. 8)."""
    assert images.mask_pixels is not None
    masks, pixels = np.asarray(images.masks[:8]), np.asarray(images.pixels[:8])  # type: ignore[index]
    none = np.zeros((0, 8, 3, SIDE, SIDE), np.uint8)
    pack = Pack(pixels, np.zeros(8, np.int64), ("x", "y"), (), none, masks=masks, mask_pixels=images.mask_pixels[:8])
    plan = agreed("fedhelp", "fedhelp.public_every=1")
    weighed, seen = border.attach(pack, plan, tmp_path), []
    learner = learner_of(plan, images, pack=weighed)
    learner.begin(1)
    learner.step = lambda phase, batches: (seen.append(batches["public"]), {"loss": 0.0})[1]  # type: ignore[method-assign]
    loop.train(learner, learners.image_sets(images.split("train"), weighed), 1)
    frequency = images.mask_pixels[:8].sum(0) / images.mask_pixels[:8].sum()
    least = torch.tensor(1 / (3 * frequency), dtype=torch.float32)
    for batch in seen:
        assert batch.weight is not None
        assert (batch.weight >= least[batch.labels] - 1e-5).all()


def test_a_round_that_was_killed_ends_with_the_same_bits(images: Images, tmp_path: Path) -> None:
    train = {"private": images.split("train")}

    def kill_at_3(done: int, total: int, rate: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    whole, killed, resumed = (learner_of(agreed("fedhelp"), images, "large") for _ in range(3))
    whole.begin(1)
    loop.train(whole, train, 1)
    killed.begin(1)
    with pytest.raises(KeyboardInterrupt):
        loop.train(killed, train, 1, checkpoints=tmp_path, every=0, progress=kill_at_3)
    loop.train(resumed, train, 1, checkpoints=tmp_path)
    assert {name: array.tobytes() for name, array in whole.state().items()} == {
        name: array.tobytes() for name, array in resumed.state().items()
    }


def test_a_pack_without_masks_is_refused(images: Images) -> None:
    pack = Pack(
        np.asarray(images.pixels[:4]), np.arange(4) % 2, ("x", "y"), ("s",), np.full((1, 4, 2), 0.5, np.float16)
    )
    with pytest.raises(UsageError, match="this knowledge pack has no masks"):
        learner_of(agreed("fedhelp"), images, pack=pack)


# --- volumes ----------------------------------------------------------------------------------------------------------
def test_a_net_of_volumes_learns_and_a_volume_is_judged_as_a_whole(tmp_path: Path) -> None:
    plan = agreed("fedavg", depth=8)
    images = loading.load(npz(tmp_path / "a.npz", *squares(12, 10, 20, 16)), plan, state_dir=tmp_path)
    learner = learner_of(plan, images)
    learner.begin(1)
    loop.train(learner, {"private": images.split("train")}, 1)
    test = images.split("test")
    rows, _ = judge(learner, learner.net, test)
    assert rows[:, :9].sum(1).tolist() == [10 * 20 * 16] * len(test.cases)


def test_a_volume_of_one_block_is_masked_as_that_block(tmp_path: Path) -> None:
    plan = agreed("fedavg", depth=8)
    images = loading.load(npz(tmp_path / "a.npz", *squares(12, 8, SIDE, SIDE)), plan, state_dir=tmp_path)
    learner = learner_of(plan, images)
    whole = loop.probabilities(learner, learner.net, images.pixels).argmax(1)
    assert np.array_equal(whole, [*loop.masks(learner, learner.net, images)])
