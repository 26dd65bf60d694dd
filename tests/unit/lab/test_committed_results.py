"""Each table of `lab compare` in docs/results follows from its results to the byte, or says which figures do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedhelp_edge.lab import page, results, tables

RESULTS = Path(__file__).parents[3] / "docs" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/table.md"))
WITH_ANSWERS = [folder for folder in FOLDERS if (folder / "answers.npz").exists()]


def cells(text: str, heading: str) -> Iterator[list[str]]:
    """The rows of the table below a heading."""
    block = text[text.index(heading) :].split("\n\n")[heading[0] != "|"]
    return ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.strip().splitlines()[2:])


def test_there_are_committed_results() -> None:
    assert FOLDERS


@pytest.mark.proof
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_tables_of_a_folder_follow_from_its_results(folder: Path, effort: Callable[[int, int], int]) -> None:
    """Half a minute for a folder with answers: without --proofs the first of these."""
    if (folder / "answers.npz").exists() and folder != WITH_ANSWERS[0] and effort(1, 0):
        pytest.skip("with --proofs")
    known, text = results.load(folder), (folder / "table.md").read_text(encoding="utf-8")
    if known.answers_of:
        assert tables.markdown(known) == text
        assert page.html(known) == (folder / "report.html").read_text(encoding="utf-8")
        assert all({"plan", "command", "commit"} <= run["provenance"].keys() for run in known.runs)
        return
    assert tables.NOT_KEPT in text
    readme = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert f"| `{folder.name}` |" in readme
    overview, _, sites = tables.markdown(known), None, "Accuracy (balanced accuracy) of each site:"
    for old, new in zip(cells(text, "| method | seeds"), cells(overview, "| method | seeds"), strict=True):
        assert [*old[:6], *old[7:9]] == [*new[:6], *new[8:10]]  # all but the average of nets, and what sites keep
    for old, new in zip(cells(text, sites), cells(overview, sites), strict=True):
        assert old == new[: len(old)]  # the mean over sites came later


def test_readme_says_how_many_cells_cannot_be_computed_again() -> None:
    missing = 0
    for folder in FOLDERS:
        if not results.load(folder).answers_of:
            text = (folder / "table.md").read_text(encoding="utf-8")
            missing += sum(row[6] != "–" for row in cells(text, "| method | seeds"))
            missing += sum(len(row) - 1 for row in cells(text, "Difference from"))
    assert f"{missing} cells" in (RESULTS / "README.md").read_text(encoding="utf-8")
