"""A person at a site and one at a hub, with a stick between them: commands as they are typed."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from fedhelp_edge import errors
from tests import command

Done = subprocess.CompletedProcess[str]
D = TypeVar("D", bound="Desk")


def first_plan(classes: Sequence[str], name: str = "test") -> str:
    """The plan of two quick rounds that one site alone can play."""
    return f"""
name = {json.dumps(name)}
classes = {json.dumps(list(classes))}
method = "fedavg"
rounds = 2
[image]
size = 8
[training]
epochs = 1
[round]
quorum = 1
"""


class Desk:
    def __init__(self, folder: Path, plan: str, *, locked: bool = True) -> None:
        """Keys that are not `locked` have no passphrase, which saves the time of working at it."""
        self.folder, self.stick, self.locked = folder, folder / "stick", locked
        self.stick.mkdir()
        (folder / "plan.toml").write_text(plan)
        (folder / "pass").write_text("four quiet words here\n")
        (folder / "pass").chmod(0o600)

    def site(self, *words: str | Path) -> Done:
        return self.type("site", command.SITE, words)

    def hub(self, *words: str | Path) -> Done:
        return self.type("hub", command.COORDINATOR, words)

    def type(self, home: str, program: tuple[str, ...], words: tuple[str | Path, ...]) -> Done:
        env = {"FEDHELP_HOME": str(self.folder / home)}
        if self.locked:
            env["FEDHELP_PASSPHRASE_FILE"] = str(self.folder / "pass")
        elif words[0] in ("init", "join"):
            words = (*words, "--no-passphrase")
        return command.here(*words, home=self.folder, program=program, env=env)

    def lent(self: D, folder: Path) -> D:
        """The same in another folder, from where it goes its own way; what travels needs --via there."""
        other = copy.copy(self)
        other.folder, other.stick = folder, folder / "stick"
        shutil.copytree(self.folder, folder)
        return other

    def join(self, tier: str = "small") -> None:
        for step in (("init", "--plan", "plan.toml"), ("invite", "A", "--tier", tier, "--out", "a.invite")):
            works(self.hub(*step))
        works(self.site("join", "a.invite", "--via", self.stick))
        works(self.hub("exchange", self.stick))


def works(done: Done) -> Done:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def lists(done: Done, code: str, hint: str) -> None:
    """It works, and lists something that was refused with this code, and below it the hint."""
    lines = iter(works(done).stdout.splitlines())
    assert any(code in line for line in lines), done.stdout
    assert hint in next(lines)
    assert hint in errors.remedy_of(code)


def fails(done: Done, code: str, hint: str) -> None:
    """It fails with this code, and the hint says this."""
    assert command.refusal(done) == code
    assert hint in next(line for line in done.stderr.splitlines() if line.startswith("hint: "))
    assert code in {kind.code for kind in errors.tree()}
