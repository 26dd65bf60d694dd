"""`python -m tests.mutants [--sample N] [--room NAME …]`: which mistakes do the tests not detect?

Each mistake is put into a copy of the tree. The tests that reach its line run first, the fastest file first; if they
pass, all tests of its room run, the fastest first. Survivors that `survivors.toml` does not explain are printed. The
exit code is 1 if more than one in twenty of a room, or one of the named mistakes, survives unexplained.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests.mutants.change import Mutant, mutants
from tests.mutants.forks import OUTPUT, Runner

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
REQUIRED = 0.95
NAMED = "named"


@dataclass(frozen=True)
class Mistake:
    """One module with a mistake in it, and the tests that must detect it if they are known."""

    module: str
    mutant: Mutant
    tests: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}:{self.mutant.line} {self.mutant.name}"


@dataclass(frozen=True)
class Room:
    """Modules, and the tests that concern them."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]

    def mistakes(self) -> list[Mistake]:
        paths = [path for pattern in self.modules for path in sorted(ROOT.glob(pattern)) if path.name != "__init__.py"]
        return [
            Mistake(path.relative_to(ROOT).as_posix(), mutant)
            for path in paths
            for mutant in mutants(path.read_text("utf-8"))
        ]


def rooms() -> dict[str, Room]:
    return {name: Room(tuple(room["modules"]), tuple(room["tests"])) for name, room in _table("rooms").items()}


def explained() -> dict[str, dict[str, str]]:
    """By module, the mistakes that change nothing important, and why."""
    return _table("survivors")


def named() -> list[Mistake]:
    """The mistakes that tests once missed."""
    mistakes = []
    for name, entry in _table(NAMED).items():
        source = (ROOT / entry["file"]).read_text("utf-8")
        if source.count(entry["before"]) != 1:
            raise SystemExit(
                f"this mutant no longer applies: {name}: {entry['file']} does not contain its text exactly once"
            )
        line = source[: source.index(entry["before"])].count("\n") + 1
        mutant = Mutant(name, line, lambda source=source, entry=entry: source.replace(entry["before"], entry["after"]))
        mistakes.append(Mistake(entry["file"], mutant, tuple(entry["tests"])))
    return mistakes


def _table(name: str) -> dict[str, Any]:
    with (HERE / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def tree(folder: Path) -> Path:
    """Copies what the tests need, without compiled files."""
    folder.mkdir()
    for source in ROOT.iterdir():
        if source.name.startswith(".") or source.name in ("build", "dist", "fedhelp-demo"):
            continue
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / source.name)
    return folder


@contextmanager
def mistaken(runner: Runner, mistake: Mistake) -> Iterator[None]:
    """Puts a mistake into the tree for a while."""
    path = runner.tree / mistake.module
    source, times = path.read_bytes(), path.stat()
    try:
        path.write_text(mistake.mutant.source(), encoding="utf-8")
        yield
    finally:
        path.write_bytes(source)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the compiled file is valid again


class Reach:
    """Which tests reach which line, and how long they take."""

    def __init__(self, recorded: Mapping[str, Any]) -> None:
        self._seconds = {test: figures["seconds"] for test, figures in recorded.items()}
        self._tests: dict[tuple[str, int], list[str]] = {}
        for test, figures in recorded.items():
            for module, lines in figures["lines"].items():
                for line in lines:
                    self._tests.setdefault((module, line), []).append(test)

    def tests(self, mistake: Mistake) -> list[str]:
        """The tests that reach a mistake: the file with the fastest test first, in it the fastest first."""
        reaching = next(
            (self._tests[mistake.module, n] for n in mistake.mutant.lines if (mistake.module, n) in self._tests), []
        )
        first: dict[str, float] = {}
        for test in reaching:
            file = test.partition("::")[0]
            first[file] = min(self._seconds[test], first.get(file, self._seconds[test]))
        return sorted(
            reaching, key=lambda test: (first[test.partition("::")[0]], test.partition("::")[0], self._seconds[test])
        )

    def limit(self, tests: Sequence[str]) -> float:
        """The time limit of a run of these tests, in seconds."""
        return 15 + 5 * sum(self._seconds.get(test, 0) for test in tests)

    @property
    def everything(self) -> list[str]:
        """All tests, the fastest first."""
        return sorted(self._seconds, key=self._seconds.__getitem__)


def survivors(tests: Sequence[str], mistakes: Sequence[Mistake], workers: int) -> Iterator[Mistake]:
    """Yields the mistakes that no test detects."""
    modules = sorted({mistake.module for mistake in mistakes if not mistake.tests})
    with tempfile.TemporaryDirectory(prefix="mutants-") as work, ExitStack() as opened:
        trees: SimpleQueue[Runner] = SimpleQueue()
        reach = Reach({})
        for number in range(workers):
            (Path(work) / str(number)).mkdir()
            runner = Runner(tree(Path(work) / str(number) / "tree"))
            opened.callback(runner.close)
            passed, recorded = runner.reach(tests, [] if number else modules)
            if not passed:
                raise SystemExit(f"{(runner.tree.parent / OUTPUT).read_text()}\nthe tests fail without a mistake")
            reach = reach if number else Reach(recorded)
            trees.put(runner)

        def survives(mistake: Mistake) -> bool:
            runner = trees.get()
            try:
                with mistaken(runner, mistake):
                    if mistake.tests:
                        return runner.passes(mistake.tests, reach.limit(reach.everything))
                    reaching = reach.tests(mistake)
                    rest = [test for test in reach.everything if test not in reaching]
                    return all(runner.passes(tests_, reach.limit(tests_)) for tests_ in (reaching, rest) if tests_)
            finally:
                trees.put(runner)

        with ThreadPoolExecutor(workers) as pool:
            yield from (mistake for mistake, alive in zip(mistakes, pool.map(survives, mistakes), strict=True) if alive)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--sample", type=int, default=0, help="so many of each room, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--room", action="append", default=[], help="only this room; may be given several times")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    everywhere = {NAMED: Room((), ()), **rooms()}
    if unknown := set(arguments.room) - set(everywhere):
        parser.error(f"no room {', '.join(sorted(unknown))}; there are {', '.join(everywhere)}")
    reasons, total, undetected, failed = explained(), 0, 0, False
    for name, room in everywhere.items():
        if arguments.room and name not in arguments.room:
            continue
        mistakes = named() if name == NAMED else room.mistakes()
        if arguments.sample and name != NAMED and len(mistakes) > arguments.sample:
            mistakes = random.Random(arguments.seed).sample(mistakes, arguments.sample)
        mistakes = [each for each in mistakes if each.mutant.name not in reasons.get(each.module, {})]
        tests = room.tests or tuple(dict.fromkeys(test for each in mistakes for test in each.tests))
        survived = 0
        for mistake in survivors(tests, mistakes, arguments.workers):
            survived += 1
            print(f"  {mistake}", flush=True)
        total, undetected = total + len(mistakes), undetected + survived
        failed |= survived > (0 if name == NAMED else (1 - REQUIRED) * len(mistakes))
        print(f"{name}: {len(mistakes) - survived} of {len(mistakes)} detected", flush=True)
    print(
        f"{total - undetected} of {total} mistakes detected: {1 - undetected / max(total, 1):.1%}; "
        f"required of each room: {REQUIRED:.0%}"
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
