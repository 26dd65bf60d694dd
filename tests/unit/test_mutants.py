"""The mistakes that are tried on the tests: that each is one, can still be made, and is told from what is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import __main__ as trying
from tests.mutants.change import Mutant, mutants
from tests.mutants.forks import Runner

SOURCE = """
LIMIT = 3

def is_long(text: str | bytes, strict: bool = False) -> bool | None:
    if len(text) > LIMIT and not strict:
        return True
    return len(text) - 1 > LIMIT
"""


def test_each_mistake_is_one_change_that_still_compiles() -> None:
    made = {mutant.name: mutant for mutant in mutants(SOURCE)}
    for name in (": 3 -> 4", "is_long: False -> True", "is_long: len(text) > LIMIT -> len(text) >= LIMIT",
                 "is_long: return len(text) - 1 > LIMIT -> return None"):  # fmt: skip
        assert name in made
    changed = [mutant.source() for mutant in made.values()]
    assert len(set(changed)) == len(changed)
    for source in changed:
        compile(source, "mutant", "exec")
    assert made["is_long: len(text) - 1 -> len(text) + 1"].line == 7
    assert not any("None" in name.partition(" -> ")[0] for name in made), "an annotation is changed"


def test_the_named_mistakes_can_still_be_made() -> None:
    for mistake in trying.named():
        compile(mistake.mutant.source(), mistake.module, "exec")
        for test in mistake.tests:
            path, _, name = test.partition("::")
            assert f"def {name}(" in (trying.ROOT / path).read_text("utf-8") if name else (trying.ROOT / path).exists()


def test_a_named_mistake_whose_text_moved_is_no_longer_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"weights": {"file": "fedhelp_edge/update.py", "before": "not there", "after": "", "tests": ["tests"]}}
    monkeypatch.setattr(trying, "_table", lambda name: gone)
    with pytest.raises(SystemExit, match="no longer applies: weights"):
        trying.named()


def test_what_is_explained_can_still_be_made_and_has_a_reason() -> None:
    for module, reasons in trying.explained().items():
        made = {mutant.name for mutant in mutants((trying.ROOT / module).read_text("utf-8"))}
        assert set(reasons) <= made, module
        assert all(reasons.values())


def test_a_mistake_survives_where_no_test_looks_and_is_noticed_where_one_does(tmp_path: Path) -> None:
    """Also where it never ends; and the tree is whole again afterwards."""
    tree = tmp_path / "tree"
    tree.mkdir()
    source = "def double(n):\n    return n * 2\n\n\ndef half(n):\n    return n // 2\n"
    (tree / "sums.py").write_text(source)
    (tree / "test_sums.py").write_text("import sums\n\n\ndef test_half():\n    assert sums.half(4) == 2\n")
    (tree / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    runner = Runner(tree, home=trying.ROOT)
    survived = []
    try:
        passed, told = runner.reach(["test_sums.py"], ["sums.py"])
        assert passed
        reach = trying.Reach(told)
        for mutant in mutants(source):
            mistake = trying.Mistake("sums.py", mutant)
            assert reach.tests(mistake) == (["test_sums.py::test_half"] if mutant.line == 6 else [])
            with trying.made(runner, mistake):
                if runner.passes(["test_sums.py"], 60):
                    survived.append(mutant.name)
        endless = Mutant("half: endless", 6, lambda: "def half(n):\n    while True: pass\n")
        with trying.made(runner, trying.Mistake("sums.py", endless)):
            assert not runner.passes(["test_sums.py"], 0.5)
        assert (tree / "sums.py").read_text() == source
    finally:
        runner.close()
    assert survived == ["double: return n * 2 -> return None", "double: n * 2 -> n / 2", "double: 2 -> 3"]
