"""A whole federation on one machine: the same bits each time, interrupted or not, and correct figures."""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.codec import CODECS
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.demo import phantoms
from fedhelp_edge.errors import BusyError, NonFiniteError, SchemaShapeError, TargetExistsError, UsageError
from fedhelp_edge.lab import partition, run, transport, visits
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.merge import early_stopping, rules
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.net import load_arrays
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics
from fedhelp_edge.train import learners, loop
from tests.codecs import Steps
from tests.unit.methods import toy

Go = Callable[..., dict[str, Any]]
PlanOf = Callable[..., Plan]
EVERYBODY = [
    "local",
    "fedavg",
    "fedprox",
    "fedhelp",
    "perfedavg",
    "pfedme",
    "fedmic",
    "pfedbayes",
    "fedadam",
    "scaffold",
]


class Cut(Exception):
    """A simulated power cut."""


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    costs = ("seconds", "peak_memory", "curve")
    curve = [{name: value for name, value in point.items() if name != "seconds"} for point in record["curve"]]
    origin = {name: value for name, value in record["provenance"].items() if name != "machine"}
    return {
        **{name: value for name, value in record.items() if name not in costs},
        "curve": curve,
        "provenance": origin,
    }


def answers(out: Path) -> dict[str, bytes]:
    with np.load(out / "answers.npz") as archive:
        return {name: archive[name].tobytes() for name in archive}


@pytest.mark.parametrize("method", EVERYBODY)
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path, method: str
) -> None:
    def cut(text: str) -> None:
        raise Cut(text)

    plan = plan_of(method)
    left = tmp_path / "cut" / ".round-000001" / "left.part"  # of an earlier interruption
    left.parent.mkdir(parents=True)
    left.touch()
    with pytest.raises(Cut, match="round 1 of 2"):
        go(plan, tmp_path / "cut", progress=cut)
    names = [path.name for path in sorted((tmp_path / "cut").iterdir())]
    assert names == [".lock", "round-000001", "run.sha256", "sites.json"]
    assert not (tmp_path / "cut" / "round-000001" / "left.part").exists()
    (tmp_path / "cut" / "answers.npz").touch()  # as after an interruption just before the end
    messages: list[str] = []
    resumed = go(plan, tmp_path / "cut", progress=messages.append)
    assert [text.split(",")[0] for text in messages] == ["round 2 of 2"]  # and not round 1 again
    names = [path.name for path in sorted((tmp_path / "cut").iterdir())]
    assert names == [".lock", "answers.npz", "run.json", "run.sha256", "sites.json"]
    undisturbed = run_once(plan, tmp_path / "whole")
    assert timeless(resumed) == timeless(undisturbed)
    assert answers(tmp_path / "cut") == answers(tmp_path / "whole")
    assert timeless(json.loads((tmp_path / "cut" / "run.json").read_text())) == timeless(undisturbed)


def test_a_run_that_was_interrupted_twice_ends_as_an_undisturbed_one(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path
) -> None:
    def cut(text: str) -> None:
        raise Cut

    plan = plan_of("fedhelp")
    for round_ in (1, 2):
        with pytest.raises(Cut):
            go(plan, tmp_path / "cut", progress=cut)
        assert max(path.name for path in (tmp_path / "cut").glob("round-*")) == f"round-00000{round_}"
    assert timeless(go(plan, tmp_path / "cut")) == timeless(run_once(plan, tmp_path / "whole"))


def test_a_saved_round_has_the_figures_of_all_sites_once(go: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    def cut(text: str) -> None:
        raise Cut

    with pytest.raises(Cut):
        go(plan_of(), tmp_path, progress=cut)
    files = [path.read_bytes() for path in (tmp_path / "round-000001").rglob("*") if path.is_file()]
    assert len(files) == 3 + 1 + 1  # states, facts and the merged model: no update is kept
    assert sum(b'"reports"' in file for file in files) == 1


def test_a_process_holds_eight_learners_however_many_sites_there_are(
    plan_of: PlanOf, images_of: Callable[..., Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, alive = learners.create, weakref.WeakSet[Learner]()
    counts = []
    gc.freeze()  # so that collecting looks at new objects only

    def counted(*arguments: Any, **options: Any) -> Learner:
        gc.collect()
        learner = create(*arguments, **options)
        alive.add(learner)
        counts.append(len(alive))
        return learner

    monkeypatch.setattr(learners, "create", counted)
    parts = partition.distribute(images_of({str(number): 10 for number in range(11)}), "natural:centers", 0)
    run.run(plan_of("local", rounds=1), parts, tmp_path, compute=Compute())
    del parts
    assert max(counts) == 9  # the ninth while it is made
    gc.collect()
    gc.unfreeze()
    assert not alive


@pytest.mark.parametrize("method", EVERYBODY)
def test_a_learner_remembers_nothing_that_is_not_in_its_state(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A run whose learners are new at each visit ends as one that uses them again."""
    plan = plan_of(method)
    kept = run_once(plan, tmp_path / "kept")
    make = visits._learner
    monkeypatch.setattr(visits, "_learner", lambda run, *rest: visits.forget(run) or make(run, *rest))
    assert timeless(go(plan, tmp_path / "new")) == timeless(kept)
    assert answers(tmp_path / "new") == answers(tmp_path / "kept")


@pytest.mark.parametrize("trainings", [1, 4, 5])
def test_a_run_that_was_interrupted_within_a_round_ends_as_an_undisturbed_one(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: int
) -> None:
    train, done = loop.train, []

    def some(*arguments: Any, **options: Any) -> loop.EpochReport:
        if len(done) == trainings:
            raise Cut
        done.append(arguments)
        return train(*arguments, **options)

    plan = plan_of("fedhelp")
    with monkeypatch.context() as patched, pytest.raises(Cut):
        patched.setattr(loop, "train", some)
        go(plan, tmp_path / "cut")
    assert timeless(go(plan, tmp_path / "cut")) == timeless(run_once(plan, tmp_path / "whole"))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path
) -> None:
    first, same = (start(plan_of("fedhelp"), tmp_path / name) for start, name in ((run_once, "one"), (go, "same")))
    other = go(plan_of("fedhelp", seed=4), tmp_path / "other")
    assert first["merged_sha256"] == same["merged_sha256"] != other["merged_sha256"]
    assert answers(tmp_path / "one") == answers(tmp_path / "same")
    assert answers(tmp_path / "one") != answers(tmp_path / "other")


def test_a_finished_run_is_not_run_again(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_once(plan_of(rounds=1), tmp_path)
    monkeypatch.setattr(loop, "train", lambda *arguments, **options: pytest.fail("trained again"))
    assert go(plan_of(rounds=1), tmp_path) == first


def test_a_run_writes_its_record_and_its_answers(go: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    record = go(plan_of(rounds=1), tmp_path)
    written = [".lock", "answers.npz", "run.json", "run.sha256", "sites.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    assert json.loads((tmp_path / "run.json").read_text()) == record


def test_a_record_has_the_keys_that_programs_need(
    run_once: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    record = run_once(plan_of(), tmp_path)
    figures = {"accuracy", "balanced_accuracy", "auc"}
    assert record.keys() >= {
        "method", "seed", "rounds", "merged_sha256", "sites", "mean", "merged", "bytes_up", "bytes_down", "seconds",
    }  # fmt: skip
    assert record["mean"].keys() >= figures <= record["merged"].keys()
    assert all(site.keys() >= {"name", "tier", "n_train", "n_test", *figures} for site in record["sites"])
    assert (record["method"], record["seed"], record["rounds"]) == ("fedavg", 3, 2)
    sites = [(site["name"], site["tier"], site["n_train"], site["n_test"]) for site in record["sites"]]
    assert sites == [(part.name, part.tier, len(part.split("train")), len(part.split("test"))) for part in parts]
    assert len(record["merged_sha256"]) == 64


def test_figures_are_those_of_the_saved_predictions(
    run_once: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    record = run_once(plan_of(rounds=1), tmp_path)
    with np.load(tmp_path / "answers.npz") as archive:
        for part, site in zip(parts, record["sites"], strict=True):
            truth = archive[f"{part.id}/test_labels"].astype(np.int64)
            assert truth.tolist() == part.split("test").labels.tolist()
            assert site["accuracy"] == metrics.scores(archive[f"{part.id}/test_own"], truth).accuracy.value
    sites = [site["accuracy"] for site in record["sites"]]
    assert record["mean"]["accuracy"] == pytest.approx(np.mean(sites))


def test_bytes_are_those_of_the_files_that_travel(
    run_once: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    plan = plan_of("fedhelp")
    record = run_once(plan, tmp_path)
    size = METHODS["fedhelp"].up(plan).size
    assert record["bytes_up"] == record["bytes_down"] == len(parts) * 2 * size
    assert size > 4 * 75_000  # a ResNet8


def test_a_sealed_run_of_sites_that_send_nothing_is_the_same_run(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path
) -> None:
    run_once(plan_of("local"), tmp_path / "bare")
    sealed = go(plan_of("local"), tmp_path / "sealed", transport=transport.SealedTransport())
    assert sealed["bytes_up"] == 0
    assert answers(tmp_path / "sealed") == answers(tmp_path / "bare")


@pytest.mark.parametrize("wire", ["f32", "f16"])
def test_a_sealed_run_is_the_same_run_and_sends_more_bytes(go: Go, plan_of: PlanOf, tmp_path: Path, wire: str) -> None:
    plan = plan_of("fedhelp", settings={"wire.up": wire, "wire.norm": "local"})
    bare = go(plan, tmp_path / "bare")
    sealed = go(plan, tmp_path / "sealed", transport=transport.SealedTransport())
    assert sealed["merged_sha256"] == bare["merged_sha256"]
    assert answers(tmp_path / "sealed") == answers(tmp_path / "bare")
    assert 0 < sealed["bytes_up"] - bare["bytes_up"] < 6 * 4096  # the prologues of three parcels in each of two rounds


def test_a_sealed_run_does_not_reuse_the_bytes_of_an_unsealed_one(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path
) -> None:
    run_once(plan_of(rounds=1), tmp_path)
    with pytest.raises(TargetExistsError, match="sealed"):
        go(plan_of(rounds=1), tmp_path, transport=transport.SealedTransport())


def test_public_images_alone_train_as_a_pack_whose_sources_are_not_asked(
    go: Go, run_once: Go, plan_of: PlanOf, pack: Pack, tmp_path: Path
) -> None:
    deaf = go(plan_of("fedhelp", {"fedhelp.sources": "none"}), tmp_path / "deaf")
    images = packs.without_predictions(pack.pixels, pack.labels, pack.classes)
    bare = go(plan_of("fedhelp"), tmp_path / "bare", pack=images)
    with_sources = run_once(plan_of("fedhelp"), tmp_path / "asked")
    assert bare["merged_sha256"] == deaf["merged_sha256"] != with_sources["merged_sha256"]


def test_half_precision_on_the_wire_halves_the_bytes(go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    full = run_once(plan_of(rounds=1), tmp_path / "full")
    half = go(plan_of(rounds=1, settings={"wire.up": "f16"}), tmp_path / "half")
    assert half["bytes_up"] / full["bytes_up"] == pytest.approx(0.5, abs=0.01)
    assert half["bytes_down"] == full["bytes_down"]
    assert half["merged_sha256"] != full["merged_sha256"]
    both = go(plan_of(rounds=1, settings={"wire.up": "f16", "wire.down": "f16"}), tmp_path / "both")
    assert both["bytes_down"] == both["bytes_up"] == half["bytes_up"]


def test_local_sends_nothing_and_has_no_merged_model(go: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    record = go(plan_of("local", settings={"wire.up": "f16"}), tmp_path)
    assert (record["bytes_up"], record["bytes_down"], record["merged"], record["merged_sha256"]) == (0, 0, None, None)
    assert not any(name.endswith("merged") for name in answers(tmp_path))


def test_local_norm_layers_do_not_travel(go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of(rounds=1, settings={"wire.norm": "local"})
    assert not any("bn" in tensor.name for tensor in METHODS["fedavg"].up(plan).tensors)
    record = go(plan, tmp_path / "home")
    shared = run_once(plan_of(rounds=1), tmp_path / "shared")
    assert record["bytes_up"] == 3 * METHODS["fedavg"].up(plan).size < shared["bytes_up"]
    assert (
        record["bytes_down"] == shared["bytes_down"]
    )  # the first weights are common, also of layers that do not travel
    assert record["merged_sha256"] != shared["merged_sha256"]


def trained(
    plan: Plan, parts: list[SiteImages], pack: Pack | None, first: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Every site's update after one round from these first weights."""
    updates, examples = {}, {}
    for part in reversed(parts):  # the order of the sites does not matter
        learner = learners.create(plan, part.id, part.tier, part.split("train"), pack, Compute())
        learner.receive(first, 1)
        loop.train(learner, learners.image_sets(part.split("train"), pack), 1)
        updates[part.id] = learner.give()
        examples[part.id] = len(part.split("train"))
    return updates, examples


@pytest.mark.parametrize("method", ["fedavg", "fedhelp"])
def test_the_merged_model_is_the_mean_of_the_updates(
    run_once: Go, plan_of: PlanOf, parts: list[SiteImages], pack: Pack, tmp_path: Path, method: str
) -> None:
    plan = plan_of(method, rounds=1)
    record = run_once(plan, tmp_path)
    updates, examples = trained(plan, parts, pack if method == "fedhelp" else None, METHODS[method].start(plan))
    total = sum(examples.values())
    merged = rules.mean(updates, {site: count / total for site, count in examples.items()})
    assert record["merged_sha256"] == run.model_hash(merged, METHODS[method].up(plan))


@pytest.mark.parametrize("method", ["fedavg", "fedhelp"])
def test_the_merged_model_is_judged_on_every_sites_test_images(
    run_once: Go, plan_of: PlanOf, parts: list[SiteImages], pack: Pack, tmp_path: Path, method: str
) -> None:
    plan = plan_of(method, rounds=1)
    run_once(plan, tmp_path)
    updates, examples = trained(plan, parts, pack if method == "fedhelp" else None, METHODS[method].start(plan))
    total = sum(examples.values())
    merged = rules.mean(updates, {site: count / total for site, count in examples.items()})
    judge = learners.create(plan, parts[0].id, parts[0].tier, parts[0].split("train"), None, Compute())
    load_arrays(judge.net, merged)
    with np.load(tmp_path / "answers.npz") as archive:
        for part in parts:
            probabilities = loop.probabilities(judge, judge.net, part.split("test").pixels)
            assert archive[f"{part.id}/test_merged"].tobytes() == probabilities.tobytes()


def test_given_first_weights_replace_random_ones(
    go: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    plan = plan_of(rounds=1)
    drawn = METHODS["fedavg"].start(plan)
    start_weights = {"conv1.weight": drawn["conv1.weight"] * np.float32(0.5)}
    record = go(plan, tmp_path, start=[start_weights])
    updates, examples = trained(plan, parts, None, {**drawn, **start_weights})
    total = sum(examples.values())
    merged = rules.mean(updates, {site: count / total for site, count in examples.items()})
    assert record["merged_sha256"] == run.model_hash(merged, METHODS["fedavg"].up(plan))


def test_a_small_sites_local_training_starts_from_the_common_first_weights(
    go: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    plan = plan_of("local", rounds=1)
    start_weights = {"conv1.weight": METHODS["local"].start(plan)["conv1.weight"] * np.float32(0.5)}
    for index, start in enumerate(({}, start_weights)):
        go(plan, tmp_path / str(index), start=[start] if start else [])
        small = parts[0]
        learner = learners.create(plan, small.id, small.tier, small.split("train"), None, Compute())
        learner.receive({**METHODS["local"].start(plan), **start}, 1)
        loop.train(learner, learners.image_sets(small.split("train"), None), 1)
        probabilities = loop.probabilities(learner, learner.model, small.split("test").pixels)
        assert answers(tmp_path / str(index))[f"{small.id}/test_own"] == probabilities.tobytes()


@pytest.mark.parametrize(
    "start_weights",
    [
        {"linear.weight": np.zeros((10, 64), np.float32)},
        {"layer1.7.conv1.weight": np.zeros((16, 16, 3, 3), np.float32)},
    ],
)
def test_first_weights_for_another_net_are_refused(
    go: Go, plan_of: PlanOf, tmp_path: Path, start_weights: dict[str, Any]
) -> None:
    with pytest.raises(SchemaShapeError, match=next(iter(start_weights))):
        go(plan_of(rounds=1), tmp_path, start=[start_weights])


def test_a_folder_with_the_run_of_another_plan_is_not_reused(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path
) -> None:
    run_once(plan_of(rounds=1), tmp_path)
    with pytest.raises(TargetExistsError):
        go(plan_of(rounds=1, seed=5), tmp_path)


def test_a_folder_with_a_run_of_other_images_sites_or_first_weights_is_not_reused(
    go: Go, run_once: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    plan = plan_of(rounds=1)
    first = run_once(plan, tmp_path)
    labels, splits = parts[0].images.labels[::-1].copy(), tuple(reversed(parts[0].images.splits))
    for other in (
        replace(parts[0], images=replace(parts[0].images, labels=labels)),
        replace(parts[0], images=replace(parts[0].images, splits=splits)),
        replace(parts[0], tier="large"),
        replace(parts[0], id="site-009"),
    ):
        with pytest.raises(TargetExistsError):
            run.run(plan, [other, *parts[1:]], tmp_path, compute=Compute())
    with pytest.raises(TargetExistsError):
        go(plan, tmp_path, start=[{"conv1.weight": METHODS["fedavg"].start(plan)["conv1.weight"] * np.float32(0.5)}])
    assert go(plan, tmp_path) == first


def test_a_folder_with_a_run_of_other_public_labels_is_not_reused(
    go: Go, run_once: Go, plan_of: PlanOf, pack: Pack, tmp_path: Path
) -> None:
    run_once(plan_of("fedhelp", rounds=1), tmp_path)
    with pytest.raises(TargetExistsError):
        go(plan_of("fedhelp", rounds=1), tmp_path, pack=replace(pack, labels=pack.labels[::-1]))


def test_a_federation_that_does_not_improve_ends_early(go: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    settings = {"round.patience": "2", "training.lr": "1e-7", "nets.norm": "group"}  # nothing moves
    record = go(plan_of(settings=settings, rounds=6), tmp_path)
    assert record["rounds"] == len(record["curve"]) == 3


@pytest.mark.parametrize(("down", "fraction"), [("f16", 0.6), ("int8", 0.3)])
def test_the_merged_model_is_the_one_that_every_site_received(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path, down: str, fraction: float
) -> None:
    """With a coarser model downwards, the next round is merged onto the values that sites received."""
    coarse = go(plan_of(settings={"wire.down": down}), tmp_path / "coarse")
    full = run_once(plan_of(), tmp_path / "whole")
    assert coarse["merged_sha256"] != full["merged_sha256"]
    assert coarse["bytes_down"] < fraction * full["bytes_down"]


def test_curves_and_figures_of_the_merged_net_are_those_of_its_own_answers(
    go: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    """Curves are of validation images, figures of test images; the merged net has its own answers."""
    settings = {"training.lr": "0.01", "nets.small": "resnet20", "nets.large": "resnet20"}
    record = go(plan_of(settings=settings), tmp_path)
    figures: dict[str, dict[str, float | None]] = {}
    with np.load(tmp_path / "answers.npz") as archive:
        for name_ in ("val_own", "val_merged", "test_own", "test_merged"):
            split = name_.partition("_")[0]
            scores = [
                metrics.scores(archive[f"{part.id}/{name_}"], archive[f"{part.id}/{split}_labels"].astype(np.int64))
                for part in parts
            ]
            figures[name_] = {name: mean([getattr(row, name).value for row in scores]) for name in record["mean"]}
    assert len({tuple(row.values()) for row in figures.values()}) == 4  # otherwise the test would prove nothing
    last = record["curve"][-1]
    assert [figures[name_] for name_ in figures] == [last["own"], last["merged"], record["mean"], record["merged"]]
    shorter = go(plan_of(settings=settings, rounds=1), tmp_path / "shorter")
    assert timeless(record)["curve"][0] == timeless(shorter)["curve"][0]
    assert record["curve"][0]["merged"] != record["curve"][1]["own"]  # otherwise this would prove nothing


def test_a_teacher_is_judged_beside_the_net_that_diagnoses(
    go: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    record = go(plan_of("fedmic"), tmp_path)
    assert record["curve"][-1].keys() == {"round", "own", "teacher", "merged", "bytes_up", "seconds"}
    with np.load(tmp_path / "answers.npz") as archive:
        scores = [
            metrics.scores(archive[f"{part.id}/test_teacher"], part.split("test").labels).accuracy for part in parts
        ]
        assert not np.array_equal(archive["site-001/test_teacher"], archive["site-001/test_own"])
    assert record["others"]["teacher"]["accuracy"] == mean([score.value for score in scores])


def mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def test_sites_without_validation_images_end_no_run_whatever_their_test_images_are(
    go: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    settings = {"round.patience": "1", "training.lr": "1e-7", "nets.norm": "group"}  # nothing moves
    blind = [
        replace(part, images=replace(part.images, splits=tuple(s.replace("val", "train") for s in part.images.splits)))
        for part in parts
    ]
    record = run.run(plan_of(settings=settings, rounds=3), blind, tmp_path, compute=Compute())
    assert record["rounds"] == 3


def test_without_the_saved_state_of_a_site_a_run_does_not_resume(go: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    def cut(text: str) -> None:
        raise Cut(text)

    with pytest.raises(Cut):
        go(plan_of("local"), tmp_path, progress=cut)
    for path in (tmp_path / "round-000001" / "site-002").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=f"{tmp_path.name} is damaged") as caught:
        go(plan_of("local"), tmp_path)
    assert caught.value.remedy.startswith(f"remove {tmp_path.name} in {tmp_path.parent}")


@pytest.mark.parametrize(("name", "damaged"), [("run.json", "run"), ("sites.json", "sites.json")])
def test_a_damaged_record_is_named_and_what_to_remove(
    go: Go, plan_of: PlanOf, tmp_path: Path, name: str, damaged: str
) -> None:
    run_folder = tmp_path / "run"
    whole = go(plan_of("local", rounds=1), run_folder)
    content = (run_folder / name).read_bytes()
    (run_folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=f"{damaged} is damaged") as caught:
        go(plan_of("local", rounds=1), run_folder)
    removed = tmp_path / damaged if damaged == "run" else run_folder / damaged
    assert caught.value.remedy == f"remove {removed.name} in {removed.parent}, then give the same command again"
    shutil.rmtree(removed) if removed.is_dir() else removed.unlink()
    assert timeless(go(plan_of("local", rounds=1), run_folder)) == timeless(whole)


def test_a_record_of_settings_that_a_full_disk_left_empty_binds_no_folder(
    go: Go, plan_of: PlanOf, tmp_path: Path
) -> None:
    (tmp_path / "run.sha256").touch()
    go(plan_of("local", rounds=1), tmp_path)
    with pytest.raises(TargetExistsError):
        go(plan_of("local", rounds=1, settings={"training.lr": "0.5"}), tmp_path)


def test_two_programs_do_not_train_one_run_at_once(go: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    def second(text: str) -> None:
        with pytest.raises(BusyError, match=f"another command is at work in {tmp_path.name}"):
            go(plan_of("local"), tmp_path)

    assert go(plan_of("local"), tmp_path, progress=second)["rounds"] == 2


def test_patience_counts_the_validation_images_that_the_rounds_model_gets_right(
    go: Go, plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[dict[str, list[int]]]] = []
    monkeypatch.setattr(early_stopping, "has_plateaued", lambda reports, _: calls.append(list(reports)) or False)
    plan = plan_of(settings={"round.patience": "1"})
    go(plan, tmp_path)
    judge = learners.create(plan, parts[0].id, parts[0].tier, parts[0].split("train"), None, Compute())
    load_arrays(judge.net, METHODS["fedavg"].start(plan))
    right = {}
    for part in parts:
        val = part.split("val")
        predicted = loop.probabilities(judge, judge.net, val.pixels).argmax(1)
        right[part.id] = [
            len(val),
            sum(int(prediction == label) for prediction, label in zip(predicted, val.labels, strict=True)),
        ]
    assert calls == [[], [right]]
    assert any(
        0 < 2 * hits != val for val, hits in right.values()
    )  # otherwise right and wrong answers are equally many


def test_under_local_norm_layers_patience_asks_about_the_net_that_a_site_has(
    plan_of: PlanOf, images_of: Callable[..., Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merged weights with the site's own norm layers, not with the first model's.

    The validation images are labelled by what that net says.
    """
    settings = {"round.patience": "1", "wire.norm": "local", "training.lr": "0.003", "training.epochs": "6"}
    plan = plan_of(settings=settings, rounds=3)
    parts = partition.distribute(images_of({"1": 60, "2": 60}), "natural:centers", 0)
    first = METHODS["fedavg"].start(plan)
    updates, examples = trained(plan, parts, None, first)
    merged = rules.merge(first, updates, examples, plan.merge)
    labelled, with_first_layers = [], 0
    for part in parts:
        learner = learners.create(plan, part.id, part.tier, part.split("train"), None, Compute())
        learner.receive(first, 1)
        loop.train(learner, learners.image_sets(part.split("train"), None), 1)
        predicted = []
        for models in ((merged,), (first, merged)):
            for model in models:
                learner.receive(model, 2)
            predicted.append(loop.probabilities(learner, learner.net, part.images.pixels).argmax(1))
        is_val = np.array([split == "val" for split in part.images.splits])
        with_first_layers += int((predicted[0] == predicted[1])[is_val].sum())
        labels = np.where(is_val, predicted[0], part.images.labels)
        labelled.append(replace(part, images=replace(part.images, labels=labels)))
    calls: list[list[dict[str, list[int]]]] = []
    monkeypatch.setattr(early_stopping, "has_plateaued", lambda reports, _: calls.append(list(reports)) or False)
    run.run(plan, labelled, tmp_path, compute=Compute())
    assert calls[-1][1] == {"site-001": [6, 6], "site-002": [6, 6]}
    assert with_first_layers < 12


@pytest.mark.parametrize(
    ("method", "up", "fraction"),
    [("fedavg", "int8-delta", 0.27), ("fedavg", "lowrank", 1.0), ("fedmic", "lowrank", 1.0)],
)
def test_a_codec_that_changes_numbers_does_so_alike_in_memory_and_in_parcels(
    go: Go, plan_of: PlanOf, tmp_path: Path, method: str, up: str, fraction: float
) -> None:
    plan = plan_of(method, settings={"wire.up": up, "nets.small": "resnet20", "nets.large": "resnet20"})
    bare = go(plan, tmp_path / "bare")
    sealed = go(plan, tmp_path / "sealed", transport=transport.SealedTransport())
    assert sealed["merged_sha256"] == bare["merged_sha256"]
    assert answers(tmp_path / "sealed") == answers(tmp_path / "bare")
    plain = 3 * 2 * METHODS["fedavg"].up(plan).size
    assert bare["bytes_up"] < fraction * plain
    assert bare["bytes_down"] == plain


def test_what_a_codec_remembers_of_an_update_comes_to_it_in_the_next_round_even_after_a_cut(
    go: Go, plan_of: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(text: str) -> None:
        raise Cut

    codec = Steps(0.5)
    monkeypatch.setitem(CODECS, "f16", codec)  # type: ignore[index]
    plan = plan_of(settings={"wire.up": "f16"})
    whole = go(plan, tmp_path / "whole")
    assert codec.memories == [False] * 3 + [True] * 3
    with pytest.raises(Cut):
        go(plan, tmp_path / "cut", progress=cut)
    assert timeless(go(plan, tmp_path / "cut")) == timeless(whole)
    assert codec.memories[6:] == codec.memories[:6]


def test_a_method_may_exchange_tables_and_merge_them_by_a_rule_of_its_own(
    parts: list[SiteImages], pack: Pack, tmp_path: Path
) -> None:
    classes = json.dumps(list(phantoms.CLASSES[:3]))
    text = f'classes = {classes}\nmethod = "toy"\nrounds = 3\n[image]\nsize = 8\n[training]\nepochs = 1\n'
    with toy.installed(tmp_path):
        plan = plans.read(text, METHODS)
        record = run.run(plan, parts, tmp_path / "run", compute=Compute(), pack=pack)
        merges = importlib.import_module("toy_method").Toy.merges
    most = np.max([np.bincount(part.split("train").labels, minlength=3) for part in parts], axis=0)
    table = np.stack([3 * most, np.full(3, 3)], 1).astype(np.float32)
    assert record["merged_sha256"] == run.model_hash({"answers.rows": table}, toy.schema(plan))
    assert record["bytes_up"] == 9 * toy.schema(plan).size
    assert [merge for _, _, merge in merges[:3]] == [NO_MERGE] * 3
    assert {merge for _, _, merge in merges[3:]} == {LastMerge(updates=3, own=True)}


def test_a_runs_seconds_are_those_of_its_rounds(
    go: Go, plan_of: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(100.0, 0.33)
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    assert go(plan_of("local"), tmp_path)["seconds"] == 0.7  # the seconds of two rounds, to a tenth


def test_a_runs_files_are_readable_by_those_who_can_read_the_folder(go: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    go(plan_of("local", rounds=1), tmp_path)
    (tmp_path / "ordinary").touch()
    modes = [(tmp_path / name).stat().st_mode & 0o044 for name in ("ordinary", "run.json", "answers.npz")]
    assert len(set(modes)) == 1


def test_the_findings_of_all_sites_images_are_in_the_record(
    plan_of: PlanOf, parts: list[SiteImages], tmp_path: Path
) -> None:
    """A patient of the first site's training images is among the last site's test images."""

    def of_patient(part: SiteImages, split: str) -> SiteImages:
        groups = [""] * len(part.images)
        groups[part.images.splits.index(split)] = "p"
        return replace(part, images=replace(part.images, groups=tuple(groups)))

    shared = [of_patient(parts[0], "train"), parts[1], of_patient(parts[2], "test")]
    record = run.run(plan_of("local", rounds=1), shared, tmp_path, compute=Compute())
    (leak,) = [finding for finding in record["findings"] if finding["kind"] == "leak"]
    assert (leak["part"], leak["images"]) == ("test", 1)
    assert leak["of"] == sum(len(part.split("test")) for part in parts)


def test_a_sealed_run_refuses_nan(plan_of: PlanOf) -> None:
    schema = METHODS["fedavg"].up(plan_of())
    arrays = {name: array.copy() for name, array in METHODS["fedavg"].start(plan_of()).items()}
    sealed = transport.SealedTransport()
    assert transport.transfer(CODECS["f32"], arrays, schema, arrays, transport=sealed).size > schema.size
    arrays["linear.bias"][0] = np.nan
    with pytest.raises(NonFiniteError):
        transport.transfer(CODECS["f32"], arrays, schema, arrays, transport=sealed)
