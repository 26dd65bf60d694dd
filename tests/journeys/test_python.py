"""The guide to Python and the notebook run unchanged, from top to bottom, in a new folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from tests.threads import one_thread  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "examples" / "federation.ipynb").read_text(encoding="utf-8"))


def run(blocks: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Executes blocks of code in order; returns their names."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, block.splitlines()[0], "exec"), names)
    return names


def test_the_guide_to_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names = run(re.findall(r"```python\n(.*?)```", guide, re.S), tmp_path, monkeypatch)
    assert names["longer"].rounds == 20
    assert [site.name for site in names["sites"]] == ["clinic", "hospital"]
    assert [run["method"] for run in names["runs"]] == ["local", "fedavg"]
    assert names["bundle"].why == ""
    assert "E_SIGNER_MISMATCH" in capsys.readouterr().out


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    names = run(cells, tmp_path, monkeypatch)
    assert {run["method"]: run["rounds"] for run in names["runs"]} == {"fedavg": 2, "fedhelp": 2}
    assert len(names["answers"]) == 8
    assert not [row for row in names["rows"] if row["error"]]
    assert names["folder"].parent == tmp_path


def test_jupyter_can_open_the_notebook() -> None:
    """It follows nbformat 4.5 and has no outputs, which differ between machines."""
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_every_link_in_the_notebook_leads_somewhere() -> None:
    text = "".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)#]+)", text)
    assert targets
    for target in targets:
        assert (ROOT / "examples" / target).exists(), target
