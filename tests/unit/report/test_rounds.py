"""The page that a site gets for each round."""

from __future__ import annotations

from typing import Any

from fedhelp_edge.report import rounds
from tests.unit.report import reading

HALF, QUARTER = "0.50 (n=20, 0.30-0.70)", "0.25 (n=20, 0.11-0.47)"


def report_entry(number: int, own_accuracy: float | None = 0.5, **more: Any) -> dict[str, Any]:
    """A round's entry of report.json."""
    return {
        "round": number, "method": "fedhelp", "tier": "small", "examples": 42, "images": 84,
        "val_images": 20, "seconds": 10.5 + number, "cpu_seconds": 20.5, "val": {"own": own_accuracy, "alone": 0.25},
        "loss": {"surrogate": {"loss": 1 / number, "public": 0.125}}, **more,
    }  # fmt: skip


def test_a_rounds_page_shows_images_figures_and_time() -> None:
    page = rounds.page("lesions", [report_entry(1)])
    text = "".join(reading.body(page).itertext())
    assert "lesions: round 1" in text
    assert "fedhelp at a small site: 42 training images, 84 seen in 11.5 s (20.5 s of CPU time)" in text
    accuracy, losses, course = reading.tables(page)
    assert accuracy[1:] == [["this site's own net", HALF], ["trained alone", QUARTER]]
    assert losses[1:] == [["surrogate", "loss", "1.000"], ["surrogate", "public", "0.125"]]
    assert course[1:] == [["1", HALF, QUARTER, "11.5", "84"]]


def test_earlier_rounds_are_in_the_table_and_curves() -> None:
    page = rounds.page("lesions", [report_entry(1), report_entry(2, None), report_entry(3, 0.75)])
    assert [row[:2] for row in reading.tables(page)[2][1:]] == [
        ["1", HALF],
        ["2", "–"],
        ["3", "0.75 (n=20, 0.53-0.89)"],
    ]
    accuracy, loss = reading.body(page).iter("svg")
    marks = [len(list(group.iter("text"))) - 1 for chart in (accuracy, loss) for group in chart.iter("g")]
    assert marks == [2, 3, 3, 3]  # this net, the local baseline, and two parts of the loss


def test_a_loss_term_that_was_added_later_starts_later() -> None:
    page = rounds.page("lesions", [report_entry(1, loss={"train": {"loss": 1.0}}), report_entry(2)])
    (_, loss) = reading.body(page).iter("svg")
    assert "surrogate public" in (loss.get("aria-label") or "")


def test_without_a_local_baseline_there_is_one_net_and_a_sentence_about_it() -> None:
    page = rounds.page("lesions", [report_entry(1, val={"own": 0.5})])
    assert reading.tables(page)[0][1:] == [["this site's own net", HALF]]
    assert "No net was trained alone" in page


def test_a_teacher_stands_beside_the_net_that_it_teaches() -> None:
    page = rounds.page("lesions", [report_entry(1, val={"own": 0.5, "teacher": 0.25})])
    assert reading.tables(page)[0][1:] == [["this site's own net", HALF], ["this site's teacher", QUARTER]]


def test_a_round_can_be_read_in_80_columns() -> None:
    assert reading.columns(rounds.page("lesions", [report_entry(number) for number in range(1, 100)])) <= 80


def test_a_page_says_where_the_sites_net_started() -> None:
    start = {"net": "resnet32", "sha256": "ab" * 32, "tensors": 3, "drawn": []}
    page = rounds.page("lesions", [report_entry(1, start=start)])
    assert "The first weights of resnet32 came from a file (SHA-256 abababababab…)." in page
    assert "first weights" not in rounds.page("lesions", [report_entry(1, start=None), report_entry(2)])
