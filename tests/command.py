"""Runs command lines as a person does: in a process of its own, with an empty home, on a terminal of 80 columns."""

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

SCHEMAS = json.loads((Path(__file__).parents[1] / "docs" / "spec" / "json-output.json").read_text(encoding="utf-8"))
SITE = (sys.executable, "-m", "fedhelp_edge")
COORDINATOR = (sys.executable, "-c", "from server_ref.cli import main; main()")
HELPER = (sys.executable, "-c", "from fedhelp_edge.helper.cli import main; main()")
MODULES = {SITE: "fedhelp_edge.__main__", COORDINATOR: "server_ref.cli", HELPER: "fedhelp_edge.helper.cli"}
_NAMES = {SITE: "fedhelp-edge", COORDINATOR: "fedhelp-coordinator", HELPER: "fedhelp-helper"}


def run(
    *arguments: str | Path,
    home: Path,
    program: tuple[str, ...] = SITE,
    before: tuple[str, ...] = (),
    typed: str = "",
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command; `before` is put in front of it (such as setpriv), `typed` is its stdin."""
    inherited = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TMPDIR") if name in os.environ}
    plain = {"HOME": str(home), "COLUMNS": "80", "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUTF8": "1"}
    return subprocess.run(
        [*before, *program, *map(str, arguments)],
        env={**inherited, **plain, **(env or {})},
        cwd=home,
        input=typed,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def run_in_process(
    *arguments: str | Path, home: Path, program: tuple[str, ...] = SITE, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command in this process, in a fifth of the time. Tests of help texts and imports need `run`."""
    main = importlib.import_module(MODULES[program]).main
    argv, out, err, before = [*program, *map(str, arguments)], io.StringIO(), io.StringIO(), Path.cwd()
    plain = {"HOME": str(home), "COLUMNS": "80", **(env or {})}
    with (
        mock.patch.dict(os.environ, plain),
        mock.patch.object(sys, "argv", argv[len(program) - 1 :]),
        mock.patch.object(sys, "stdin", io.StringIO()),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as exit_info,
    ):
        os.chdir(home)
        try:
            main()
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess(argv, int(exit_info.value.code or 0), out.getvalue(), err.getvalue())


def json_output(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The output of `--json`: exactly one line with one object that fits its schema in docs/spec/json-output.json."""
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    output = json.loads(done.stdout)
    check_schema("error" if "error" in output else _command(done.args), output)
    return dict(output)


def check_schema(command: str, output: object) -> None:
    jsonschema.Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{command}"}).validate(output)


def _command(arguments: Sequence[str]) -> str:
    """The command's name in docs/spec/json-output.json."""
    program = next(program for program in (COORDINATOR, HELPER, SITE) if program[-1] in arguments)
    name, typed = _NAMES[program], arguments[arguments.index(program[-1]) + 1 :]
    words = [word for word in typed if not word.startswith("-")]
    return max((key for key in SCHEMAS["$defs"] if f"{name} {' '.join(words)} ".startswith(f"{key} ")), key=len)


def error_code(done: subprocess.CompletedProcess[str]) -> str:
    """The code of a reported error; checks for the two lines `error:` and `hint:` and for no traceback."""
    assert done.returncode in (1, 2), done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert any(line.startswith("hint: ") for line in lines), done.stderr
    return next(line.split(": ")[1] for line in lines if line.startswith("error: "))
