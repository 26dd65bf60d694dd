"""One table of a site's nets, with the number of images beside each figure."""

from __future__ import annotations

import numpy as np

from fedhelp_edge.report import metrics, nets


def scores(images: int, right: int) -> metrics.Scores:
    labels = np.arange(images) % 2
    answers = np.where(np.arange(images) < right, labels, 1 - labels)
    return metrics.scores(np.eye(2)[answers] * 0.8 + 0.1, labels)


def measured(images: int, right: int) -> dict[str, float | None]:
    return {**nets.figures(scores(images, right)), **nets.figures(scores(2 * images, 2 * right), "test_")}


def test_each_figure_has_its_number_of_images_and_interval() -> None:
    rows = nets.table({"alone": measured(14, 12), "own": measured(14, 13)}, "own")
    assert rows == [
        ("this site's own net", "0.93 (n=14, 0.69-0.99)", "0.93 (n=28, 0.77-0.98)", "chosen"),
        ("trained alone", "0.86 (n=14, 0.60-0.96)", "0.86 (n=28, 0.69-0.94)", ""),
    ]
    assert nets.lines({"own": measured(14, 13)}, "")[1].endswith("0.98)")


WEIGHING = {
    "weights": {"own": 0.5, "merged": 0.15, "alone": 0.35}, "images": 60,
    "gain": {"accuracy": {"value": 0.04, "low": -0.01, "high": 0.094, "reason": None}},
}  # fmt: skip


def test_what_is_kept_is_said_with_the_gain_to_expect() -> None:
    assert nets.weighing_lines(WEIGHING) == [
        "how much each net counts: this site's own net 50 %, trained alone 35 %, the merged net 15 %",
        "expected gain over one net trained alone: accuracy +0.04 (-0.01 to +0.09), from 60 validation images",
        "several nets trained alone and averaged may gain as much; that is not measured here",
    ]
    assert nets.weighing_lines({}) == []  # an older model
    of_pixels = nets.weighing_lines({**WEIGHING, "of": "pixels"})
    assert "trained alone: accuracy of pixels +0.04 (" in of_pixels[1]


def test_an_unknown_gain_is_said_with_its_reason() -> None:
    unknown = {"value": None, "low": None, "high": None, "reason": "fewer than 10 validation images to measure by"}
    assert nets.weighing_lines({**WEIGHING, "gain": {"accuracy": unknown}})[1] == (
        "what this gains over training alone is not known: fewer than 10 validation images to measure by"
    )


def test_without_images_there_is_no_figure() -> None:
    assert nets.table({"own": {**measured(10, 5), **nets.figures(None, "test_")}}, "own")[0][2] == "–"
    assert nets.accuracy_text(None, 20) == "–"


def test_the_number_of_answers_has_their_error_and_the_reasons_for_the_others() -> None:
    figures = {"images": 28, "answered": 20, "right": 19, "unlike": 3}
    assert nets.answering_text(figures, "validation") == (
        "answers 20 of 28 validation images, 1 of them wrongly (error 0.05 (n=20, 0.01-0.24)); "
        "of the other 8, 5 are uncertain and 3 unlike"
    )
    none = nets.answering_text({"images": 4, "answered": 0, "right": 0, "unlike": 0}, "test")
    assert none == "answers 0 of 4 test images; of the other 4, 4 are uncertain and 0 unlike"
    one = nets.answering_text({"images": 1, "answered": 0, "right": 0, "unlike": 0}, "test")
    assert one == "answers 0 of 1 test image; of the other 1, 1 is uncertain and 0 unlike"
