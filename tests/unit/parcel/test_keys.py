"""The key store of a site: encrypted with a passphrase, never overwritten, never shown."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import unicodedata
from pathlib import Path

import pyrage
import pytest

from fedhelp_edge.errors import (
    FedhelpError,
    KeysCorruptError,
    KeysExistError,
    KeysModeError,
    KeyStoreError,
    NoKeysError,
    TargetExistsError,
    WrongPassphraseError,
)
from fedhelp_edge.parcel import age, keys

PASSPHRASE = "fünf-kurze-Wörter-mit-Strichen"


def ask() -> str:
    return PASSPHRASE


def nobody() -> str:
    raise AssertionError("the passphrase was asked for")


def secrets_of(pair: keys.Keys) -> tuple[bytes, str]:
    return pair.sign.private_bytes_raw(), pair.identity


@pytest.fixture(scope="module")
def saved_keys(tmp_path_factory: pytest.TempPathFactory, site: keys.Keys) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "home"
    keys.save(folder, site, PASSPHRASE)
    return folder


@pytest.fixture
def locked(saved_keys: Path, tmp_path: Path) -> Path:
    """A folder with the site's keys encrypted with the passphrase."""
    return shutil.copytree(saved_keys, tmp_path / "locked")


@pytest.fixture
def unlocked(tmp_path: Path, site: keys.Keys) -> Path:
    """A folder with the site's keys and no passphrase."""
    keys.save(tmp_path / "unlocked", site, None)
    return tmp_path / "unlocked"


# --- loading ---------------------------------------------------------------------------------------------------------
def test_keys_load_with_their_passphrase(locked: Path, site: keys.Keys) -> None:
    assert secrets_of(keys.load(locked, ask)) == secrets_of(site)
    assert keys.is_locked(locked)


def test_keys_without_a_passphrase_load_without_asking(unlocked: Path, site: keys.Keys) -> None:
    assert secrets_of(keys.load(unlocked, nobody)) == secrets_of(site)
    assert not keys.is_locked(unlocked)


def test_the_public_halves_need_no_passphrase(locked: Path, site: keys.Keys) -> None:
    assert keys.load_public(locked) == site.public


def test_a_passphrase_opens_in_any_unicode_form_and_with_spaces_around(locked: Path) -> None:
    assert keys.load(locked, lambda: unicodedata.normalize("NFD", PASSPHRASE) + "\n").identity


def test_a_backup_is_text_and_restores_the_keys(tmp_path: Path, site: keys.Keys) -> None:
    keys.write_backup(tmp_path / "backup.txt", site, PASSPHRASE)
    assert (tmp_path / "backup.txt").read_text("ascii").startswith("-----BEGIN AGE ENCRYPTED FILE-----\n")
    assert secrets_of(keys.read_backup(tmp_path / "backup.txt", PASSPHRASE)) == secrets_of(site)


def test_ordinary_age_shows_both_private_keys(locked: Path, site: keys.Keys) -> None:
    plain = pyrage.passphrase.decrypt((locked / "keys.age").read_bytes(), PASSPHRASE).decode()
    assert plain.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert plain.endswith("-----END OPENSSH PRIVATE KEY-----\n" + site.identity + "\n")


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="not installed: ssh-keygen")
def test_ssh_keygen_reads_the_signing_key(unlocked: Path, tmp_path: Path, site: keys.Keys) -> None:
    pem, _, _ = (unlocked / "keys.txt").read_text().partition("AGE-SECRET-KEY")
    (tmp_path / "id").write_text(pem)
    (tmp_path / "id").chmod(0o600)
    shown = subprocess.run(["ssh-keygen", "-y", "-f", tmp_path / "id"], capture_output=True, check=True).stdout
    assert shown.decode().strip() == site.public.sign


# --- existing keys ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("passphrase", [None, "another"])
def test_keys_are_never_overwritten(locked: Path, unlocked: Path, passphrase: str | None) -> None:
    for folder in (locked, unlocked):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(KeysExistError):
            keys.save(folder, keys.generate(), passphrase)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_backup_never_overwrites_a_file(tmp_path: Path, site: keys.Keys) -> None:
    (tmp_path / "backup.txt").write_text("something else")
    with pytest.raises(TargetExistsError):
        keys.write_backup(tmp_path / "backup.txt", site, PASSPHRASE)
    assert (tmp_path / "backup.txt").read_text() == "something else"


def test_an_interrupted_attempt_is_completed(tmp_path: Path, site: keys.Keys, hub: keys.Keys) -> None:
    (tmp_path / "keys.pub").write_text(json.dumps(vars(hub.public)))
    with pytest.raises(NoKeysError):
        keys.load_public(tmp_path)
    keys.save(tmp_path, site, None)
    assert keys.load_public(tmp_path) == keys.load(tmp_path, nobody).public == site.public


def test_only_the_two_files_remain(locked: Path, unlocked: Path) -> None:
    assert {path.name for path in locked.iterdir()} == {"keys.age", "keys.pub"}
    assert {path.name for path in unlocked.iterdir()} == {"keys.txt", "keys.pub"}


# --- refusals --------------------------------------------------------------------------------------------------------
def test_a_folder_without_keys_is_an_error(tmp_path: Path) -> None:
    for attempt in (lambda: keys.load(tmp_path, nobody), lambda: keys.load_public(tmp_path)):
        with pytest.raises(NoKeysError):
            attempt()


def test_a_wrong_passphrase_and_a_damaged_file_give_different_errors(locked: Path) -> None:
    with pytest.raises(WrongPassphraseError):
        keys.load(locked, lambda: "another")


def test_a_wrong_passphrase_does_not_open_a_backup(tmp_path: Path, site: keys.Keys) -> None:
    keys.write_backup(tmp_path / "backup.txt", site, PASSPHRASE)
    with pytest.raises(WrongPassphraseError):
        keys.read_backup(tmp_path / "backup.txt", "another")


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "header", "content"])
def test_a_damaged_locked_file_is_refused(locked: Path, damage: str) -> None:
    path = locked / "keys.age"
    data = path.read_bytes()
    offset = {"header": data.index(b"--- ") + 10, "content": len(data) - 1}.get(damage, 0)
    path.write_bytes(
        {"empty": b"", "cut": data[:-1], "longer": data + b"\0"}.get(
            damage, data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]
        )
    )
    with pytest.raises(KeysCorruptError):
        keys.load(locked, ask)


def test_no_flipped_bit_in_an_open_file_gives_other_keys(unlocked: Path, site: keys.Keys) -> None:
    path = unlocked / "keys.txt"
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 3):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        try:
            assert secrets_of(keys.load(unlocked, nobody)) == secrets_of(site)
        except KeysCorruptError:
            continue


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"sign":1,"recipient":2}', '{"sign":"ssh-rsa AAAA","recipient":"age1x"}', "[" * 9999]
)
def test_damaged_public_halves_are_refused(locked: Path, text: str) -> None:
    (locked / "keys.pub").write_text(text)
    with pytest.raises(KeysCorruptError):
        keys.load_public(locked)


def test_missing_public_halves_are_refused(locked: Path) -> None:
    (locked / "keys.pub").unlink()
    with pytest.raises(KeysCorruptError):
        keys.load_public(locked)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_key_file_that_others_can_read_is_refused(locked: Path, unlocked: Path, mode: int) -> None:
    for path in (locked / "keys.age", unlocked / "keys.txt"):
        path.chmod(mode)
        with pytest.raises(KeysModeError):
            keys.load(path.parent, nobody)


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_key_file_that_is_a_link_is_refused(unlocked: Path, tmp_path: Path) -> None:
    (unlocked / "keys.txt").rename(tmp_path / "elsewhere")
    (unlocked / "keys.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeysModeError):
        keys.load(unlocked, nobody)


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_dangling_link_counts_as_keys_that_must_not_be_overwritten(tmp_path: Path, site: keys.Keys) -> None:
    (tmp_path / "keys.age").symlink_to(tmp_path / "nowhere")
    with pytest.raises(KeysExistError):
        keys.save(tmp_path, site, None)


# --- secrecy ---------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_the_owner_can_read_private_files(tmp_path: Path, site: keys.Keys) -> None:
    path = keys.save(tmp_path / "home", site, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_no_text_about_keys_shows_them(site: keys.Keys, unlocked: Path) -> None:
    texts = [repr(site), str(site), f"{site!r:.500}", repr(age.Passphrase(PASSPHRASE))]
    good = (unlocked / "keys.txt").read_bytes()
    for damaged in (good[:-2], good[10:], good.replace(b"AGE-", b"AGE_"), good.replace(b"OPENSSH", b"OPENSSX")):
        (unlocked / "keys.txt").write_bytes(damaged)
        with pytest.raises(KeyStoreError) as caught:
            keys.load(unlocked, nobody)
        texts += [str(caught.value), caught.value.remedy, repr(caught.value.__cause__)]
    with pytest.raises(FedhelpError) as caught:
        age.recipient_of(site.identity + "X")
    texts += [str(caught.value), caught.value.remedy]
    material = [PASSPHRASE, site.identity[-20:], site.sign.private_bytes_raw().hex()[:20], good.decode().split("\n")[2]]
    assert not [text for text in texts if any(secret in text for secret in material)]
