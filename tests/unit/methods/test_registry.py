"""Settings of methods in a plan: the paper's numbers by default, and others within bounds."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.errors import BadPlanError, KnowledgeMissingError, MissingPackageError, PluginError, UsageError
from fedhelp_edge.merge import rules
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from tests.unit.methods import small, toy

BOUNDS = [  # method, key, the smallest and the largest allowed value
    ("fedprox", "mu", 0, 1000),
    ("fedhelp", "lambda_r", 0, 1000),
    ("fedhelp", "lambda_j", 0, 1000),
    ("fedhelp", "lambda_f", 0, 1000),
    ("fedhelp", "lambda_b", 0, 1000),
    ("fedhelp", "top", 1, 1000),
    ("fedhelp", "public_every", 1, 1000),
    ("fedhelp", "alpha_lr", 0, 100),
    ("fedmic", "lambda_d", 0, 1000),
    ("fedmic", "lambda_h", 0, 1000),
    ("perfedavg", "inner", 0, 10),
    ("pfedbayes", "zeta", 0, 1000),
    ("pfedbayes", "rho", -20, 5),
    ("pfedme", "steps", 1, 100),
    ("fedadam", "lr", 1e-7, 10),
    ("fedadam", "beta1", 0, 0.999),
    ("fedadam", "beta2", 0, 0.9999),
    ("fedadam", "tau", 1e-9, 1),
]


def numbers(method: str, **settings: Any) -> Any:
    return small.plan(method, **{method: settings}).method_settings


def test_fedhelp_has_the_papers_numbers_unless_a_plan_has_others() -> None:
    """Section 4: lambda_R = 0.1, lambda_J = 0.2, lambda_F = 1, lambda_B = 0.2, and three classes in the ranking."""
    settings = numbers("fedhelp")
    assert (settings.lambda_r, settings.lambda_j, settings.lambda_f, settings.lambda_b, settings.top) == (
        0.1,
        0.2,
        1.0,
        0.2,
        3,
    )
    assert (settings.alpha, settings.sources, settings.backward, settings.schedule) == (
        "learned",
        "all",
        "rank",
        "joint",
    )


def test_fedhelps_deviations_from_the_paper_are_as_decided() -> None:
    settings = METHODS["fedhelp"].table()
    assert (settings.public_every, settings.proxy_ce) == (4, True)
    assert (settings.alpha_lr, settings.public_augment) == (0, True)


def test_fedprox_has_a_small_mu_by_default() -> None:
    assert numbers("fedprox").mu == 0.01


@pytest.mark.parametrize(("method", "key", "least", "most"), BOUNDS, ids=[key for _, key, _, _ in BOUNDS])
def test_a_setting_of_a_method_must_be_within_its_bounds(method: str, key: str, least: int, most: int) -> None:
    assert [getattr(numbers(method, **{key: value}), key) for value in (least, most)] == [least, most]
    for value in (least - 1, most + 1):
        with pytest.raises(BadPlanError, match=key):
            numbers(method, **{key: value})


@pytest.mark.parametrize(
    "proxy_settings", [{"lambda_f": 0}, {"proxy_ce": False}, {"lambda_f": 0.5, "proxy_ce": False}], ids=str
)
def test_a_proxy_may_learn_from_the_large_net_or_from_labels_alone(proxy_settings: dict[str, Any]) -> None:
    assert numbers("fedhelp", **proxy_settings) is not None


def test_a_proxy_that_would_learn_nothing_is_refused() -> None:
    with pytest.raises(BadPlanError, match="lambda_f"):
        numbers("fedhelp", lambda_f=0, proxy_ce=False)


def test_a_rate_for_weights_of_sources_that_do_not_learn_is_refused() -> None:
    for alpha in ("uniform", "label_fit"):
        assert numbers("fedhelp", alpha=alpha).alpha_lr == 0
        with pytest.raises(BadPlanError, match="alpha_lr"):
            numbers("fedhelp", alpha=alpha, alpha_lr=0.1)


def test_where_a_plan_leaves_the_weights_to_the_method_they_are_the_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    uniform = replace(METHODS["fedavg"], weight="uniform")
    base = {"linear.bias": np.zeros(1, np.float32)}
    updates = {"a": {"linear.bias": np.zeros(1, np.float32)}, "b": {"linear.bias": np.full(1, 8, np.float32)}}
    for weight, method, expected in (
        ("method", METHODS["fedavg"], 2), ("method", uniform, 4), ("examples", uniform, 2), ("uniform", uniform, 4),
    ):  # fmt: skip
        monkeypatch.setitem(registry._BUILT_IN, "fedavg", method)  # type: ignore[index]
        plan = small.plan(merge={"weight": weight, "cap": 1.0})
        assert registry.merge_settings(plan).weight != "method"
        assert registry.merge(plan, 1, base, updates, {"a": 6, "b": 2})["linear.bias"] == expected


def test_no_rule_takes_the_methods_weights_for_another_silently() -> None:
    with pytest.raises(KeyError):
        rules.weights([1, 2], "method")


@pytest.mark.parametrize("name", METHODS)
def test_the_registry_describes_what_a_methods_learner_does(name: str) -> None:
    learner = small.learner(small.plan(name), "large", small.pack())
    other = small.learner(small.plan(name), "small", small.pack())
    assert METHODS[name].exchanges is bool(learner.give())
    assert (METHODS[name].home == "tier") is (learner.model.name != other.model.name)


# --- methods of other packages -------------------------------------------------------------------------------------
@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """A folder with the toy method's package, where Python finds it."""
    with toy.installed(tmp_path):
        yield tmp_path


def toy_plan(text: str = "") -> Plan:
    return plans.read(f'classes = ["a", "b"]\nmethod = "toy"\n{text}', METHODS)


def test_another_package_adds_a_method_by_an_entry_point(package: Path) -> None:
    assert "toy" in METHODS
    assert list(METHODS)[-1] == "toy"
    assert toy_plan("[toy]\nraise_by = 3").method_settings.raise_by == 3
    assert "[toy]" in plans.template(METHODS)


def test_a_plan_that_names_no_method_of_another_package_does_not_load_it(package: Path) -> None:
    (package / "toy_method.py").write_text("raise RuntimeError")
    assert small.plan("fedavg").method == "fedavg"


@pytest.mark.parametrize(("source", "cause"), [("METHOD = 3", "is no Method"), ("1 / 0", "division by zero")])
def test_a_broken_method_of_another_package_is_refused(package: Path, source: str, cause: str) -> None:
    (package / "toy_method.py").write_text(source)
    with pytest.raises(PluginError, match=cause):
        toy_plan()


def test_no_package_can_replace_a_method_of_this_one(package: Path) -> None:
    points = next(package.glob("*.dist-info")) / "entry_points.txt"
    points.write_text(points.read_text().replace("toy =", "fedavg ="))
    assert METHODS["fedavg"].learner == "fedhelp_edge.methods.fedavg:FedAvg"
    assert len(METHODS) == len(set(METHODS))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('[wire]\nup = "lowrank"', "[wire] up: toy does not average updates"),
        ('[merge]\nrule = "median"', "[merge] rule: toy merges in its own way"),
        ("[round]\nquorum = 1", "[round] quorum: toy needs 2 or more"),
        ("[toy]\nraise_by = 9", "[toy] raise_by: 9 is too much for two classes"),
    ],
)
def test_what_a_plan_asks_that_its_method_cannot_do_is_a_mistake_in_the_plan(
    package: Path, text: str, cause: str
) -> None:
    with pytest.raises(BadPlanError) as raised:
        toy_plan(text)
    (mistake,) = raised.value.mistakes
    assert cause in str(mistake)
    assert mistake.line > 2


@pytest.mark.parametrize(
    ("method", "tables", "cause"),
    [
        ("fedsm", {"fedsm": {"sites": 2}, "round": {"quorum": 3}}, "[fedsm] sites: the selector tells fewer sites"),
        (
            "fedgh",
            {"fedgh": {"lr": 9, "weight_decay": 0.9}},
            "[fedgh] lr: with 2 (1 + momentum)",
        ),
        ("mdhfl", {"training": {"loss": "logit-adjusted"}}, "[training] loss: mdhfl has a loss of its own"),
        ("ridge", {"training": {"loss": "symmetric"}}, "[training] loss: ridge solves for its heads"),
    ],
)
def test_what_could_never_work_is_a_mistake_in_the_plan(method: str, tables: Any, cause: str) -> None:
    make = small.feature_plan if method == "ridge" else small.plan
    with pytest.raises(BadPlanError, match=re.escape(cause)):
        make(method, **tables)


def test_weights_of_sources_by_labels_of_images_are_refused_for_masks() -> None:
    text = 'task = "segmentation"\nclasses = ["a", "b"]\nmethod = "fedhelp"\n[fedhelp]\nalpha = "label_fit"'
    with pytest.raises(BadPlanError, match="label_fit is for classes of images"):
        plans.read(text, METHODS)


@pytest.mark.parametrize(
    ("trim", "quorum", "note"),
    [(0.2, 4, ["of 4 sites the trimmed mean leaves out none: it does with 5 or more"]), (0.2, 5, []), (0.34, 3, []),
     (0.0, 9, ["of 9 sites the trimmed mean leaves out none: trim is 0"])],
)  # fmt: skip
def test_a_trimmed_mean_of_too_few_sites_is_said_to_leave_out_none(trim: float, quorum: int, note: list[str]) -> None:
    plan = small.plan("fedavg", merge={"rule": "trimmed", "trim": trim}, round={"quorum": quorum})
    assert list(METHODS["fedavg"].notes(plan)) == note


def test_keys_of_a_codec_or_a_rule_that_is_not_used_are_said_to_do_nothing() -> None:
    idle = small.plan("fedavg", lowrank={"rank": 2}, merge={"trim": 0.3})
    assert list(METHODS["fedavg"].notes(idle)) == [
        '[lowrank] does nothing with up = "f32" in [wire]', '[merge] trim does nothing with rule = "mean"',
    ]  # fmt: skip
    used = small.plan("fedavg", lowrank={"rank": 2}, wire={"up": "lowrank"})
    assert list(METHODS["fedavg"].notes(used)) == []


def test_late_updates_count_only_where_updates_are_averaged(package: Path) -> None:
    late = "[round]\nstale = 2"
    assert METHODS["toy"].stale_rounds(toy_plan(late)) == 0
    assert METHODS["fedavg"].stale_rounds(small.plan("fedavg", round={"stale": 2})) == 2


# --- knowledge packs -----------------------------------------------------------------------------------------------
def test_the_facts_of_a_pack_are_those_of_the_pack() -> None:
    pack = small.pack(images=6, sources=2, classes=5)
    facts = registry.PublicFacts.from_json(registry.public_json(pack), pack.whole)
    assert (len(facts), facts.classes, facts.sources) == (6, pack.classes, pack.sources)
    assert facts.whole() is pack.whole() is pack


def test_a_method_that_works_on_public_images_needs_a_pack(package: Path) -> None:
    with pytest.raises(KnowledgeMissingError, match="toy works on the public images"):
        registry.check_public(toy_plan(), None)
    registry.check_public(toy_plan(), small.pack())
    with pytest.raises(UsageError, match="toy compares public images, and the knowledge pack has 1 image"):
        registry.check_public(toy_plan(), small.pack(images=1))
    registry.check_public(small.plan("fedavg"), None)


def test_a_merger_that_needs_a_package_that_is_not_installed_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "fedhelp_edge.methods.fedkemf", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(MissingPackageError, match="fedkemf needs torch where updates are merged") as caught:
        registry.merger_of(small.plan("fedkemf"))
    assert "fedhelp-edge[train]" in caught.value.remedy
    assert registry.merger_of(small.plan("fedgh"))
