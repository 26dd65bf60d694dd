"""Pictures of a comparison: how accuracy, or the task's first figure, grew from round to round, and what it cost.

Methods differ by dashes and marks, not by colour alone. The same runs give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Runs = Sequence[Mapping[str, Any]]
_ACCURACY = "accuracy", "accuracy"

_DASHES = ("-", "--", "-.", ":")
_MARKS = "osD^v<>P*X"


def curves(runs: Runs, measure: tuple[str, str] = _ACCURACY) -> Figure:
    """Accuracy on the validation images by round: the mean over seeds, and its spread where there are several.

    `measure`: another figure, and its name.
    """
    figure = _figure(f"{measure[1]} on validation images")
    for axes, net, title in zip(figure.axes, ("own", "merged"), ("each site's own net", "merged net"), strict=True):
        for index, (name, method_runs) in enumerate(_by_method(runs)):
            lines = _by_round(method_runs, net, measure[0])
            rounds, mean = np.arange(1, lines.shape[1] + 1), lines.mean(0)
            axes.plot(rounds, mean, f".{_DASHES[index % len(_DASHES)]}", color=f"C{index}", label=name)
            if len(lines) > 1:
                spread = lines.std(0, ddof=1)
                axes.fill_between(rounds, mean - spread, mean + spread, color=f"C{index}", alpha=0.2, linewidth=0)
        axes.set(title=title, xlabel="round")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return figure


def cost(runs: Runs, measure: tuple[str, str] = _ACCURACY) -> Figure:
    """Accuracy, or another figure, on the test images, against what was sent and how long it took: a point a seed."""
    figure = _figure(f"{measure[1]} on test images")
    for axes, quantity, unit in zip(figure.axes, ("bytes_up", "seconds"), (1e6, 1), strict=True):
        for index, (name, method_runs) in enumerate(_by_method(runs)):
            spent = [run[quantity] / unit for run in method_runs]
            gained = np.array([run["mean"][measure[0]] for run in method_runs], np.float64)
            mark = _MARKS[index % len(_MARKS)]
            axes.plot(spent, gained, mark, color=f"C{index}", label=name, clip_on=False)
        axes.set_xlabel("MB sent by all sites" if quantity == "bytes_up" else quantity)
        axes.set_xlim(left=0)
    return figure


def png(figure: Figure) -> bytes:
    """The figure and its legend as a PNG file."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()


def _figure(label: str) -> Figure:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes in figure.subplots(1, 2, sharey=True):
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(label)
    return figure


def _by_method(runs: Runs) -> Iterator[tuple[str, Runs]]:
    for name in dict.fromkeys(run["method"] for run in runs):
        yield name, [run for run in runs if run["method"] == name]


def _by_round(runs: Runs, net: str, name: str) -> NDArray[np.float64]:
    """A figure, seeds x rounds. Unknown ones are NaN, which a plot leaves out."""
    return np.array([[point[net][name] for point in run["curve"] if net in point] for run in runs], np.float64)
