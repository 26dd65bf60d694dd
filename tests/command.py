"""The command line as a person runs it: a process of its own, an empty home, a plain terminal of 80 columns."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import pytest

SHAPES = json.loads((Path(__file__).parents[1] / "docs" / "spec" / "json-output.json").read_text(encoding="utf-8"))
SITE = (sys.executable, "-m", "fedhelp_edge")
COORDINATOR = (sys.executable, "-c", "from server_ref.cli import main; main()")


def run(
    *arguments: str | Path,
    home: Path,
    program: tuple[str, ...] = SITE,
    before: tuple[str, ...] = (),
    typed: str = "",
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command; `before` is put in front (setpriv, say), `typed` is what stdin holds."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TMPDIR") if name in os.environ}
    plain = {"HOME": str(home), "COLUMNS": "80", "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUTF8": "1"}
    return subprocess.run(
        [*before, *program, *map(str, arguments)],
        env={**kept, **plain, **(env or {})},
        cwd=home,
        input=typed,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def here(
    *arguments: str | Path, home: Path, program: tuple[str, ...] = SITE, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same in this process, for a fifth of the time. What must start anew (a help text, an import) needs `run`."""
    main = importlib.import_module("server_ref.cli" if program == COORDINATOR else "fedhelp_edge.__main__").main
    typed, out, err, before = [*program, *map(str, arguments)], io.StringIO(), io.StringIO(), Path.cwd()
    plain = {"HOME": str(home), "COLUMNS": "80", **(env or {})}
    with (
        mock.patch.dict(os.environ, plain),
        mock.patch.object(sys, "argv", typed[len(program) - 1 :]),
        mock.patch.object(sys, "stdin", io.StringIO()),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        os.chdir(home)
        try:
            main()
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess(typed, int(left.value.code or 0), out.getvalue(), err.getvalue())


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `--json` printed: exactly one line, one object of the shape that docs/spec/json-output.json gives."""
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    check_shape("error" if "error" in found else _command(done.args), found)
    return dict(found)


def check_shape(command: str, found: object) -> None:
    jsonschema.Draft202012Validator({**SHAPES, "$ref": f"#/$defs/{command}"}).validate(found)


def _command(arguments: Sequence[str]) -> str:
    """The command that was typed, as docs/spec/json-output.json names it."""
    coordinator = COORDINATOR[-1] in arguments
    name = "fedhelp-coordinator" if coordinator else "fedhelp-edge"
    typed = arguments[arguments.index(COORDINATOR[-1] if coordinator else SITE[-1]) + 1 :]
    words = [word for word in typed if not word.startswith("-")]
    return max((key for key in SHAPES["$defs"] if f"{name} {' '.join(words)} ".startswith(f"{key} ")), key=len)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The code of an error that was reported as the house rules: two lines, no traceback."""
    assert done.returncode in (1, 2), done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert any(line.startswith("hint: ") for line in lines), done.stderr
    return next(line.split(": ")[1] for line in lines if line.startswith("error: "))
