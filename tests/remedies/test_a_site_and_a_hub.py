"""Errors that people meet at a site and at a hub: the test follows the hint, and the same command works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import command
from tests.federation import PLAN
from tests.site_and_hub import SiteAndHub, fails_with, succeeds


@pytest.fixture
def people(tmp_path: Path) -> SiteAndHub:
    return SiteAndHub(tmp_path, PLAN)


def test_a_site_that_has_not_joined_joins_and_one_that_has_leaves(people: SiteAndHub) -> None:
    fails_with(people.site("status"), "E_NOT_JOINED", "fedhelp-edge join INVITE")
    people.join()
    succeeds(people.site("status"))
    succeeds(people.hub("invite", "A", "--tier", "small", "--out", "again.invite"))
    fails_with(people.site("join", "again.invite", "--via", people.stick), "E_JOINED", "fedhelp-edge leave")
    succeeds(people.site("leave"))
    succeeds(people.site("join", "again.invite", "--via", people.stick))


def test_an_invites_code_needs_all_letters_and_a_carrier(people: SiteAndHub) -> None:
    succeeds(people.hub("init", "--plan", "plan.toml"))
    code = str(command.json_output(people.hub("invite", "A", "--tier", "small", "--json"))["code"])
    succeeds(people.hub("exchange", people.stick))
    wrong = code[:-1] + ("A" if code[-1] != "A" else "B")
    fails_with(people.site("join", wrong), "E_INVITE_CODE", "compare the code letter by letter")
    fails_with(people.site("join", code), "E_CARRIER", "--via DIR")
    succeeds(people.site("join", code, "--via", people.stick))


def test_the_stick_is_plugged_in_again(people: SiteAndHub) -> None:
    people.join()
    people.stick.rename(people.folder / "pocket")
    fails_with(people.site("download"), "E_FILE_MISSING", "plugged in")
    (people.folder / "pocket").rename(people.stick)
    succeeds(people.site("download"))


def test_missing_files_are_downloaded_or_trained_again(people: SiteAndHub) -> None:
    pytest.importorskip("torch")
    people.join()
    images = np.zeros((8, 8, 8, 3), np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None]
    np.savez(people.folder / "images.npz", images=images, labels=np.arange(8) % 3)
    succeeds(people.hub("open"))
    succeeds(people.hub("exchange", people.stick))
    fails_with(people.site("train", "images.npz"), "E_NOT_YET", "fedhelp-edge download")
    succeeds(people.site("download"))
    fails_with(people.site("distill", "images.npz"), "E_TIER", "fedhelp-edge train")
    fails_with(people.site("train"), "E_IMAGES", "name the folder, table or NPZ")
    fails_with(people.site("evaluate"), "E_NOT_TRAINED", "fedhelp-edge train")
    base = next((people.folder / "site" / "base").iterdir())
    base.write_bytes(base.read_bytes()[:-1] + b"?")
    fails_with(people.site("train", "images.npz"), "E_NOT_YET", "fedhelp-edge download")
    succeeds(people.site("download"))
    succeeds(people.site("train", "images.npz"))
    succeeds(people.site("evaluate"))
    update_file = next((people.folder / "site" / "rounds").glob("*/share.safetensors"))
    content = update_file.read_bytes()
    update_file.write_bytes(content[:-100])
    fails_with(people.site("upload"), "E_NOT_YET", "makes it again")
    succeeds(people.site("train"))
    assert update_file.read_bytes() == content
    succeeds(people.site("upload"))


def test_missing_open_locked_or_damaged_keys_are_repaired(people: SiteAndHub) -> None:
    fails_with(people.site("keys", "show"), "E_KEYS_MISSING", "fedhelp-edge keys new")
    succeeds(people.site("keys", "new"))
    succeeds(people.site("keys", "show"))
    succeeds(people.site("keys", "backup", "backup.txt"))
    keys_file = people.folder / "site" / "keys.age"
    keys_file.chmod(0o644)
    fails_with(people.site("keys", "backup", "other.txt"), "E_KEYS_MODE", "chmod 600")
    keys_file.chmod(0o600)
    succeeds(people.site("keys", "backup", "other.txt"))
    (people.folder / "pass").write_text("other words\n")
    fails_with(people.site("keys", "backup", "third.txt"), "E_PASSPHRASE", "type it again")
    (people.folder / "pass").write_text("four quiet words here\n")
    succeeds(people.site("keys", "backup", "third.txt"))
    keys_file.write_bytes(keys_file.read_bytes()[:-20])
    fails_with(people.site("keys", "backup", "fourth.txt"), "E_KEYS_CORRUPT", "fedhelp-edge keys restore")
    keys_file.rename(people.folder / "damaged")
    succeeds(people.site("keys", "restore", "backup.txt"))
    succeeds(people.site("keys", "backup", "fourth.txt"))


def test_an_existing_file_is_moved_and_an_invalid_one_corrected(people: SiteAndHub) -> None:
    fails_with(people.site("plan", "new", "plan.toml"), "E_FILE_EXISTS", "move the old file away")
    (people.folder / "plan.toml").rename(people.folder / "old.toml")
    succeeds(people.site("plan", "new", "plan.toml"))
    (people.folder / "old.toml").write_text(PLAN.replace("rounds = 12", "rounds = 0"))
    fails_with(people.hub("init", "--plan", "old.toml"), "E_PLAN", "correct the listed lines")
    (people.folder / "old.toml").write_text(PLAN)
    succeeds(people.hub("init", "--plan", "old.toml"))


def test_a_hub_is_created_and_names_what_it_waits_for(people: SiteAndHub) -> None:
    fails_with(people.hub("status"), "E_HUB", "fedhelp-coordinator init --plan plan.toml")
    people.join()
    succeeds(people.hub("status"))
    fails_with(people.hub("aggregate"), "E_STATE", "fedhelp-coordinator open")
    succeeds(people.hub("open"))
    fails_with(people.hub("aggregate"), "E_QUORUM", "remind the missing sites")
    fails_with(people.hub("revoke", "site-009"), "E_SITE", "fedhelp-coordinator roster")
    succeeds(people.hub("roster"))
    succeeds(people.hub("revoke", "site-001"))


def test_a_finished_federation_continues_as_another(people: SiteAndHub) -> None:
    people.join()
    succeeds(people.hub("finish"))
    fails_with(people.hub("open"), "E_STATE", "fedhelp-coordinator status")
    progress = succeeds(people.hub("status")).stderr
    model = progress.partition(" open --start ")[2].partition(" --home ")[0]
    (people.folder / "more.toml").write_text(PLAN.replace('"c"]', '"c", "d"]'))
    other = "--home", people.folder / "other"
    succeeds(people.hub("init", "--plan", "more.toml", *other))
    succeeds(people.hub("open", "--start", model, *other))


def test_missing_images_and_unknown_labels_are_corrected(people: SiteAndHub) -> None:
    from PIL import Image

    images = people.folder / "images"
    (images / "a").mkdir(parents=True)
    checked = people.site("check", "images", "--plan", "plan.toml")
    assert (checked.returncode, "E_NO_IMAGES" in checked.stdout) == (1, True)
    assert "name a folder with one folder of images for each class" in checked.stdout
    for number in range(36):
        path = images / ("a", "x", "c")[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    checked = people.site("check", "images", "--plan", "plan.toml")
    assert "E_LABEL" in checked.stdout
    assert "--map 'NAME=CLASS'" in checked.stdout
    succeeds(people.site("check", "images", "--plan", "plan.toml", "--map", "x=b"))


def test_a_name_that_would_forge_a_line_is_refused_and_an_ordinary_one_accepted(people: SiteAndHub) -> None:
    succeeds(people.hub("init", "--plan", "plan.toml"))
    fails_with(people.hub("invite", "A\nwords: forged", "--tier", "small"), "E_NAME", "on one line")
    succeeds(people.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    fails_with(people.site("join", "a.invite", "--via", people.stick, "--name", "\x1b[2J"), "E_NAME", "on one line")
    succeeds(people.site("join", "a.invite", "--via", people.stick, "--name", "Clinic A"))
