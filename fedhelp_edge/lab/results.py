"""The results of a comparison as files keep them: what its tables and its page are computed from.

`results.json` has every run's figures and provenance, `answers.npz` the answers. Results of earlier versions have no
answers: then whatever needs them is missing from the tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import keep
from export.keep import Kept
from fedhelp_edge import files
from fedhelp_edge.errors import UsageError
from fedhelp_edge.lab import answers
from fedhelp_edge.lab.answers import Answers
from fedhelp_edge.report import seeds
from fedhelp_edge.report.scale import SCALES, Tally
from fedhelp_edge.report.seeds import Comparison, Draws

RunRecord = Mapping[str, Any]
SCALE = SCALES["classification"]
_LEAST = 1e-38  # the smallest probability whose logarithm counts
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
    draws: dict[tuple[str, ...], Draws] = field(default_factory=dict)  # computed so far
    choices: dict[tuple[str, ...], Kept] = field(default_factory=dict)  # likewise

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
        """A net's answers for a site's test images; None: it has none.

        "average" is of the nets that a site chooses among, with equal weights; "kept" is what it chooses.
        """
        if net not in ("average", "kept"):
            return self._answers(run).get(f"{site}/test_{net}")
        nets = self._candidates(run, site, "test")
        if not nets:
            return None
        if net == "average":
            return np.asarray(np.exp(keep.log_softmax(keep.pool(nets, dict.fromkeys(nets, 1 / len(nets))))))
        kept = self.kept(run, site)
        return kept.probabilities(nets) if kept else None

    def kept(self, run: RunRecord, site: str) -> Kept | None:
        """What a site keeps, decided by its validation images alone; None: answers for them are not kept."""
        key = run_name(run["method"], run["seed"]), site, str(self._local(run) is not None)
        if key not in self.choices:
            arrays, nets = self._answers(run), self._candidates(run, site, "val")
            if not nets:
                return None
            labels = arrays[f"{site}/val_labels"]
            groups = arrays.get(f"{site}/val_groups", np.arange(len(labels)))
            self.choices[key] = keep.keep(nets, labels, groups)
        return self.choices[key]

    def _candidates(self, run: RunRecord, site: str, split: str) -> dict[str, NDArray[np.float64]]:
        """The logarithms of what each net answers that a site chooses among."""
        arrays, local = self._answers(run), self._local(run)
        nets = {net: arrays.get(f"{site}/{split}_{net}") for net in ("own", "merged")}
        if local is not None and run["method"] != "local":
            nets[keep.ALONE] = local.get(f"{site}/{split}_own")
        return {net: np.log(np.maximum(values, _LEAST)) for net, values in nets.items() if values is not None}

    def _answers(self, run: RunRecord) -> Answers:
        return self.answers_of.get(run_name(run["method"], run["seed"]), {})

    def _local(self, run: RunRecord) -> Answers | None:
        return self.answers_of.get(run_name("local", run["seed"]))

    def tallies(self, run: RunRecord, net: str, sites: Sequence[int] = ()) -> list[Tally]:
        """The tallies of a net on test images, of these sites or of all; empty: such answers are not kept."""
        tallies = []
        for site, site_answers in self._site_answers(run, sites):
            if (probabilities := self.answers(run, net, site)) is None:
                return []
            tallies.append(SCALE.tally(probabilities, site_answers[f"{site}/test_labels"]))
        return tallies

    def compare(self, method: str, net: str, other: str = "", sites: Sequence[int] = ()) -> dict[str, Comparison]:
        """A net of a method against another's own nets, by default the first's, at these sites or at all.

        Over the seeds that both have, for each figure.
        """
        others = {run["seed"]: run for run in self.of(other or self.first)}
        pairs = [(others[run["seed"]], run) for run in self.of(method) if run["seed"] in others]
        if not pairs or not all(self.tallies(run, net) and self.tallies(base, "own") for base, run in pairs):
            return {}
        reference = [self._draw(base, "own", sites) for base, _ in pairs]
        drawn = [self._draw(run, net, sites) for _, run in pairs]
        return {figure: seeds.paired(drawn, reference, figure) for figure in SCALE.figures}

    def _draw(self, run: RunRecord, net: str, sites: Sequence[int]) -> Draws:
        baseline = self._local(run) is not None  # which an average needs, and may get later
        key = run_name(run["method"], run["seed"]), net, str(baseline), *map(str, sites)
        if key not in self.draws:
            groups = [arrays.get(f"{site}/test_groups", np.arange(len(arrays[f"{site}/test_labels"])))
                      for site, arrays in self._site_answers(run, sites)]  # fmt: skip
            self.draws[key] = SCALE.draw(self.tallies(run, net, sites), groups)
        return self.draws[key]

    def site_names(self, run: RunRecord) -> list[str]:
        """The names by which a run's answers know its sites, in order."""
        return sorted({name.split("/")[0] for name in self._answers(run)})

    def _site_answers(self, run: RunRecord, sites: Sequence[int]) -> list[tuple[str, Answers]]:
        names = self.site_names(run)
        return [(names[index], self._answers(run)) for index in sites or range(len(names))]


def save(out: Path, results: Results, folders: Sequence[Path]) -> Results:
    """Writes results and answers, and returns them as they are read again."""
    names = [run_name(run["method"], run["seed"]) for run in results.runs]
    answers.collect(out / answers.NAME, dict(zip(names, folders, strict=True)))
    write(out, replace(results, answers_of=answers.load(out / answers.NAME, names)))
    return replace(load(out), draws=results.draws, choices=results.choices)


def write(out: Path, results: Results) -> None:
    """Writes the results, with what each site keeps."""
    runs = [{**run, **_kept_record(results, run)} for run in results.runs]
    record = {"schema_version": 1, "planned": results.planned, "published": results.published, "runs": runs}
    files.write_atomic(out / "results.json", json.dumps(record, indent=1).encode(), private=False)


def _kept_record(results: Results, run: RunRecord) -> dict[str, Any]:
    """What each site keeps and what it expects of it, and the figures on test images."""
    choices = [results.kept(run, site) for site in results.site_names(run)]
    if not choices or None in choices:
        return {}
    scores = [SCALE.scores([tally]) for tally in results.tallies(run, "kept")]
    rows = [{**figures, **kept.to_json()} for figures, kept in zip(scores, choices, strict=True) if kept]
    return {"kept": rows}


def load(folder: Path) -> Results:
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
    return Results(runs, record.get("planned", len(runs)), record.get("published", ""), kept)
