"""FedMedCLIP: its losses against formulas, what travels and what stays, and the faults of the authors' program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedhelp_edge import encoder
from fedhelp_edge import plan as plans
from fedhelp_edge.codec import CODECS
from fedhelp_edge.data.features import EncoderFacts
from fedhelp_edge.data.images import Images
from fedhelp_edge.encoder.onnx_file import TEXT
from fedhelp_edge.errors import BadPlanError, UsageError
from fedhelp_edge.lab import run
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods import registry, schemas
from fedhelp_edge.methods.base import Batch, Compute, LearnerContext, Phase, SiteFacts
from fedhelp_edge.methods.fedmedclip import FedMedCLIP, contrast, ranking
from fedhelp_edge.nets.adapter import certainty
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.train import loop
from fedhelp_edge.train.visit import judge
from tests import encoders
from tests.unit.methods import small

TRAIN, PROTOTYPES = Phase("train"), Phase("prototypes", train=False)


def numbers(*shape: int, seed: int = 1, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows)


def text(classes: int = 4, width: int = small.WIDTH, scale: float = 30.0) -> EncoderFacts:
    """The facts of an encoder that has text features, of any length."""
    rows = np.random.Generator(np.random.Philox(4)).standard_normal((classes, width)).astype(np.float32)
    return EncoderFacts(width, rows, scale)


def learner(facts: EncoderFacts | None = None, site: str = "site-001", **settings: Any) -> FedMedCLIP:
    plan = small.plan("fedmedclip", fedmedclip=settings)
    site_facts = SiteFacts(site, "small", (1, 2, 3, 4))
    made = FedMedCLIP(LearnerContext(plan, site_facts, encoder=facts or small.encoder(plan)))
    made.receive(registry.METHODS["fedmedclip"].start(plan), 1)
    return made


def test_a_site_with_one_image_has_none_to_compare_it_with() -> None:
    plan = small.plan("fedmedclip")
    with pytest.raises(UsageError, match="site-001 has 1 to train on"):
        FedMedCLIP(LearnerContext(plan, SiteFacts("site-001", "small", (1, 0, 0, 0)), encoder=small.encoder(plan)))


def batch(seed: int = 3, count: int = 6) -> Batch:
    return small.batch(count, width=small.WIDTH, seed=seed)


def trained(made: FedMedCLIP, round_: int = 1, count: int = 10) -> FedMedCLIP:
    loop.train(made, small.sets(made.plan, count=count), round_)
    return made


# --- the contrastive loss --------------------------------------------------------------------------------------------
def test_images_and_their_classes_find_each_other_among_the_batch_in_both_directions() -> None:
    adapted, vectors = unit(numbers(5, 6)), unit(numbers(5, 6, seed=2))
    scores = [[7 * float(image @ vector) for vector in vectors] for image in adapted]
    total = 0.0
    for index, row in enumerate(scores):
        column = [other[index] for other in scores]
        total += sum(np.log(np.exp(each).sum()) - row[index] for each in (row, column))
    assert float(contrast(adapted, vectors, 7)) == pytest.approx(total / 10)


def test_images_of_one_class_are_negatives_of_each_other() -> None:
    image = unit(numbers(1, 6)).expand(4, 6)
    assert float(contrast(image, image, 100)) == pytest.approx(np.log(4))


def test_the_gradients_of_both_losses_are_right() -> None:
    adapted, vectors = numbers(4, 5).requires_grad_(), unit(numbers(4, 5, seed=2))
    assert torch.autograd.gradcheck(lambda x: contrast(x, vectors, 3), adapted)
    scores = numbers(4, 3, seed=5).requires_grad_(), numbers(4, 3, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: ranking(x, y, 0.3), scores)


# --- what adapter and classifier learn from each other ---------------------------------------------------------------
def test_a_ranking_is_a_distribution_over_the_images_for_each_class() -> None:
    cosines, logits, omega = numbers(5, 3), numbers(5, 3, seed=2, scale=4), 0.3
    total = 0.0
    for c in range(3):
        p, q = (np.exp(scores[:, c].numpy() / 2) for scores in (cosines, logits))
        p, q = p / p.sum(), q / q.sum()
        total += omega * (q * np.log(q / p)).sum() + (1 - omega) * (p * np.log(p / q)).sum()
    assert float(ranking(cosines, logits, omega)) == pytest.approx(total / 3)


def test_rankings_that_differ_by_a_number_for_each_class_are_equal() -> None:
    cosines, shift = numbers(5, 3), torch.tensor([3.0, -1, 40])
    assert float(ranking(cosines, cosines + shift, 0.7)) == pytest.approx(0, abs=1e-12)
    assert float(ranking(cosines, cosines + torch.arange(5.0)[:, None], 0.7)) > 0.1  # of each image: another ranking


def test_both_directions_weigh_alike_at_omega_one_half_and_classes_have_no_order() -> None:
    cosines, logits, order = numbers(5, 3), numbers(5, 3, seed=2, scale=4), [2, 0, 1]
    assert float(ranking(cosines, logits, 0.5)) == pytest.approx(float(ranking(logits, cosines, 0.5)))
    assert float(ranking(cosines, logits, 0.9)) == pytest.approx(float(ranking(logits, cosines, 0.1)))
    assert float(ranking(cosines, logits, 0.9)) != pytest.approx(float(ranking(logits, cosines, 0.9)))
    moved = ranking(cosines[:, order], logits[:, order], 0.9)
    assert float(moved) == pytest.approx(float(ranking(cosines, logits, 0.9)))


def test_a_certain_classifier_is_the_teacher() -> None:
    """With omega 1 it is KL(classifier || adapter): dear where the adapter denies an image, cheap where it adds one."""
    some, all_ = torch.tensor([[20.0], [20], [-20]]), torch.zeros(3, 1)
    assert float(ranking(all_, some, 1.0)) == pytest.approx(np.log(1.5), abs=1e-6)
    assert float(ranking(some, all_, 1.0)) > 5


# --- a step ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("facts", [None, text()])
@pytest.mark.parametrize("omega", ["adaptive", "half"])
def test_a_step_goes_down_the_three_losses_of_the_paper(facts: EncoderFacts | None, omega: str) -> None:
    made, private = learner(facts, omega=omega), batch()
    if facts is None:
        made.step(PROTOTYPES, {"private": private})
    parts = made.losses(private)
    scale, vectors = (30, unit(torch.tensor(facts.text))) if facts else (100, made.vectors())
    adapted = made.net.features(private.images)
    cosines = adapted @ vectors.T
    logits = made.mixture.classifier(adapted)
    weight = certainty(scale * cosines, logits).mean() if omega == "adaptive" else 0.5
    expected = {
        "loss": torch.nn.functional.cross_entropy(logits, private.labels),
        "contrast": contrast(adapted, vectors[private.labels], scale),
        "similar": 0.04 * ranking(cosines, logits, weight),
    }
    wanted = {name: part.item() for name, part in expected.items()}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(wanted, rel=1e-4)


def test_the_classifiers_loss_trains_the_adapter_too() -> None:
    made = learner(text())
    made.losses(batch())["loss"].backward()
    for module in made.trained().values():
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_no_gradient_flows_through_how_certain_the_two_are() -> None:
    made, private = learner(text()), batch()
    part = made.losses(private)["similar"]
    adapted = made.net.features(private.images)
    cosines, logits = made.net.cosines(adapted), made.mixture.classifier(adapted)
    fixed = 0.04 * ranking(cosines, logits, certainty(30 * cosines, logits).mean().item())
    gradient, expected = (torch.autograd.grad(each, made.net.adapter.second.weight)[0] for each in (part, fixed))
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("mask_grad", "learn"), [("inside", True), ("released", False)])
def test_thresholds_learn_and_in_the_program_never_did(mask_grad: str, learn: bool) -> None:
    made = trained(learner(mask_grad=mask_grad))
    for module in (made.net.adapter, made.mixture.classifier):
        thresholds = [parameter for name, parameter in module.named_parameters() if name.endswith("threshold")]
        assert all(threshold.any() == learn for threshold in thresholds)


def test_training_turns_off_rows_of_the_adapter() -> None:
    made = trained(learner(lr=0.05), count=20)
    masks = torch.cat([layer.mask() for layer in (made.net.adapter.first, made.net.adapter.second)])
    assert 0 < masks.sum() < len(masks)


def test_optimisers_have_the_papers_settings_and_fall_by_rounds() -> None:
    made = learner()
    assert {type(optimiser).__name__ for optimiser in made.optimisers.values()} == {"AdamW"}
    made.begin(3)
    groups = {name: optimiser.param_groups[0] for name, optimiser in made.optimisers.items()}
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates == pytest.approx({"adapter": 5e-5 * 0.97**2, "classifier": 1e-3 * 0.97**2})
    assert {group["weight_decay"] for group in groups.values()} == {0.02}


# --- class vectors ---------------------------------------------------------------------------------------------------
def test_text_features_stay_as_they_are_and_cost_no_phase() -> None:
    facts = text()
    made = learner(facts)
    before = made.vectors().clone()
    assert torch.allclose(before, unit(torch.tensor(facts.text)))
    trained(made)
    assert torch.equal(made.vectors(), before)
    assert not before.requires_grad
    assert [phase.name for phase in made.phases(1, False)] == ["train"]
    assert not made.vectors.own.images.any()


def test_own_prototypes_are_the_mean_directions_of_all_training_images_of_a_class() -> None:
    made = learner()
    assert made.vectors().tolist() == [[0.0] * small.WIDTH] * 4  # nobody was seen yet
    images = small.sets(made.plan, count=10)["private"]
    for round_ in (1, 2):  # each round's pass begins anew
        trained(made, round_)
        first_view = unit(torch.from_numpy(images.pixels[:, 0].astype(np.float64)))
        means = torch.stack([first_view[images.labels == label].mean(0) for label in range(4)])
        assert torch.allclose(made.vectors().double(), unit(means), atol=1e-6)
        assert made.vectors.own.images.tolist() == [3, 3, 2, 2]


def test_text_is_left_aside_where_the_plan_says_so() -> None:
    assert learner(text(), class_vectors="own").vectors.text is None
    assert learner(text(), class_vectors="own").net.scale == 100
    assert learner(text()).net.scale == 30


def test_a_class_that_nobody_has_seen_is_not_predicted() -> None:
    made = learner()
    images = small.images(12, classes=3, width=small.WIDTH)
    loop.train(made, {"private": images}, 1)
    assert not made.vectors()[3].any()
    assert loop.probabilities(made, made.net, images.pixels)[:, 3].max() < 1e-3


def test_shared_prototypes_are_the_mean_of_the_sites_and_a_rare_class_is_not_sent() -> None:
    sites = {f"site-00{number}": learner(site=f"site-00{number}", class_vectors="shared", least_images=3)
             for number in (1, 2)}  # fmt: skip
    for number, (site, made) in enumerate(sites.items()):
        sites[site] = made
        loop.train(made, {"private": small.images(10, 4 - number, seed=number, width=small.WIDTH)}, 1)
    updates = {site: made.give() for site, made in sites.items()}
    first, second = (update["prototypes.rows"] for update in updates.values())
    assert [row.any() for row in first] == [True, True, False, False]  # 3, 3, 2 and 2 images
    assert [row.any() for row in second] == [True, True, True, False]
    plan = sites["site-001"].plan
    merged = registry.merge(plan, 1, schemas.drawn_adapter(plan), updates, {"site-001": 10, "site-002": 10})
    made = sites["site-001"]
    own = made.vectors()
    made.receive(merged, 2)
    vectors = made.vectors()
    assert torch.allclose(vectors[0], unit(torch.tensor(first + second))[0], atol=1e-6)
    assert torch.allclose(vectors[2], unit(torch.tensor(second[2:3]))[0], atol=1e-6)
    assert torch.equal(vectors[3], own[3])  # nobody has enough images: the site's own


# --- what travels ----------------------------------------------------------------------------------------------------
def wide(**settings: Any) -> Any:
    return small.plan("fedmedclip", nets={"encoder_width": 512}, fedmedclip=settings)


@pytest.mark.parametrize(("class_vectors", "more"), [("auto", 0), ("own", 0), ("shared", 4 * 512)])
def test_an_update_of_512_features_is_the_adapter_with_its_thresholds(class_vectors: str, more: int) -> None:
    schema = schemas.adapter(wide(class_vectors=class_vectors))
    assert sum(tensor.size for tensor in schema.tensors) == 4 * (526_336 + more)
    names = [f"{layer}.{part}" for layer in ("first", "second") for part in ("weight", "bias", "threshold")]
    assert [tensor.name for tensor in schema.tensors] == names + ["prototypes.rows"] * bool(more)


def test_nothing_but_the_adapter_leaves_the_site() -> None:
    made = trained(learner())
    update, state = made.give(), made.state()
    assert update.keys() == arrays_of(made.net.adapter).keys()
    private = {name for name in state if name.startswith(("classifier/", "vectors/"))}
    sent = {array.tobytes() for array in update.values()}
    assert private
    assert not any(state[name].tobytes() in sent for name in private if state[name].any())


def test_first_weights_change_features_little_and_mask_no_row() -> None:
    plan = wide()
    for step in ("paper", "code"):
        made = FedMedCLIP(LearnerContext(wide(mask_step=step), SiteFacts("site-001", "small", (5,) * 4),
                                         encoder=small.encoder(plan)))  # fmt: skip
        made.receive(schemas.drawn_adapter(plan), 1)
        layers = [made.net.adapter.first, made.net.adapter.second, *made.mixture.classifier.layers]
        assert all(layer.mask().all() for layer in layers)
    assert made.net.adapter.first.weight.abs().mean().item() == pytest.approx(0.0204, abs=2e-4)
    features = numbers(20, 512).float()
    assert (made.net.features(features) * unit(features)).sum(1).mean().item() > 0.9


def test_half_precision_halves_the_bytes_and_rounds_once() -> None:
    plan, f16 = wide(), CODECS["f16"]
    schema, update = schemas.adapter(plan), schemas.drawn_adapter(plan)
    assert f16.wire_schema(schema).size < 0.51 * schema.size
    sent, _ = f16.encode(update, {}, {})
    arrived = dict(f16.decode(sent, {}))
    for name, array in update.items():
        normal = np.abs(array) > 2**-14
        assert np.all(np.abs(arrived[name] - array)[normal] <= 2**-11 * np.abs(array)[normal])
    again, _ = f16.encode(arrived, {}, {})
    assert small.same(again, sent)


def test_thresholds_are_averaged_and_each_site_weighs_alike() -> None:
    plan = small.plan("fedmedclip", merge={"weight": "method", "clip": "none", "cap": 1.0}, round={"quorum": 2})
    base = schemas.drawn_adapter(plan)
    updates = {f"site-00{number}": {name: array + number for name, array in base.items()} for number in (1, 4)}
    merged = registry.merge(plan, 1, base, updates, {"site-001": 1000, "site-004": 3})
    for name, array in base.items():
        assert np.allclose(merged[name], array + 2.5, atol=1e-6)
    same = registry.merge(plan, 1, base, dict.fromkeys(updates, base), {"site-001": 1000, "site-004": 3})
    assert small.same(same, base)


# --- what a site diagnoses with --------------------------------------------------------------------------------------
def test_a_site_diagnoses_with_the_mixture_of_the_adapter_and_a_classifier_of_its_own() -> None:
    made, other = learner(text()), learner(text(), site="site-002")
    assert made.model is made.mixture
    assert made.mixture.similarity is made.net
    first, second = (arrays_of(each.mixture.classifier) for each in (made, other))
    assert {name for name in small.differing(first, second) if name.endswith("weight") and "norm" not in name} == {
        "layers.0.weight", "layers.1.weight", "layers.2.weight", "last.weight",
    }  # fmt: skip
    assert small.same(arrays_of(made.net.adapter), arrays_of(other.net.adapter))


@pytest.mark.parametrize("count", [1, 31, 33, 257])  # no multiple of any batch
def test_every_image_is_judged(count: int) -> None:
    made = trained(learner())
    drawn = small.images(count, width=small.WIDTH)
    for net in (made.net, made.model):
        probabilities = loop.probabilities(made, net, drawn.pixels)
        assert probabilities.shape == (count, 4)
        assert np.allclose(probabilities.sum(1), 1)
    assert len(judge(made, made.model, drawn)[0]) == count  # type: ignore[arg-type]


def test_every_image_is_trained_on_also_the_last_few(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = learner(), list[tuple[str, int]]()
    step = made.step

    def watched(phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        seen.extend((phase.name, index) for index in batches["private"].index.tolist())
        return step(phase, batches)

    monkeypatch.setattr(made, "step", watched)
    trained(made, count=11)
    for name, epochs in (("prototypes", 1), ("train", made.plan.training.epochs)):
        assert sorted(index for phase, index in seen if phase == name) == sorted([*range(11)] * epochs)


def test_a_plan_without_an_encoder_is_refused() -> None:
    with pytest.raises(BadPlanError, match="fedmedclip works on the features of an encoder"):
        plans.read('classes = ["a", "b"]\nmethod = "fedmedclip"', registry.METHODS)


# --- a whole run -----------------------------------------------------------------------------------------------------
def test_a_run_from_pixels_leaves_the_encoder_and_its_text_as_they_are(tmp_path: Path) -> None:
    """An ONNX file with text features, which names the classes in another order."""
    rows = np.random.Generator(np.random.Philox(4)).standard_normal((4, encoders.WIDTH)).astype(np.float32)
    names = ["class 2", "class 0", "class 1", "another"]
    metadata = {"classes": names, "features": rows.tolist(), "logit_scale": 50.0}
    path = encoders.save(tmp_path / "tiny.onnx", encoders.model(metadata={TEXT: json.dumps(metadata)}))
    before, keys = path.read_bytes(), {"encoder_sha256": encoders.digest(path), "encoder_width": encoders.WIDTH}
    plan = small.plan("fedmedclip", classes=3, rounds=2, nets=keys, training={"batch": 4, "precision": "fp32"})
    file = encoder.find(plan, path)
    assert file
    facts = file.facts(plan)
    sites = []
    for number in (1, 2):
        drawn, blank = small.images(14, 3, seed=number), ("",) * 14
        splits = ("train",) * 8 + ("val",) * 3 + ("test",) * 3
        images = Images(drawn.pixels, drawn.labels, splits, blank, blank, blank)
        embedded = encoder.embed_images(images, plan, file, tmp_path / "cache")
        sites.append(SiteImages(f"site-{number:03}", f"Site {number}", "small", embedded))
    record = run.run(plan, sites, tmp_path / "run", compute=Compute(), encoder=facts)
    assert record["bytes_up"] == 2 * 2 * schemas.adapter(plan).size
    assert path.read_bytes() == before
    made = FedMedCLIP(LearnerContext(plan, SiteFacts("site-001", "small", (3, 3, 2)), encoder=facts))
    assert torch.allclose(made.vectors(), unit(torch.tensor(rows[[1, 2, 0]])))
    assert made.net.scale == 50
    assert not any(parameter.requires_grad for parameter in made.vectors.parameters())
    assert "text" not in "".join(made.state())  # it is the encoder's: no state repeats it
