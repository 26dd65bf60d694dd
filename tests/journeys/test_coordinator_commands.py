"""The coordinator's commands as a person meets them: what is checked before it is done, what is said, and what is typed
next."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from fedhelp_edge import passphrase
from fedhelp_edge.errors import WeakPassphraseError
from fedhelp_edge.trust import key_words
from tests import command
from tests.desk import Desk, Done, fails, works
from tests.federation import PLAN


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path, PLAN, locked=False)
    works(desk.hub("init", "--plan", "plan.toml"))
    return desk


def listed(desk: Desk) -> dict[str, str]:
    invites = command.answer(works(desk.hub("invites", "--json")))["invites"]
    return {invite["site"]: invite["state"] for invite in invites}


# --- invites ------------------------------------------------------------------------------------------------------
def test_an_invite_is_there_with_its_file_or_not_at_all(desk: Desk) -> None:
    for out, code in (("no/a.invite", "E_FILE_MISSING"), ("plan.toml", "E_FILE_EXISTS")):
        assert command.refusal(desk.hub("invite", "A", "--tier", "small", "--out", out)) == code
    (desk.folder / "b.invite.png").touch()
    assert command.refusal(desk.hub("invite", "A", "--tier", "small", "--out", "b.invite")) == "E_FILE_EXISTS"
    assert not (desk.folder / "b.invite").exists()
    assert listed(desk) == {}


def test_without_the_package_that_draws_an_invite_is_written_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    monkeypatch.setattr("server_ref.admin.invites.find_spec", lambda _: None)
    done = works(desk.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    assert "pip install 'fedhelp-edge[server]'" in done.stdout
    assert (desk.folder / "a.invite").exists()
    assert not (desk.folder / "a.invite.png").exists()
    works(desk.site("join", "a.invite", "--via", desk.stick))


def test_invites_are_listed_and_cancelled(desk: Desk) -> None:
    for name in ("A", "B", "B"):
        done = works(desk.hub("invite", name, "--tier", "small", "--out", f"{len(listed(desk))}.invite"))
    assert "site-002 has another invite for 'B' (open)" in done.stderr
    fails(desk.hub("invites", "--cancel", "B"), "E_AMBIGUOUS", "by its listed id")
    works(desk.hub("invites", "--cancel", "site-003"))
    assert listed(desk) == {"site-001": "open", "site-002": "open", "site-003": "cancelled"}
    for number, home in ((0, "one"), (2, "two")):
        works(desk.site("join", f"{number}.invite", "--via", desk.stick, "--home", home))
    assert "E_INVITE_UNKNOWN" in works(desk.hub("exchange", desk.stick)).stdout
    assert listed(desk) == {"site-001": "used", "site-002": "open", "site-003": "cancelled"}
    fails(desk.hub("invites", "--cancel", "site-001"), "E_STATE", "revoke site-001' excludes a site")
    assert command.refusal(desk.hub("invites", "--cancel", "C")) == "E_SITE"


def test_a_name_that_two_sites_have_shuts_out_neither(desk: Desk) -> None:
    for number in (1, 2):
        works(desk.hub("invite", "Clinic A", "--tier", "small", "--out", f"{number}.invite"))
        works(desk.site("join", f"{number}.invite", "--via", desk.stick, "--home", f"{number}"))
    works(desk.hub("exchange", desk.stick))
    done = desk.hub("revoke", "Clinic A", "--reason", "stolen")
    fails(done, "E_AMBIGUOUS", "name the site by its id")
    assert "site-001 (active), site-002 (active)" in done.stderr
    works(desk.hub("revoke", "site-002", "--reason", "stolen"))
    assert [site["status"] for site in command.answer(desk.hub("roster", "--json"))["sites"]] == ["active", "revoked"]


# --- passphrases ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "weak",
    ["secret", "password123", "Passphrase 2026!", "aaaaaaaaaaaaaaaa", "abcabcabcabcabc", "0123456789012345",
     "fedhelp coordinator", "qwertyuiop1234", "abcdefghijklmnop", "secret secret secret", "xyx yxy xyx yxy!"],
)  # fmt: skip
def test_a_passphrase_that_is_soon_guessed_is_refused_by_every_command_that_makes_keys(
    weak: str, tmp_path: Path
) -> None:
    with pytest.raises(WeakPassphraseError):
        passphrase.check_strength(weak)
    desk = Desk(tmp_path, PLAN)
    (tmp_path / "pass").write_text(f"{weak}\n")
    fails(desk.hub("init", "--plan", "plan.toml"), "E_PASSPHRASE_WEAK", "take five unrelated words")
    fails(desk.site("keys", "new"), "E_PASSPHRASE_WEAK", "take five unrelated words")
    assert not (tmp_path / "hub").exists()
    assert not (tmp_path / "site").exists()


def test_a_passphrase_that_this_kit_makes_or_that_a_person_thought_of_is_taken() -> None:
    for good in (
        *(key_words.new_passphrase() for _ in range(200)),
        "four quiet words here",
        "Grüße-aus-Tübingen-71",
        "vK7#pQ2!xW9d",
    ):
        passphrase.check_strength(good)


# --- nothing is asked in vain ---------------------------------------------------------------------------------------
def test_nobody_is_asked_for_a_passphrase_where_the_command_is_refused_anyway(tmp_path: Path) -> None:
    """Nobody can answer here: who would be asked is refused with another code."""
    desk = Desk(tmp_path, PLAN)
    works(desk.hub("init", "--plan", "plan.toml"))
    works(desk.hub("open"))
    desk.locked = False
    for typed, code in (
        (("init", "--plan", "plan.toml"), "E_FILE_EXISTS"),
        (("open",), "E_STATE"),
        (("approve", "site-001"), "E_SITE"),
        (("revoke", "site-009"), "E_SITE"),
        (("review", "site-001", "--refuse"), "E_STATE"),
        (("reaggregate", "--without", "site-001", "--root-key", "hub/root"), "E_SITE"),
        (("rotate", "--coordinator", "--root-key", "hub/front"), "E_ROLE"),
        (("rotate", "--coordinator", "--root-key", "nowhere"), "E_KEYS_MISSING"),
        (("restore", "no.tar", "--root-key", "hub/root", "--home", "again"), "E_FILE_MISSING"),
        (("restore", "plan.toml", "--root-key", "hub/root"), "E_FILE_EXISTS"),
        (("rotate", "--root", "--root-key", "hub/root", "--new-root-key", "hub/root"), "E_KEYS_EXIST"),
    ):
        home = {"FEDHELP_HOME": str(tmp_path / "hub")}
        done = command.here(*typed, home=tmp_path, program=command.COORDINATOR, env=home)
        assert command.refusal(done) == code, typed
        assert "fedhelp-edge keys new" not in done.stderr, "that would make a site's keys"
    done = command.here("requests", home=tmp_path, program=command.COORDINATOR, env=home)
    assert command.refusal(done) == "E_PASSPHRASE_NEEDED"


def test_the_root_key_has_one_name_and_its_old_one_still_works(desk: Desk) -> None:
    shown = works(command.run("reaggregate", "--help", home=desk.folder, program=command.COORDINATOR)).stdout
    assert "--root-key" in shown
    assert "--archive" not in shown
    for name in ("--root-key", "--archive-key"):
        done = desk.hub("reaggregate", "--without", "site-001", name, "hub/root")
        assert command.refusal(done) == "E_SITE", "it got as far as asking who that is"
    assert command.refusal(desk.hub("reaggregate", "--without", "site-001")) == "E_USAGE"


# --- what is typed next ---------------------------------------------------------------------------------------------
def next_of(done: Done, **places: Path | str) -> list[str]:
    """The first command that was named as the next one, as a shell reads it; `places` stand for capital letters."""
    line = next(line for line in reversed(done.stderr.splitlines()) if line.startswith(("next: ", "hint: ")))
    steps = re.search(r"'(fedhelp-coordinator [^']+)'", line)
    assert steps, done.stderr
    return [str(places.get(word, word)) for word in shlex.split(steps[1])[1:]]


def test_every_next_step_works_as_it_is_printed_with_the_home_that_was_typed(tmp_path: Path) -> None:
    """From a hub's first command to its last, typing only what was printed."""
    desk = Desk(tmp_path, PLAN.replace("quorum = 2", "quorum = 1").replace("rounds = 12", "rounds = 1"))
    home, secret = "a hub of $5", ("--passphrase-file", "pass")

    def hub(*typed: str | Path) -> Done:
        return command.here(*typed, home=tmp_path, program=command.COORDINATOR)

    done = hub("status", "--home", home)
    assert command.refusal(done) == "E_HUB"
    done = works(hub(*next_of(done), *secret))
    invited = works(hub(*next_of(done)))
    assert "--home" in next_of(done)
    taken = re.search(r"'(fedhelp-coordinator exchange [^']*)'", invited.stderr)
    assert taken, "without an address an invite's code needs a stick"
    works(hub(*next_of(invited, DIR=desk.stick), *secret))
    code = re.search(r"'fedhelp-edge (join \S+ --via) DIR'", invited.stderr)
    assert code
    works(command.here(*code[1].split(), desk.stick, "--no-passphrase", home=tmp_path, env={"FEDHELP_HOME": "site"}))
    done = works(hub("exchange", desk.stick, "--home", home, *secret))
    done = works(hub("status", "--home", home))
    done = works(hub(*next_of(done), *secret))
    done = works(hub(*next_of(done, DIR=desk.stick)))
    done = works(hub("status", "--home", home))
    done = hub(*next_of(done), *secret)
    assert command.refusal(done) == "E_QUORUM"
