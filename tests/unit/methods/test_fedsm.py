"""FedSM: how personal nets are pulled, who answers an image, and what the selector learns from all sites together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedhelp_edge import plan as plans
from fedhelp_edge.errors import BadPlanError, UsageError
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.methods import fedsm, registry, schemas
from fedhelp_edge.methods.base import LearnerContext
from fedhelp_edge.methods.fedsm import FedSM
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import net as nets
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import loop
from fedhelp_edge.update import Array
from tests.threads import one_thread as one_thread
from tests.unit.methods import small


def plan(**tables: Mapping[str, Any]) -> Plan:
    own = {"sites": 3, "selector": "resnet8", **tables.get("fedsm", {})}
    given: dict[str, Any] = {"nets": {"norm": "group"}, **tables, "fedsm": own}
    return small.plan("fedsm", **given)


def learner(site: str = "site-001", **tables: Mapping[str, Any]) -> FedSM:
    made = small.learner(plan(**tables), site=site)
    assert isinstance(made, FedSM)
    return made


def trained(site: FedSM, merged: Mapping[str, Array], round_: int, merge: LastMerge = NO_MERGE) -> dict[str, Array]:
    site.receive(merged, round_, merge)
    loop.train(site, small.sets(site.plan), round_)
    return site.give()


# --- 5.10: SoftPull ---------------------------------------------------------------------------------------------------
def pulled(persons: list[float], strength: float, *, own: bool = True, latest: bool = True) -> float:
    """The first of these personal nets after the pull; unless `own`, the mean is that of the others alone."""
    mine, mean = nn.Linear(1, 1), nn.Linear(1, 1)
    merged = persons if own else persons[1:]
    for net, value in ((mine, persons[0]), (mean, float(np.mean(merged)))):
        for parameter in net.double().parameters():
            nn.init.constant_(parameter, value)
    fedsm.soft_pull(mine, mean, strength, LastMerge(len(merged), own, latest))
    return float(mine.bias.detach())


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.7, 1.0])
def test_a_personal_net_is_pulled_towards_the_mean_of_the_others(strength: float, own: bool) -> None:
    persons = [2.0, -1.0, 4.0, 7.0]
    expected = strength * persons[0] + (1 - strength) / 3 * sum(persons[1:])
    assert pulled(persons, strength, own=own) == pytest.approx(expected, abs=1e-12)


def test_lambda_1_mixes_nothing_and_1_of_k_is_the_plain_average() -> None:
    persons = [2.0, -1.0, 4.0, 7.0]
    assert pulled(persons, 1.0) == 2
    assert pulled(persons, 1 / 4) == pytest.approx(np.mean(persons))


def test_the_weights_of_the_pull_sum_to_1() -> None:
    assert pulled([3.0] * 5, 0.7) == pytest.approx(3)


def test_a_site_alone_keeps_its_personal_net() -> None:
    assert pulled([2.0], 0.3) == 2


def test_what_a_site_learned_in_a_cancelled_round_is_not_taken_out_of_a_mean_before_it() -> None:
    assert pulled([2.0, 4.0, 6.0], 0.5, latest=False) == pytest.approx(0.5 * 2 + 0.5 * 4)


def test_a_site_that_comes_later_begins_with_the_mean_of_the_others() -> None:
    late, merged = learner(), METHODS["fedsm"].start(plan())
    merged |= {name: array + 1 for name, array in merged.items() if name.startswith(schemas.PERSON)}
    late = FedSM(LearnerContext(plan(), late.site))
    late.receive(merged, 3, LastMerge(2, own=False))
    assert all(np.array_equal(array, merged[schemas.PERSON + name]) for name, array in arrays_of(late.person).items())


# --- 5.10: the super model --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("gamma", "by"), [(1.0, "net"), (0.0, "person")])
def test_gamma_1_is_always_the_common_net_and_0_always_the_personal_one(gamma: float, by: str) -> None:
    site = learner(fedsm={"gamma": gamma})
    nn.init.ones_(site.person.head.bias)
    x = small.batch(8).images
    assert torch.equal(site.model(x), getattr(site, by)(x))
    assert not torch.equal(site.net(x), site.person(x))


def test_the_personal_net_answers_where_the_selector_is_sure_of_its_site() -> None:
    site = learner("site-002")
    nn.init.ones_(site.person.head.bias)
    x = small.batch(12).images
    sure = fedsm.select(site.selector, x).softmax(1)[:, 1].detach()
    site.super_model.gamma = float(sure.median())
    answers, own, common = site.model(x), site.person(x), site.net(x)
    for index, probability in enumerate(sure):
        assert torch.equal(answers[index], (own if probability > sure.median() else common)[index])


def test_of_a_block_the_mean_over_its_slices_selects() -> None:
    selector = nets.create("resnet8", schemas.selector_form(plan())).eval()
    block = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    by_slice = torch.stack([selector(block[:, :, index]) for index in range(4)]).mean(0)
    assert torch.allclose(fedsm.select(selector, block), by_slice, atol=1e-6)


# --- 5.10: the selector -----------------------------------------------------------------------------------------------
def images(site: FedSM) -> torch.Tensor:
    pixels = np.array(small.sets(site.plan)["private"].pixels)
    return nets.input_tensor(pixels, site.plan.image)


def test_an_epoch_is_one_step_of_adam_on_all_images_and_its_moments_go_on_in_the_next_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With group norm the batches of an epoch add up to all images, exactly; torch's own Adam takes the same steps."""
    monkeypatch.setattr(loop, "_is_augmented", lambda phase, name: False)
    site = learner("site-003", training={"epochs": 2, "batch": 4})
    selector = nets.create("resnet8", schemas.selector_form(site.plan))
    selector.load_state_dict(site.selector.state_dict())
    adam, x = torch.optim.Adam(selector.parameters(), site.settings.selector_lr), images(site)
    merged = METHODS["fedsm"].start(site.plan)
    for round_ in (1, 2):
        merged = trained(site, merged, round_, LastMerge(round_ - 1, round_ > 1))
        for _ in range(2):
            adam.zero_grad()
            F.cross_entropy(selector(x), torch.full((len(x),), 2)).backward()
            adam.step()
    for own, expected in zip(site.selector.parameters(), selector.parameters(), strict=True):
        assert torch.allclose(own, expected, atol=2e-5)
    for index, moment in enumerate(site.first.parameters()):
        assert torch.allclose(moment, [*adam.state.values()][index]["exp_avg"], atol=1e-5)


def test_the_selector_learns_whose_images_these_are_from_both_sites() -> None:
    tables: Any = {"training": {"epochs": 1}, "fedsm": {"sites": 2, "selector_lr": 0.01}}
    sites = [learner(f"site-{number:03}", **tables) for number in (1, 2)]  # of 10 images each
    sets = [{"private": small.images(10, 4, seed=7)}, {"private": small.images(10, 4, seed=8)}]
    for each, shift in zip(sets, (0, 128), strict=True):  # a dark site and a bright one
        pixels = np.array(each["private"].pixels) // 2 + shift
        each["private"] = small.Images(pixels.astype(np.uint8), each["private"].labels, each["private"].names)
    merged = METHODS["fedsm"].start(sites[0].plan)
    for round_ in range(1, 16):
        updates = {}
        for site, drawn in zip(sites, sets, strict=True):
            site.receive(merged, round_, LastMerge(2 if round_ > 1 else 0, round_ > 1))
            loop.train(site, drawn, round_)
            updates[site.site.id] = site.give()
        merged = registry.merge(sites[0].plan, round_, merged, updates, dict.fromkeys(updates, 10))
    sites[0].receive(merged, 16, LastMerge(2, True))
    selector = sites[0].selector.eval()
    for number, drawn in enumerate(sets):
        x = nets.input_tensor(np.array(drawn["private"].pixels), sites[0].plan.image)
        assert (selector(x).argmax(1) == number).float().mean() > 0.8


def test_second_moments_below_0_that_somebody_sent_do_no_harm() -> None:
    site, merged = learner(), METHODS["fedsm"].start(plan())
    merged |= {name: array - 1 for name, array in merged.items() if name.startswith(schemas.MOMENTS[1])}
    assert all(np.isfinite(array).all() for array in trained(site, merged, 1).values())


# --- what travels -----------------------------------------------------------------------------------------------------
def test_the_common_net_is_averaged_by_examples_and_all_else_evenly() -> None:
    agreed = plan()
    schema = schemas.personal_nets(agreed)
    draw = np.random.default_rng(0)
    updates = {
        f"site-00{number}": {t.name: draw.random(t.shape).astype(np.float32) for t in schema.tensors}
        for number in (1, 2)
    }
    base = METHODS["fedsm"].start(agreed)
    merged = registry.merge(agreed, 1, base, updates, {"site-001": 10, "site-002": 30})
    weights = registry.merge_settings(agreed)
    assert (weights.weight, weights.cap) == ("examples", 0.5)  # no site has more than half: here both the same
    merged = registry.merge(
        plans.read(agreed.text, METHODS, {"merge.cap": "1.0"}), 1, base, updates, {"site-001": 10, "site-002": 30}
    )
    for tensor in schema.tensors:
        one, other = (updates[site][tensor.name] for site in sorted(updates))
        part = 0.5 if tensor.name.startswith((schemas.PERSON, schemas.SELECTOR, *schemas.MOMENTS)) else 0.25
        assert np.allclose(merged[tensor.name], part * one + (1 - part) * other, atol=1e-6), tensor.name
    assert base.keys() == {tensor.name for tensor in schema.tensors}
    assert not [name for name in base if name.startswith(schemas.MOMENTS) and base[name].any()]


def test_an_update_holds_the_personal_net_and_never_the_mean_that_came() -> None:
    site = learner()
    given = trained(site, METHODS["fedsm"].start(site.plan), 1)
    assert [*given] == [tensor.name for tensor in schemas.personal_nets(site.plan).tensors]
    for name, array in arrays_of(site.person).items():
        assert np.array_equal(given[schemas.PERSON + name], array)
    assert site.own_nets() == set()


def test_a_round_that_was_cut_within_an_epoch_of_the_selector_ends_with_the_same_bits(tmp_path: Path) -> None:
    tables: Any = {"training": {"epochs": 1, "batch": 4}}
    whole, cut, resumed = (learner(**tables) for _ in range(3))
    loop.train(whole, small.sets(whole.plan), 1)

    def stop(done: int, total: int, rate: float) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(cut, small.sets(cut.plan), 1, checkpoints=tmp_path, every=0.0, progress=stop)
    loop.train(resumed, small.sets(resumed.plan), 1, checkpoints=tmp_path)
    assert small.same(whole.give(), resumed.give())


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("wire", "up", "f16"), ("wire", "down", "int8"), ("wire", "norm", "local")],
)
def test_plans_that_would_spoil_its_numbers_are_refused(table: str, key: str, value: str) -> None:
    with pytest.raises(BadPlanError, match=rf"\[{table}\] {key}"):
        plan(**{table: {key: value}})


def test_a_site_beyond_those_that_the_selector_tells_apart_is_refused() -> None:
    with pytest.raises(UsageError, match="tells 3 sites apart, and this is site-004") as caught:
        learner("site-004")
    assert "[fedsm] sites" in caught.value.remedy
