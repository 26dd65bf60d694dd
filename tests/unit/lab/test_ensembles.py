"""An average of nets stands beside as many local nets that are averaged too: its gain may come from averaging alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export import keep
from fedhelp_edge.lab import compare, page, tables
from fedhelp_edge.lab.results import Results
from fedhelp_edge.report import metrics
from tests.unit.lab.test_kept import block, compared

Arrays = dict[str, NDArray[Any]]
COUNTS = {"val": 30, "test": 80}
SITES = ("site-001", "site-002", "site-003")
SEEDS = (3, 0, 7, 5)  # ordered: 0, 3, 5, 7


def answers_of(seed: int, nets: tuple[str, ...], skill: float = 0.8) -> Arrays:
    """Nets that know the truth equally well, with errors of their own."""
    arrays: Arrays = {}
    for index, site in enumerate(SITES):
        for split, count in COUNTS.items():
            truths = np.random.Generator(np.random.Philox([index, count])).integers(0, 3, count)
            arrays[f"{site}/{split}_labels"] = truths.astype(float)
            for number, net in enumerate(nets):
                generator = np.random.Generator(np.random.Philox([index, count, seed, number + 10 * len(nets)]))
                logits = skill * np.eye(3)[truths] + generator.normal(size=(count, 3))
                arrays[f"{site}/{split}_{net}"] = np.exp(keep.log_softmax(logits))
    return arrays


def runs_of(*seeds: int) -> dict[tuple[str, int], Arrays]:
    local = {("local", seed): answers_of(seed, ("own",)) for seed in seeds}
    return {**local, **{("fedavg", seed): answers_of(seed, ("own", "merged")) for seed in seeds}}


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Pictures, and many draws of images, take longer than runs of this size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "can_plot", lambda: False)
        patch.setattr(metrics, "DRAWS", 50)
        yield


ANSWERS = runs_of(*SEEDS)
TABLE = "Does taking part gain more"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    folder = tmp_path_factory.mktemp("ensembles")
    return compared(folder, ANSWERS), folder


def logits(method: str, seed: int, net: str, site: str, split: str = "test") -> NDArray[Any]:
    return np.log(ANSWERS[method, seed][f"{site}/{split}_{net}"])


def right(answers: NDArray[Any], site: str) -> NDArray[Any]:
    return (answers.argmax(1) == ANSWERS["local", 0][f"{site}/test_labels"]) * 1.0


def numbers(cell: str) -> list[float]:
    return [float(part.strip("[],")) for part in cell.split()]


def test_an_average_of_three_nets_stands_against_the_local_nets_of_its_seed_and_the_next_two(
    known: tuple[Results, Path],
) -> None:
    gains = []
    for seed, members in {0: (0, 3, 5), 3: (3, 5, 7), 5: (5, 7, 0), 7: (7, 0, 3)}.items():
        for site in SITES:
            average = logits("fedavg", seed, "own", site) + logits("fedavg", seed, "merged", site)
            average = average + logits("local", seed, "own", site)
            local = sum(logits("local", member, "own", site) for member in members)
            gains.append(right(average, site) - right(np.asarray(local), site))
    head, alone, together = block(known[1], TABLE)
    assert head[:3] == ["method", "local nets", "average of nets: accuracy"]
    assert together[:2] == ["fedavg", "3"] and alone[:2] == ["local", "3"]
    value, low, high = numbers(together[2])
    assert value == pytest.approx(np.mean(gains), abs=1.1e-3)  # answers are kept in half precision
    assert low < value < high


def test_what_a_site_keeps_stands_against_local_nets_that_are_weighed_by_the_same_rule(
    known: tuple[Results, Path],
) -> None:
    site, labels, groups = "site-002", ANSWERS["local", 0]["site-002/val_labels"].astype(int), np.arange(COUNTS["val"])
    gains = []
    for seed, members in {0: (0, 3, 5), 3: (3, 5, 7), 5: (5, 7, 0), 7: (7, 0, 3)}.items():
        nets = {"own": ("fedavg", seed, "own"), "merged": ("fedavg", seed, "merged"), "alone": ("local", seed, "own")}
        local = {str(member): ("local", member, "own") for member in members}
        sides = []
        for side in (nets, local):
            kept = keep.keep({name: logits(*net, site, "val") for name, net in side.items()}, labels, groups)
            sides.append(right(kept.probabilities({name: logits(*net, site) for name, net in side.items()}), site))
        gains.append(sides[0] - sides[1])
    _, row = block(known[1], "Accuracy of what each site keeps, less that of as many local nets")[1:]
    assert row[:2] == ["fedavg", "3"]
    assert numbers(row[3])[0] == pytest.approx(np.mean(gains), abs=4e-3)


def test_a_gain_that_comes_from_averaging_alone_is_seen_as_none(known: tuple[Results, Path]) -> None:
    """All nets are equally good. Beside one net the average gains for sure; beside as many local nets it does not."""
    (over_one,) = block(known[1], "Difference from one net of local")[1:]
    assert numbers(over_one[4])[1] > 0.02
    _, alone, together = block(known[1], TABLE)
    assert numbers(alone[4])[2] < -0.02  # one local net, less three
    assert numbers(together[2])[1] < 0 < numbers(together[2])[2]
    assert float(together[-2]) > 0.05


def test_the_overview_has_the_accuracy_of_as_many_local_nets(known: tuple[Results, Path]) -> None:
    rows = [line.strip("| ").split(" | ") for line in tables.markdown(known[0]).split("\n\n")[0].splitlines()[2:]]
    assert [row[0] for row in rows] == ["local", "fedavg", "3 local nets"]
    means = [
        right(np.asarray(sum(logits("local", member, "own", site) for member in members)), site).mean()
        for members in ((0, 3, 5), (3, 5, 7), (5, 7, 0), (7, 0, 3))
        for site in SITES
    ]
    assert float(rows[2][6]) == pytest.approx(np.mean(means), abs=2e-3)
    assert float(rows[2][7]) > 0


def test_lab_table_computes_ensembles_again_from_results_and_answers(
    known: tuple[Results, Path], tmp_path: Path
) -> None:
    for name in ("answers.npz", "results.json"):
        (tmp_path / name).write_bytes((known[1] / name).read_bytes())
    compare.rebuild(tmp_path)
    assert (tmp_path / "table.md").read_bytes() == (known[1] / "table.md").read_bytes()
    assert TABLE in page.html(known[0])


@pytest.mark.parametrize("local", [(), (0,), (0, 3)])
def test_with_fewer_seeds_than_nets_a_line_says_so_in_place_of_a_column(local: tuple[int, ...], tmp_path: Path) -> None:
    known = compared(tmp_path, {key: arrays for key, arrays in ANSWERS.items() if key[0] != "local" or key[1] in local})
    nets = 3 if local else 2
    assert tables.notes(known) == [
        f"Averages of {nets} nets are not compared with {nets} local nets: fedavg. That takes runs of {nets} seeds, "
        "and runs of local with these seeds. Being averaged may be all that gains."
    ]
    assert TABLE not in tables.markdown(known) and "local nets |" not in tables.markdown(known)


def test_with_as_many_seeds_as_nets_differences_stand_without_an_interval(tmp_path: Path) -> None:
    known = compared(tmp_path, runs_of(0, 3, 5))
    together = block(tmp_path, TABLE)[2]
    assert together[2].endswith(" (too few seeds)") and "[" not in "".join(together[2:])
    assert together[-2:] == ["–", "–"]
    assert tables.notes(known) == [
        "With 3 seeds, differences from 3 local nets have no interval: it would be too narrow. Take 4 seeds or more."
    ]


def test_while_a_comparison_grows_its_ensembles_take_part_in_what_came_in(tmp_path: Path) -> None:
    """Draws of an earlier state of the results are not those of a later one."""
    grown = compared(tmp_path / "few", runs_of(0, 3, 5))
    tables.markdown(grown)
    whole = compared(tmp_path / "all", ANSWERS)
    later = Results(whole.runs, whole.planned, "", whole.answers_of, grown.draws, grown.choices)
    assert tables.markdown(later) == tables.markdown(whole)


def test_two_names_of_one_net_count_as_one(tmp_path: Path) -> None:
    """A site that is alone in its federation: its own net is the merged one."""
    same = {
        key: {name.replace("own", net): values for net in ("own", "merged") for name, values in
              arrays.items() if not name.endswith("merged")}
        if key[0] == "fedavg" else arrays
        for key, arrays in ANSWERS.items()
    }  # fmt: skip
    known = compared(tmp_path, same)
    assert known.averaged("fedavg") == 2
    site, run = "site-001", known.of("fedavg")[0]
    average = known.answers(run, "average", site)
    assert average is not None
    once = np.log(known.answers(run, "own", site)) + np.log(known.answers(known.of("local")[0], "own", site))  # type: ignore[arg-type]
    assert np.array_equal(average.argmax(1), once.argmax(1))
