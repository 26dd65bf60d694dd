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
from fedhelp_edge.errors import FileMissingError, UsageError
from fedhelp_edge.lab import answers
from fedhelp_edge.lab.answers import Answers
from fedhelp_edge.report import seeds
from fedhelp_edge.report.scale import SCALES, Scale, Tally
from fedhelp_edge.report.seeds import Comparison, Draws

RunRecord = Mapping[str, Any]
_LEAST = 1e-38  # the smallest probability whose logarithm counts
_FURTHER = "further"  # in the record of an ensemble: the seeds of its other local nets
_KEYS = {"method", "seed", "sites", "mean", "merged", "bytes_up", "seconds", "curve"}  # that every version writes


RUN_RECORD = "run.json"  # in the folder of each run


def run_name(method: str, seed: int) -> str:
    """The name of a run's folder, and of its answers."""
    return f"{method.replace('/', '_')}-{seed}"


def seeds_for_interval(nets: int) -> int:
    """How many seeds an interval takes against ensembles of so many local nets (docs/decisions/intervals.md)."""
    return max(4, nets + 1)


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

    @cached_property
    def scale(self) -> Scale:
        """How the runs' answers are judged."""
        settings = self.runs[0].get("provenance", {}).get("settings") or {}
        return SCALES[settings.get("task", "classification")]

    @property
    def first(self) -> str:
        """The method that all others are compared with."""
        return self.methods[0]

    @cached_property
    def alone(self) -> str:
        """The method that is training alone: `local`, or else the first one of its name with settings of its own."""
        named = [method for method in self.methods if method.split("+")[0] == "local"]
        return "local" if "local" in named else next(iter(named), "local")

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
            names = self._averaged(run, site)
            return np.asarray(np.exp(keep.log_softmax(keep.pool(nets, dict.fromkeys(names, 1 / len(names))))))
        kept = self.kept(run, site)
        return kept.probabilities(nets) if kept else None

    def kept(self, run: RunRecord, site: str) -> Kept | None:
        """What a site keeps, decided by its validation images alone; None: answers for them are not kept."""
        key = *self._key(run), site
        if key not in self.choices:
            arrays, nets = self._answers(run), self._candidates(run, site, "val")
            if not nets:
                return None
            labels = arrays[f"{site}/val_labels"]
            groups = arrays.get(f"{site}/val_groups", np.arange(len(labels)))
            self.choices[key] = keep.keep(nets, labels, groups)
        return self.choices[key]

    def _candidates(self, run: RunRecord, site: str, split: str) -> dict[str, NDArray[np.float64]]:
        """The logarithms of what each net answers that a site chooses among; of masks none is kept."""
        if not self.scale.pools:
            return {}
        arrays, local = self._answers(run), self._local(run)
        nets = {net: arrays.get(f"{site}/{split}_{net}") for net in ("own", "merged")}
        if local is not None and run["method"] != self.alone:
            nets[keep.ALONE] = local.get(f"{site}/{split}_own")
        for seed in run.get(_FURTHER, ()):
            nets[f"own {seed}"] = self.answers_of[run_name(self.alone, seed)].get(f"{site}/{split}_own")
        return {net: np.log(np.maximum(values, _LEAST)) for net, values in nets.items() if values is not None}

    def _averaged(self, run: RunRecord, site: str) -> list[str]:
        """The nets that a site averages, each once, as validation images tell them apart."""
        return keep.distinct(self._candidates(run, site, "val") or self._candidates(run, site, "test"))

    def _key(self, run: RunRecord) -> tuple[str, ...]:
        """What an average of a run's nets rests on; it gets a local baseline later than its own answers."""
        return run_name(run["method"], run["seed"]), str(self._local(run) is not None), *map(str, run.get(_FURTHER, ()))

    def _answers(self, run: RunRecord) -> Answers:
        return self.answers_of.get(run_name(run["method"], run["seed"]), {})

    def _local(self, run: RunRecord) -> Answers | None:
        return self.answers_of.get(run_name(self.alone, run["seed"]))

    def tallies(self, run: RunRecord, net: str, sites: Sequence[int] = ()) -> list[Tally]:
        """The tallies of a net on test images, of these sites or of all; empty: such answers are not kept."""
        tallies = []
        for site, site_answers in self._site_answers(run, sites):
            if (probabilities := self.answers(run, net, site)) is None:
                return []
            tallies.append((probabilities, site_answers[f"{site}/test_labels"]))
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
        return {figure: seeds.paired(drawn, reference, figure) for figure in self.scale.figures}

    def averaged(self, method: str) -> int:
        """How many nets a site averages by a method; 0: answers are not kept."""
        return max(
            (len(self._averaged(run, site)) for run in self.of(method) for site in self.site_names(run)), default=0
        )

    def ensembles(self, method: str, size: int, without: int | None = None) -> list[tuple[RunRecord, RunRecord]]:
        """The runs of a method, each with an ensemble of local nets: that of its own seed, and of the next ones.

        After the last seed comes the first. Seeds are those of which there are runs of both; if there are fewer than
        the ensemble has nets, there is none. `without` leaves a seed out, with its runs.
        """
        runs = {run["seed"]: run for run in self.of(method) if self._local(run) is not None}
        if len(runs) < size:
            return []
        runs.pop(without, None)
        order = sorted(runs)
        windows = {
            seed: sorted(order[(start + step) % len(order)] for step in range(min(size, len(order))))
            for start, seed in enumerate(order)
        }
        return [(runs[seed], {"method": self.alone, "seed": first, _FURTHER: further})
                for seed, (first, *further) in windows.items()]  # fmt: skip

    def compare_with_ensembles(
        self, method: str, net: str, size: int, sites: Sequence[int] = ()
    ) -> dict[str, Comparison]:
        """A net of a method against as many local nets as `size` says, at these sites or at all.

        An average stands against an average. What sites keep stands against local nets that are weighed alike. Each
        local net is in several ensembles: seeds are left out in turn to see what each adds. Of fewer seeds than
        `seeds_for_interval` there is no interval: it would be too narrow.
        """
        together = "kept" if net == "kept" else "average"
        pairs = self.ensembles(method, size)
        if (
            size < 2
            or not pairs
            or not all(self.tallies(run, net) and self.tallies(local, together) for run, local in pairs)
        ):
            return {}
        samples = [pairs, *(self.ensembles(method, size, run["seed"]) for run, _ in pairs)]
        drawn = [
            [(self._draw(run, net, sites), self._draw(local, together, sites)) for run, local in sample]
            for sample in samples
        ]
        compared = {figure: seeds.paired_with_shared(drawn[0], drawn[1:], figure) for figure in self.scale.figures}
        if len(pairs) >= seeds_for_interval(size):
            return compared
        return {
            figure: Comparison(each.value, reason=each.reason or seeds.TOO_FEW) for figure, each in compared.items()
        }

    def _draw(self, run: RunRecord, net: str, sites: Sequence[int]) -> Draws:
        key = *self._key(run), net, *map(str, sites)
        if key not in self.draws:
            groups = [arrays.get(f"{site}/test_groups", np.arange(len(arrays[f"{site}/test_labels"])))
                      for site, arrays in self._site_answers(run, sites)]  # fmt: skip
            self.draws[key] = self.scale.draw(self.tallies(run, net, sites), groups)
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
    pools = results.scale.pools
    answers.collect(out / answers.NAME, dict(zip(names, folders, strict=True)), pools)
    write(out, replace(results, answers_of=answers.load(out / answers.NAME, names, pools)))
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
    scores = [results.scale.scores([tally]) for tally in results.tallies(run, "kept")]
    rows = [{**figures, **kept.to_json()} for figures, kept in zip(scores, choices, strict=True) if kept]
    return {"kept": rows}


def load(folder: Path) -> Results:
    """The results that a folder keeps, of this version or an earlier one."""
    try:
        with files.reading(folder / "results.json") as file:
            content = file.read()
    except FileNotFoundError as error:
        raise FileMissingError(
            f"{folder.absolute().name} has no results.json" if folder.exists() else f"{folder.name} is not there",
            remedy="name a folder in which 'lab compare' has finished a run",
        ) from error
    try:
        record = json.loads(content)
        runs = record["runs"]
        names = [run_name(run["method"], run["seed"]) for run in runs if run.keys() >= _KEYS and run["sites"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder.name}/results.json has no comparison's results") from error
    if not names or len(names) < len(runs):
        raise UsageError(f"{folder.name}/results.json has no comparison's results, or not all of each run")
    known = Results(runs, record.get("planned", len(runs)), record.get("published", ""))
    if not (folder / answers.NAME).exists():
        return known
    return replace(known, answers_of=answers.load(folder / answers.NAME, names, known.scale.pools))
