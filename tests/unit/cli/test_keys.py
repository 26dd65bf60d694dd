"""The keys of a site, as its staff handle them."""

from __future__ import annotations

import base64
import os
import pty
import subprocess
from pathlib import Path

import pyrage
import pytest

from tests.command import SITE, error_code, json_output, run, run_in_process

SECRETS = ("PRIVATE KEY", "AGE-SECRET-KEY")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def home(tmp_path: Path, secret: Path) -> Path:
    """A site with keys under the passphrase in the file `secret`."""
    home = tmp_path / "home"
    assert run_in_process("keys", "new", "--home", home, "--passphrase-file", secret, home=tmp_path).returncode == 0
    return home


def test_new_keys_come_with_a_passphrase_of_five_words_that_opens_them(tmp_path: Path) -> None:
    done = run_in_process("keys", "new", home=tmp_path)
    shown = next(line for line in done.stdout.splitlines() if line.startswith("passphrase: "))
    words = shown.removeprefix("passphrase: ")
    assert len(words.split("-")) == 5
    plain = pyrage.passphrase.decrypt((tmp_path / "fedhelp" / "keys.age").read_bytes(), words).decode()
    assert all(secret in plain for secret in SECRETS)


def test_showing_keys_needs_no_passphrase_and_shows_nothing_private(home: Path) -> None:
    shown = json_output(run_in_process("keys", "show", "--home", home, "--json", home=home))
    assert shown["sign"].startswith("ssh-ed25519 ")
    assert shown["locked"] is True
    assert not any(secret in str(shown) for secret in SECRETS)


def test_keys_are_never_overwritten(home: Path, secret: Path) -> None:
    before = (home / "keys.age").read_bytes()
    assert error_code(run_in_process("keys", "new", "--home", home, "--no-passphrase", home=home)) == "E_KEYS_EXIST"
    assert (home / "keys.age").read_bytes() == before


def test_a_backup_restores_the_same_keys_on_another_computer(home: Path, secret: Path, tmp_path: Path) -> None:
    backup, other = tmp_path / "backup.txt", tmp_path / "other"
    assert (
        run_in_process("keys", "backup", backup, "--home", home, "--passphrase-file", secret, home=tmp_path).returncode
        == 0
    )
    assert (
        run_in_process(
            "keys", "restore", backup, "--home", other, "--passphrase-file", secret, home=tmp_path
        ).returncode
        == 0
    )
    first, second = (
        json_output(run_in_process("keys", "show", "--home", new_home, "--json", home=tmp_path))
        for new_home in (home, other)
    )
    assert first == second


def test_keys_without_a_passphrase_still_get_a_backup_under_one(secret: Path, tmp_path: Path) -> None:
    open_home, backup = tmp_path / "open", tmp_path / "backup.txt"
    assert "warning" in run_in_process("keys", "new", "--home", open_home, "--no-passphrase", home=tmp_path).stderr
    assert (
        run_in_process(
            "keys", "backup", backup, "--home", open_home, "--passphrase-file", secret, home=tmp_path
        ).returncode
        == 0
    )
    assert backup.read_text().startswith("-----BEGIN AGE ENCRYPTED FILE-----")


def test_a_wrong_passphrase_is_an_error_and_writes_nothing(home: Path, tmp_path: Path) -> None:
    wrong, backup = tmp_path / "wrong.txt", tmp_path / "backup.txt"
    wrong.write_text("wrong\n")
    wrong.chmod(0o600)
    assert (
        error_code(run_in_process("keys", "backup", backup, "--home", home, "--passphrase-file", wrong, home=tmp_path))
        == "E_PASSPHRASE"
    )
    assert not backup.exists()


def test_without_a_terminal_a_missing_passphrase_is_an_error(home: Path, tmp_path: Path) -> None:
    done = run_in_process("keys", "backup", tmp_path / "backup.txt", "--home", home, home=tmp_path)
    assert error_code(done) == "E_PASSPHRASE_NEEDED"


def test_at_a_terminal_the_passphrase_is_asked_for_and_not_shown(home: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    started = subprocess.Popen(
        [*SITE, "keys", "backup", str(tmp_path / "backup.txt"), "--home", str(home)],
        stdin=slave, stdout=slave, stderr=slave, cwd=Path(__file__).parents[3], start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while b"passphrase: " not in shown:
        shown += os.read(master, 1024)
    os.write(master, b"correct horse battery staple\n")
    while True:
        try:
            chunk = os.read(master, 1024)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    assert started.wait() == 0
    assert b"horse" not in shown
    armor = (tmp_path / "backup.txt").read_text().splitlines()
    header = base64.b64decode("".join(armor[1:-1])).splitlines()
    assert header[1].split()[1:4:2] == [b"scrypt", b"16"]  # real work: only this process of tests saves it


def test_words_are_eight_and_the_same_each_time(home: Path) -> None:
    first, again = (
        json_output(run_in_process("keys", "words", "--home", home, "--json", home=home))["words"] for _ in range(2)
    )
    assert first == again
    assert len(first) == 8


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_key_file_that_others_can_read_is_refused(home: Path, secret: Path, tmp_path: Path) -> None:
    (home / "keys.age").chmod(0o644)
    done = run_in_process(
        "keys", "backup", tmp_path / "b.txt", "--home", home, "--passphrase-file", secret, home=tmp_path
    )
    assert error_code(done) == "E_KEYS_MODE"
    assert "chmod 600" in done.stderr


def test_a_linked_key_file_is_refused(home: Path, secret: Path, tmp_path: Path) -> None:
    (home / "keys.age").rename(tmp_path / "elsewhere")
    (home / "keys.age").symlink_to(tmp_path / "elsewhere")
    done = run_in_process(
        "keys", "backup", tmp_path / "b.txt", "--home", home, "--passphrase-file", secret, home=tmp_path
    )
    assert error_code(done) == "E_KEYS_MODE"


def test_a_damaged_key_file_and_a_wrong_passphrase_give_different_errors(
    home: Path, secret: Path, tmp_path: Path
) -> None:
    (home / "keys.age").write_bytes((home / "keys.age").read_bytes()[:-20])
    done = run_in_process(
        "keys", "backup", tmp_path / "b.txt", "--home", home, "--passphrase-file", secret, home=tmp_path
    )
    assert error_code(done) == "E_KEYS_CORRUPT"


@pytest.mark.usefixtures("quick_doctor")
def test_no_output_contains_a_key_or_the_passphrase(home: Path, secret: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.txt").write_text("wrong\n")
    (tmp_path / "wrong.txt").chmod(0o600)
    output = ""
    for arguments in (
        ("keys", "show"), ("keys", "words"), ("keys", "new"), ("doctor",), ("keys", "backup", tmp_path / "a.txt"),
        ("keys", "backup", tmp_path / "b.txt", "--passphrase-file", secret),
        ("keys", "restore", tmp_path / "b.txt", "--passphrase-file", secret),
        ("keys", "backup", tmp_path / "c.txt", "--passphrase-file", tmp_path / "wrong.txt", "--debug"),
    ):  # fmt: skip
        typed = run if "--debug" in arguments else run_in_process  # a traceback is shown by a process of its own
        done = typed(*arguments, "--home", home, home=tmp_path)
        output += done.stdout + done.stderr
    assert not any(secret in output for secret in (*SECRETS, "horse", "staple"))
