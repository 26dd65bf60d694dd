"""What a step learns from images, and what nobody can tell of one: clipping, sampling, noise, and nothing beside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from fedhelp_edge.data import loading
from fedhelp_edge.errors import UsageError
from fedhelp_edge.methods import private_gradients
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.private_gradients import PrivateGradients
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import learners, loop
from fedhelp_edge.update import Array
from tests.unit.data.test_masks import npz, squares
from tests.unit.methods import small
from tests.unit.methods.tiny import tiny_nets as tiny_nets

KEY, OTHER = bytes(32), bytes([1] * 32)
NOISED = sorted(name for name in METHODS if METHODS[name].noised)

pytestmark = pytest.mark.usefixtures("tiny_nets")


def dp_plan(method: str = "fedavg", loss: str = "ce", **privacy: float) -> Plan:
    """A plan of some steps with noise."""
    return small.plan(
        method,
        nets={"norm": "group"},
        merge={"weight": "uniform"},
        round={"patience": 0},
        training={"batch": 4, "epochs": 1, "loss": loss},
        privacy={"mode": "dp", "sampling_rate": 0.25, "epsilon": 1000, **privacy},
    )


def trained(
    method: str, count: int, key: bytes = KEY, seed: int = 1, folder: Path | None = None
) -> Mapping[str, Array]:
    """The update of a round on so many images."""
    learner = small.learner(dp_plan(method), pack=small.pack() if method == "fedhelp" else None)
    sets = small.sets(learner.plan, count=count)
    sets["private"] = small.images(count, seed=seed)
    loop.train(learner, sets, 1, noise_key=key, checkpoints=folder, every=0)
    return learner.give()


@pytest.mark.parametrize("loss", ["ce", "symmetric"])
@pytest.mark.parametrize("method", NOISED)
def test_the_clipped_sum_is_that_of_a_loop_over_images(method: str, loss: str) -> None:
    limit, images = 0.5, small.batch(count=37)  # more than are in memory at once
    learner = small.learner(dp_plan(method, loss))
    parameters = list(learner.net.parameters())
    expected = [torch.zeros_like(parameter) for parameter in parameters]
    norms = []
    for image, label in zip(images.images, images.labels, strict=True):
        loss_of = learner.loss(learner.net(image[None]), small.Batch(image[None], label[None], label[None]))
        gradients = torch.autograd.grad(loss_of, parameters)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        norms.append(float(norm))
        for total, gradient in zip(expected, gradients, strict=True):
            total += gradient * min(1.0, limit / float(norm))
    assert min(norms) < limit < max(norms) or limit < min(norms)
    sums, parts = private_gradients.clipped_sum(learner, images, limit)
    assert list(sums) == [name for name, _ in learner.net.named_parameters()]
    for total, value in zip(expected, sums.values(), strict=True):
        assert torch.allclose(total, value, atol=1e-5)
    assert parts["loss"] == pytest.approx(float(learner.loss(learner.net(images.images), images).detach()), rel=1e-4)


@pytest.mark.parametrize("loss", ["ce", "dice-ce"])
def test_of_masks_too_the_clipped_sum_is_that_of_a_loop_over_images(loss: str) -> None:
    draw, count = torch.Generator().manual_seed(0), 5
    images, masks = torch.randn(count, 1, 16, 16, generator=draw), torch.randint(0, 3, (count, 16, 16), generator=draw)
    batch, learner = small.Batch(images, masks, torch.arange(count)), small.learner(mask_plan(loss))
    gradients = [
        torch.cat([part.flatten() for part in torch.autograd.grad(loss_of_one, list(learner.net.parameters()))])
        for image, mask in zip(images, masks, strict=True)
        for one in [small.Batch(image[None], mask[None], mask[:1, 0])]
        for loss_of_one in [learner.loss(learner.net(one.images), one)]
    ]
    limit = float(np.median([float(gradient.norm()) for gradient in gradients]))
    expected = torch.stack([gradient * min(1.0, limit / float(gradient.norm())) for gradient in gradients]).sum(0)
    sums, _ = private_gradients.clipped_sum(learner, batch, limit)
    assert torch.allclose(torch.cat([total.flatten() for total in sums.values()]), expected, atol=1e-5)


def mask_plan(loss: str = "ce") -> Plan:
    """A plan of masks with noise."""
    return small.plan(
        task="segmentation",
        classes=2,
        image={"size": 16, "channels": 1},
        nets={"small": "unet8", "large": "unet8", "norm": "group"},
        masks={"weights": "none"},
        merge={"weight": "uniform"},
        round={"patience": 0},
        training={"batch": 4, "epochs": 1, "loss": loss},
        privacy={"mode": "dp", "sampling_rate": 0.25, "epsilon": 1000},
    )


def test_one_image_more_moves_the_sum_by_no_more_than_the_limit() -> None:
    learner, images = small.learner(dp_plan()), small.batch(count=9)
    less = small.Batch(images.images[1:], images.labels[1:], images.index[1:])
    sums = [private_gradients.clipped_sum(learner, some, 0.1)[0] for some in (images, less)]
    moved = torch.cat([(a - b).flatten() for a, b in zip(*(s.values() for s in sums), strict=True)])
    assert float(moved.norm()) <= 0.1 * (1 + 1e-4)


def test_an_image_on_which_the_net_fails_adds_nothing_and_ends_nothing() -> None:
    learner, images = small.learner(dp_plan()), small.batch(count=5)
    images.images[0] = float("inf")
    others = small.Batch(images.images[1:], images.labels[1:], images.index[1:])
    (sums, parts), (expected, _) = (private_gradients.clipped_sum(learner, some, 0.1) for some in (images, others))
    assert all(torch.allclose(sums[name], expected[name], atol=1e-6) for name in sums)
    assert np.isfinite(parts["loss"])


def test_the_noise_is_gaussian_of_the_plans_size_and_of_no_other_step_or_key() -> None:
    privacy = {"noise_multiplier": 3.0, "gradient_norm": 0.5}
    learner, nothing = small.learner(dp_plan(**privacy)), small.batch(count=1)
    empty = small.Batch(nothing.images[:0], nothing.labels[:0], nothing.index[:0])
    drawn = []
    for key, step in ((KEY, 0), (KEY, 1), (OTHER, 0)):
        learner.net.zero_grad()
        assert PrivateGradients(key, step).add(learner, empty) == {}
        noise = torch.cat([p.grad.flatten() for p in learner.net.parameters() if p.grad is not None])
        drawn.append((noise * learner.plan.training.batch / 1.5).double().numpy())  # 3.0 x 0.5
    for noise in drawn:
        count = len(noise)
        assert abs(noise.mean()) < 4 / count**0.5
        assert abs(noise.var() - 1) < 4 * (2 / count) ** 0.5
        below = torch.special.ndtr(torch.from_numpy(np.sort(noise))).numpy()
        assert np.abs(below - np.arange(count) / count).max() < 2 / count**0.5  # Kolmogorov and Smirnov
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(drawn[one], drawn[other])[0, 1]) < 4 / len(drawn[0]) ** 0.5


def test_each_image_is_drawn_on_its_own_with_the_chance_of_the_plan() -> None:
    plan, count, steps = dp_plan(), 40, 400
    phase = loop.Phase("train")
    streams = loop.RandomStreams(KEY.hex(), "site-001", 1)
    taken = np.zeros((steps, count), bool)
    for step in range(steps):
        ((name, indices),) = loop._draw_indices(phase, 0, step, {"private": small.images(count)}, plan, streams)
        assert name == "private"
        taken[step, indices] = True
    error = (0.25 * 0.75 / steps) ** 0.5
    assert np.abs(taken.mean(0) - 0.25).max() < 4.5 * error
    assert abs(taken.sum(1).var() - count * 0.25 * 0.75) < 4 * count * 0.25 * 0.75 * (2 / steps) ** 0.5
    correlations = np.corrcoef(taken.T) - np.eye(count)
    assert np.abs(correlations).max() < 5 / steps**0.5


@pytest.mark.parametrize("method", NOISED)
def test_without_the_noisy_sum_an_update_does_not_depend_on_private_images_or_their_number(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small.differing(trained(method, 12), trained(method, 12, seed=2))
    monkeypatch.setattr(private_gradients, "clipped_sum", nothing)
    update = trained(method, 12)
    assert small.same(update, trained(method, 12, seed=2))
    assert small.same(update, trained(method, 21, seed=2))


def nothing(learner: Learner, *_: object) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    return {name: torch.zeros_like(p) for name, p in learner.net.named_parameters()}, {}


def test_of_masks_too_nothing_passes_around_the_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither masks nor their number."""
    plan = mask_plan()

    def update(seed: int, count: int, classes: int = 2) -> Mapping[str, Array]:
        folder = tmp_path / f"{seed}-{count}-{classes}"
        folder.mkdir(exist_ok=True)
        pictures = squares(count, 16, 16, classes=classes, seed=seed)
        images = loading.load(npz(folder / "all.npz", *pictures), plan, state_dir=folder).split("train")
        learner = learners.create(plan, "site-001", "small", images, None, Compute())
        learner.receive(METHODS[plan.method].start(plan), 1)
        loop.train(learner, learners.image_sets(images, None), 1, noise_key=KEY)
        return learner.give()

    assert small.differing(update(1, 12), update(2, 12))
    monkeypatch.setattr(private_gradients, "clipped_sum", nothing)
    assert small.same(update(1, 12), update(2, 12))
    assert small.same(update(1, 12), update(2, 20, classes=1))


def test_another_key_is_another_update_and_the_plans_seed_decides_nothing_of_it() -> None:
    update = trained("fedavg", 12)
    assert small.same(update, trained("fedavg", 12))
    assert small.differing(update, trained("fedavg", 12, key=OTHER)) == set(update)


@pytest.mark.parametrize("method", NOISED)
def test_an_interrupted_round_ends_with_the_same_bits(method: str, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, rate: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    pack = small.pack() if method == "fedhelp" else None
    plan = dp_plan(method)
    with pytest.raises(KeyboardInterrupt):
        loop.train(
            small.learner(plan, pack=pack), small.sets(plan, count=12), 1,
            noise_key=KEY, checkpoints=tmp_path, every=0, progress=interrupt,
        )  # fmt: skip
    assert list(tmp_path.iterdir())
    assert small.same(trained(method, 12, folder=tmp_path), trained(method, 12))


def test_a_site_without_images_in_a_step_or_at_all_goes_on() -> None:
    assert all(np.isfinite(array).all() for array in trained("fedavg", 1).values())


def test_nothing_is_trained_without_the_key_or_with_one_that_no_plan_asks_for() -> None:
    plan = dp_plan()
    with pytest.raises(ValueError, match="needs a key"):
        loop.train(small.learner(plan), small.sets(plan), 1)
    plain = small.plan()
    with pytest.raises(ValueError, match="no other plan does"):
        loop.train(small.learner(plain), small.sets(plain), 1, noise_key=KEY)


def test_several_processes_and_large_sites_of_fedhelp_are_refused() -> None:
    plan = dp_plan()
    with pytest.raises(UsageError, match="several processes"):
        loop.train(small.learner(plan, compute=Compute(ranks=2)), small.sets(plan), 1, noise_key=KEY)
    with pytest.raises(UsageError, match="noise does not cover what a large site"):
        small.learner(dp_plan("fedhelp"), "large")
