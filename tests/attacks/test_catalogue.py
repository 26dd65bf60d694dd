"""The catalogue of faults: each number has a test that is named by it, or says why it has none."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAST = {"a": 16, "b": 21, "c": 20, "d": 12, "e": 22, "f": 27, "g": 21, "h": 10}

page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
listed = {number.lower(): outcome for number, outcome in re.findall(r"^\| ([A-H]\d\d) \|.*\| (.*) \|$", page, re.M)}
without = {number for number, outcome in listed.items() if outcome.startswith("not tested: ")}
tested = {
    number
    for path in (ROOT / "tests").rglob("test_*.py")
    for number in re.findall(r"^def test_([a-h]\d\d)_", path.read_text(encoding="utf-8"), re.M)
}


def test_the_catalogue_is_whole() -> None:
    assert sorted(listed) == [f"{group}{number:02}" for group, last in LAST.items() for number in range(1, last + 1)]


def test_every_fault_has_a_test_or_says_why_not() -> None:
    assert listed.keys() - without - tested == set()
    assert without & tested == set()


def test_every_test_with_a_number_is_of_the_catalogue() -> None:
    assert tested - listed.keys() == set()


def test_the_threat_model_names_only_what_is_tested() -> None:
    model = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    spans = re.findall(r"\b([A-H])(\d\d)(?:-[A-H]?(\d\d))?\b", model)
    named = {
        f"{group.lower()}{number:02}"
        for group, first, last in spans
        for number in range(int(first), int(last or first) + 1)
    }
    assert named - tested == set()
    for path in re.findall(r"`(tests/[\w/.]+)`", model):
        assert (ROOT / path).exists(), path


def test_no_number_of_a_threat_stands_twice() -> None:
    numbers = re.findall(r"^\| (T\d\d) \|", (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8"), re.M)
    assert len(numbers) > 40
    assert len(set(numbers)) == len(numbers)


def test_the_page_of_attacks_names_a_test_for_each_and_each_is_there() -> None:
    attacks = re.split(r"^## \d+\. ", (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(attacks) == 17
    for attack in attacks:
        named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::(test_[a-z0-9_]+))?`", attack)
        assert named, attack
        for file, test in named:
            assert f"def {test or 'test_'}" in (ROOT / file).read_text(encoding="utf-8"), (file, test)
        assert all(f"- **{part}:** " in attack for part in ("Possible", "Holds", "Test", "Remains")), attack
