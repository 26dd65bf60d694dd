"""The plots of a comparison."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

plot = pytest.importorskip(
    "fedhelp_edge.lab.plot", reason="matplotlib is not installed (extra: lab)", exc_type=ImportError
)

Run = dict[str, Any]


def run(method: str, own_accuracies: list[float | None], merged: list[float] | None = None, **more: Any) -> Run:
    """The record of a run with these accuracies, round by round."""
    curve: list[dict[str, Any]] = [
        {"round": n, "own": {"accuracy": value}} for n, value in enumerate(own_accuracies, 1)
    ]
    for point, value in zip(curve, merged or (), strict=False):
        point["merged"] = {"accuracy": value}
    return {
        "method": method,
        "curve": curve,
        "mean": {"accuracy": own_accuracies[-1]},
        "bytes_up": 0,
        "seconds": 1.0,
        **more,
    }


TWO = [
    run("fedavg", [0.2, 0.6], [0.1, 0.5], bytes_up=3_000_000, seconds=20.0),
    run("local", [0.3, 0.4]),
    run("fedavg", [0.4, 0.8], [0.3, 0.7], bytes_up=3_000_000, seconds=24.0),
]


def lines(axes: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_curves_have_a_line_for_each_method_that_is_the_mean_of_its_seeds() -> None:
    own_axes, merged = plot.curves(TWO).axes
    assert {name: np.ravel(points).tolist() for name, points in lines(own_axes).items()} == {
        "fedavg": pytest.approx([1, 0.3, 2, 0.7]),
        "local": pytest.approx([1, 0.3, 2, 0.4]),
    }
    assert np.ravel(lines(merged)["fedavg"]).tolist() == pytest.approx([1, 0.2, 2, 0.6])
    assert lines(merged)["local"] == []  # local has no merged net


def test_the_spread_over_seeds_is_shown_where_there_are_several() -> None:
    own_axes, _ = plot.curves(TWO).axes
    (band,) = own_axes.collections  # local has one seed
    heights = band.get_paths()[0].vertices[:, 1]
    half = np.std([0.2, 0.4], ddof=1)
    assert (heights.min(), heights.max()) == pytest.approx((0.3 - half, 0.7 + half))


def test_a_round_without_figures_is_left_out_of_a_line() -> None:
    own_axes, _ = plot.curves([run("local", [0.5, None])]).axes
    assert np.isnan(lines(own_axes)["local"][1][1])
    assert plot.png(plot.curves([run("local", [None])]))


def test_cost_has_a_point_for_each_seed() -> None:
    sent, time = plot.cost(TWO).axes
    assert lines(sent) == {"fedavg": [(3, 0.6), (3, 0.8)], "local": [(0, 0.4)]}
    assert lines(time) == {"fedavg": [(20, 0.6), (24, 0.8)], "local": [(1, 0.4)]}


def test_methods_differ_without_colour() -> None:
    own_axes, _ = plot.curves(TWO).axes
    sent, _ = plot.cost(TWO).axes
    assert len({line.get_linestyle() for line in own_axes.lines}) == 2
    assert len({line.get_marker() for line in sent.lines}) == 2


def test_a_plot_names_every_method() -> None:
    figure = plot.curves(TWO)
    plot.png(figure)
    assert [text.get_text() for text in figure.legends[0].texts] == ["fedavg", "local"]


@pytest.mark.parametrize("draw", [plot.curves, plot.cost])
def test_the_same_runs_give_the_same_bytes(draw: Any) -> None:
    first, second = (plot.png(draw(TWO)) for _ in range(2))
    assert first == second
    with Image.open(io.BytesIO(first)) as picture:
        assert (picture.format, picture.size) == ("PNG", (1200, 540))
        assert b"tEXt" not in first  # no version, no date


def test_plots_have_labelled_axes_a_common_scale_and_integer_rounds() -> None:
    curves, cost = plot.curves(TWO), plot.cost(TWO)
    for figure in (curves, cost):
        plot.png(figure)  # which draws it
        left, right = figure.axes
        assert left.get_ylim() == right.get_ylim()
    assert (curves.axes[0].get_ylabel(), curves.axes[1].get_ylabel()) == ("accuracy on validation images", "")
    assert (cost.axes[0].get_ylabel(), cost.axes[1].get_ylabel()) == ("accuracy on test images", "")
    assert [axes.get_title() for axes in curves.axes] == ["each site's own net", "merged net"]
    assert [axes.get_xlabel() for axes in curves.axes] == ["round", "round"]
    assert [axes.get_xlabel() for axes in cost.axes] == ["MB sent by all sites", "seconds"]
    assert [axes.get_xlim()[0] for axes in cost.axes] == [0, 0]
    assert all(float(tick).is_integer() for axes in curves.axes for tick in axes.get_xticks())
