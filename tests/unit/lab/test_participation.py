"""Rounds in which some sites are away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.errors import TargetExistsError, UsageError
from fedhelp_edge.lab import participation, run, tables, visits
from fedhelp_edge.lab.engine import LocalEngine
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.results import Results
from fedhelp_edge.merge import rules
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import learners, loop

PlanOf = Callable[..., Plan]
SITES = [f"site-{number:03}" for number in range(1, 11)]


class Cut(Exception):
    """A simulated power cut."""


class Watching(LocalEngine):
    """Notes who is visited in which round, with what it kept, and what it knows of the last merge."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, int, bool, bool]] = []

    def visits(self, visit: Any, run: Any, start: Any, sites: Any) -> Any:
        for site, state in sites:
            if visit is visits.visit_site:
                merge = start.last_merge(site.id)
                self.seen.append((start.round, site.id, merge.updates, merge.own, bool(state.learner)))
            yield visit(run, start, site, state)


def test_each_round_draws_its_part_of_the_sites_by_seed_and_round() -> None:
    rounds = [participation.draw(SITES, 0.3, 1, 7, number) for number in range(200)]
    assert {len(sites) for sites in rounds} == {3}
    assert len(set(rounds)) > 50
    counts = Counter(site for sites in rounds for site in sites)
    assert min(counts.values()) > 35  # of 60 each
    assert rounds == [participation.draw(SITES, 0.3, 1, 7, number) for number in range(200)]
    assert rounds != [participation.draw(SITES, 0.3, 1, 8, number) for number in range(200)]


@pytest.mark.parametrize(
    ("part", "fewest", "count"), [(1.0, 1, 10), (0.01, 1, 1), (0.1, 3, 3), (0.25, 1, 2), (0.5, 99, 10)]
)
def test_a_round_has_at_least_the_sites_that_the_method_needs(part: float, fewest: int, count: int) -> None:
    assert len(participation.draw(SITES, part, fewest, 0, 1)) == count


@pytest.mark.parametrize("part", [0.0, -0.5, 1.5, float("nan")])
def test_a_part_that_is_none_is_refused(part: float) -> None:
    with pytest.raises(UsageError, match="participation is above 0 and at most 1"):
        participation.check(part)


def test_a_round_merges_those_who_take_part_with_the_weights_of_their_images(
    parts: list[SiteImages], plan_of: PlanOf, tmp_path: Path
) -> None:
    plan = plan_of(rounds=1, settings={"merge.cap": "1"})
    present = participation.draw([part.id for part in parts], 0.67, 1, plan.seed, 1)
    assert len(present) == 2 < len(parts)
    record = run.run(plan, parts, tmp_path, compute=Compute(), participation=0.67)
    updates, examples = {}, {}
    for part in parts:
        if part.id in present:
            learner = learners.create(plan, part.id, part.tier, part.split("train"), None, Compute())
            learner.receive(METHODS["fedavg"].start(plan), 1)
            loop.train(learner, learners.image_sets(part.split("train"), None), 1)
            updates[part.id], examples[part.id] = learner.give(), len(part.split("train"))
    total = sum(examples.values())
    merged = rules.mean(updates, {site: count / total for site, count in examples.items()})
    assert record["merged_sha256"] == run.model_hash(merged, METHODS["fedavg"].up(plan))
    assert record["bytes_up"] == 2 * METHODS["fedavg"].up(plan).size


def test_a_site_that_was_away_goes_on_from_what_it_kept_and_knows_that_it_was_not_merged(
    parts: list[SiteImages], plan_of: PlanOf, tmp_path: Path
) -> None:
    plan, watching = plan_of("fedavg", {"wire.norm": "local"}, rounds=5), Watching()
    run.run(plan, parts, tmp_path, compute=Compute(), participation=0.34, engine=watching)
    ids = [part.id for part in parts]
    expected = [participation.draw(ids, 0.34, 1, plan.seed, number) for number in range(1, 6)]
    assert [{site for round_, site, *_ in watching.seen if round_ == number} for number in range(1, 6)] == expected
    known: set[str] = set()
    for (_, site, merged, own, kept), last in zip(watching.seen, [frozenset(), *expected[:-1]], strict=True):
        assert (merged, own, kept) == (len(last), site in last, site in known)
        known.add(site)
    visited = [site for _, site, *_ in watching.seen]
    assert any(site in visited[:n] and visited[n - 1] != site for n, site in enumerate(visited))  # one came back


def test_an_interrupted_run_with_sites_away_ends_as_an_undisturbed_one(
    parts: list[SiteImages], plan_of: PlanOf, tmp_path: Path
) -> None:
    plan = plan_of(rounds=3, settings={"wire.norm": "local"})

    def cut(text: str) -> None:
        if "round 2" in text:
            raise Cut

    def go(name: str, **more: Any) -> dict[str, Any]:
        return run.run(plan, parts, tmp_path / name, compute=Compute(), participation=0.67, **more)

    whole = go("whole")
    with pytest.raises(Cut):
        go("cut", progress=cut)
    assert go("cut")["merged_sha256"] == whole["merged_sha256"]
    with np.load(tmp_path / "whole" / "answers.npz") as first, np.load(tmp_path / "cut" / "answers.npz") as second:
        assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert whole["provenance"]["participation"] == 0.67
    with pytest.raises(TargetExistsError, match="--participation"):
        run.run(plan, parts, tmp_path / "whole", compute=Compute(), participation=0.34)


def test_a_site_that_never_took_part_is_judged_by_the_merged_net(
    parts: list[SiteImages], plan_of: PlanOf, tmp_path: Path
) -> None:
    plan = plan_of(rounds=1)
    present = participation.draw([part.id for part in parts], 0.67, 1, plan.seed, 1)
    record = run.run(plan, parts, tmp_path, compute=Compute(), participation=0.67)
    assert [site["name"] for site in record["sites"]] == [part.name for part in parts]
    with np.load(tmp_path / "answers.npz") as answers:
        for part in parts:
            own, merged = (answers[f"{part.id}/test_{net}"] for net in ("own", "merged"))
            assert np.array_equal(own, merged) is (part.id not in present)


def test_a_table_says_which_part_of_the_sites_takes_part() -> None:
    runs = [{"method": "fedavg", "seed": 0, "provenance": {"participation": part}, "sites": []} for part in (1.0, 0.4)]
    assert tables.notes(Results(runs[:1], 1))[0] == tables.NOT_KEPT
    assert tables.notes(Results(runs, 2))[0].startswith("In each round 40 % of the sites take part.")


def test_a_table_says_how_many_labels_are_wrong_on_purpose() -> None:
    sites = [{"name": name, "n_train": 50, "flipped": flipped} for name, flipped in (("a", 9), ("b", 13), ("c", 0))]
    (note, _) = tables.notes(Results([{"method": "local", "seed": 0, "sites": sites}], 1))
    assert note == "At 2 sites 18 to 26 % of the training labels are wrong on purpose (first seed)."


def test_to_train_alone_nobody_waits_for_a_round(parts: list[SiteImages], plan_of: PlanOf, tmp_path: Path) -> None:
    plan, watching = plan_of("local"), Watching()
    run.run(plan, parts, tmp_path, compute=Compute(), participation=0.34, engine=watching)
    assert [site for _, site, *_ in watching.seen] == 2 * [part.id for part in parts]
