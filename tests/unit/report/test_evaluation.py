"""The folder that `evaluate` writes: figures as JSON, and the same figures on a page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.report import metrics
from fedhelp_edge.report.evaluation import Evaluation
from tests.unit.report import reading

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")


def measured(images: int = 200, classes: int = 8, nets: tuple[str, ...] = ("own", "alone")) -> Evaluation:
    random = np.random.default_rng(3)
    labels = random.integers(classes, size=images)
    probabilities = {
        net: random.dirichlet(np.ones(classes), images) * 0.8 + np.eye(classes)[labels] * 0.2 for net in nets
    }
    scores = {net: metrics.scores(answer, labels) for net, answer in probabilities.items()}
    return Evaluation("lesions", 4, "small", CLASSES[:classes], scores)


def test_a_folder_gets_the_figures_for_programs_and_a_page_for_people(tmp_path: Path) -> None:
    evaluation = measured()
    page = evaluation.write(tmp_path / "new" / "folder")
    assert page.read_text(encoding="utf-8") == evaluation.html()
    figures = json.loads(page.with_suffix(".json").read_text())
    assert figures == {
        "schema_version": 1, "plan": "lesions", "round": 4, "tier": "small", "classes": list(CLASSES), "findings": [],
        "own": evaluation.nets["own"].to_json(), "alone": evaluation.nets["alone"].to_json(),
    }  # fmt: skip
    assert sorted(path.name for path in page.parent.iterdir()) == ["evaluation.html", "evaluation.json"]


def test_an_earlier_evaluation_stays_and_the_next_is_numbered(tmp_path: Path) -> None:
    first = measured(images=50).write(tmp_path)
    before = first.read_bytes()
    (tmp_path / "evaluation-2.json").write_text("somebody's")
    assert [measured().write(tmp_path).name for _ in range(2)] == ["evaluation-3.html", "evaluation-4.html"]
    assert first.read_bytes() == before
    assert (tmp_path / "evaluation-2.json").read_text() == "somebody's"


def test_a_page_shows_every_figure_with_its_interval_for_each_net() -> None:
    evaluation = measured(nets=("own", "alone", "without_prior"))
    head, *rows = reading.tables(evaluation.html())[0]
    assert head == ["", "this site's own net", "trained alone", "without the prior"]
    cells = {row[0]: row[1:] for row in rows}
    names = {"accuracy": "accuracy", "AUC": "auc", "balanced accuracy": "balanced_accuracy"}
    names["certainty less accuracy"] = "overconfidence"
    for label, name in names.items():
        for cell, scores in zip(cells[label], evaluation.nets.values(), strict=True):
            figure = getattr(scores, name)
            assert cell == f"{figure.value:.3f}\n({figure.low:.3f} to {figure.high:.3f})"
    for cell, scores in zip(cells["calibration error"], evaluation.nets.values(), strict=True):
        assert cell.replace("\n", " ") == f"{scores.ece.value:.3f} {scores.ece.reason}"


def test_a_page_shows_each_class_and_the_confusion_matrix() -> None:
    evaluation = measured()
    scores = evaluation.nets["own"]
    classes, confusion = reading.tables(evaluation.html())[1:3]
    assert [row[:2] for row in classes[1:]] == [
        [name, str(figures.images)] for name, figures in zip(CLASSES, scores.classes, strict=True)
    ]
    assert classes[1][2].startswith(f"{scores.classes[0].sensitivity.value:.3f}\n(")
    assert confusion[0][1:] == list(CLASSES)
    assert [[int(cell) for cell in row[1:]] for row in confusion[1:]] == [list(row) for row in scores.confusion]


def test_a_page_shows_the_accuracy_by_certainty() -> None:
    evaluation = measured()
    bins = evaluation.nets["own"].reliability
    rows = reading.tables(evaluation.html())[3][1:]
    assert [(row[0], int(row[1])) for row in rows] == [(f"{bin_.sure:.2f}", bin_.images) for bin_ in bins]
    (chart,) = reading.body(evaluation.html()).iter("svg")
    ideal, curve = chart.iter("g")
    assert (len(list(ideal.iter("text"))) - 1, len(list(curve.iter("text"))) - 1) == (2, len(bins))


def test_a_missing_figure_has_its_reason() -> None:
    rows = reading.tables(measured(images=5, classes=2).html())[0]
    assert dict(row[:2] for row in rows)["AUC"].split("\n", 1)[1] == "no interval: fewer\nthan 10 images"


@pytest.mark.parametrize("images", [0, 1, 300])
def test_a_page_of_eight_classes_can_be_read_in_80_columns(images: int) -> None:
    assert reading.columns(measured(images).html()) <= 80


def test_a_page_draws_the_roc_of_each_class_that_has_one_above_a_table_of_the_same_numbers() -> None:
    curve = [0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.0, 1.0]
    evaluation = replace(measured(classes=2), roc={"MEL": curve, "NV": None})
    page = evaluation.html()
    assert "Sensitivity against false alarms (ROC)" in page
    (table,) = [rows for rows in reading.tables(page) if rows[0][:2] == ["class", "0"]]
    assert table[1:] == [["MEL", *(f"{value:.2f}" for value in curve)]]
    assert 'aria-label="sensitivity, part of the others flagged: chance, MEL"' in page
    assert evaluation.to_json()["roc"] == {"MEL": curve, "NV": None}
    assert "ROC" not in replace(evaluation, roc={"MEL": None}).html()


def test_groups_of_images_have_their_interval_and_a_program_reads_their_counts() -> None:
    groups = [{"by": "sex", "name": name, "images": 40, "right": 20} for name in ("female", "male")]
    evaluation = replace(measured(), subgroups=groups)
    assert evaluation.to_json()["subgroups"] == groups
    table = next(rows for rows in reading.tables(evaluation.html()) if rows[0] == ["by", "group", "images", "right"])
    assert table[1] == ["sex", "female", "40", "0.500\n(0.352 to 0.648)"]
    assert "Groups of images" not in measured().html()
