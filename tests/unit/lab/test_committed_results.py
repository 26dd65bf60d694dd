"""Each table of `lab compare` in docs/results follows from its results, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedhelp_edge.lab import page, results, tables

RESULTS = Path(__file__).parents[3] / "docs" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/table.md"))


def test_there_are_committed_results() -> None:
    assert FOLDERS


@pytest.mark.proof
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_tables_of_a_folder_follow_from_its_results(folder: Path, effort: Callable[[int, int], int]) -> None:
    """Some seconds for a folder: without --proofs the first of these."""
    if folder != FOLDERS[0] and effort(1, 0):
        pytest.skip("with --proofs")
    known = results.load(folder)
    assert tables.markdown(known) == (folder / "table.md").read_text(encoding="utf-8")
    assert page.html(known) == (folder / "report.html").read_text(encoding="utf-8")
    assert all({"plan", "command", "commit"} <= run["provenance"].keys() for run in known.runs)
