"""A clinic joins at a real terminal, by network, stick or code, with passphrases that are really typed."""

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

OWN = "a passphrase of my own, äöü"


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
        """Those that reached the coordinator, or its stick."""
        at_hub = [str(row["hash"]) for row in self.federation.hub.database.rows("SELECT hash FROM requests")]
        on_stick = [path.stem for path in (self.stick / TO_COORDINATOR).glob("*.fhx")]
        return sorted({*at_hub, *on_stick} - set(self._earlier))

    @property
    def own_requests(self) -> list[str]:
        return [path.stem for path in (self.site / "request").glob("*.fhx")]

    def way(self, way: str) -> tuple[str | Path, ...]:
        invite = self.invite if way.startswith("file") else self.code
        return "join", invite, *(("--url", self.url) if way.endswith("network") else ("--via", self.stick))

    def is_let_in(self) -> None:
        """What the coordinator does: take in, judge, hand out."""
        exchange.exchange(self.federation.hub, self.stick)
        judge.judge_waiting(self.federation.hub, self.federation.coordinator_keys)
        exchange.exchange(self.federation.hub, self.stick)

    def unlocks(self, passphrase: str, *words: str | Path) -> str:
        """A command that asks for the passphrase, and does what it should with it."""
        return terminal.unlocks(passphrase, *words, home=self.home)


@pytest.fixture
def clinic(made: Federation, tmp_path: Path) -> Iterator[Clinic]:
    with (
        made.temporary_copy(tmp_path / "federation") as federation,
        http_front.running(federation.folder / "hub") as port,
    ):
        yield Clinic(federation, tmp_path, port)


def takes_down(shown: Terminal) -> str:
    """The passphrase that is shown, once it was typed from paper."""
    passphrase = shown.line("passphrase: ")
    shown.sees("is on paper: ")
    shown.types(passphrase)
    return passphrase


@pytest.mark.parametrize("way", ["file by network", "code by network", "file by stick", "code by stick"])
def test_a_made_passphrase_is_shown_before_anything_is_sent_and_opens_what_comes_back(clinic: Clinic, way: str) -> None:
    with running(*clinic.way(way), home=clinic.home) as shown:
        passphrase = shown.line("passphrase: ")
        shown.sees("is on paper: ")
        assert clinic.requests == []
        assert not keys.exist(clinic.site)
        shown.types("something else")
        shown.sees("this does not match")
        shown.sees("is on paper: ")
        shown.types(passphrase.replace("-", " ").upper())
        words = shown.line("words: ")
        assert shown.ends() == 0, shown.screen
    assert shown.screen.count("words: ") == 1
    assert shown.screen.count(passphrase) == 1
    assert len(words.split()) == 8
    assert clinic.requests == clinic.own_requests
    clinic.is_let_in()
    if way.endswith("network"):  # which answers only to who signs
        clinic.unlocks(passphrase, "download")
    else:
        assert command.run_in_process("download", home=clinic.home).returncode == 0
    assert status.status(clinic.site)["site"] == "site-004"


def test_a_first_round_by_network_with_a_passphrase_that_is_typed_each_time(clinic: Clinic) -> None:
    pytest.importorskip("torch")
    with running(*clinic.way("code by network"), "--own", home=clinic.home) as shown:
        shown.sees("new passphrase: ")
        shown.types(OWN)
        shown.sees("Repeat for confirmation: ")
        shown.types(OWN)
        assert shown.ends() == 0, shown.screen
        assert OWN not in shown.screen
    clinic.is_let_in()
    clinic.federation.open()
    clinic.unlocks(OWN, "download")
    terminal.write_images(clinic.home)
    with running("train", "images.npz", home=clinic.home) as shown:
        assert shown.ends() == 0, shown.screen
    assert "parcels sent: 1" in clinic.unlocks(OWN, "upload")
    assert status.status(clinic.site)["state"] == "received"


def test_a_wrong_passphrase_for_keys_that_are_there_sends_nothing(clinic: Clinic) -> None:
    with running("keys", "new", home=clinic.home) as shown:
        passphrase = takes_down(shown)
        assert shown.ends() == 0, shown.screen
    before = keys.load_public(clinic.site)
    with running(*clinic.way("file by network"), home=clinic.home) as shown:
        shown.sees("passphrase: ")
        shown.types("not this one")
        assert shown.ends() == 1
        assert "error: E_PASSPHRASE: " in shown.screen
    assert clinic.requests == []
    clinic.unlocks(passphrase, *clinic.way("file by network"))
    assert clinic.requests == clinic.own_requests
    assert keys.load_public(clinic.site) == before


def test_keys_from_a_backup_join(clinic: Clinic) -> None:
    (clinic.home / "old").write_text("words of the backup\n")
    (clinic.home / "old").chmod(0o600)
    for words in (("keys", "new"), ("keys", "backup", "backup.txt")):
        assert (
            command.run_in_process(*words, "--home", "other", "--passphrase-file", "old", home=clinic.home).returncode
            == 0
        )
    clinic.unlocks("words of the backup", "keys", "restore", "backup.txt")
    clinic.unlocks("words of the backup", *clinic.way("code by network"))
    assert keys.load_public(clinic.site) == keys.load_public(clinic.home / "other")
    assert clinic.requests == clinic.own_requests


@pytest.mark.parametrize("key", [terminal.CTRL_C, terminal.CTRL_D], ids=["Ctrl-C", "end of input"])
def test_who_stops_at_the_passphrase_has_sent_and_kept_nothing_and_may_begin_again(clinic: Clinic, key: bytes) -> None:
    with running(*clinic.way("file by network"), home=clinic.home) as shown:
        shown.sees("is on paper: ")
        shown.presses(key)
        assert shown.ends() == 1
        assert "E_INTERRUPTED" in shown.screen
        assert "Traceback" not in shown.screen
    assert clinic.requests == []
    assert not keys.exist(clinic.site)
    with running(*clinic.way("file by network"), home=clinic.home) as shown:
        takes_down(shown)
        assert shown.ends() == 0, shown.screen
    assert clinic.requests == clinic.own_requests


@pytest.mark.parametrize("end", ["killed", "Ctrl-C"])
def test_where_the_network_was_down_the_same_request_goes_out_later_by_the_same_command(
    clinic: Clinic, end: str
) -> None:
    with socket.socket() as nobody_there:  # an address that is taken, where nobody answers
        nobody_there.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody_there.getsockname()[1]}"
        with running("join", clinic.invite, "--url", url, home=clinic.home) as shown:
            passphrase = takes_down(shown)
            words = shown.line("words: ")
            if end == "killed":
                shown.is_killed()
            else:
                shown.presses(terminal.CTRL_C)
                assert shown.ends() == 1
    requests, public_keys = clinic.own_requests, keys.load_public(clinic.site)
    assert len(requests) == 1
    assert clinic.requests == []
    screen = clinic.unlocks(passphrase, "join", clinic.invite, "--url", clinic.url)
    assert f"words: {words}" in screen
    assert clinic.requests == requests == clinic.own_requests
    assert keys.load_public(clinic.site) == public_keys
    assert "next: " in clinic.unlocks(passphrase, "join", clinic.invite)  # once more does no harm
    assert clinic.requests == requests


def test_a_program_at_a_terminal_gets_one_object_and_the_person_the_passphrase(clinic: Clinic) -> None:
    with running(*clinic.way("code by stick"), "--json", home=clinic.home) as shown:
        passphrase = takes_down(shown)
        joined = json.loads("{" + shown.line("{"))
        assert shown.ends() == 0, shown.screen
    command.check_schema("fedhelp-edge join", joined)
    assert joined["request"] == clinic.requests[0]
    assert (joined["name"], joined["sent"], joined["locked"]) == ("test", True, True)
    assert passphrase not in json.dumps(joined)


def test_without_a_terminal_no_passphrase_is_made_that_nobody_would_read(clinic: Clinic) -> None:
    refused = command.run_in_process(*clinic.way("file by stick"), "--json", home=clinic.home)
    assert command.error_code(refused) == "E_PASSPHRASE_NEEDED"
    assert "--passphrase-file" in refused.stderr
    assert verified.state(clinic.site) is None
    assert not keys.exist(clinic.site)
    joined = command.json_output(
        command.run_in_process(*clinic.way("file by stick"), "--no-passphrase", "--json", home=clinic.home)
    )
    assert joined["locked"] is False
    assert [joined["request"]] == clinic.requests
