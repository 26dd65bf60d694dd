"""One person at a site and one at a hub who exchange a stick: runs the command lines that they type."""

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

Completed = subprocess.CompletedProcess[str]
Copied = TypeVar("D", bound="SiteAndHub")


def first_plan(classes: Sequence[str], name: str = "test") -> str:
    """A plan of two short rounds that a single site can complete."""
    return f"""
name = {json.dumps(name)}
classes = {json.dumps(list(classes))}
method = "fedavg"
rounds = 2
[image]
size = 8
[nets]
small = "resnet8"
[training]
epochs = 1
[round]
quorum = 1
"""


class SiteAndHub:
    def __init__(self, folder: Path, plan: str, *, locked: bool = True) -> None:
        """Without `locked`, keys have no passphrase, which saves the time of deriving a key from it."""
        self.folder, self.stick, self.locked = folder, folder / "stick", locked
        self.stick.mkdir()
        (folder / "plan.toml").write_text(plan)
        (folder / "pass").write_text("four quiet words here\n")
        (folder / "pass").chmod(0o600)

    def site(self, *words: str | Path) -> Completed:
        return self.run("site", command.SITE, words)

    def hub(self, *words: str | Path) -> Completed:
        return self.run("hub", command.COORDINATOR, words)

    def run(self, home: str, program: tuple[str, ...], words: tuple[str | Path, ...]) -> Completed:
        env = {"FEDHELP_HOME": str(self.folder / home)}
        if self.locked:
            env["FEDHELP_PASSPHRASE_FILE"] = str(self.folder / "pass")
        elif words[0] in ("init", "join"):
            words = (*words, "--no-passphrase")
        return command.run_in_process(*words, home=self.folder, program=program, env=env)

    def copy_to(self: Copied, folder: Path) -> Copied:
        """Copies both homes into another folder; commands that travel need --via there."""
        other = copy.copy(self)
        other.folder, other.stick = folder, folder / "stick"
        shutil.copytree(self.folder, folder)
        return other

    def join(self, tier: str = "small") -> None:
        for step in (("init", "--plan", "plan.toml"), ("invite", "A", "--tier", tier, "--out", "a.invite")):
            succeeds(self.hub(*step))
        succeeds(self.site("join", "a.invite", "--via", self.stick))
        succeeds(self.hub("exchange", self.stick))


def succeeds(done: Completed) -> Completed:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def lists_refusal(done: Completed, code: str, hint: str) -> None:
    """Checks that the command succeeds and lists a refusal with this code and, below it, the hint."""
    lines = iter(succeeds(done).stdout.splitlines())
    assert any(code in line for line in lines), done.stdout
    assert hint in next(lines)
    assert hint in errors.remedy_of(code)


def fails_with(done: Completed, code: str, hint: str) -> None:
    """Checks that the command fails with this code and that its hint contains this text."""
    assert command.error_code(done) == code
    assert hint in next(line for line in done.stderr.splitlines() if line.startswith("hint: "))
    assert code in {kind.code for kind in errors.tree()}
