"""Report pages: escaped, complete in one file, readable without colour."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from fedhelp_edge.report import pages
from tests.unit.report import reading

HOSTILE = "<script>alert(1)</script>&\"'"
LINES: dict[str, pages.Points] = {"one": [(1, 0.2), (2, 0.4), (3, 0.8)], "other": [(1, 0.5), (2, None), (3, 0.5)]}


def svg(lines: dict[str, pages.Points], across: str = "round", up: str = "accuracy") -> ElementTree.Element:
    return ElementTree.fromstring(pages.chart(lines, across, up))[0]


def marks_of(chart: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The positions of the marks of each line."""
    marks = [list(group.iter("text"))[:-1] for group in chart.iter("g")]
    return [[(float(text.get("x", "")), float(text.get("y", ""))) for text in line] for line in marks]


def test_any_text_is_shown_and_never_interpreted_as_html() -> None:
    parts = [
        pages.heading(HOSTILE),
        pages.paragraph(HOSTILE),
        pages.table([HOSTILE], [[HOSTILE]]),
        pages.chart({HOSTILE: [(1, 1)]}, HOSTILE, HOSTILE),
    ]
    page = pages.page(HOSTILE, *parts)
    assert "<script" not in page
    texts = ["".join(element.itertext()) for element in reading.body(page).iter() if element.text]
    assert sum(HOSTILE in text for text in texts) >= 7
    assert HOSTILE in (next(reading.body(page).iter("svg")).get("aria-label") or "")


def test_a_page_loads_and_runs_nothing() -> None:
    page = pages.page("title", pages.heading("part"), pages.table(["a"], [["b"]]), pages.chart(LINES, "x", "y"))
    assert not re.search(r"<script|<link|<iframe|src=|href=|url\(|@import|http:|https:|\bon\w+=", page)
    assert "default-src 'none'" in page
    assert 'charset="utf-8"' in page


def test_a_page_has_its_parts_in_order() -> None:
    page = pages.page("title", pages.paragraph("first"), pages.table(["a"], [["b"]]), pages.heading("last"))
    assert [child.tag for child in reading.body(page)] == ["h1", "p", "div", "h2"]


def test_a_table_has_its_head_and_rows() -> None:
    assert reading.tables(pages.page("", pages.table(["net", "accuracy"], [["own", 0.5], ["alone", "0.4\nlow"]]))) == [
        [["net", "accuracy"], ["own", "0.5"], ["alone", "0.4\nlow"]]
    ]


def test_larger_values_are_higher_and_later_ones_further_right() -> None:
    (line, _) = marks_of(svg(LINES))
    across, up = zip(*line, strict=True)
    assert list(across) == sorted(across)
    assert list(up) == sorted(up, reverse=True)
    assert (up[0] - up[1]) * 2 == pytest.approx(up[1] - up[2], abs=0.3)  # 0.2 and 0.4, to scale


def test_lines_of_one_chart_share_its_axes() -> None:
    first, second = marks_of(svg({"one": [(1, 0.0), (3, 1.0)], "other": [(2, 0.5), (3, 1.0)]}))
    assert first[1] == second[1]
    assert second[0] == pytest.approx([(a + b) / 2 for a, b in zip(*first, strict=True)], abs=0.1)


def test_missing_values_leave_a_gap() -> None:
    complete, broken = (group.find("path") for group in svg(LINES).iter("g"))
    assert complete is not None and broken is not None
    assert re.findall("[ML]", complete.get("d", "")) == ["M", "L", "L"]
    assert re.findall("[ML]", broken.get("d", "")) == ["M", "M"]


def test_six_lines_differ_by_mark_and_by_dashes_without_any_colour() -> None:
    chart = svg({str(number): [(0, number), (1, 1)] for number in range(6)})
    groups = list(chart.iter("g"))
    assert len({group[1].text for group in groups}) == 6
    assert len({group[0].get("stroke-dasharray") for group in groups}) == 6


def test_a_chart_names_its_lines_and_axes() -> None:
    texts = ["".join(text.itertext()) for text in svg(LINES).iter("text")]
    assert {"● one", "○ other", "round", "accuracy"} <= set(texts)


@pytest.mark.parametrize(
    ("line", "ticks"),
    [
        ([(1, 0), (3, 1)], ["0", "0.2", "0.4", "0.6", "0.8", "1", "1", "2", "3"]),
        ([(1, 0.5)], ["0", "0.2", "0.4", "0.6", "0.8", "1", "1"]),
        ([(0.5, 130), (1.0, 170)], ["130", "140", "150", "160", "170", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]),
    ],
)
def test_axes_have_round_numbers_and_integers_where_all_values_are_integers(
    line: pages.Points, ticks: list[str]
) -> None:
    texts = [text.text for text in svg({"line": line}) if text.tag == "text" and text.text not in ("round", "accuracy")]
    assert texts == ticks


@pytest.mark.parametrize("lines", [{}, {"none": []}, {"none": [(1, None)]}, {"flat": [(1, 0.5), (2, 0.5)]}])
def test_a_chart_of_one_point_or_none_is_valid(lines: dict[str, pages.Points]) -> None:
    assert svg(lines).tag == "svg"
