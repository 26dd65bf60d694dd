"""The tables of a comparison, as text and as parts of a page. They follow from the results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fedhelp_edge.lab import published
from fedhelp_edge.lab.results import Results, RunRecord, seeds_for_interval
from fedhelp_edge.report.seeds import Comparison, holm
from fedhelp_edge.safe_text import counted

NOT_KEPT = "These runs' answers are not kept: differences, averages and merged nets by site cannot be computed again."

_MARGIN = 0.005  # accuracy below training alone that counts as a loss


@dataclass(frozen=True)
class ResultsTable:
    """A table with a line above it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        above = f"{self.caption}\n\n" if self.caption else ""
        return above + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def all_of(results: Results) -> list[ResultsTable]:
    """All tables: the overview, differences, tests, local ensembles, the nets of each site, and what it keeps."""
    sites = [_sites(results), *_sites_of(results, "merged", "the merged net")]
    kept = [*_sites_of(results, "kept", "what a site keeps,"), *_kept_gains(results)]
    differences = [*_differences(results), *_against_ensembles(results)]
    return [
        _overview(results),
        *_privacy(results),
        *_rounds(results),
        *differences,
        *sites,
        *kept,
        *_published(results),
    ]


def markdown(results: Results) -> str:
    """The page in Markdown."""
    blocks = [*notes(results), *(table.markdown() for table in all_of(results))]
    if sentences := findings(results):
        blocks.append("What these images cannot tell:\n\n" + "\n".join(f"- {sentence}" for sentence in sentences))
    return "\n\n".join(blocks) + "\n"


def notes(results: Results) -> list[str]:
    """What a reader must know first: runs that are not finished, answers that are not kept."""
    lines = []
    if len(results.runs) < results.planned:
        lines.append(f"**Not finished: {len(results.runs)} of {results.planned} runs.**")
    wrong = [100 * site["flipped"] / site["n_train"] for site in results.sites if site.get("flipped")]
    if wrong:
        span = " to ".join(dict.fromkeys(f"{end:.0f}" for end in (min(wrong), max(wrong))))
        lines.append(
            f"At {counted(len(wrong), 'site')} {span} % of the training labels are wrong on purpose (first seed)."
        )
    part = min((run.get("provenance", {}).get("participation", 1.0) for run in results.runs), default=1.0)
    if part < 1:
        lines.append(
            f"In each round {100 * part:g} % of the sites take part. A site that never did is judged by the merged net."
            " To train alone no site waits for a round."
        )
    return [*lines, *_missing_ensembles(results)] if results.answers_of else [*lines, NOT_KEPT]


def _missing_ensembles(results: Results) -> Iterator[str]:
    """Which averages are not compared with as many local nets, or without an interval: there are too few seeds."""
    others = [method for method in results.methods if method != results.alone]
    for size in sorted({results.averaged(method) for method in others} - {0, 1}):
        counts = {name: len(results.ensembles(name, size)) for name in others if results.averaged(name) == size}
        if missing := [name for name, count in counts.items() if not count]:
            yield (
                f"Averages of {size} nets are not compared with {size} local nets: {', '.join(missing)}. That takes "
                f"runs of {size} seeds, and runs of local with these seeds. Being averaged may be all that gains."
            )
        fewest, needed = min(filter(None, counts.values()), default=0), seeds_for_interval(size)
        if 0 < fewest < needed:
            yield (
                f"With {fewest} seeds, differences from {size} local nets have no interval: it would be too narrow. "
                f"Take {needed} seeds or more."
            )


def findings(results: Results) -> list[str]:
    """What the images of these runs cannot tell."""
    return list(dict.fromkeys(finding["sentence"] for run in results.runs for finding in run.get("findings", ())))


def _overview(results: Results) -> ResultsTable:
    scale, rows = results.scale, []
    name = scale.names[scale.figures[0]]
    nets = [f"merged net: {name}", *([f"average of nets: {name}", f"kept: {name}"] if scale.pools else [])]
    head = ["method", "seeds", *scale.names.values(), *nets, "MB sent", "MB received", "seconds", "peak memory, MB"]
    for method in results.methods:
        runs = results.of(method)
        cells = [_mean_and_std([run["mean"][figure] for run in runs]) for figure in scale.figures]
        merged = _mean_and_std([run["merged"][scale.figures[0]] for run in runs if run["merged"]])
        pooled = [
            _mean_and_std([_mean_of_sites(results, run, net) for run in runs])
            for net in (("average", "kept") if scale.pools else ())
        ]
        costs = [
            "–" if any(key not in run for run in runs) else f"{np.mean([run[key] for run in runs]) / unit:.{digits}f}"
            for key, unit, digits in (("bytes_up", 1e6, 1), ("bytes_down", 1e6, 1), ("seconds", 1, 0))
        ]
        peaks = [run["peak_memory"] for run in runs if run.get("peak_memory")]
        peak = f"{max(peaks) / 1e6:.0f}" if peaks else "–"
        rows.append([method, str(len(runs)), *cells, merged, *pooled, *costs, peak])
    for size in _ensemble_sizes(results):
        figures = [_of_ensembles(results, size, net) for net in ("average", "kept")]
        rows.append([_ensemble_name(size), str(len(results.of(results.alone))), *["–"] * 4, *figures, *["–"] * 4])
    return ResultsTable("", head, rows)


def _privacy(results: Results) -> Iterator[ResultsTable]:
    """What each method's updates tell of an image at most, or its sums of a site, where noise hides it."""
    for unit, what in (("", "What updates tell of one training image"), ("site", "What sums tell of one site")):
        rows = [
            [method, f"{max(spent['epsilon'] for spent in of_runs):.3g}", f"{of_runs[0]['delta']:g}"]
            for method in results.methods
            if (of_runs := [run["privacy"] for run in results.of(method) if run.get("privacy")])
            and of_runs[0].get("unit", "") == unit
        ]
        if rows:
            yield ResultsTable(f"{what} (differential privacy):", ["method", "epsilon", "delta"], rows)


def _mean_of_sites(results: Results, run: RunRecord, net: str, figure: str = "") -> float | None:
    """A figure of a net, by default the first, in the mean over sites."""
    scale = results.scale
    figures = [scale.scores([tally])[figure or scale.figures[0]] for tally in results.tallies(run, net)]
    known = [value for value in figures if value is not None]
    return float(np.mean(known)) if known else None


def _differences(results: Results) -> Iterator[ResultsTable]:
    """Differences from the first method's own nets on all sites' test images together, and tests of them."""
    columns: dict[str, dict[str, Comparison]] = {}
    for method in results.methods[1:]:
        own, average = (results.compare(method, net) for net in ("own", "average"))
        if own:
            names, first = results.scale.names, results.scale.figures[0]
            named = {names[figure]: comparison for figure, comparison in own.items()}
            columns[method] = named | ({f"average of nets: {names[first]}": average[first]} if average else {})
    if not columns:
        return
    head = ["method", *next(iter(columns.values()))]
    seed_counts = {len(results.of(method)) for method in results.methods}
    about = "other seeds and other images of these sites" if min(seed_counts) > 1 else "other images of these sites"
    yield ResultsTable(
        f"Difference from one net of {results.first} (all sites' test images together), 95 % interval for {about}:",
        head,
        [[method, *(_interval(cell) for cell in cells.values())] for method, cells in columns.items()],
    )
    count = f"{len(columns)} comparison{'s' * (len(columns) > 1)}"
    adjusted = [
        (holm([cells[name].p for cells in columns.values()]), holm([cells[name].p_seeds for cells in columns.values()]))
        for name in head[1:]
    ]
    yield ResultsTable(
        f"Chance of such a difference where there is none, after Holm's correction for the {count} of a column. "
        f"First for {about}, then for other seeds on these very images (paired t-test):",
        head,
        [
            [method, *(f"{_chance(both[row])}, {_chance(seeds[row])}" for both, seeds in adjusted)]
            for row, method in enumerate(columns)
        ],
    )


def _rounds(results: Results) -> Iterator[ResultsTable]:
    """The best round of each run, where that is not the last."""
    if any(run.get("best_round", run.get("rounds")) != run.get("rounds") for run in results.runs):
        rows = [
            [
                method,
                ", ".join(f"{run.get('best_round', run['rounds'])} of {run['rounds']}" for run in results.of(method)),
            ]
            for method in results.methods
        ]
        yield ResultsTable(
            "The best round, of those trained, for each seed: its nets are judged. By one rule, validation images end "
            "a run and choose its best round:",
            ["method", "best round"],
            rows,
        )


def _ensemble_sizes(results: Results) -> list[int]:
    """How many local nets stand against averages: of the methods with enough seeds."""
    sizes = {results.averaged(method) for method in results.methods if method != results.alone} - {0, 1}
    return sorted(size for size in sizes if results.ensembles(results.alone, size))


def _ensemble_name(size: int) -> str:
    return f"{size} local nets"


def _of_ensembles(results: Results, size: int, net: str) -> str:
    """The accuracy of ensembles of local nets, the mean over sites and seeds; without a spread, for they share nets."""
    values = [_mean_of_sites(results, local, net) for _, local in results.ensembles(results.alone, size)]
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f}" if known else "–"


def _against_ensembles(results: Results) -> Iterator[ResultsTable]:
    """What averages of nets, and what sites keep, are worth beside as many local nets."""
    rows, chances = [], []
    sites: list[list[str]] = []
    for size in _ensemble_sizes(results):
        for method in results.methods:
            if method != results.alone and results.averaged(method) != size:
                continue
            average, kept = (results.compare_with_ensembles(method, net, size) for net in ("average", "kept"))
            if not average:
                continue
            cells = [
                _interval(by_figure[name]) if by_figure else "–"
                for by_figure in (average, kept)
                for name in _both_figures(results)
            ]
            rows.append([method, str(size), *cells])
            chances.append(
                [by_figure[results.scale.figures[0]].p if by_figure else None for by_figure in (average, kept)]
            )
            if kept:
                each = [
                    results.compare_with_ensembles(method, "kept", size, [index])[results.scale.figures[0]]
                    for index in range(len(results.sites))
                ]
                sites.append([method, str(size), *map(_interval, each)])
    if not rows:
        return
    adjusted = [holm(column) for column in zip(*chances, strict=True)]
    names = [
        f"{net}: {results.scale.names[name]}" for net in ("average of nets", "kept") for name in _both_figures(results)
    ]
    yield ResultsTable(
        "Does taking part gain more than training several nets alone? Difference from as many local nets: those of the "
        "same seed and of the next ones. An average stands against their average, what sites keep against local nets "
        f"that are weighed alike. All sites' test images together, 95 % interval. In {results.alone}: one net against "
        "several. Then the chance of such a difference in accuracy where there is none, after Holm's correction:",
        ["method", "local nets", *names, "chance: average", "chance: kept"],
        [[*row, *map(_chance, pair)] for row, pair in zip(rows, zip(*adjusted, strict=True), strict=True)],
    )
    if sites:
        yield ResultsTable(
            "Accuracy of what each site keeps, less that of as many local nets that are weighed alike:",
            ["method", "local nets", *_site_heads(results)],
            sites,
        )


def _sites(results: Results) -> ResultsTable:
    """Accuracy and balanced accuracy of each site's own net; the mean over sites comes last."""
    rows = []
    for method in results.methods:
        runs = results.of(method)
        parts = [[run["sites"][index] for run in runs] for index in range(len(results.sites))]
        rows.append([method, *map(partial(_both, results), [*parts, [run["mean"] for run in runs]])])
    return ResultsTable(f"{_both_names(results)} of each site:", ["method", *_site_heads(results), "mean"], rows)


def _sites_of(results: Results, net: str, name: str) -> Iterator[ResultsTable]:
    """The same of another net, of the methods that have it."""
    rows = []
    for method in results.methods:
        runs = results.of(method)
        tallies = [results.tallies(run, net) for run in runs]
        if not all(tallies):
            continue
        parts = [[results.scale.scores([run[index]]) for run in tallies] for index in range(len(results.sites))]
        means = [
            {figure: _mean_of_sites(results, run, net, figure) for figure in _both_figures(results)} for run in runs
        ]
        rows.append([method, *map(partial(_both, results), [*parts, means])])
    if rows:
        head = ["method", *_site_heads(results), "mean"]
        yield ResultsTable(f"{_both_names(results)} of {name} at each site:", head, rows)


def _kept_gains(results: Results) -> Iterator[ResultsTable]:
    """How far what a site keeps is above one local net of the same seed; and what it would have expected."""
    tiers = [site["tier"] for site in results.sites]
    small = [index for index, tier in enumerate(tiers) if tier == "small"]
    pools = {"small sites": small} if 0 < len(small) < len(tiers) else {}
    pools = {**pools, "all sites": list(range(len(tiers)))}
    each: list[list[str]] = []
    together: list[list[str]] = []
    chances: list[float | None] = []
    for method in results.methods:
        if method == results.alone or not results.compare(method, "kept", results.alone):
            continue
        sites = [
            results.compare(method, "kept", results.alone, [index])[results.scale.figures[0]]
            for index in range(len(tiers))
        ]
        pooled = [results.compare(method, "kept", results.alone, pool) for pool in pools.values()]
        expected = [_expected(results, method, index) for index in range(len(tiers))]
        each.append([method, *(f"{_interval(site)}; {text}" for site, text in zip(sites, expected, strict=True))])
        below = sum((site.value or 0) < -_MARGIN for site in sites)
        cells = [_interval(pool[name]) for pool in pooled for name in _both_figures(results)]
        together.append([method, *cells, f"{below} of {len(sites)}"])
        chances.append(pooled[0][results.scale.figures[0]].p)
    if not each:
        return
    yield ResultsTable(
        "Accuracy of what each site keeps, less that of one net trained alone with the same seed, 95 % interval. Then "
        "what the site would have expected by its validation images, in the mean over seeds:",
        ["method", *_site_heads(results)],
        each,
    )
    head = [f"{pool}: {results.scale.names[name]}" for pool in pools for name in _both_figures(results)]
    yield ResultsTable(
        "The same on the test images of several sites together. Then the number of sites that are more than "
        f"{_MARGIN} below one net trained alone, in the mean over seeds. The chance is that of the first column where "
        "there is no difference, after Holm's correction:",
        ["method", *head, "sites below", "chance"],
        [[*row, _chance(p)] for row, p in zip(together, holm(chances), strict=True)],
    )


def _expected(results: Results, method: str, index: int) -> str:
    """The gain in accuracy that a site would have expected: the mean over seeds of the value and of its interval."""
    kept = [results.kept(run, results.site_names(run)[index]) for run in results.of(method)]
    figures = [one.gain.accuracy for one in kept if one]
    parts = [[getattr(figure, part) for figure in figures] for part in ("value", "low", "high")]
    if any(value is None for part in parts for value in part):
        return f"expected: {next(figure.reason for figure in figures if figure.reason)}"
    value, low, high = map(np.mean, parts)
    return f"expected {_interval(Comparison(float(value), float(low), float(high)))}"


def _site_heads(results: Results) -> list[str]:
    return [f"{site['name']} ({site['tier']}, {site['n_train']}/{site['n_test']})" for site in results.sites]


def _published(results: Results) -> Iterator[ResultsTable]:
    """The published figures, with the mean of ours beside."""
    if not results.published:
        return
    figures = published.load()[results.published]
    rows = []
    for method, numbers in figures["accuracy"].items():
        ours = [run["mean"]["accuracy"] for run in results.of(method)]
        rows.append([method, *(f"{number:.4f}" for number in numbers), _mean_and_std(ours)])
    yield ResultsTable(
        f"Published: {figures['source']} {figures['note']}", ["method", *figures["sites"], "here: mean"], rows
    )


def _both_figures(results: Results) -> Sequence[str]:
    """The first two figures: accuracy and balanced accuracy, or what the task has."""
    return results.scale.figures[:2]


def _both_names(results: Results) -> str:
    first, second = (results.scale.names[name] for name in _both_figures(results))
    return f"{first[0].upper()}{first[1:]} ({second})"


def _both(results: Results, figures: Sequence[Mapping[str, float | None]]) -> str:
    """The first figure of several runs and, in brackets, the second."""
    first, second = (_mean_and_std([run[name] for run in figures]) for name in _both_figures(results))
    return f"{first} ({second})"


def _mean_and_std(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{np.mean(known):.3f}"
    return f"{mean} ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else mean


def _interval(comparison: Comparison) -> str:
    if comparison.value is None:
        return "–"
    if comparison.low is None:
        return f"{comparison.value:+.3f} ({comparison.reason})"
    return f"{comparison.value:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"


def _chance(p: float | None) -> str:
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
