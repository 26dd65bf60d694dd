"""Faults G08 and G13 of the catalogue at a site.

A stick is pulled or full, a disk is read-only, keys are locked, two commands run at once.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedhelp_edge import errors, lock, passphrase
from fedhelp_edge.errors import BusyError, FileMissingError, PassphraseNeededError, WrongPassphraseError
from fedhelp_edge.exchange.folder import TO_COORDINATOR
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import inbox, layout, local_training, outbox, status, verified
from tests.clinic import Clinic
from tests.federation import Federation, nobody

Disk = Callable[[int], Path]


@pytest.fixture
def trained(clinic: Clinic) -> Clinic:
    """A clinic that has trained for the open round."""
    clinic.join_and_fetch_task()
    clinic.train()
    return clinic


# --- G08 -----------------------------------------------------------------------------------------------------------
def test_g08_an_update_that_did_not_fit_on_the_stick_is_written_at_the_next_try(
    trained: Clinic, tiny_disk: Disk
) -> None:
    outbox.seal_current(trained.home, nobody)
    trained.stick = tiny_disk(1200)
    (trained.stick / "pictures").write_bytes(bytes(600_000))
    with pytest.raises(OSError) as caught:
        trained.upload()
    assert type(errors.from_os(caught.value)) is errors.NoSpaceError
    assert list((trained.stick / TO_COORDINATOR).iterdir()) == []
    (trained.stick / "pictures").unlink()
    (sent,) = trained.upload()
    trained.collect()
    assert trained.federation.update_states() == {"site-004/1": "accepted"}
    assert (
        trained.federation.hub.database.parcel_path(sent).read_bytes() == outbox.pending(trained.home)[0].read_bytes()
    )


def test_g08_an_update_is_copied_again_after_the_stick_was_pulled(
    trained: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = outbox.seal_current(trained.home, nobody)
    pulled = trained.stick.with_name("pulled")
    flush = os.fsync

    def pull(descriptor: int) -> None:
        if not pulled.exists():
            trained.stick.rename(pulled)
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", pull)
        with pytest.raises(FileNotFoundError):
            trained.upload()
    with pytest.raises(FileMissingError):
        trained.upload()
    assert outbox.pending(trained.home) == [sealed]
    pulled.rename(trained.stick)
    trained.upload()
    trained.carry_stick()
    assert trained.federation.update_states() == {"site-004/1": "accepted"}


# --- G13 -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def on_a_disk(three: Federation, tiny_disk: Disk) -> Iterator[tuple[Clinic, str]]:
    disk = tiny_disk(20_000)
    yield Clinic(three, disk / "clinic"), str(disk)


def test_g13_a_read_only_disk_is_an_error_until_it_is_writable_again(on_a_disk: tuple[Clinic, str]) -> None:
    clinic, disk = on_a_disk
    clinic.join()
    clinic.carry_stick()
    clinic.federation.open()
    clinic.carry_stick()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        with pytest.raises(OSError) as caught:
            clinic.download()
        assert errors.from_os(caught.value).code in ("E_PERMISSION", "E_STORAGE")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert clinic.download().refused == []
    assert clinic.state == status.READY


def test_g13_with_locked_keys_and_no_passphrase_nothing_is_sealed(trained: Clinic) -> None:
    site_keys = keys.load(trained.home, nobody)
    for keys_file in trained.home.glob("keys.*"):
        keys_file.unlink()
    keys.save(trained.home, site_keys, "amber violin sketch lemon harbour")
    wrong = trained.home / "wrong"
    wrong.write_text("another passphrase\n")
    wrong.chmod(0o600)
    for ask, fault in (
        (passphrase.provider(None), PassphraseNeededError),
        (passphrase.provider(wrong), WrongPassphraseError),
    ):
        with pytest.raises(fault):
            outbox.seal_current(trained.home, ask)
    assert trained.state == status.TRAINED


@pytest.mark.parametrize("action", ["join", "download", "upload", "seal"])
def test_g13_of_two_simultaneous_commands_the_second_waits_and_is_then_refused(
    trained: Clinic, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step: Callable[[], object] = {
        "join": trained.join, "download": trained.download, "upload": trained.upload,
        "seal": lambda: outbox.seal_current(trained.home, nobody),
    }[action]  # fmt: skip
    monkeypatch.setattr(lock, "WAIT", 0.1)
    with lock.exclusive(trained.home / layout.LOCK), pytest.raises(BusyError):
        step()


def test_g13_simultaneous_commands_seal_an_update_once(trained: Clinic) -> None:
    with ThreadPoolExecutor(3) as pool:
        sealed = list(pool.map(lambda _: outbox.seal_current(trained.home, nobody), range(3)))
    assert sealed == outbox.pending(trained.home) * 3


def test_g13_of_two_simultaneous_trainings_the_second_is_refused(trained: Clinic) -> None:
    task = verified.require_state(trained.home).task
    assert task
    arguments = trained.home, inbox.plan_of(task), "site-004", "small", None, None
    with (
        lock.exclusive(trained.home / local_training.LOCK),
        pytest.raises(BusyError),
        local_training.open_context(*arguments),
    ):
        pass
