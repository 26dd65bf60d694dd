"""`python -m tests.mutants [--sample N] [--room NAME …]`: which mistakes do the tests not notice?

Each mistake is put into a copy of the tree. The tests that come by its line run first, the quickest file first; what
they let through meets all tests of its room, the quickest first. What survives and is not in `survivors.toml`, with its
reason, is printed. With more than one in twenty of a room unexplained, or one of the named ones, it ends with 1.
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
WANTED = 0.95
NAMED = "named"


@dataclass(frozen=True)
class Mistake:
    """One module with a mistake in it, and the tests that must notice if they are known."""

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
        found = [path for pattern in self.modules for path in sorted(ROOT.glob(pattern)) if path.name != "__init__.py"]
        return [
            Mistake(path.relative_to(ROOT).as_posix(), mutant)
            for path in found
            for mutant in mutants(path.read_text("utf-8"))
        ]


def rooms() -> dict[str, Room]:
    return {name: Room(tuple(one["modules"]), tuple(one["tests"])) for name, one in _table("rooms").items()}


def explained() -> dict[str, dict[str, str]]:
    """By module, the mistakes that change nothing that matters, and why."""
    return _table("survivors")


def named() -> list[Mistake]:
    """The mistakes that were once let through."""
    found = []
    for name, one in _table(NAMED).items():
        whole = (ROOT / one["file"]).read_text("utf-8")
        if whole.count(one["before"]) != 1:
            raise SystemExit(f"this mutant no longer applies: {name}: {one['file']} does not hold its text once")
        line = whole[: whole.index(one["before"])].count("\n") + 1
        mutant = Mutant(name, line, lambda whole=whole, one=one: whole.replace(one["before"], one["after"]))
        found.append(Mistake(one["file"], mutant, tuple(one["tests"])))
    return found


def _table(name: str) -> dict[str, Any]:
    with (HERE / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def tree(folder: Path) -> Path:
    """A copy of what the tests need, with nothing of it compiled."""
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
def made(at: Runner, mistake: Mistake) -> Iterator[None]:
    """The tree with a mistake in it."""
    path = at.tree / mistake.module
    whole, times = path.read_bytes(), path.stat()
    try:
        path.write_text(mistake.mutant.source(), encoding="utf-8")
        yield
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # what was compiled of it holds again


class Reach:
    """Which tests come by which line, and how long they take."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._seconds = {test: one["seconds"] for test, one in told.items()}
        self._tests: dict[tuple[str, int], list[str]] = {}
        for test, one in told.items():
            for module, lines in one["lines"].items():
                for line in lines:
                    self._tests.setdefault((module, line), []).append(test)

    def tests(self, mistake: Mistake) -> list[str]:
        """The file first that has the quickest; in it the quickest first."""
        found = next(
            (self._tests[mistake.module, n] for n in mistake.mutant.lines if (mistake.module, n) in self._tests), []
        )
        first: dict[str, float] = {}
        for test in found:
            file = test.partition("::")[0]
            first[file] = min(self._seconds[test], first.get(file, self._seconds[test]))
        return sorted(
            found, key=lambda test: (first[test.partition("::")[0]], test.partition("::")[0], self._seconds[test])
        )

    def limit(self, tests: Sequence[str]) -> float:
        """What a run of these may take."""
        return 15 + 5 * sum(self._seconds.get(test, 0) for test in tests)

    @property
    def everything(self) -> list[str]:
        """The quickest first."""
        return sorted(self._seconds, key=self._seconds.__getitem__)


def survivors(tests: Sequence[str], mistakes: Sequence[Mistake], workers: int) -> Iterator[Mistake]:
    """The mistakes that no test notices, as they are found."""
    modules = sorted({mistake.module for mistake in mistakes if not mistake.tests})
    with tempfile.TemporaryDirectory(prefix="mutants-") as work, ExitStack() as opened:
        trees: SimpleQueue[Runner] = SimpleQueue()
        reach = Reach({})
        for number in range(workers):
            (Path(work) / str(number)).mkdir()
            at = Runner(tree(Path(work) / str(number) / "tree"))
            opened.callback(at.close)
            fine, told = at.reach(tests, [] if number else modules)
            if not fine:
                raise SystemExit(f"{(at.tree.parent / OUTPUT).read_text()}\nthe tests fail without a mistake")
            reach = reach if number else Reach(told)
            trees.put(at)

        def survives(mistake: Mistake) -> bool:
            at = trees.get()
            try:
                with made(at, mistake):
                    if mistake.tests:
                        return at.passes(mistake.tests, reach.limit(reach.everything))
                    near = reach.tests(mistake)
                    rest = [test for test in reach.everything if test not in near]
                    return all(at.passes(some, reach.limit(some)) for some in (near, rest) if some)
            finally:
                trees.put(at)

        with ThreadPoolExecutor(workers) as pool:
            yield from (one for one, lives in zip(mistakes, pool.map(survives, mistakes), strict=True) if lives)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--sample", type=int, default=0, help="so many of each room, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--room", action="append", default=[], help="only this room; may be given several times")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    everywhere = {NAMED: Room((), ()), **rooms()}
    if odd := set(given.room) - set(everywhere):
        parser.error(f"no room {', '.join(sorted(odd))}; there are {', '.join(everywhere)}")
    known, total, left, failed = explained(), 0, 0, False
    for name, room in everywhere.items():
        if given.room and name not in given.room:
            continue
        mistakes = named() if name == NAMED else room.mistakes()
        if given.sample and name != NAMED and len(mistakes) > given.sample:
            mistakes = random.Random(given.seed).sample(mistakes, given.sample)
        mistakes = [one for one in mistakes if one.mutant.name not in known.get(one.module, {})]
        tests = room.tests or tuple(dict.fromkeys(test for one in mistakes for test in one.tests))
        found = 0
        for mistake in survivors(tests, mistakes, given.workers):
            found += 1
            print(f"  {mistake}", flush=True)
        total, left = total + len(mistakes), left + found
        failed |= found > (0 if name == NAMED else (1 - WANTED) * len(mistakes))
        print(f"{name}: {len(mistakes) - found} of {len(mistakes)} noticed", flush=True)
    print(
        f"{total - left} of {total} mistakes noticed: {1 - left / max(total, 1):.1%}; wanted of each room {WANTED:.0%}"
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
