"""The coordinator's commands as a person uses them: checks before actions, messages, and next steps."""

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
from tests.federation import PLAN
from tests.site_and_hub import Completed, SiteAndHub, fails_with, succeeds


@pytest.fixture
def people(tmp_path: Path) -> SiteAndHub:
    people = SiteAndHub(tmp_path, PLAN, locked=False)
    succeeds(people.hub("init", "--plan", "plan.toml"))
    return people


def invite_states(people: SiteAndHub) -> dict[str, str]:
    invites = command.json_output(succeeds(people.hub("invites", "--json")))["invites"]
    return {invite["site"]: invite["state"] for invite in invites}


# --- invites ------------------------------------------------------------------------------------------------------
def test_an_invite_exists_with_its_file_or_not_at_all(people: SiteAndHub) -> None:
    for out, code in (("no/a.invite", "E_FILE_MISSING"), ("plan.toml", "E_FILE_EXISTS")):
        assert command.error_code(people.hub("invite", "A", "--tier", "small", "--out", out)) == code
    (people.folder / "b.invite.png").touch()
    assert command.error_code(people.hub("invite", "A", "--tier", "small", "--out", "b.invite")) == "E_FILE_EXISTS"
    assert not (people.folder / "b.invite").exists()
    assert invite_states(people) == {}


def test_an_invite_is_written_without_the_package_that_draws_qr_codes(
    people: SiteAndHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    monkeypatch.setattr("server_ref.admin.invites.find_spec", lambda _: None)
    done = succeeds(people.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    assert "pip install 'fedhelp-edge[server]'" in done.stdout
    assert (people.folder / "a.invite").exists()
    assert not (people.folder / "a.invite.png").exists()
    succeeds(people.site("join", "a.invite", "--via", people.stick))


def test_invites_are_listed_and_cancelled(people: SiteAndHub) -> None:
    for name in ("A", "B", "B"):
        done = succeeds(people.hub("invite", name, "--tier", "small", "--out", f"{len(invite_states(people))}.invite"))
    assert "site-002 has another invite for 'B' (open)" in done.stderr
    fails_with(people.hub("invites", "--cancel", "B"), "E_AMBIGUOUS", "by its listed id")
    succeeds(people.hub("invites", "--cancel", "site-003"))
    assert invite_states(people) == {"site-001": "open", "site-002": "open", "site-003": "cancelled"}
    for number, home in ((0, "one"), (2, "two")):
        succeeds(people.site("join", f"{number}.invite", "--via", people.stick, "--home", home))
    assert "E_INVITE_UNKNOWN" in succeeds(people.hub("exchange", people.stick)).stdout
    assert invite_states(people) == {"site-001": "used", "site-002": "open", "site-003": "cancelled"}
    fails_with(people.hub("invites", "--cancel", "site-001"), "E_STATE", "revoke site-001' excludes a site")
    assert command.error_code(people.hub("invites", "--cancel", "C")) == "E_SITE"


def test_a_name_of_two_sites_revokes_neither(people: SiteAndHub) -> None:
    for number in (1, 2):
        succeeds(people.hub("invite", "Clinic A", "--tier", "small", "--out", f"{number}.invite"))
        succeeds(people.site("join", f"{number}.invite", "--via", people.stick, "--home", f"{number}"))
    succeeds(people.hub("exchange", people.stick))
    done = people.hub("revoke", "Clinic A", "--reason", "stolen")
    fails_with(done, "E_AMBIGUOUS", "name the site by its id")
    assert "site-001 (active), site-002 (active)" in done.stderr
    succeeds(people.hub("revoke", "site-002", "--reason", "stolen"))
    assert [site["status"] for site in command.json_output(people.hub("roster", "--json"))["sites"]] == [
        "active",
        "revoked",
    ]


# --- passphrases ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "weak",
    ["secret", "password123", "Passphrase 2026!", "aaaaaaaaaaaaaaaa", "abcabcabcabcabc", "0123456789012345",
     "fedhelp coordinator", "qwertyuiop1234", "abcdefghijklmnop", "secret secret secret", "xyx yxy xyx yxy!"],
)  # fmt: skip
def test_every_command_that_makes_keys_refuses_a_weak_passphrase(weak: str, tmp_path: Path) -> None:
    with pytest.raises(WeakPassphraseError):
        passphrase.check_strength(weak)
    people = SiteAndHub(tmp_path, PLAN)
    (tmp_path / "pass").write_text(f"{weak}\n")
    fails_with(people.hub("init", "--plan", "plan.toml"), "E_PASSPHRASE_WEAK", "take five unrelated words")
    fails_with(people.site("keys", "new"), "E_PASSPHRASE_WEAK", "take five unrelated words")
    assert not (tmp_path / "hub").exists()
    assert not (tmp_path / "site").exists()


def test_generated_and_strong_passphrases_are_accepted() -> None:
    for good in (
        *(key_words.new_passphrase() for _ in range(200)),
        "four quiet words here",
        "Grüße-aus-Tübingen-71",
        "vK7#pQ2!xW9d",
    ):
        passphrase.check_strength(good)


# --- no passphrase is asked for in vain ----------------------------------------------------------------------
def test_a_command_that_is_refused_does_not_ask_for_a_passphrase_first(tmp_path: Path) -> None:
    """Nobody can type here: a command that asked for the passphrase would fail with another code."""
    people = SiteAndHub(tmp_path, PLAN)
    succeeds(people.hub("init", "--plan", "plan.toml"))
    assert "no round was opened yet" in succeeds(people.hub("status")).stdout
    succeeds(people.hub("open"))
    people.locked = False
    for typed, code in (
        (("init", "--plan", "plan.toml"), "E_FILE_EXISTS"),
        (("init", "--plan", "plan.toml", "--home", "new", "--root-key", "new/root"), "E_USAGE"),
        (("kit", "--platform", "amiga", "--out", "kit"), "E_USAGE"),
        (("kit", "--platform", "win_amd64", "--out", "kit", "--invite", "plan.toml"), "E_INVITE_FILE"),
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
        done = command.run_in_process(*typed, home=tmp_path, program=command.COORDINATOR, env=home)
        assert command.error_code(done) == code, typed
        assert "fedhelp-edge keys new" not in done.stderr, "that would make a site's keys"
    done = command.run_in_process("requests", home=tmp_path, program=command.COORDINATOR, env=home)
    assert command.error_code(done) == "E_PASSPHRASE_NEEDED"


def test_the_root_key_has_one_name_and_its_old_one_still_works(people: SiteAndHub) -> None:
    shown = succeeds(command.run("reaggregate", "--help", home=people.folder, program=command.COORDINATOR)).stdout
    assert "--root-key" in shown
    assert "--archive" not in shown
    for name in ("--root-key", "--archive-key"):
        done = people.hub("reaggregate", "--without", "site-001", name, "hub/root")
        assert command.error_code(done) == "E_SITE", "the option was accepted: the command looked for the site"
    assert command.error_code(people.hub("reaggregate", "--without", "site-001")) == "E_USAGE"


# --- next steps ---------------------------------------------------------------------------------------------
def next_of(done: Completed, **places: Path | str) -> list[str]:
    """The words of the next step that was printed; `places` replace its words in capitals."""
    line = next(line for line in reversed(done.stderr.splitlines()) if line.startswith(("next: ", "hint: ")))
    steps = re.search(r"'(fedhelp-coordinator [^']+)'", line)
    assert steps, done.stderr
    return [str(places.get(word, word)) for word in shlex.split(steps[1])[1:]]


def test_init_says_move_the_root_key_only_where_it_lies_in_the_hub(tmp_path: Path) -> None:
    people = SiteAndHub(tmp_path, PLAN)
    init = ("init", "--plan", "plan.toml", "--home")
    assert "Move the root key to a stick" in succeeds(people.hub(*init, tmp_path / "one")).stderr
    printed = succeeds(people.hub(*init, tmp_path / "two", "--root-key", tmp_path / "safe")).stderr
    assert "Lock the root key away" in printed
    assert "Move" not in printed


def test_every_next_step_works_as_it_is_printed_with_the_home_that_was_typed(tmp_path: Path) -> None:
    """Types only printed commands, from a hub's first to its last."""
    people = SiteAndHub(tmp_path, PLAN.replace("quorum = 2", "quorum = 1").replace("rounds = 12", "rounds = 1"))
    home, secret = "a hub of $5", ("--passphrase-file", "pass")

    def hub(*typed: str | Path) -> Completed:
        return command.run_in_process(*typed, home=tmp_path, program=command.COORDINATOR)

    done = hub("status", "--home", home)
    assert command.error_code(done) == "E_HUB"
    done = succeeds(hub(*next_of(done), *secret))
    invited = succeeds(hub(*next_of(done)))
    assert "--home" in next_of(done)
    exchange = re.search(r"'(fedhelp-coordinator exchange [^']*)'", invited.stderr)
    assert exchange, "without an address an invite's code needs a stick"
    succeeds(hub(*next_of(invited, DIR=people.stick), *secret))
    code = re.search(r"'fedhelp-edge (join \S+ --via) DIR'", invited.stderr)
    assert code
    succeeds(
        command.run_in_process(
            *code[1].split(), people.stick, "--no-passphrase", home=tmp_path, env={"FEDHELP_HOME": "site"}
        )
    )
    done = succeeds(hub("exchange", people.stick, "--home", home, *secret))
    done = succeeds(hub("status", "--home", home))
    done = succeeds(hub(*next_of(done), *secret))
    done = succeeds(hub(*next_of(done, DIR=people.stick)))
    done = succeeds(hub("status", "--home", home))
    done = hub(*next_of(done), *secret)
    assert command.error_code(done) == "E_QUORUM"
