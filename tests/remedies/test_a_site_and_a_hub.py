"""Errors that people meet at a site and at a hub: what the hint says is done, and the same command works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import command
from tests.desk import Desk, fails, works
from tests.federation import PLAN


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, PLAN)


def test_a_site_that_has_not_joined_joins_and_one_that_has_leaves(desk: Desk) -> None:
    fails(desk.site("status"), "E_NOT_JOINED", "fedhelp-edge join INVITE")
    desk.join()
    works(desk.site("status"))
    works(desk.hub("invite", "A", "--tier", "small", "--out", "again.invite"))
    fails(desk.site("join", "again.invite", "--via", desk.stick), "E_JOINED", "fedhelp-edge leave")
    works(desk.site("leave"))
    works(desk.site("join", "again.invite", "--via", desk.stick))


def test_a_code_needs_its_letters_and_a_way(desk: Desk) -> None:
    works(desk.hub("init", "--plan", "plan.toml"))
    code = str(command.answer(desk.hub("invite", "A", "--tier", "small", "--json"))["code"])
    works(desk.hub("exchange", desk.stick))
    wrong = code[:-1] + ("A" if code[-1] != "A" else "B")
    fails(desk.site("join", wrong), "E_INVITE_CODE", "compare the code letter by letter")
    fails(desk.site("join", code), "E_CARRIER", "--via DIR")
    works(desk.site("join", code, "--via", desk.stick))


def test_the_stick_is_plugged_in_again(desk: Desk) -> None:
    desk.join()
    desk.stick.rename(desk.folder / "pocket")
    fails(desk.site("download"), "E_FILE_MISSING", "plugged in")
    (desk.folder / "pocket").rename(desk.stick)
    works(desk.site("download"))


def test_what_is_not_there_yet_is_downloaded(desk: Desk) -> None:
    pytest.importorskip("torch")
    desk.join()
    images = np.zeros((8, 8, 8, 3), np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None]
    np.savez(desk.folder / "images.npz", images=images, labels=np.arange(8) % 3)
    works(desk.hub("open"))
    works(desk.hub("exchange", desk.stick))
    fails(desk.site("train", "images.npz"), "E_NOT_YET", "fedhelp-edge download")
    works(desk.site("download"))
    fails(desk.site("distill", "images.npz"), "E_TIER", "fedhelp-edge train")
    fails(desk.site("train"), "E_IMAGES", "name the folder, table or NPZ")
    fails(desk.site("evaluate"), "E_NOT_TRAINED", "fedhelp-edge train")
    base = next((desk.folder / "site" / "base").iterdir())
    base.write_bytes(base.read_bytes()[:-1] + b"?")
    fails(desk.site("train", "images.npz"), "E_NOT_YET", "fedhelp-edge download")
    works(desk.site("download"))
    works(desk.site("train", "images.npz"))
    works(desk.site("evaluate"))
    made = next((desk.folder / "site" / "rounds").glob("*/share.safetensors"))
    whole = made.read_bytes()
    made.write_bytes(whole[:-100])
    fails(desk.site("upload"), "E_NOT_YET", "makes it again")
    works(desk.site("train"))
    assert made.read_bytes() == whole
    works(desk.site("upload"))


def test_keys_are_locked_guarded_there_or_brought_back(desk: Desk) -> None:
    fails(desk.site("keys", "show"), "E_KEYS_MISSING", "fedhelp-edge keys new")
    works(desk.site("keys", "new"))
    works(desk.site("keys", "show"))
    works(desk.site("keys", "backup", "backup.txt"))
    kept = desk.folder / "site" / "keys.age"
    kept.chmod(0o644)
    fails(desk.site("keys", "backup", "other.txt"), "E_KEYS_MODE", "chmod 600")
    kept.chmod(0o600)
    works(desk.site("keys", "backup", "other.txt"))
    (desk.folder / "pass").write_text("other words\n")
    fails(desk.site("keys", "backup", "third.txt"), "E_PASSPHRASE", "type it again")
    (desk.folder / "pass").write_text("four quiet words here\n")
    works(desk.site("keys", "backup", "third.txt"))
    kept.write_bytes(kept.read_bytes()[:-20])
    fails(desk.site("keys", "backup", "fourth.txt"), "E_KEYS_CORRUPT", "fedhelp-edge keys restore")
    kept.rename(desk.folder / "damaged")
    works(desk.site("keys", "restore", "backup.txt"))
    works(desk.site("keys", "backup", "fourth.txt"))


def test_a_file_that_is_in_the_way_is_moved_and_one_that_is_wrong_corrected(desk: Desk) -> None:
    fails(desk.site("plan", "new", "plan.toml"), "E_FILE_EXISTS", "move the old file away")
    (desk.folder / "plan.toml").rename(desk.folder / "old.toml")
    works(desk.site("plan", "new", "plan.toml"))
    (desk.folder / "old.toml").write_text(PLAN.replace("rounds = 12", "rounds = 0"))
    fails(desk.hub("init", "--plan", "old.toml"), "E_PLAN", "correct the listed lines")
    (desk.folder / "old.toml").write_text(PLAN)
    works(desk.hub("init", "--plan", "old.toml"))


def test_a_hub_is_made_and_says_what_it_waits_for(desk: Desk) -> None:
    fails(desk.hub("status"), "E_HUB", "fedhelp-coordinator init --plan plan.toml")
    desk.join()
    works(desk.hub("status"))
    fails(desk.hub("aggregate"), "E_STATE", "fedhelp-coordinator open")
    works(desk.hub("open"))
    fails(desk.hub("aggregate"), "E_QUORUM", "remind the missing sites")
    fails(desk.hub("revoke", "site-009"), "E_SITE", "fedhelp-coordinator roster")
    works(desk.hub("roster"))
    works(desk.hub("revoke", "site-001"))


def test_a_federation_that_is_finished_goes_on_as_another(desk: Desk) -> None:
    desk.join()
    works(desk.hub("finish"))
    fails(desk.hub("open"), "E_STATE", "fedhelp-coordinator status")
    said = works(desk.hub("status")).stderr
    model = said.partition(" open --start ")[2].partition(" --home ")[0]
    (desk.folder / "more.toml").write_text(PLAN.replace('"c"]', '"c", "d"]'))
    other = "--home", desk.folder / "other"
    works(desk.hub("init", "--plan", "more.toml", *other))
    works(desk.hub("open", "--start", model, *other))


def test_images_that_cannot_be_learned_from_are_put_right(desk: Desk) -> None:
    from PIL import Image

    images = desk.folder / "images"
    (images / "a").mkdir(parents=True)
    told = desk.site("check", "images", "--plan", "plan.toml")
    assert (told.returncode, "E_NO_IMAGES" in told.stdout) == (1, True)
    assert "name a folder with one folder of images for each class" in told.stdout
    for number in range(36):
        path = images / ("a", "x", "c")[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    told = desk.site("check", "images", "--plan", "plan.toml")
    assert "E_LABEL" in told.stdout
    assert "--map 'NAME=CLASS'" in told.stdout
    works(desk.site("check", "images", "--plan", "plan.toml", "--map", "x=b"))


def test_a_name_that_would_forge_a_line_is_refused_and_an_ordinary_one_is_taken(desk: Desk) -> None:
    works(desk.hub("init", "--plan", "plan.toml"))
    fails(desk.hub("invite", "A\nwords: forged", "--tier", "small"), "E_NAME", "on one line")
    works(desk.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    fails(desk.site("join", "a.invite", "--via", desk.stick, "--name", "\x1b[2J"), "E_NAME", "on one line")
    works(desk.site("join", "a.invite", "--via", desk.stick, "--name", "Clinic A"))
