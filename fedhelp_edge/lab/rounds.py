"""A lab run's rounds on disk: what each site keeps, the updates of a round until they are merged, and the facts.

One site is in memory at a time, however many there are. A round counts once its folder has its name; then the rounds
before are removed, all but the best. An interrupted run resumes from there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_edge import files, update
from fedhelp_edge.codec import Codec
from fedhelp_edge.errors import UpdateError, UsageError
from fedhelp_edge.lab.transport import Arrays
from fedhelp_edge.lab.visits import SiteState, SiteVisit
from fedhelp_edge.train import checkpoint

_DAMAGE = (FileNotFoundError, ValueError, KeyError, TypeError, UpdateError)
_MEMORY, _MERGED, _FACTS = "memory.safetensors", "merged.safetensors", "facts.json"
_HEADER_LIMIT = 4 << 20  # of files that this run wrote itself


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Refuses to go on from a file or a run's folder in which something is damaged or missing."""
    try:
        yield
    except _DAMAGE as error:
        raise UsageError(
            f"{path.name} is damaged", remedy=f"remove {path.name} in {path.parent}, then give the same command again"
        ) from error


class LabRound:
    """A round that is whole, or one that begins: number 0 is the state of things before the first."""

    def __init__(self, run: Path, number: int) -> None:
        self.number = number
        self._run, self._path, self._partial = run, run / f"round-{number:06}", run / f".round-{number:06}"
        self._updates = self._partial / "updates"

    @classmethod
    def last(cls, run: Path) -> LabRound:
        """The last whole round of a run."""
        return cls(run, max((int(path.name.removeprefix("round-")) for path in run.glob("round-*")), default=0))

    def state(self, site: str, *, whole: bool = False) -> SiteState:
        """What a site keeps; unless `whole`, without the part that the next merged model overwrites."""
        if not self.number:
            return SiteState()
        folder = self._path / site
        with intact(self._run):
            saved = checkpoint.newest(folder)
            if saved is None:
                raise FileNotFoundError(2, "a saved state is missing", str(folder))
            facts, arrays = saved
            overwritten = () if whole else facts["overwritten"]
            memory = folder / _MEMORY
            return SiteState(
                {name: array for name, array in arrays.items() if name not in overwritten},
                _read(memory) if memory.exists() else {},
            )

    def merged(self) -> dict[str, update.Array]:
        """The model that this round's updates became; nothing in round 0."""
        with intact(self._run):
            return _read(self._path / _MERGED) if self.number else {}

    def facts(self) -> dict[str, Any]:
        """What `save` got."""
        with intact(self._run):
            return dict(json.loads((self._path / _FACTS).read_text(encoding="utf-8"))) if self.number else {}

    def begin(self) -> LabRound:
        """The next round, empty."""
        new = LabRound(self._run, self.number + 1)
        shutil.rmtree(new._partial, ignore_errors=True)  # an interrupted run left it
        new._updates.mkdir(parents=True)
        return new

    def add(self, site: str, visit: SiteVisit) -> None:
        """Saves what a site keeps."""
        folder = self._partial / site
        checkpoint.save(folder, self.number, {"overwritten": list(visit.overwritten)}, visit.state.learner)
        if visit.state.memory:
            _write(folder / _MEMORY, visit.state.memory)

    def carry(self, site: str, last: LabRound) -> None:
        """Saves the state of a site that does not take part in this round, as it was."""
        if (last._path / site).exists():
            shutil.copytree(last._path / site, self._partial / site, copy_function=_link)

    def add_update(self, site: str, encoded: Arrays) -> None:
        """Keeps an update until the round is saved."""
        with (self._updates / site).open("wb") as file:
            update.write(file, encoded)

    def updates(self, codec: Codec, base: Arrays) -> Mapping[str, Arrays]:
        """The updates by site, each decoded when it is asked for."""
        return _Updates(self._updates, codec, base)

    def save(self, merged: Arrays, facts: Mapping[str, Any], best: int = 0) -> None:
        """Makes this the last whole round. Of those before, the best one stays."""
        shutil.rmtree(self._updates)
        _write(self._partial / _MERGED, merged)
        with files.writing(self._partial / _FACTS) as file:
            file.write(json.dumps(facts).encode())
        self._partial.rename(self._path)
        for folder in self._run.glob("round-*"):
            if folder not in (self._path, self._run / f"round-{best:06}"):
                shutil.rmtree(folder, ignore_errors=True)


def remove(run: Path) -> None:
    """Removes the rounds of a finished run."""
    for folder in run.glob("round-*"):
        shutil.rmtree(folder)


@dataclass(frozen=True)
class _Updates(Mapping[str, Arrays]):
    folder: Path
    codec: Codec
    base: Arrays

    def __getitem__(self, site: str) -> Arrays:
        return self.codec.decode(_read(self.folder / site), self.base)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.name for path in self.folder.iterdir()))

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.iterdir())


def _link(source: str, target: str) -> None:
    """Gives a file, which nobody changes, a second name; where links are not possible, copies it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _read(path: Path) -> dict[str, update.Array]:
    return update.load(path, limit=_HEADER_LIMIT)


def _write(path: Path, arrays: Arrays) -> None:
    with files.writing(path) as file:
        update.write(file, arrays)
