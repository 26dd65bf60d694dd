"""FedKEMF: two nets that teach each other, and knowledge nets that the coordinator distils into one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import BadPlanError, KnowledgeMissingError
from fedhelp_edge.merge import rules
from fedhelp_edge.merge.closing import Closing
from fedhelp_edge.methods import fedkemf, registry
from fedhelp_edge.methods.base import Learner
from fedhelp_edge.methods.fedkemf import FedKEMF
from fedhelp_edge.nets.net import arrays_of, input_tensor
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array
from tests.unit.methods import small


def learner(tier: str = "small", **settings: Any) -> FedKEMF:
    made = small.learner(small.plan("fedkemf", fedkemf=settings), tier, public())
    assert isinstance(made, FedKEMF)
    return made


def public(images: int = 12) -> Pack:
    """Public images of noise, with labels that no class of the plan has."""
    pixels = np.random.Generator(np.random.Philox(1)).integers(0, 256, (images, small.SIDE, small.SIDE, 3), np.uint8)
    return replace(small.pack(images), pixels=pixels)


def updates(plan: Plan, sites: int = 3) -> dict[str, dict[str, Array]]:
    """Knowledge nets of different weights."""
    base, stream = registry.METHODS["fedkemf"].start(plan), np.random.Generator(np.random.Philox(5))
    return {
        f"site-{site:03}": {name: _moved(name, array, stream) for name, array in base.items()}
        for site in range(1, sites + 1)
    }


def _moved(name: str, array: Array, stream: np.random.Generator) -> Array:
    """Kernels half as large, and all moved a little: predictions differ, and none is certain."""
    scale, change = 0.5 if array.ndim > 1 else 1.0, 0.02 * stream.standard_normal(array.shape)
    return np.asarray(scale * array + (np.abs(change) if name.endswith("var") else change), np.float32)


def closing(plan: Plan, sent: dict[str, dict[str, Array]], pack: Pack | None = None, round_: int = 1) -> Closing:
    method = registry.METHODS["fedkemf"]
    examples = {site: 10 + index for index, site in enumerate(sorted(sent))}
    return Closing(
        plan, registry.merge_settings(plan), method.up(plan), round_, method.start(plan), sent, examples,
        pack=lambda: pack or public(),
    )  # fmt: skip


def pushed(site: FedKEMF) -> dict[str, float]:
    """The parts of the loss, whose gradients are made."""
    private = small.batch(8)
    return site.push((private, site.losses(private)))


def gradients(learner: Learner, name: str) -> list[torch.Tensor]:
    return [p.grad.clone() for p in learner.trained()[name].parameters() if p.grad is not None]


# --- at a site -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("tier", "net"), [("small", "resnet8"), ("large", "resnet20")])
def test_the_sites_own_net_never_leaves_it(tier: str, net: str) -> None:
    site = learner(tier)
    assert site.model.name == net
    assert site.net.name == "resnet8"
    site.step(site.phases(1, False)[0], {"private": small.batch(8)})
    given, own, knowledge = site.give(), arrays_of(site.model), arrays_of(site.net)
    assert small.same(given, knowledge)
    assert {array.tobytes() for array in own.values() if array.ndim > 1}.isdisjoint(
        array.tobytes() for array in given.values()
    )
    before = arrays_of(site.model)
    site.receive(small.merged(site), 2)
    assert small.same(arrays_of(site.model), before)


def test_two_equal_nets_have_nothing_to_teach_each_other() -> None:
    site, alone = learner(), learner(mutual=0)
    for each in (site, alone):
        each.model.load_state_dict(each.net.state_dict())
    parts = pushed(site)
    assert [parts[name] for name in ("own_from_knowledge", "knowledge_from_own")] == pytest.approx([0, 0], abs=1e-6)
    pushed(alone)
    for name in ("net", "own"):
        pairs = zip(gradients(site, name), gradients(alone, name), strict=True)
        assert all(torch.allclose(first, second, atol=1e-4) for first, second in pairs)


@pytest.mark.parametrize(("taught", "teacher"), [("own", "net"), ("net", "own")])
def test_each_net_learns_from_the_other_and_moves_the_other_by_nothing(taught: str, teacher: str) -> None:
    """Upstream sends the gradient of each term into both nets, and compares logits instead of probabilities."""
    site = learner()
    part = {"own": "own_from_knowledge", "net": "knowledge_from_own"}[taught]
    private = small.batch(8)
    parts = site.losses(private)
    site.push((private, {part: parts[part]}))
    assert any(gradient.any() for gradient in gradients(site, taught))
    assert not gradients(site, teacher)
    nets = {name: module(private.images) for name, module in site.trained().items()}
    target, student = nets[teacher].softmax(1), nets[taught].log_softmax(1)
    expected = F.kl_div(student, target, reduction="batchmean")
    assert parts[part].item() == pytest.approx(expected.item(), rel=1e-4)


# --- at the coordinator ----------------------------------------------------------------------------------------------
def test_the_teachers_rows_are_means_of_probabilities_and_sum_to_one() -> None:
    plan = small.plan("fedkemf")
    sent, images = updates(plan), input_tensor(public().pixels, plan.image)
    teacher = fedkemf.mean_probabilities(closing(plan, sent), images)
    assert teacher is not None
    assert torch.allclose(teacher.sum(1), torch.ones(12))
    single = [fedkemf.mean_probabilities(closing(plan, {site: update}), images) for site, update in sent.items()]
    assert torch.allclose(teacher, torch.stack([p for p in single if p is not None]).mean(0))


def test_the_distilled_net_is_nearer_to_the_teacher_than_the_average_is() -> None:
    plan = small.plan("fedkemf", fedkemf={"epochs": 5})
    round_, images = closing(plan, updates(plan)), input_tensor(public().pixels, plan.image)
    teacher = fedkemf.mean_probabilities(round_, images)
    assert teacher is not None

    def distance(weights: dict[str, Array]) -> float:
        predicted = fedkemf.mean_probabilities(closing(plan, {"a": weights}), images)
        assert predicted is not None
        return float((teacher * (teacher.log() - predicted.log())).sum(1).mean())

    assert distance(fedkemf.ensemble(round_)) < 0.7 * distance(rules.average(round_))


def test_norm_layers_statistics_are_those_of_the_sites_not_of_public_images() -> None:
    plan = small.plan("fedkemf")
    round_ = closing(plan, updates(plan))
    average, distilled = rules.average(round_), fedkemf.ensemble(round_)
    differing = small.differing(average, distilled)
    assert not [name for name in differing if "running" in name]
    assert len(differing) > 20


def test_if_all_knowledge_nets_are_equal_the_merged_one_is_that_net() -> None:
    plan = small.plan("fedkemf")
    net = updates(plan, 1)["site-001"]
    merged = fedkemf.ensemble(closing(plan, dict.fromkeys(("a", "b", "c"), net)))
    assert all(np.allclose(merged[name], net[name], atol=1e-5) for name in net)


def test_the_coordinator_reads_no_label_and_no_answer_of_the_pack() -> None:
    plan, pack = small.plan("fedkemf"), public()
    poisoned = replace(
        pack, labels=np.full_like(pack.labels, -9), probabilities=np.full_like(pack.probabilities, np.nan)
    )
    sent = updates(plan)
    assert small.same(fedkemf.ensemble(closing(plan, sent, pack)), fedkemf.ensemble(closing(plan, sent, poisoned)))


def test_the_same_round_gives_the_same_bits_on_any_number_of_threads() -> None:
    plan = small.plan("fedkemf")
    sent, threads, before = updates(plan), torch.get_num_threads(), torch.random.get_rng_state()
    first = fedkemf.ensemble(closing(plan, sent))
    assert torch.equal(torch.random.get_rng_state(), before)
    try:
        torch.set_num_threads(2)
        torch.manual_seed(99)
        assert small.same(fedkemf.ensemble(closing(plan, dict(reversed(sent.items())))), first)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert not small.same(fedkemf.ensemble(closing(plan, sent, round_=2)), first)


@pytest.mark.parametrize("broken", [["site-002"], ["site-001", "site-002", "site-003"]])
def test_a_net_whose_predictions_are_nan_has_no_vote(broken: list[str]) -> None:
    plan = small.plan("fedkemf")
    sent, images = updates(plan), input_tensor(public().pixels, plan.image)
    for site in broken:
        for name in sent[site]:
            sent[site][name] = np.full_like(sent[site][name], 1e-30 if name.endswith("var") else 1e4)
    others = {site: update for site, update in sent.items() if site not in broken}
    teacher = fedkemf.mean_probabilities(closing(plan, sent), images)
    if not others:
        assert teacher is None
        assert small.same(fedkemf.ensemble(closing(plan, sent)), rules.average(closing(plan, sent)))
        return
    expected = fedkemf.mean_probabilities(closing(plan, others), images)
    assert teacher is not None
    assert expected is not None
    assert torch.equal(teacher, expected)


def test_if_distilling_ends_in_nan_the_round_has_the_average() -> None:
    plan = small.plan("fedkemf", fedkemf={"lr": 10.0, "epochs": 9})
    round_ = closing(plan, updates(plan))
    assert small.same(fedkemf.ensemble(round_), rules.average(round_))


def test_no_more_public_images_are_used_than_the_plan_says() -> None:
    plan = small.plan("fedkemf", fedkemf={"images": 4})
    sent, pack = updates(plan), public()
    assert small.same(
        fedkemf.ensemble(closing(plan, sent, pack)),
        fedkemf.ensemble(closing(plan, sent, pack.subset(4, plan.seed))),
    )


def test_without_a_pack_the_method_is_refused() -> None:
    plan = small.plan("fedkemf")
    with pytest.raises(KnowledgeMissingError):
        registry.merge(plan, 1, registry.METHODS["fedkemf"].start(plan), updates(plan), dict.fromkeys(updates(plan), 9))


def test_knowledge_nets_without_their_norm_layers_are_refused() -> None:
    """The coordinator could not run them."""
    with pytest.raises(BadPlanError, match="norm"):
        small.plan("fedkemf", wire={"norm": "local"})
