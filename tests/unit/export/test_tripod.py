"""The TRIPOD+AI checklist: all items, with what the model's file says, and the rest left to people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from export import tripod
from fedhelp_edge.infer.metadata import Facts, MaskFacts
from tests import bundles, mask_bundles
from tests.bundles import run_command
from tests.sentences import markdown, too_long

LETTERS = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}  # items with parts
ITEMS = [
    f"{number}{letter}" for number in range(1, 28) for letter in "abcdefg"[: LETTERS.get(number, 0)] or [""]
]  # fmt: skip


def rows(facts: Facts | MaskFacts) -> dict[str, str]:
    table = [line.split(" | ") for line in tripod.text(facts).split("\n") if line.startswith("| ")][2:]
    return {number.strip("| "): known.rstrip(" |") for number, _, known in table}


def test_it_has_every_item_once_and_in_order() -> None:
    assert list(rows(bundles.export_result().facts)) == ITEMS
    assert len(ITEMS) == 52


def test_a_model_for_masks_has_its_own() -> None:
    facts = mask_bundles.export_result().facts
    assert list(rows(facts)) == ITEMS
    assert "Dice" in rows(facts)["12e"]


def test_it_says_what_the_file_knows_and_leaves_the_rest_to_people() -> None:
    facts = bundles.export_result().facts
    known = rows(facts)
    assert known["10"].startswith("120 training images, 60 for validation, 40 for test")
    assert all(name in known["8a"] for name in facts.classes)
    assert f"answers {facts.test['answered']:.0f} of 40 test images" in known["23a"]
    assert [known[item] for item in ("2", "6b", "17", "18a", "20b")] == ["*to be written*"] * 5
    assert "no test images; it answers" not in known["23a"]
    assert "validation images" in rows(replace(facts, test={}))["23a"]
    filled = sum(value != "*to be written*" for value in known.values())
    assert f"answers {filled} of 52 items" in tripod.text(facts)


def test_its_sentences_are_short() -> None:
    assert not too_long(markdown(tripod.text(bundles.export_result().facts)))


def test_inspect_prints_it_and_only_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bundles.saved_model(tmp_path)
    code, out, _ = run_command(capsys, "inspect", model, "--tripod", "--home", tmp_path)
    assert (code, out) == (0, tripod.text(bundles.export_result().facts) + "\n")
    model.write_bytes(model.read_bytes() + b"x")
    assert run_command(capsys, "inspect", model, "--tripod", "--home", tmp_path)[0] == 1
    code, _, message = run_command(capsys, "inspect", tmp_path / "a.fhx", "--tripod", "--home", tmp_path)
    assert (code, "not for a.fhx" in message) == (2, True)
    code, _, message = run_command(capsys, "inspect", model, "--tripod", "--json", "--home", tmp_path)
    assert (code, "leave out --json" in message) == (2, True)
