"""`python -m tests.mutants.forks TREE`: runs tests of a tree repeatedly, each time in a fork of this process.

The process has imported the slow libraries and nothing of the project. Requests and responses are lines of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

PASSED = 0
OUTPUT = "output.txt"  # the last output of pytest, beside the tree


class Runner:
    """A process that runs the tests of one tree."""

    def __init__(self, tree: Path, home: Path | None = None) -> None:
        """`home` is the folder of this package, if not the tree."""
        self.tree = tree
        environment = {
            **os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_DEBUG_TEMPROOT": str(tree.parent),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(tree.parent / "hypothesis"),
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.mutants.forks", str(tree)]
        self._process = subprocess.Popen(
            command, cwd=home or tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def passes(self, tests: Sequence[str], limit: float) -> bool:
        """Whether all of these tests pass within the limit."""
        return bool(self._ask(tests=list(tests), limit=limit)["status"] == PASSED)

    def reach(self, tests: Sequence[str], modules: Sequence[str]) -> tuple[bool, dict[str, Any]]:
        """Whether the tests pass; and for each its seconds and the lines of these modules that it reached."""
        response = self._ask(tests=list(tests), limit=3600, modules=list(modules))
        return response["status"] == PASSED, response.get("reached", {})

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the process that runs the tests has ended")
        return dict(json.loads(line))


def _serve(tree: Path) -> None:
    _import_slow_libraries()
    reached_path = tree.parent / "reached.json"
    for line in sys.stdin:
        request = json.loads(line)
        reached_path.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            os._exit(_run(tree, request["tests"], request.get("modules"), reached_path))
        status = _wait(child, request["limit"])
        response = {"status": status}
        if reached_path.exists():
            response |= {"reached": json.loads(reached_path.read_text())}
        print(json.dumps(response), flush=True)


def _import_slow_libraries() -> None:
    """Imports nothing that starts a thread: a lock held during a fork stays locked in the fork."""
    for name in (
        "numpy",
        "torch",
        "onnx",
        "PIL.Image",
        "cryptography.hazmat.primitives.asymmetric",
        "hypothesis",
        "pytest",
    ):
        import_module(name)


def _wait(child: int, limit: float) -> int:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _end(child)  # ends the processes that it started
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    _end(child)
    os.waitpid(child, 0)
    return -1


def _end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _run(tree: Path, tests: Sequence[str], modules: Sequence[str] | None, reached_path: Path) -> int:
    """Runs pytest in the fork, silently, and writes no compiled files of sources with mistakes."""
    import pytest

    os.setsid()
    os.chdir(tree)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(tree.parent / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if modules is None:
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "fedhelp_edge", "server_ref")]:
        del sys.modules[name]
    reached = _Reached({str(tree / module): module for module in modules or ()})
    options = [
        "-x",
        "-q",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:faulthandler",
        f"--rootdir={tree}",
    ]
    status = int(pytest.main([*options, *tests], plugins=[_Steady(), *([] if modules is None else [reached])]))
    if modules is not None:
        reached_path.write_text(json.dumps(reached.tests))
    return status


class _Steady:
    """Makes hypothesis reproducible and without shrinking."""

    def pytest_collection_finish(self) -> None:
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", settings(), derandomize=True, database=None, phases=phases)
        settings.load_profile("mutants")


class _Reached:
    """Records the lines that each test reaches."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files
        self._lines: set[tuple[str, int]] = set()
        self.tests: dict[str, Any] = {}

    @contextmanager
    def _noting(self) -> Iterator[None]:
        self._lines = set()
        if not self._files:  # only the time is measured
            yield
            return
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        self._lines.add((self._files[frame.f_code.co_filename], frame.f_lineno))
        return self._line

    def _protocol(self, nodeid: str) -> Iterator[None]:
        begin = time.monotonic()
        with self._noting():
            yield
        lines: dict[str, list[int]] = {}
        for module, line in sorted(self._lines):
            lines.setdefault(module, []).append(line)
        self.tests[nodeid] = {"seconds": time.monotonic() - begin, "lines": lines}


def _hook() -> None:
    import pytest

    def pytest_runtest_protocol(self: _Reached, item: pytest.Item) -> Iterator[None]:
        yield from self._protocol(item.nodeid)

    _Reached.pytest_runtest_protocol = pytest.hookimpl(hookwrapper=True)(pytest_runtest_protocol)  # type: ignore[attr-defined]


if __name__ == "__main__":
    _hook()
    _serve(Path(sys.argv[1]))
