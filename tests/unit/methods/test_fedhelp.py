from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedhelp_edge import update
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Batch, Learner, Phase
from fedhelp_edge.methods.fedhelp import Proxy, PublicHead, Surrogate
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.net import arrays_of, frozen_bn_stats, load_arrays
from tests.unit.methods import small


def surrogate(pack: Pack | None = None, training: dict[str, Any] | None = None, **numbers: Any) -> Surrogate:
    plan = small.plan("fedhelp", fedhelp=numbers, training=training or {})
    learner = small.learner(plan, "small", pack or small.pack())
    assert isinstance(learner, Surrogate)
    return learner


def proxy(classes: int = 4, training: dict[str, Any] | None = None, **numbers: Any) -> Proxy:
    learner = small.learner(small.plan("fedhelp", classes, fedhelp=numbers, training=training or {}), "large")
    assert isinstance(learner, Proxy)
    return learner


def walk(learner: Learner, steps: int = 3, phase: str = "", private: int = 4) -> list[dict[str, float]]:
    """Runs some steps, each with new private and public images."""
    losses = []
    for seed in range(steps):
        public = small.batch(classes=5, seed=seed + 50)
        batches = {"private": small.batch(private, len(learner.plan.classes), seed=seed), "public": public}
        losses.append(learner.step(Phase(phase) if phase else learner.phases(1, False)[0], batches))
    return losses


def part(learner: Learner, prefix: str) -> dict[str, Any]:
    return {name: array for name, array in learner.state().items() if name.startswith(prefix)}


def other_answers(pack: Pack) -> Pack:
    """The same images with other answers of the sources."""
    return replace(pack, probabilities=np.flip(pack.probabilities, 2).copy())


# --- trust in sources (alpha) --------------------------------------------------------------------------------------


def test_trust_is_no_less_than_zero_and_sums_to_one_for_each_image() -> None:
    public = PublicHead(width=64, classes=5, images=6, sources=3)
    assert public.trust is not None
    torch.nn.init.normal_(public.trust, std=10, generator=torch.Generator().manual_seed(0))
    alpha = public.alpha(torch.arange(6))
    assert (alpha >= 0).all()
    assert torch.allclose(alpha.sum(1), torch.ones(6))


def test_trust_starts_equal_for_all_sources() -> None:
    assert PublicHead(64, 5, 6, 4).alpha(torch.arange(6)).tolist() == [[0.25] * 4] * 6


def test_a_single_source_has_all_trust_exactly_and_it_is_not_learned() -> None:
    learner = surrogate(small.pack(sources=1))
    assert learner.public is not None
    assert learner.public.trust is None
    assert learner.public.alpha(torch.tensor([0, 5])).tolist() == [[1.0], [1.0]]


def test_trust_is_learned_for_the_images_of_the_batches() -> None:
    learner = surrogate(training={"optimiser": "sgd"})
    public = small.batch(2, classes=5)
    batches = {"private": small.batch(), "public": replace(public, index=torch.tensor([1, 4]))}
    learner.step(learner.phases(1, False)[0], batches)
    assert learner.public is not None
    assert learner.public.trust is not None
    assert learner.public.trust.detach().any(1).tolist() == [False, True, False, False, True, False]


def test_a_step_changes_trust_as_the_closed_form_says() -> None:
    learner = surrogate()
    batches = {"private": small.batch(), "public": small.batch(classes=5)}
    index = batches["public"].index
    assert learner.public is not None
    assert learner.public.trust is not None
    with torch.no_grad(), frozen_bn_stats(learner.net):
        answer = learner.public.head(learner.net.features(batches["public"].images)).softmax(1)
    answers = torch.from_numpy(small.pack().probabilities.astype(np.float32)).transpose(0, 1)[index]
    by_alpha = (answers * ((answers.mean(1) / answer).log() + 1).unsqueeze(1)).sum(2)  # F_m . (ln(mix / s) + 1)
    by_trust = 0.5 * (by_alpha - by_alpha.mean(1, keepdim=True))  # through the softmax, at alpha = 1/2
    weight = learner.settings.lambda_j * learner.settings.lambda_r / len(index)
    learner.optimisers.clear()
    learner.step(learner.phases(1, False)[0], batches)
    assert learner.public.trust.grad is not None
    assert torch.allclose(learner.public.trust.grad[index], weight * by_trust, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("alpha", ["uniform", "label_fit"])
def test_fixed_trust_has_no_parameters(alpha: str) -> None:
    learner = surrogate(alpha=alpha)
    walk(learner)
    assert not [name for name in learner.state() if "trust" in name]
    assert torch.allclose(learner.fixed_alpha.sum(1), torch.ones(6))


def test_uniform_trust_is_the_same_for_all_sources() -> None:
    assert surrogate(small.pack(sources=4), alpha="uniform").fixed_alpha.tolist() == [[0.25] * 4] * 6


def test_trust_by_labels_is_proportional_to_each_sources_probability_of_the_label() -> None:
    pack = small.pack(sources=3)
    distribution = np.stack([source[np.arange(6), pack.labels] for source in pack.probabilities.astype(np.float64)], 1)
    fixed = surrogate(pack, alpha="label_fit").fixed_alpha.numpy()
    assert np.allclose(fixed, distribution / distribution.sum(1, keepdims=True), atol=1e-4)


def test_trust_has_no_weight_decay() -> None:
    learner = surrogate(training={"weight_decay": 0.5})
    decay = [group["weight_decay"] for group in learner.optimisers["public"].param_groups]
    assert [group["params"][0].shape for group in learner.optimisers["public"].param_groups][1] == (6, 2)
    assert decay == [0.5, 0.0]


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_trust_may_learn_at_a_rate_of_its_own_which_falls_as_the_nets(optimiser: str) -> None:
    training = {"optimiser": optimiser, "schedule": "cosine"}
    own, usual = (surrogate(training=training, **numbers) for numbers in ({"alpha_lr": 0.5}, {}))

    def moved(learner: Surrogate) -> float:
        walk(learner, 1)
        assert learner.public is not None
        assert learner.public.trust is not None
        return float(learner.public.trust.abs().max().detach())

    assert moved(own) == pytest.approx(500 * moved(usual), rel=1e-3)  # the net's is 0.001
    assert {name for name in small.differing(own.state(), usual.state()) if "!" not in name} == {"public/trust"}
    own.begin(3)  # of four rounds
    assert [group["lr"] for group in own.optimisers["public"].param_groups] == pytest.approx([0.0005, 0.25])


def test_a_single_source_has_no_trust_that_could_learn_at_a_rate_of_its_own() -> None:
    learner = surrogate(small.pack(sources=1), alpha_lr=0.5)
    assert {group["lr"] for optimiser in learner.optimisers.values() for group in optimiser.param_groups} == {0.001}


@pytest.mark.parametrize("augment", [True, False])
def test_public_images_may_be_shown_as_the_sources_saw_them(augment: bool) -> None:
    (phase,) = surrogate(public_augment=augment).phases(1, False)
    assert phase.augment
    assert phase.unaugmented == (() if augment else ("public",))


def test_a_class_that_every_source_excludes_does_not_end_the_training() -> None:
    pack = small.pack()
    answers = pack.probabilities.copy()
    answers[:, :, 2] = 0
    learner = surrogate(replace(pack, probabilities=answers / answers.sum(2, keepdims=True)))
    walk(learner)
    assert all(np.isfinite(array).all() for array in learner.state().values())


# --- the small site's loss (Eq. 1-3) -------------------------------------------------------------------------------


def test_the_loss_is_that_of_equations_1_to_3() -> None:
    learner = surrogate(lambda_j=0.5, lambda_r=0.25)
    private, public = small.batch(), small.batch(classes=5, seed=8)
    assert learner.public is not None
    with torch.no_grad(), frozen_bn_stats(learner.net):
        cross_entropy = F.cross_entropy(learner.net(private.images), private.labels)
        answer = learner.public.head(learner.net.features(public.images)).log_softmax(1)
    mix = torch.from_numpy(small.pack().probabilities.astype(np.float32)).mean(0)[public.index]
    kl = (mix * (mix.log() - answer)).sum(1).mean()
    labelled = -answer[torch.arange(4), public.labels].mean()
    parts = learner.step(learner.phases(1, False)[0], {"private": private, "public": public})
    assert parts["loss"] == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert parts["public"] == pytest.approx(0.5 * labelled.item(), rel=1e-5)
    assert parts["sources"] == pytest.approx(0.5 * 0.25 * kl.item(), rel=1e-4)


@pytest.mark.parametrize("alpha", ["learned", "uniform", "label_fit"])
def test_the_sources_answers_and_weights_are_those_of_the_images_in_the_batch(alpha: str) -> None:
    learner = surrogate(lambda_j=0.5, lambda_r=0.25, alpha=alpha)
    public = replace(small.batch(classes=5, seed=8), index=torch.tensor([5, 0, 3, 4]))
    assert learner.public is not None
    if learner.public.trust is not None:
        torch.nn.init.normal_(learner.public.trust, generator=torch.Generator().manual_seed(1))
    trust = learner.fixed_alpha if learner.public.trust is None else learner.public.trust.detach().softmax(1)
    mixes = []
    for image, trusted in zip([5, 0, 3, 4], trust[[5, 0, 3, 4]].numpy(), strict=True):
        mixes.append(
            sum(part * source[image] for part, source in zip(trusted, small.pack().probabilities, strict=True))
        )
    mix = torch.from_numpy(np.array(mixes, np.float32))
    with torch.no_grad(), frozen_bn_stats(learner.net):
        answer = learner.public.head(learner.net.features(public.images)).log_softmax(1)
    parts = learner.step(learner.phases(1, False)[0], {"private": small.batch(), "public": public})
    assert parts["sources"] == pytest.approx(0.5 * 0.25 * (mix * (mix.log() - answer)).sum(1).mean().item(), rel=1e-4)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_without_the_public_loss_a_small_site_is_one_of_fedavg_to_the_bit(optimiser: str) -> None:
    learner = surrogate(training={"optimiser": optimiser}, lambda_j=0)
    plain = small.learner(small.plan("fedavg", training={"optimiser": optimiser}), "small")
    for round_ in (1, 2):
        assert walk(learner) == walk(plain)
        assert small.same(learner.state(), plain.state())
        merged = {name: array * np.float32(0.9) for name, array in plain.give().items()}
        learner.receive(merged, round_ + 1)
        plain.receive(merged, round_ + 1)
    assert small.same(learner.state(), plain.state())


def test_without_a_pack_a_small_site_is_one_of_fedavg_to_the_bit() -> None:
    learner, plain = (small.learner(small.plan(method), "small") for method in ("fedhelp", "fedavg"))
    assert learner.phases(1, False)[0].draw == ("private",)
    assert walk(learner) == walk(plain)
    assert small.same(learner.state(), plain.state())


def test_without_the_public_loss_no_public_image_is_drawn() -> None:
    assert surrogate(lambda_j=0).phases(1, False)[0].draw == ("private",)


def test_public_images_change_what_is_learned() -> None:
    learner, plain = surrogate(), surrogate(lambda_j=0)
    walk(learner), walk(plain)
    assert not small.same(learner.give(), plain.give())


@pytest.mark.parametrize("numbers", [{"lambda_r": 0}, {"sources": "none"}], ids=["lambda_r", "sources"])
@pytest.mark.parametrize("alpha", ["learned", "uniform", "label_fit"])
def test_sources_without_weight_change_nothing(numbers: dict[str, Any], alpha: str) -> None:
    first = surrogate(small.pack(), alpha=alpha, **numbers)
    second = surrogate(other_answers(small.pack()), alpha=alpha, **numbers)
    losses = walk(first)
    assert losses == walk(second)
    assert small.same(first.state(), second.state())
    assert {part for step in losses for part in step} == {"loss", "public"}


@pytest.mark.parametrize("alpha", ["learned", "uniform", "label_fit"])
def test_sources_with_weight_change_the_net(alpha: str) -> None:
    first, second = surrogate(alpha=alpha), surrogate(other_answers(small.pack()), alpha=alpha)
    walk(first), walk(second)
    assert not small.same(first.give(), second.give())


def test_no_weight_on_the_sources_and_no_sources_are_the_same() -> None:
    first, second = surrogate(lambda_r=0), surrogate(sources="none")
    walk(first), walk(second)
    assert small.same(first.give(), second.give())


def test_the_first_source_alone_is_a_pack_that_has_no_other() -> None:
    both = small.pack(sources=3)
    first, second = surrogate(both, sources="first"), surrogate(replace(both, probabilities=both.probabilities[:1]))
    assert walk(first) == walk(second)
    assert small.same(first.state(), second.state())


def test_public_images_do_not_change_the_private_statistics() -> None:
    with_public, without = surrogate(), surrogate()
    public = {"public": small.batch(classes=5, seed=7)}
    with_public.step(with_public.phases(1, False)[0], {"private": small.batch(), **public})
    without.step(without.phases(1, False)[0], {"private": small.batch()})
    running = [name for name in part(without, "net/") if "running" in name or "num_batches" in name]
    first, second = with_public.state(), without.state()
    assert all(np.array_equal(first[name], second[name]) for name in running)
    assert len(running) == 3 * 7


def test_a_step_without_public_images_is_a_private_one() -> None:
    learner = surrogate()
    parts = learner.step(learner.phases(1, False)[0], {"private": small.batch()})
    assert set(parts) == {"loss"}


def test_public_images_are_drawn_as_often_as_the_plan_says() -> None:
    assert surrogate(public_every=7).phases(1, False)[0].every == 7


def test_a_small_site_diagnoses_with_its_surrogate() -> None:
    learner = surrogate()
    assert learner.model is learner.net


# --- parts that do not travel-----------------------------------------------------------------------------------------


def test_a_small_site_keeps_its_public_head_and_its_trust() -> None:
    learner = surrogate()
    walk(learner)
    assert set(part(learner, "public/")) == {"public/head.weight", "public/head.bias", "public/trust"}
    assert list(learner.give()) == [tensor.name for tensor in small.schema(learner).tensors]
    shapes = {array.shape for array in learner.give().values()}
    assert not shapes & {(5, 64), (5,), (6, 2)}


def test_a_large_site_gives_its_proxy_and_nothing_of_its_own_net() -> None:
    learner = proxy()
    walk(learner)
    update_bytes = {array.tobytes() for array in learner.give().values() if array.ndim > 1}
    assert update_bytes == {array.tobytes() for array in arrays_of(learner.net).values() if array.ndim > 1}
    assert not update_bytes & {array.tobytes() for array in arrays_of(learner.teacher).values()}


def test_after_a_round_the_proxy_is_the_merged_model_and_the_large_net_is_unchanged() -> None:
    learner = proxy()
    walk(learner)
    before, merged = (
        part(learner, "teacher/"),
        spec.initial_weights(small.schema(learner), 42),
    )
    learner.receive(merged, 2)
    assert small.same(arrays_of(learner.net), merged)
    assert small.same(part(learner, "teacher/"), before)


def test_after_a_round_the_public_head_and_the_trust_are_unchanged() -> None:
    learner = surrogate()
    walk(learner)
    before, merged = (
        part(learner, "public/"),
        spec.initial_weights(small.schema(learner), 42),
    )
    learner.receive(merged, 2)
    assert small.same(arrays_of(learner.net), merged)
    assert small.same(part(learner, "public/"), before)


def test_sites_start_with_different_large_nets_and_public_heads() -> None:
    plan = small.plan("fedhelp")
    for tier, name in (("large", "teacher/conv1.weight"), ("small", "public/head.weight")):
        first, second = (small.learner(plan, tier, small.pack(), site).state() for site in ("site-001", "site-002"))
        assert first[name].tobytes() != second[name].tobytes()
        assert first["net/conv1.weight"].tobytes() == second["net/conv1.weight"].tobytes()


# --- the large site's loss (Eq. 4-7) -------------------------------------------------------------------------------


def answers(learner: Proxy, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of large net and proxy, as a step will see them."""
    with torch.no_grad(), frozen_bn_stats(learner.teacher), frozen_bn_stats(learner.net):
        return learner.teacher(batch.images), learner.net(batch.images)


@pytest.mark.parametrize("proxy_ce", [True, False])
def test_the_loss_is_that_of_equations_4_to_7(proxy_ce: bool) -> None:
    learner, batch = proxy(proxy_ce=proxy_ce, lambda_f=0.5, lambda_b=0.3, top=2), small.batch()
    teacher_logits, proxy_logits = answers(learner, batch)
    kl = (teacher_logits.softmax(1) * (teacher_logits.log_softmax(1) - proxy_logits.log_softmax(1))).sum(1).mean()
    best = proxy_logits.topk(2).indices
    rank = -teacher_logits.log_softmax(1).gather(1, best).sum(1).mean()
    parts = learner.step(Phase("joint"), {"private": batch})
    assert parts["loss"] == pytest.approx(F.cross_entropy(teacher_logits, batch.labels).item(), rel=1e-4)
    assert parts["forward"] == pytest.approx(0.5 * kl.item(), rel=1e-3)
    assert parts["backward"] == pytest.approx(0.3 * rank.item(), rel=1e-4)
    assert ("proxy" in parts) is proxy_ce


def test_forward_distillation_changes_only_the_proxy() -> None:
    apart, together = proxy(lambda_b=0, lambda_f=0), proxy(lambda_b=0, lambda_f=1)
    walk(apart), walk(together)
    assert small.same(part(apart, "teacher"), part(together, "teacher"))
    assert not small.same(part(apart, "net"), part(together, "net"))


@pytest.mark.parametrize("backward", ["rank", "kl"])
def test_backward_distillation_changes_only_the_large_net(backward: str) -> None:
    apart, guided = proxy(lambda_b=0), proxy(lambda_b=0.5, backward=backward)
    walk(apart, 1), walk(guided, 1)
    assert small.same(part(apart, "net"), part(guided, "net"))
    assert not small.same(part(apart, "teacher"), part(guided, "teacher"))


def test_taken_literally_only_the_large_net_teaches_the_proxy() -> None:
    learner = proxy(proxy_ce=False)
    assert set(walk(learner, 1)[0]) == {"loss", "forward", "backward"}


@pytest.mark.parametrize(
    ("numbers", "parts"),
    [
        ({}, {"loss", "forward", "backward", "proxy"}),
        ({"lambda_b": 0}, {"loss", "forward", "proxy"}),
        ({"backward": "none"}, {"loss", "forward", "proxy"}),
        ({"lambda_f": 0}, {"loss", "backward", "proxy"}),
        ({"backward": "kl"}, {"loss", "forward", "backward", "proxy"}),
    ],
    ids=["whole", "forward only", "no guide", "backward only", "symmetric"],
)
def test_the_ablations_of_the_paper_are_plans(numbers: dict[str, Any], parts: set[str]) -> None:
    assert set(walk(proxy(**numbers), 1)[0]) == parts


def test_no_weight_on_the_guide_and_no_guide_are_the_same() -> None:
    first, second = proxy(lambda_b=0), proxy(backward="none")
    assert walk(first) == walk(second)
    assert small.same(first.state(), second.state())


def test_a_symmetric_guide_gives_the_large_net_the_proxys_probabilities() -> None:
    learner, batch = proxy(backward="kl", lambda_b=0.3), small.batch()
    teacher_logits, proxy_logits = answers(learner, batch)
    kl = (proxy_logits.softmax(1) * (proxy_logits.log_softmax(1) - teacher_logits.log_softmax(1))).sum(1).mean()
    assert learner.step(Phase("joint"), {"private": batch})["backward"] == pytest.approx(0.3 * kl.item(), rel=1e-3)


def test_a_large_net_alone_learns_as_if_there_were_no_proxy() -> None:
    learner, plain = proxy(lambda_b=0), small.learner(small.plan("local"), "large")
    load_arrays(plain.net, arrays_of(learner.teacher))
    walk(learner), walk(plain)
    assert small.same(arrays_of(learner.teacher), arrays_of(plain.net))


def test_a_large_site_diagnoses_with_its_large_net() -> None:
    learner = proxy()
    assert learner.model is learner.teacher
    assert sum(p.numel() for p in learner.model.parameters()) > sum(p.numel() for p in learner.net.parameters())


@pytest.mark.parametrize(("classes", "asked", "top"), [(2, 3, 1), (3, 3, 2), (4, 3, 3), (8, 3, 3), (8, 1, 1)])
def test_a_ranking_never_uses_all_classes(classes: int, asked: int, top: int) -> None:
    learner = proxy(classes, top=asked)
    assert learner.top == top
    assert np.isfinite(walk(learner, 1)[0]["backward"])


def test_alternating_nets_have_an_epoch_each() -> None:
    learner = proxy(schedule="alternate", training={"epochs": 2})
    phases = [(phase.name, phase.epochs) for phase in learner.phases(1, False)]
    assert phases == [("teacher", 1), ("proxy", 1), ("teacher", 1), ("proxy", 1)]


def test_jointly_both_nets_learn_from_each_batch() -> None:
    learner = proxy(training={"epochs": 2})
    assert [(phase.name, phase.epochs) for phase in learner.phases(1, False)] == [("joint", 2)]


@pytest.mark.parametrize(("phase", "still", "moving"), [("teacher", "net/", "teacher/"), ("proxy", "teacher/", "net/")])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_alternating_the_other_net_and_its_statistics_stay_unchanged(
    phase: str, still: str, moving: str, optimiser: str
) -> None:
    learner = proxy(schedule="alternate", training={"optimiser": optimiser})
    for turn in ("teacher", "proxy"):  # both optimisers have moments that could move a net
        walk(learner, phase=turn)
    before, other = part(learner, still), part(learner, moving)
    walk(learner, phase=phase)
    assert small.same(part(learner, still), before)
    assert not small.same(part(learner, moving), other)


def test_alternating_the_other_net_answers_in_eval_mode() -> None:
    learner, batch = proxy(schedule="alternate", lambda_f=1.0), small.batch()
    walk(learner)
    with torch.no_grad(), frozen_bn_stats(learner.net):
        teacher_logits, proxy_logits = learner.teacher.eval()(batch.images), learner.net.train()(batch.images)
    kl = (teacher_logits.softmax(1) * (teacher_logits.log_softmax(1) - proxy_logits.log_softmax(1))).sum(1).mean()
    assert learner.step(Phase("proxy"), {"private": batch})["forward"] == pytest.approx(kl.item(), rel=1e-3)


def test_alternating_each_phase_has_its_own_loss_terms() -> None:
    learner = proxy(schedule="alternate")
    assert set(walk(learner, 1, "teacher")[0]) == {"loss", "backward"}
    assert set(walk(learner, 1, "proxy")[0]) == {"forward", "proxy"}


@pytest.mark.parametrize("tier", ["small", "large"])
def test_an_update_has_the_bytes_of_one_resnet20(tier: str) -> None:
    plan = small.plan("fedhelp", classes=8, nets={"small": "resnet20", "large": "resnet32"})
    learner, file = small.learner(plan, tier, small.pack()), io.BytesIO()
    update.write(file, learner.give())
    assert len(file.getvalue()) == registry.METHODS["fedhelp"].up(learner.plan).size == 1_092_040
