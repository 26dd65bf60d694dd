"""The results of a comparison as files keep them: what its tables and its page are computed from.

`results.json` has every run's figures and provenance, `answers.npz` the answers. Results of earlier versions have no
answers: then whatever needs them is missing from the tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.errors import UsageError
from fedhelp_edge.lab import answers
from fedhelp_edge.lab.answers import Answers
from fedhelp_edge.report import seeds
from fedhelp_edge.report.scale import SCALES, Tally
from fedhelp_edge.report.seeds import Comparison, Draws

RunRecord = Mapping[str, Any]
SCALE = SCALES["classification"]
_KEYS = {"method", "seed", "sites", "mean", "merged", "bytes_up", "seconds", "curve"}  # that every version writes


def run_name(method: str, seed: int) -> str:
    """The name of a run's folder, and of its answers."""
    return f"{method.replace('/', '_')}-{seed}"


@dataclass(frozen=True)
class Results:
    """The finished runs of a comparison, in the order of its arguments."""

    runs: Sequence[RunRecord]
    planned: int  # runs in all
    published: str = ""  # the published figures to show beside
    answers_of: Mapping[str, Answers] = field(default_factory=dict)  # by the run's name; empty: they are not kept
    draws: dict[tuple[str, str, str], Draws] = field(default_factory=dict)  # computed so far

    @cached_property
    def methods(self) -> list[str]:
        """The names of the methods, each once."""
        return list(dict.fromkeys(run["method"] for run in self.runs))

    def of(self, method: str) -> list[RunRecord]:
        """The runs of a method, one a seed."""
        return [run for run in self.runs if run["method"] == method]

    @property
    def first(self) -> str:
        """The method that all others are compared with."""
        return self.methods[0]

    @property
    def sites(self) -> Sequence[Mapping[str, Any]]:
        """What each site is, from the first run."""
        return list(self.runs[0]["sites"])

    def answers(self, run: RunRecord, net: str, site: str) -> NDArray[np.float64] | None:
        """A net's answers for a site's test images; None: it has none. The average is of a site's three nets."""
        kept = self.answers_of.get(run_name(run["method"], run["seed"]), {})
        if net != "average":
            return kept.get(f"{site}/test_{net}")
        nets = [self.answers(run, name, site) for name in ("own", "merged")]
        if run["method"] != "local":
            nets.append(self.answers_of.get(run_name("local", run["seed"]), {}).get(f"{site}/test_own"))
        known = [probabilities for probabilities in nets if probabilities is not None]
        return np.asarray(np.mean(known, axis=0)) if known else None

    def tallies(self, run: RunRecord, net: str) -> list[Tally]:
        """Each site's tally of a net on its test images; empty: such answers are not kept."""
        tallies = []
        for site, kept in self._site_answers(run):
            if (probabilities := self.answers(run, net, site)) is None:
                return []
            tallies.append(SCALE.tally(probabilities, kept[f"{site}/test_labels"]))
        return tallies

    def compare(self, method: str, net: str) -> dict[str, Comparison]:
        """A net of a method against the first method's own nets, over the seeds that both have, for each figure."""
        first = {run["seed"]: run for run in self.of(self.first)}
        pairs = [(first[run["seed"]], run) for run in self.of(method) if run["seed"] in first]
        if not pairs or not all(self.tallies(run, net) and self.tallies(base, "own") for base, run in pairs):
            return {}
        reference = [self._draw(base, "own") for base, _ in pairs]
        drawn = [self._draw(run, net) for _, run in pairs]
        return {figure: seeds.paired(drawn, reference, figure) for figure in SCALE.figures}

    def _draw(self, run: RunRecord, net: str) -> Draws:
        baseline = run_name("local", run["seed"]) in self.answers_of  # which an average needs, and may get later
        key = run_name(run["method"], run["seed"]), net, str(baseline)
        if key not in self.draws:
            groups = [kept.get(f"{site}/test_groups", np.arange(len(kept[f"{site}/test_labels"])))
                      for site, kept in self._site_answers(run)]  # fmt: skip
            self.draws[key] = SCALE.draw(self.tallies(run, net), groups)
        return self.draws[key]

    def _site_answers(self, run: RunRecord) -> list[tuple[str, Answers]]:
        kept = self.answers_of.get(run_name(run["method"], run["seed"]), {})
        return [(site, kept) for site in sorted({name.split("/")[0] for name in kept})]


def save(out: Path, results: Results, folders: Sequence[Path]) -> Results:
    """Writes results and answers, and returns them as they are read again."""
    record = {"schema_version": 1, "planned": results.planned, "published": results.published, "runs": results.runs}
    names = [run_name(run["method"], run["seed"]) for run in results.runs]
    answers.collect(out / answers.NAME, dict(zip(names, folders, strict=True)))
    files.write_atomic(out / "results.json", json.dumps(record, indent=1).encode(), private=False)
    return load(out, results.draws)


def load(folder: Path, draws: dict[tuple[str, str, str], Draws] | None = None) -> Results:
    """The results that a folder keeps, of this version or an earlier one."""
    with files.reading(folder / "results.json") as file:
        try:
            record = json.loads(file.read())
            runs = record["runs"]
            names = [run_name(run["method"], run["seed"]) for run in runs if run.keys() >= _KEYS and run["sites"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{folder.name}/results.json has no comparison's results") from error
    if not names or len(names) < len(runs):
        raise UsageError(f"{folder.name}/results.json has no comparison's results, or not all of each run")
    kept = answers.load(folder / answers.NAME, names) if (folder / answers.NAME).exists() else {}
    planned = record.get("planned", len(runs))
    return Results(runs, planned, record.get("published", ""), kept, {} if draws is None else draws)
