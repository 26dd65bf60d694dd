"""What people see fits any console: an old Windows code page, no colour, 80 columns."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import pytest

from tests.command import SITE, run_in_process

ROOT = Path(__file__).parents[3]
# Pages, reports and files for programs may have other characters; printed text may not.
ELSEWHERE = {"report", "page", "lab", "nets", "methods", "merge", "train"}
SOURCES = sorted(
    path
    for package in ("fedhelp_edge", "server_ref", "export")
    for path in (ROOT / package).rglob("*.py")
    if path.parent.name not in ELSEWHERE
    and path.name not in ("card.py", "dashboard.py", "leaflet.py", "page.py", "quantize.py")
)


def printed_texts(tree: ast.Module) -> list[str]:
    """Every string of a program except docstrings; a command's docstring counts, because it is its help."""
    silent = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body and isinstance(node.body[0], ast.Expr)
        and not (isinstance(node, ast.FunctionDef) and node.decorator_list)
    }  # fmt: skip
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [str(node.value) for node in texts if id(node) not in silent]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_printed_text_has_only_ascii_characters(path: Path) -> None:
    others = [text for text in printed_texts(ast.parse(path.read_text(encoding="utf-8"))) if not text.isascii()]
    assert others == []


@pytest.mark.parametrize("page", ["cp437", "cp1252", "ascii"])
def test_a_name_that_the_console_cannot_show_is_shown_in_part(page: str, tmp_path: Path) -> None:
    (tmp_path / "Übung 好.toml").write_text('name = "Übung 好"\nclasses = ["a", "b"]\n', encoding="utf-8")
    done = subprocess.run(
        [*SITE, "plan", "check", "Übung 好.toml"], cwd=tmp_path, capture_output=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": page, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(page)
    shown = done.stdout.decode(page)
    assert shown.startswith("?bung ?" if page == "ascii" else "Übung ?")
    assert "no mistakes" in shown


@pytest.mark.parametrize(
    "command", ["join", "train", "upload", "download", "sync", "status", "check", "label", "predict", "serve"]
)
def test_a_clinics_commands_explain_themselves_in_80_columns(command: str, tmp_path: Path) -> None:
    shown = run_in_process(command, "--help", home=tmp_path).stdout
    assert "Example" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.usefixtures("quick_doctor")
def test_nothing_is_coloured_without_a_terminal(tmp_path: Path) -> None:
    done = run_in_process("doctor", home=tmp_path)
    assert "\x1b" not in done.stdout + done.stderr
