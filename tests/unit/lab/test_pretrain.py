"""First weights trained on the public images: the same bits each time, a trained extractor, and an untrained head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedhelp_edge.data.pack import Pack
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import pretrain
from fedhelp_edge.update import Array

PlanOf = Callable[..., Plan]


@pytest.fixture(scope="module")
def drawn(plan_of: PlanOf) -> dict[str, Array]:
    return METHODS["fedhelp"].start(plan_of("fedhelp"))


@pytest.fixture(scope="module")
def learned(plan_of: PlanOf, pack: Pack) -> dict[str, Array]:
    return pretrain.initial_weights(plan_of("fedhelp"), pack, Compute(), epochs=2)


def test_the_same_plan_and_pack_give_the_same_bits(plan_of: PlanOf, pack: Pack, learned: dict[str, Array]) -> None:
    again = pretrain.initial_weights(plan_of("fedhelp"), pack, Compute(), epochs=2)
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in learned.items()
    }


def test_another_seed_gives_other_weights(plan_of: PlanOf, pack: Pack, learned: dict[str, Array]) -> None:
    other = pretrain.initial_weights(plan_of("fedhelp", seed=4), pack, Compute(), epochs=2)
    assert other["conv1.weight"].tobytes() != learned["conv1.weight"].tobytes()


def test_pretrained_first_weights_match_the_random_ones(learned: dict[str, Array], drawn: dict[str, Array]) -> None:
    shapes = [[(name, array.shape) for name, array in weights.items()] for weights in (learned, drawn)]
    assert shapes[0] == shapes[1]
    assert all(np.isfinite(array).all() for array in learned.values())


def test_norm_layers_that_do_not_travel_later_are_in_the_first_weights(
    plan_of: PlanOf, pack: Pack, learned: dict[str, Array]
) -> None:
    local = pretrain.initial_weights(plan_of("fedhelp", settings={"wire.norm": "local"}), pack, Compute(), epochs=2)
    assert {name: array.tobytes() for name, array in local.items()} == {
        name: array.tobytes() for name, array in learned.items()
    }


def test_the_head_stays_as_drawn_and_the_extractor_is_trained(
    drawn: dict[str, Array], learned: dict[str, Array]
) -> None:
    same = {name for name in drawn if drawn[name].tobytes() == learned[name].tobytes()}
    assert same == {"linear.weight", "linear.bias"}


def test_running_statistics_are_those_of_the_public_images(drawn: dict[str, Array], learned: dict[str, Array]) -> None:
    for name in drawn:
        if name.endswith("running_mean"):
            assert not drawn[name].any()
            assert np.abs(learned[name]).max() > 1e-3
        if name.endswith("running_var"):
            assert (learned[name] > 0).all()
            assert np.abs(learned[name] - 1).max() > 1e-3


def test_pretraining_works_with_any_weight_of_knowledge_in_the_plan(plan_of: PlanOf, pack: Pack) -> None:
    without = plan_of("fedhelp", settings={"fedhelp.lambda_j": "0"})
    weights = pretrain.initial_weights(without, pack, Compute(), epochs=1)
    assert weights["conv1.weight"].tobytes() != METHODS["fedhelp"].start(without)["conv1.weight"].tobytes()


def test_the_answers_of_the_sources_count(plan_of: PlanOf, pack: Pack, learned: dict[str, Array]) -> None:
    deaf = pretrain.initial_weights(plan_of("fedhelp", settings={"fedhelp.sources": "none"}), pack, Compute(), epochs=2)
    assert deaf["conv1.weight"].tobytes() != learned["conv1.weight"].tobytes()


def test_public_images_may_be_shown_as_they_are(plan_of: PlanOf, pack: Pack, learned: dict[str, Array]) -> None:
    as_they_are = plan_of("fedhelp", settings={"fedhelp.public_augment": "false"})
    weights = pretrain.initial_weights(as_they_are, pack, Compute(), epochs=2)
    assert weights["conv1.weight"].tobytes() != learned["conv1.weight"].tobytes()


def test_progress_counts_every_step(plan_of: PlanOf, pack: Pack) -> None:
    steps: list[tuple[int, int]] = []
    pretrain.initial_weights(
        plan_of("fedhelp"), pack, Compute(), epochs=3, progress=lambda done, total, _: steps.append((done, total))
    )
    assert steps == [(step, 6) for step in range(1, 7)]  # twelve images in batches of eight at most, three times
