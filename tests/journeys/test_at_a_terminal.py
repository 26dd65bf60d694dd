"""A clinic joins at a real terminal, by network or stick, by file or code, and types its passphrases."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhelp_edge.exchange.folder import TO_COORDINATOR
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import status, verified
from server_ref.admin import exchange, invites
from server_ref.intake import judge
from tests import command, http_front, terminal
from tests.federation import Federation
from tests.terminal import Terminal, running

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")

OWN_PASSPHRASE = "a passphrase of my own, äöü"


class Clinic:
    """An invited clinic: its computer, its stick, its invite as a file and as a code, and the coordinator's address."""

    def __init__(self, federation: Federation, folder: Path, port: int) -> None:
        self.federation, self.home, self.stick = federation, folder / "person", folder / "stick"
        self.home.mkdir()
        self.url = f"http://127.0.0.1:{port}"
        issued = invites.issue(federation.hub, "Clinic", "small", 14)
        self.code, self.invite = issued.code, folder / "clinic.invite"
        invites.write_files(self.invite, issued)
        exchange.exchange(federation.hub, self.stick)
        self._earlier: list[str] = []
        self._earlier = self.requests

    @property
    def site(self) -> Path:
        return self.home / "fedhelp"

    @property
    def requests(self) -> list[str]:
        """Hashes of requests that have reached the coordinator or the stick."""
        at_hub = [str(row["hash"]) for row in self.federation.hub.database.rows("SELECT hash FROM requests")]
        on_stick = [path.stem for path in (self.stick / TO_COORDINATOR).glob("*.fhx")]
        return sorted({*at_hub, *on_stick} - set(self._earlier))

    @property
    def sent_requests(self) -> list[str]:
        return [path.stem for path in (self.site / "request").glob("*.fhx")]

    def join_words(self, route: str) -> tuple[str | Path, ...]:
        invite = self.invite if route.startswith("file") else self.code
        return "join", invite, *(("--url", self.url) if route.endswith("network") else ("--via", self.stick))

    def admit(self) -> None:
        """The coordinator collects, judges and delivers."""
        exchange.exchange(self.federation.hub, self.stick)
        judge.judge_waiting(self.federation.hub, self.federation.coordinator_keys)
        exchange.exchange(self.federation.hub, self.stick)

    def unlocks(self, passphrase: str, *words: str | Path) -> str:
        """Runs a command that asks for the passphrase; checks that it succeeds."""
        return terminal.unlocks(passphrase, *words, home=self.home)


@pytest.fixture
def clinic(made: Federation, tmp_path: Path) -> Iterator[Clinic]:
    with (
        made.temporary_copy(tmp_path / "federation") as federation,
        http_front.running(federation.folder / "hub") as port,
    ):
        yield Clinic(federation, tmp_path, port)


def confirms_from_paper(screen: Terminal) -> str:
    """Types the shown passphrase as if from paper; returns it."""
    passphrase = screen.line("passphrase: ")
    screen.sees("is on paper: ")
    screen.types(passphrase)
    return passphrase


@pytest.mark.parametrize("route", ["file by network", "code by network", "file by stick", "code by stick"])
def test_a_generated_passphrase_is_shown_before_anything_is_sent_and_opens_the_response(
    clinic: Clinic, route: str
) -> None:
    with running(*clinic.join_words(route), home=clinic.home) as screen:
        passphrase = screen.line("passphrase: ")
        screen.sees("is on paper: ")
        assert clinic.requests == []
        assert not keys.exist(clinic.site)
        screen.types("something else")
        screen.sees("this does not match")
        screen.sees("is on paper: ")
        screen.types(passphrase.replace("-", " ").upper())
        words = screen.line("words: ")
        assert screen.ends() == 0, screen.screen
    assert screen.screen.count("words: ") == 1
    assert screen.screen.count(passphrase) == 1
    assert len(words.split()) == 8
    assert clinic.requests == clinic.sent_requests
    clinic.admit()
    if route.endswith("network"):  # the front answers only signed requests
        clinic.unlocks(passphrase, "download")
    else:
        assert command.run_in_process("download", home=clinic.home).returncode == 0
    assert status.status(clinic.site)["site"] == "site-004"


def test_a_first_round_by_network_asks_for_the_passphrase_each_time(clinic: Clinic) -> None:
    pytest.importorskip("torch")
    with running(*clinic.join_words("code by network"), "--own", home=clinic.home) as screen:
        screen.sees("new passphrase: ")
        screen.types(OWN_PASSPHRASE)
        screen.sees("Repeat for confirmation: ")
        screen.types(OWN_PASSPHRASE)
        assert screen.ends() == 0, screen.screen
        assert OWN_PASSPHRASE not in screen.screen
    clinic.admit()
    clinic.federation.open()
    clinic.unlocks(OWN_PASSPHRASE, "download")
    terminal.write_images(clinic.home)
    with running("train", "images.npz", home=clinic.home) as screen:
        assert screen.ends() == 0, screen.screen
    assert "parcels sent: 1" in clinic.unlocks(OWN_PASSPHRASE, "upload")
    assert status.status(clinic.site)["state"] == "received"


def test_a_wrong_passphrase_for_existing_keys_sends_nothing(clinic: Clinic) -> None:
    with running("keys", "new", home=clinic.home) as screen:
        passphrase = confirms_from_paper(screen)
        assert screen.ends() == 0, screen.screen
    before = keys.load_public(clinic.site)
    with running(*clinic.join_words("file by network"), home=clinic.home) as screen:
        screen.sees("passphrase: ")
        screen.types("not this one")
        assert screen.ends() == 1
        assert "error: E_PASSPHRASE: " in screen.screen
    assert clinic.requests == []
    clinic.unlocks(passphrase, *clinic.join_words("file by network"))
    assert clinic.requests == clinic.sent_requests
    assert keys.load_public(clinic.site) == before


def test_a_clinic_can_join_with_keys_from_a_backup(clinic: Clinic) -> None:
    (clinic.home / "old").write_text("words of the backup\n")
    (clinic.home / "old").chmod(0o600)
    for words in (("keys", "new"), ("keys", "backup", "backup.txt")):
        assert (
            command.run_in_process(*words, "--home", "other", "--passphrase-file", "old", home=clinic.home).returncode
            == 0
        )
    clinic.unlocks("words of the backup", "keys", "restore", "backup.txt")
    clinic.unlocks("words of the backup", *clinic.join_words("code by network"))
    assert keys.load_public(clinic.site) == keys.load_public(clinic.home / "other")
    assert clinic.requests == clinic.sent_requests


@pytest.mark.parametrize("key", [terminal.CTRL_C, terminal.CTRL_D], ids=["Ctrl-C", "end of input"])
def test_stopping_at_the_passphrase_sends_and_stores_nothing_and_the_clinic_can_start_again(
    clinic: Clinic, key: bytes
) -> None:
    with running(*clinic.join_words("file by network"), home=clinic.home) as screen:
        screen.sees("is on paper: ")
        screen.presses(key)
        assert screen.ends() == 1
        assert "E_INTERRUPTED" in screen.screen
        assert "Traceback" not in screen.screen
    assert clinic.requests == []
    assert not keys.exist(clinic.site)
    with running(*clinic.join_words("file by network"), home=clinic.home) as screen:
        confirms_from_paper(screen)
        assert screen.ends() == 0, screen.screen
    assert clinic.requests == clinic.sent_requests


@pytest.mark.parametrize("end", ["killed", "Ctrl-C"])
def test_after_a_network_failure_the_same_command_sends_the_same_request(clinic: Clinic, end: str) -> None:
    with socket.socket() as nobody_there:  # a bound port where nobody listens
        nobody_there.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody_there.getsockname()[1]}"
        with running("join", clinic.invite, "--url", url, home=clinic.home) as screen:
            passphrase = confirms_from_paper(screen)
            words = screen.line("words: ")
            if end == "killed":
                screen.is_killed()
            else:
                screen.presses(terminal.CTRL_C)
                assert screen.ends() == 1
    requests, public_keys = clinic.sent_requests, keys.load_public(clinic.site)
    assert len(requests) == 1
    assert clinic.requests == []
    printed = clinic.unlocks(passphrase, "join", clinic.invite, "--url", clinic.url)
    assert f"words: {words}" in printed
    assert clinic.requests == requests == clinic.sent_requests
    assert keys.load_public(clinic.site) == public_keys
    assert "next: " in clinic.unlocks(passphrase, "join", clinic.invite)  # joining again changes nothing
    assert clinic.requests == requests


def test_json_at_a_terminal_prints_one_object_and_shows_the_person_the_passphrase(clinic: Clinic) -> None:
    with running(*clinic.join_words("code by stick"), "--json", home=clinic.home) as screen:
        passphrase = confirms_from_paper(screen)
        joined = json.loads("{" + screen.line("{"))
        assert screen.ends() == 0, screen.screen
    command.check_schema("fedhelp-edge join", joined)
    assert joined["request"] == clinic.requests[0]
    assert (joined["name"], joined["sent"], joined["locked"]) == ("test", True, True)
    assert passphrase not in json.dumps(joined)


def test_without_a_terminal_no_passphrase_is_generated(clinic: Clinic) -> None:
    refused = command.run_in_process(*clinic.join_words("file by stick"), "--json", home=clinic.home)
    assert command.error_code(refused) == "E_PASSPHRASE_NEEDED"
    assert "--passphrase-file" in refused.stderr
    assert verified.state(clinic.site) is None
    assert not keys.exist(clinic.site)
    joined = command.json_output(
        command.run_in_process(*clinic.join_words("file by stick"), "--no-passphrase", "--json", home=clinic.home)
    )
    assert joined["locked"] is False
    assert [joined["request"]] == clinic.requests
