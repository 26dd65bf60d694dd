"""Many runs side by side: methods and seeds over the same sites, tables with intervals and tests, a page, pictures.

A method may carry settings of its own: `fedhelp+sources=none`. Every difference is taken against the first method
named, on the same test images of all sites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedhelp_edge import files, lock
from fedhelp_edge.errors import FedhelpError, TrainingError, UsageError
from fedhelp_edge.lab import answers, page, results, tables
from fedhelp_edge.lab.results import RUN_RECORD, Results, run_name
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.safe_text import shortened


def parse_method(name: str) -> tuple[str, dict[str, str]]:
    """The method's name, and the settings that stand after it."""
    method, *settings = name.split("+")
    pairs = [setting.partition("=") for setting in settings]
    return method, {key if "." in key else f"{method}.{key}": value for key, _, value in pairs}


def parse_methods(text: str) -> list[str]:
    """The methods that a command names; `all` means all, training alone first: what others are compared with."""
    everybody = ["local", *(name for name in METHODS if name != "local")]
    names = [name for part in text.split(",") for name in (everybody if part == "all" else [part])]
    return list(dict.fromkeys(names))


def compare(
    methods: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    run_one: Callable[[str, int, Path], dict[str, Any]],
    published: str = "",
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Runs what is missing, and writes results, tables, page and pictures anew after each finished run.

    A seed that is named twice counts once. A run whose training fails stops no other; its error comes at the end.
    """
    say = progress or (lambda text: None)
    planned = [(name, seed) for name in methods for seed in dict.fromkeys(seeds)]
    runs: list[dict[str, Any]] = []
    folders: list[Path] = []
    failed: list[FedhelpError] = []
    known = Results(runs, len(planned), published)
    is_written = False
    out.mkdir(parents=True, exist_ok=True)
    with lock.exclusive(out / ".lock", wait=0.0):
        _say_left_out(out, planned, say)
        for name, seed in planned:
            folder = out / "runs" / run_name(name, seed)
            was_there = (folder / RUN_RECORD).exists()
            try:
                runs.append({**run_one(name, seed, folder), "method": name})
            except (TrainingError, UsageError) as error:
                error.cause = f"{folder.name}: {error.cause}"
                failed.append(error)
                say(f"{error.cause}; the other runs go on")
                continue
            folders.append(folder)
            if is_written := not was_there:
                known = _save(out, replace(known, runs=runs), folders)
        if runs and not is_written:
            known = _save(out, replace(known, runs=runs), folders)
    if failed:
        raise failed[0]
    return [dict(run) for run in known.runs]


def _save(out: Path, known: Results, folders: Sequence[Path]) -> Results:
    known = results.save(out, known, folders)
    write(out, known)
    return known


def _say_left_out(out: Path, planned: Sequence[tuple[str, int]], say: Callable[[str], None]) -> None:
    """Says which runs of an earlier comparison are not in the tables of this one."""
    with suppress(FedhelpError):  # there is none yet, or it is damaged
        names = [run_name(run["method"], run["seed"]) for run in results.load(out).runs]
        if left_out := [name for name in names if name not in {run_name(*each) for each in planned}]:
            say(
                f"the tables leave {shortened(left_out)} out, which {out.name} has from before: name them in --methods "
                "and --seeds to have them in"
            )


def write(out: Path, known: Results) -> None:
    """Writes what follows from the results: tables, page, and, where `can_plot` says so, pictures."""
    files.write_atomic(out / "table.md", tables.markdown(known).encode(), private=False)
    files.write_atomic(out / "report.html", page.html(known).encode(), private=False)
    if can_plot():
        from fedhelp_edge.lab import plot

        first = known.scale.figures[0]
        measure = first, known.scale.names[first]
        files.write_atomic(out / "curves.png", plot.png(plot.curves(known.runs, measure)), private=False)
        files.write_atomic(out / "cost.png", plot.png(plot.cost(known.runs, measure)), private=False)


def rebuild(folder: Path) -> Results:
    """Computes tables and page again from what a folder keeps, and writes them if its answers are kept.

    An older folder keeps no answers: its table stays as it is. If its runs are still there, they give the answers.
    """
    known = results.load(folder)
    folders = [folder / "runs" / run_name(run["method"], run["seed"]) for run in known.runs]
    if not known.answers_of and all((run / answers.NAME).exists() for run in folders):
        known = results.save(folder, known, folders)
    elif known.answers_of:
        results.write(folder, known)
    if known.answers_of or not (folder / "table.md").exists():
        write(folder, known)
    return known


def can_plot() -> bool:
    """Whether matplotlib is installed, for curves.png and cost.png."""
    return find_spec("matplotlib") is not None
