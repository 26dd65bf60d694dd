"""What a model's card says of earlier rounds comes from the reports of this site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from fedhelp_edge.site import export


def report(home: Path, epoch: int, round_: int, **facts: Any) -> Path:
    folder = home / f"{epoch:04}-{round_:06}"
    folder.mkdir()
    values = {"round": round_, "examples": 100 * epoch, "val": {"own": 0.5, "alone": 0.4}, **facts}
    (folder / "report.json").write_text(json.dumps(values))
    return folder


def test_it_names_earlier_rounds_and_of_a_round_of_two_epochs_the_later_one(tmp_path: Path) -> None:
    report(tmp_path, 1, 1)
    report(tmp_path, 1, 2)
    report(tmp_path, 2, 2, val_images=30, figure="dice", val={"own": None})
    (tmp_path / "0002-000002" / "checkpoint").write_text("")
    exported = report(tmp_path, 2, 3)
    report(tmp_path, 2, 4)
    (tmp_path / "0002-000005").mkdir()  # under way
    assert export._history(exported) == [
        {"round": 1, "examples": 100, "images": 0, "figure": "accuracy", "value": 0.5},
        {"round": 2, "examples": 200, "images": 30, "figure": "dice", "value": None},
    ]


def test_a_first_round_has_none(tmp_path: Path) -> None:
    assert export._history(report(tmp_path, 1, 1)) == []
