"""A coordinator and a clinic at real terminals, with typed passphrases, over HTTP: from `init` to the merged model.
A thief who overheard the invite's code asks to join as well and is not admitted."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests import command, terminal
from tests.command import COORDINATOR
from tests.federation import PLAN
from tests.terminal import Terminal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")
pytest.importorskip("torch")

COORDINATOR_PASSPHRASE, CLINIC_PASSPHRASE = "amber violin sketch lemon", "a passphrase of my own, äöü"
QUICK = "[training]\nepochs = 1\nbatch = 32\nyardstick = false\n"


class Both:
    def __init__(self, folder: Path) -> None:
        self.office, self.clinic = folder / "office", folder / "clinic"
        for home in (self.office, self.clinic):
            home.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        plan = PLAN.replace("quorum = 2", 'quorum = 1\nenrolment = "manual"')
        (self.office / "plan.toml").write_text(plan + QUICK)

    def hub(self, *words: str) -> AbstractContextManager[Terminal]:
        return terminal.running(*words, home=self.office, program=COORDINATOR)

    def at_office(self, *words: str) -> str:
        """Runs a coordinator's command that asks for nothing once unlocked."""
        with self.hub(*words) as screen:
            assert screen.ends() == 0, screen.screen
            return screen.screen

    def at_clinic(self, *words: str) -> str:
        """Runs a clinic's command that asks for the passphrase."""
        return terminal.unlocks(CLINIC_PASSPHRASE, *words, home=self.clinic)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    both = Both(tmp_path)
    yield both
    if (both.office / "fedhelp").exists():
        both.at_office("lock")


def test_a_first_round_with_both_sides_typed(both: Both) -> None:
    with both.hub("init", "--plan", "plan.toml", "--url", f"http://127.0.0.1:{both.port}") as screen:
        for prompt in ("new passphrase: ", "Repeat for confirmation: "):
            screen.sees(prompt)
            screen.types(COORDINATOR_PASSPHRASE)
        assert screen.ends() == 0, screen.screen
    with both.hub("unlock") as screen:
        screen.sees("coordinator's passphrase: ")
        screen.types(COORDINATOR_PASSPHRASE)
        assert screen.ends() == 0, screen.screen
    invited = both.at_office("invite", "Clinic", "--tier", "small")
    join = re.search(r"'fedhelp-edge (join FH1\S+ --url \S+)'", invited)
    assert join, invited

    with both.hub("serve", "--port", both.port) as front:
        front.sees("next: ")
        with terminal.running(*join[1].split(), "--own", home=both.clinic) as screen:
            for prompt in ("new passphrase: ", "Repeat for confirmation: "):
                screen.sees(prompt)
                screen.types(CLINIC_PASSPHRASE)
            words = screen.line("words: ")
            screen.sees("next: 'fedhelp-edge download --url ")
            assert screen.ends() == 0, screen.screen
        command.run_in_process(*join[1].split(), "--no-passphrase", "--home", "thief", home=both.clinic)

        shown = both.at_office("requests")
        assert words in shown
        assert "2 requests wait" in shown
        assert shown.count("ALARM") == 2
        with both.hub("approve", "site-001") as screen:
            assert screen.ends() == 1
            assert "error: E_AMBIGUOUS" in screen.screen
        assert words in both.at_office("approve", *words.split())
        both.at_office("open")

        assert "next: 'fedhelp-edge train IMAGES'" in both.at_clinic("download")
        terminal.write_images(both.clinic)
        with terminal.running("train", "images.npz", home=both.clinic) as screen:
            screen.sees("next: 'fedhelp-edge upload'")
            assert screen.ends() == 0, screen.screen
        assert "parcels sent: 1" in both.at_clinic("upload")
        assert "round 1: 1 update merged" in both.at_office("aggregate")
        assert "new: model after round 1" in both.at_clinic("download")
        with terminal.running("status", home=both.clinic) as screen:
            screen.sees("update of round 1: accepted")
            assert screen.ends() == 0, screen.screen
        front.presses(terminal.CTRL_C)
        assert front.ends() == 0, front.screen
        assert "Traceback" not in front.screen
        assert "error: " not in front.screen
