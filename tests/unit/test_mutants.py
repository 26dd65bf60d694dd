"""Mutation testing itself: each mutant is one change that still applies, and survivors are told from detected ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import __main__ as mutation
from tests.mutants.change import Mutant, mutants
from tests.mutants.forks import Runner

SOURCE = """
LIMIT = 3

def is_long(text: str | bytes, strict: bool = False) -> bool | None:
    if len(text) > LIMIT and not strict:
        return True
    return len(text) - 1 > LIMIT
"""


def test_each_mutant_is_one_change_that_still_compiles() -> None:
    by_name = {mutant.name: mutant for mutant in mutants(SOURCE)}
    for name in (": 3 -> 4", "is_long: False -> True", "is_long: len(text) > LIMIT -> len(text) >= LIMIT",
                 "is_long: return len(text) - 1 > LIMIT -> return None"):  # fmt: skip
        assert name in by_name
    changed = [mutant.source() for mutant in by_name.values()]
    assert len(set(changed)) == len(changed)
    for source in changed:
        compile(source, "mutant", "exec")
    assert by_name["is_long: len(text) - 1 -> len(text) + 1"].line == 7
    assert not any("None" in name.partition(" -> ")[0] for name in by_name), "an annotation is changed"


def test_the_named_mutants_still_apply() -> None:
    for mistake in mutation.named():
        compile(mistake.mutant.source(), mistake.module, "exec")
        for test in mistake.tests:
            path, _, name = test.partition("::")
            assert (
                f"def {name}(" in (mutation.ROOT / path).read_text("utf-8") if name else (mutation.ROOT / path).exists()
            )


def test_a_named_mutant_whose_text_has_moved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"weights": {"file": "fedhelp_edge/update.py", "before": "not there", "after": "", "tests": ["tests"]}}
    monkeypatch.setattr(mutation, "_table", lambda name: table)
    with pytest.raises(SystemExit, match="no longer applies: weights"):
        mutation.named()


def test_explained_survivors_still_apply_and_have_a_reason() -> None:
    for module, reasons in mutation.explained().items():
        names = {mutant.name for mutant in mutants((mutation.ROOT / module).read_text("utf-8"))}
        assert set(reasons) <= names, module
        assert all(reasons.values())


def test_a_mutant_survives_in_untested_lines_and_is_detected_in_tested_ones(tmp_path: Path) -> None:
    """Also if it never ends; and the tree is unchanged afterwards."""
    tree = tmp_path / "tree"
    tree.mkdir()
    source = "def double(n):\n    return n * 2\n\n\ndef half(n):\n    return n // 2\n"
    (tree / "sums.py").write_text(source)
    (tree / "test_sums.py").write_text("import sums\n\n\ndef test_half():\n    assert sums.half(4) == 2\n")
    (tree / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    runner = Runner(tree, home=mutation.ROOT)
    survived = []
    try:
        passed, reached = runner.reach(["test_sums.py"], ["sums.py"])
        assert passed
        reach = mutation.Reach(reached)
        for mutant in mutants(source):
            mistake = mutation.Mistake("sums.py", mutant)
            assert reach.tests(mistake) == (["test_sums.py::test_half"] if mutant.line == 6 else [])
            with mutation.mistaken(runner, mistake):
                if runner.passes(["test_sums.py"], 60):
                    survived.append(mutant.name)
        endless = Mutant("half: endless", 6, lambda: "def half(n):\n    while True: pass\n")
        with mutation.mistaken(runner, mutation.Mistake("sums.py", endless)):
            assert not runner.passes(["test_sums.py"], 0.5)
        assert (tree / "sums.py").read_text() == source
    finally:
        runner.close()
    assert survived == ["double: return n * 2 -> return None", "double: n * 2 -> n / 2", "double: 2 -> 3"]
