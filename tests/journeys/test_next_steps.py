"""Each next step that a site's command prints is typed as it stands, and works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests import command
from tests.desk import Desk, Done, works
from tests.federation import PLAN
from tests.threads import one_thread  # noqa: F401 - a fixture

pytest.importorskip("torch")

NAMED = re.compile(r"fedhelp-(?:edge|coordinator) [^',;]*[^',; ]")


class Person(Desk):
    """Somebody whose site is not where programs look for it, and who types what is printed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, PLAN.replace("quorum = 2", "quorum = 1"), locked=False)
        self.stands_for = {"IMAGES": "images.npz", "FILE": "backup.txt", "DIR": "other", "SITE": "site-001"}

    def types(self, line: str) -> Done:
        program, *words = (self.stands_for.get(word, word) for word in shlex.split(line))
        if program == "fedhelp-coordinator":
            return works(self.hub(*words))
        env = {"FEDHELP_PASSPHRASE_FILE": str(self.folder / "pass")} if words[0] == "keys" else None
        return works(command.here(*words, home=self.folder, env=env))

    def next_of(self, done: Done) -> list[str]:
        """The commands in what was printed as the next step. Those of a site say where it is."""
        told = next(line for line in done.stderr.splitlines() if line.startswith("next: "))
        found = NAMED.findall(told)
        assert all("--home" in one for one in found if one.startswith("fedhelp-edge ")), told
        return found


def test_every_next_step_from_keys_to_leaving(tmp_path: Path) -> None:
    person = Person(tmp_path)
    home = "--home 'my site'"
    drawn = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=drawn, labels=np.arange(90) % 3)
    works(person.hub("init", "--plan", "plan.toml"))
    works(person.hub("invite", "A", "--tier", "small", "--out", "a.invite"))

    def trip() -> None:
        works(person.hub("exchange", person.stick))

    def follow(done: Done) -> Done:
        """Type the first command of the next step."""
        return person.types(person.next_of(done)[0])

    follow(follow(person.types(f"fedhelp-edge keys new --no-passphrase {home}")))
    joined = person.types(f"fedhelp-edge join a.invite --via stick {home}")
    waits = person.types(f"fedhelp-edge status {home}")
    assert len(person.next_of(waits)) == 2
    sent = follow(waits)
    trip()
    works(person.hub("open"))
    trip()
    follow(sent)
    taken = follow(joined)
    for step in ("train", "upload"):
        assert step in person.next_of(taken)[0]
        taken = follow(taken)
    trip()
    works(person.hub("aggregate"))
    trip()
    follow(follow(taken))
    follow(person.types(f"fedhelp-edge export --out 'my model.onnx' {home}"))
    rotated = person.types(f"fedhelp-edge keys rotate {home}")
    follow(rotated)
    trip()
    trip()
    person.types(person.next_of(rotated)[1])
    follow(person.types(f"fedhelp-edge leave {home}"))


def test_every_next_step_of_somebody_who_tries_it_out_alone(tmp_path: Path) -> None:
    person = Person(tmp_path)
    drawn = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=drawn, labels=np.arange(30) % 3)
    person.types("fedhelp-edge plan new 'new plan.toml'")
    works(command.here("plan", "check", "new plan.toml", home=tmp_path))
    trained = person.types("fedhelp-edge train images.npz --plan plan.toml --home 'my site'")
    (measure,) = person.next_of(trained)
    assert "--plan plan.toml" in measure
    person.types(measure)
