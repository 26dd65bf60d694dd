"""Who may send what, and when: a parcel is refused, the test follows the hint, and the person can continue."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import errors
from fedhelp_edge import plan as plans
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from fedhelp_edge.site import outbox, verified
from fedhelp_edge.trust import charter, enrol
from server_ref.admin import exchange as admin_exchange
from server_ref.admin import invites
from server_ref.admin.session import unlocked_hub
from server_ref.hub import create
from server_ref.hub.hub import to_json
from server_ref.intake import judge
from server_ref.rounds import opening
from tests import clinic, command
from tests.federation import PLAN
from tests.site_and_hub import Completed, SiteAndHub, fails_with, lists_refusal, succeeds


@pytest.fixture
def fresh(tmp_path: Path) -> SiteAndHub:
    return SiteAndHub(tmp_path, PLAN, locked=False)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> SiteAndHub:
    """One admitted site; no round is open."""
    people = SiteAndHub(tmp_path_factory.mktemp("joined"), PLAN, locked=False)
    people.join()
    return people


@pytest.fixture
def people(joined: SiteAndHub, tmp_path: Path) -> SiteAndHub:
    return joined.copy_to(tmp_path / "people")


@pytest.fixture(scope="module")
def with_task(joined: SiteAndHub, tmp_path_factory: pytest.TempPathFactory) -> SiteAndHub:
    """The same with an open round, whose task the site has and has trained for."""
    people = joined.copy_to(tmp_path_factory.mktemp("with_task") / "people")
    succeeds(people.hub("backup", "before.tar"))
    train_next_round(people)
    return people


@pytest.fixture
def trained(with_task: SiteAndHub, tmp_path: Path) -> SiteAndHub:
    return with_task.copy_to(tmp_path / "people")


def train_next_round(people: SiteAndHub) -> None:
    """The coordinator opens a round, and the site downloads its task and trains; the update is drawn."""
    succeeds(people.hub("open"))
    exchange(people)
    download(people)
    clinic.train(people.folder / "site")


def exchange(people: SiteAndHub) -> Completed:
    return succeeds(people.hub("exchange", people.stick))


def download(people: SiteAndHub) -> Completed:
    return succeeds(people.site("download", "--via", people.stick))


def upload(people: SiteAndHub) -> Completed:
    return succeeds(people.site("upload", "--via", people.stick))


def gets_accepted(people: SiteAndHub) -> None:
    """The site trains for the open round if it has not, and its update is accepted."""
    if command.json_output(succeeds(people.site("status", "--json")))["state"] == "ready":
        clinic.train(people.folder / "site")
    upload(people)
    assert ": accepted" in exchange(people).stdout
    assert "accepted" in str(command.json_output(status_after_download(people))["receipts"])


def status_after_download(people: SiteAndHub) -> Completed:
    download(people)
    return succeeds(people.site("status", "--json"))


def hub_keys(people: SiteAndHub, office: str = "coordinator") -> keys.Keys:
    return keys.load(people.folder / "hub" / office, str)


def site_keys(people: SiteAndHub) -> keys.Keys:
    return keys.load(people.folder / "site", str)


def next_number(people: SiteAndHub) -> int:
    return outbox.next_sequence_number(people.folder / "site")


def sealed(path: Path, context: dict[str, Any], body: bytes, *signers: keys.Keys, **more: Any) -> None:
    parcel.seal(path, context, body, [key.sign for key in signers], **more)


def on_stick(people: SiteAndHub, kind: str) -> list[Path]:
    """The parcels of this kind on the stick, by version."""
    paths = (people.stick / "from-coordinator").glob("*.fhx")
    statements = [(parcel.inspect(path, parcel.any_signer).statement, path) for path in paths]
    return [
        path
        for _, path in sorted(
            (statement_.context.get("version", 0), path) for statement_, path in statements if statement_.kind == kind
        )
    ]


def taken_off(people: SiteAndHub, *paths: Path) -> Callable[[], None]:
    """Takes parcels off the stick; the returned function puts them back."""
    for path in paths:
        path.rename(people.folder / path.name)
    return lambda: [(people.folder / path.name).rename(path) for path in paths] and None


def change_database(people: SiteAndHub, query: str) -> None:
    """Changes the database as the coordinator's program would; the hub stops at any other change."""
    with unlocked_hub(people.folder / "hub", None, judge=False) as (hub, _), hub.database.transaction():
        assert hub.database.run(query)


# --- joining -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "query", "hint"),
    [
        ("E_INVITE_EXPIRED", "UPDATE invites SET expires = '2020-01-01T00:00:00Z'", "for a new invite"),
        ("E_INVITE_USED", "UPDATE invites SET used = 'by another'", "ask the coordinator for a new one"),
    ],
)
def test_an_expired_or_used_invite_is_replaced_by_a_new_one(
    fresh: SiteAndHub, code: str, query: str, hint: str
) -> None:
    succeeds(fresh.hub("init", "--plan", "plan.toml"))
    succeeds(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    succeeds(fresh.site("join", "a.invite", "--via", fresh.stick))
    change_database(fresh, query)
    lists_refusal(fresh.hub("exchange", fresh.stick), code, hint)
    download(fresh)
    lists_refusal(fresh.site("status"), code, hint)
    assert "fedhelp-edge leave" in succeeds(fresh.site("status")).stderr
    succeeds(fresh.hub("invite", "A again", "--tier", "small", "--out", "new.invite"))
    succeeds(fresh.site("leave"))
    succeeds(fresh.site("join", "new.invite", "--via", fresh.stick))
    assert ": approved" in exchange(fresh).stdout
    download(fresh)
    assert "(small)" in succeeds(fresh.site("status")).stdout


def test_a_request_without_an_invite_is_refused_and_a_new_invite_works(fresh: SiteAndHub) -> None:
    succeeds(fresh.hub("init", "--plan", "plan.toml"))
    succeeds(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    succeeds(fresh.site("join", "a.invite", "--via", fresh.stick))
    change_database(fresh, "DELETE FROM invites")
    lists_refusal(fresh.hub("exchange", fresh.stick), "E_INVITE_UNKNOWN", "ask the coordinator for a new invite")
    succeeds(fresh.hub("invite", "A again", "--tier", "small", "--out", "new.invite"))
    succeeds(fresh.site("leave"))
    succeeds(fresh.site("join", "new.invite", "--via", fresh.stick))
    assert ": approved" in exchange(fresh).stdout


def request(people: SiteAndHub, code: str, who: keys.Keys, **changes: Any) -> None:
    """Puts a request on the stick as another program might write it."""
    context = statement.new_context(
        "enrol", federation=verified.require_state(people.folder / "site").charter.federation
    )
    body = enrol.request_body(code, "C", who.public, context) | changes
    sealed(people.stick / "to-coordinator" / "request.fhx", context, to_json(body), who)


def test_a_site_that_did_not_prove_the_code_joins_with_the_code(people: SiteAndHub) -> None:
    code = str(command.json_output(people.hub("invite", "C", "--tier", "small", "--json"))["code"])
    request(people, code, keys.generate(), proof="0" * 64)
    lists_refusal(people.hub("exchange", people.stick), "E_INVITE_PROOF", "join again with the code")
    succeeds(people.site("join", code, "--via", people.stick, "--home", people.folder / "third"))
    assert "site-002: approved" in exchange(people).stdout


def test_a_code_at_another_federations_stick_works_at_its_own(people: SiteAndHub, tmp_path: Path) -> None:
    succeeds(people.hub("init", "--plan", "plan.toml", "--home", people.folder / "others"))
    (tmp_path / "others").mkdir()
    succeeds(people.hub("exchange", tmp_path / "others", "--home", people.folder / "others"))
    code = str(command.json_output(people.hub("invite", "C", "--tier", "small", "--json"))["code"])
    exchange(people)
    new = ("--home", people.folder / "third")
    fails_with(
        people.site("join", code, "--via", tmp_path / "others", *new), "E_INVITE_PROOF", "the coordinator who gave"
    )
    succeeds(people.site("join", code, "--via", people.stick, *new))
    lists_refusal(
        people.site("download", "--via", tmp_path / "others"), "E_FEDERATION", "that belongs to this federation"
    )
    assert "refused" not in download(people).stdout


def test_keys_of_another_site_cannot_join_and_new_keys_can(people: SiteAndHub) -> None:
    copy, new = people.folder / "copy", people.folder / "new"
    copy.mkdir()
    for name in ("keys.txt", "keys.pub"):
        shutil.copy2(people.folder / "site" / name, copy)
    succeeds(people.hub("invite", "B", "--tier", "small", "--out", "b.invite"))
    succeeds(people.site("join", "b.invite", "--via", people.stick, "--home", copy))
    lists_refusal(people.hub("exchange", people.stick), "E_KEY_REUSED", "'fedhelp-edge keys new'")
    succeeds(people.site("keys", "new", "--no-passphrase", "--home", new))
    succeeds(people.site("join", "b.invite", "--via", people.stick, "--home", new))
    assert "site-002: approved" in exchange(people).stdout


def test_an_invite_with_another_federations_pin_is_refused_and_the_words_are_compared(fresh: SiteAndHub) -> None:
    (fresh.folder / "plan.toml").write_text(PLAN + 'enrolment = "manual"\n')
    for home in ("hub", "others"):
        succeeds(fresh.hub("init", "--plan", "plan.toml", "--home", fresh.folder / home))
        succeeds(fresh.hub("invite", "A", "--tier", "small", "--out", f"{home}.invite", "--home", fresh.folder / home))
    mine, others = ((fresh.folder / f"{home}.invite").read_text() for home in ("hub", "others"))
    name = next(line for line in mine.splitlines() if '"federation"' in line)
    (fresh.folder / "bad.invite").write_text(
        others.replace(next(line for line in others.splitlines() if '"federation"' in line), name)
    )
    hint = "phone the coordinator on a number you know: compare the words"
    fails_with(fresh.site("join", "bad.invite", "--via", fresh.stick), "E_PIN", hint)
    fails_with(fresh.site("status"), "E_NOT_JOINED", "fedhelp-edge join")
    words = command.json_output(fresh.site("join", "hub.invite", "--via", fresh.stick, "--json"))["words"]
    exchange(fresh)
    assert " ".join(words) in succeeds(fresh.hub("requests")).stdout
    succeeds(fresh.hub("approve", "site-001"))


def test_of_two_requests_on_one_invite_the_one_with_the_words_read_by_phone_is_approved(fresh: SiteAndHub) -> None:
    succeeds(fresh.hub("init", "--plan", "plan.toml"))
    succeeds(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    words = [
        command.json_output(succeeds(fresh.site("join", "a.invite", "--via", fresh.stick, "--home", home, "--json")))[
            "words"
        ]
        for home in ("thief", "clinic")
    ]
    assert "approved" not in exchange(fresh).stdout
    shown = succeeds(fresh.hub("requests")).stdout
    assert shown.count("ALARM") == 2
    assert "ALARM       site-001" in succeeds(fresh.hub("status")).stdout
    fails_with(fresh.hub("approve", "site-001"), "E_AMBIGUOUS", "then approve the request that matches, by its hash")
    approved = command.json_output(succeeds(fresh.hub("approve", *words[1], "--json")))
    assert (approved["site"], approved["words"]) == ("site-001", " ".join(words[1]))


def test_a_weak_passphrase_is_replaced_by_unrelated_words(fresh: SiteAndHub) -> None:
    (fresh.folder / "pass").write_text("secret\n")
    words = ("init", "--plan", "plan.toml", "--passphrase-file", "pass", "--home", "locked")
    done = command.run_in_process(*words, home=fresh.folder, program=command.COORDINATOR)
    fails_with(done, "E_PASSPHRASE_WEAK", "take five unrelated words")
    (fresh.folder / "pass").write_text("four quiet words here\n")
    succeeds(command.run_in_process(*words, home=fresh.folder, program=command.COORDINATOR))


def test_a_rotation_signed_only_by_the_old_key_is_signed_again_by_both(people: SiteAndHub) -> None:
    download(people)
    federation, new = verified.require_state(people.folder / "site").charter.federation, keys.generate()
    context = statement.new_context("rotate", federation=federation, sender="site-001", seq=next_number(people))
    sealed(people.stick / "to-coordinator" / "new.fhx", context, to_json(vars(new.public)), site_keys(people))
    lists_refusal(
        people.hub("exchange", people.stick), "E_ROTATE_PROOF", "with the old key as well as with the new one"
    )
    succeeds(people.site("keys", "rotate"))
    shown = succeeds(people.site("keys", "show")).stdout
    succeeds(people.site("upload", "--via", people.stick))
    exchange(people)
    download(people)
    assert succeeds(people.site("keys", "show")).stdout != shown


# --- updates ------------------------------------------------------------------------------------------------------
def send_update(people: SiteAndHub, signer: keys.Keys, **changes: Any) -> None:
    """Puts an update on the stick as another program might write it for the site's task."""
    task, own_keys = verified.require_state(people.folder / "site").task, site_keys(people)
    assert task
    context = statement.new_context(
        "update", federation=task.federation, round=task.round, task=task.hash, base=task.base, sender="site-001",
        sender_key=sshsig.fingerprint(own_keys.public.sign), recipients=list(task.recipients), seq=next_number(people),
    )  # fmt: skip
    readers = changes.get("recipients", task.recipients)
    path = people.stick / "to-coordinator" / "update.fhx"
    sealed(path, context | changes, b"update", signer, recipients=readers, facts={"examples": 7})


@pytest.mark.parametrize(
    ("code", "changes", "hint"),
    [
        ("E_SIGNER_MISMATCH", {"sender": "site-007"}, "ask the named sender for a new one"),
        ("E_BASE_MODEL", {"base": "e" * 64}, "run 'fedhelp-edge download', then train or distill again"),
        (
            "E_RECIPIENTS",
            {"recipients": [keys.generate().public.recipient]},
            "run 'fedhelp-edge download', then upload again",
        ),
    ],
)
def test_an_update_that_does_not_match_its_task_is_made_again(
    trained: SiteAndHub, code: str, changes: dict[str, Any], hint: str
) -> None:
    send_update(trained, site_keys(trained), **changes)
    lists_refusal(trained.hub("exchange", trained.stick), code, hint)
    download(trained)
    gets_accepted(trained)


def test_inspect_identifies_a_parcel_of_the_wrong_kind(trained: SiteAndHub) -> None:
    (roster,) = on_stick(trained, "roster")
    wrong = Path(shutil.copy(roster, trained.stick / "to-coordinator"))
    lists_refusal(trained.hub("exchange", trained.stick), "E_KIND", "'fedhelp-edge inspect FILE'")
    assert "the roster of all sites" in succeeds(trained.site("inspect", wrong)).stdout
    wrong.unlink()
    gets_accepted(trained)


def restore_hub(people: SiteAndHub, backup: str) -> None:
    """Restores the hub from a backup, as after the loss of its disk."""
    (people.folder / "hub").rename(people.folder / "died")
    succeeds(people.hub("restore", backup, "--root-key", people.folder / "died" / "root"))


def test_an_update_for_a_restored_hub_is_made_again_for_its_new_task(trained: SiteAndHub) -> None:
    restore_hub(trained, "before.tar")
    upload(trained)
    lists_refusal(trained.hub("exchange", trained.stick), "E_ROUND_UNKNOWN", "run 'fedhelp-edge download' first")
    download(trained)
    assert "new round" in succeeds(trained.site("status")).stdout
    succeeds(trained.hub("open"))
    lists_refusal(
        trained.hub("exchange", trained.stick), "E_TASK", "run 'fedhelp-edge download', then train or distill again"
    )
    download(trained)
    gets_accepted(trained)


def test_a_site_that_a_restored_hub_does_not_know_is_invited_again(fresh: SiteAndHub) -> None:
    succeeds(fresh.hub("init", "--plan", "plan.toml"))
    succeeds(fresh.hub("backup", "empty.tar"))
    succeeds(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    succeeds(fresh.site("join", "a.invite", "--via", fresh.stick))
    exchange(fresh)
    train_next_round(fresh)
    upload(fresh)
    restore_hub(fresh, "empty.tar")
    lists_refusal(fresh.hub("exchange", fresh.stick), "E_SIGNER_UNKNOWN", "whether this site is in the roster")
    assert "0 sites" in succeeds(fresh.hub("roster")).stdout
    joins_again(fresh)
    succeeds(fresh.hub("open"))
    exchange(fresh)
    download(fresh)
    gets_accepted(fresh)


def joins_again(people: SiteAndHub) -> None:
    succeeds(people.hub("invite", "A again", "--tier", "small", "--out", "new.invite"))
    succeeds(people.site("leave"))
    succeeds(people.site("join", "new.invite", "--via", people.stick))
    assert ": approved" in exchange(people).stdout


def test_a_revoked_site_joins_again_with_a_new_invite(trained: SiteAndHub) -> None:
    succeeds(trained.hub("revoke", "site-001", "--reason", "PC stolen"))
    upload(trained)
    lists_refusal(
        trained.hub("exchange", trained.stick), "E_SIGNER_REVOKED", "a site that lost its PC needs a new invite"
    )
    succeeds(trained.site("download"))
    assert "train the round again" not in succeeds(trained.site("status")).stdout
    joins_again(trained)
    assert command.json_output(status_after_download(trained))["site"] == "site-002"


# --- rounds with another site -------------------------------------------------------------------------------------
class TwoSites(SiteAndHub):
    """A hub with two sites at the same stick; the update of the other one is enough for a round."""

    @classmethod
    def joined(cls, folder: Path) -> TwoSites:
        people = cls(folder, PLAN.replace("quorum = 2", "quorum = 1"), locked=False)
        people.join()
        admit_another(people)
        return people

    def other(self, *words: str | Path) -> Completed:
        return succeeds(self.run("other", command.SITE, words))

    def round(self) -> None:
        """The other site completes a round, and the next one is opened."""
        self.other("download", "--via", self.stick)
        clinic.train(self.folder / "other")
        self.other("upload", "--via", self.stick)
        exchange(self)
        succeeds(self.hub("aggregate", "--now"))
        succeeds(self.hub("open"))
        exchange(self)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> TwoSites:
    """One site has trained for round 1 without sending; the other has completed it, and round 2 is open."""
    people = TwoSites.joined(tmp_path_factory.mktemp("two"))
    train_next_round(people)
    people.round()
    return people


@pytest.fixture
def two(both: TwoSites, tmp_path: Path) -> SiteAndHub:
    return both.copy_to(tmp_path / "people")


def test_after_a_round_key_was_deleted_the_site_takes_part_in_the_current_round(two: TwoSites) -> None:
    (two.folder / "hub" / "round-keys" / "000001.age").unlink()
    upload(two)
    exchange(two)
    download(two)
    lists_refusal(two.site("status"), "E_ROUND_KEY_GONE", "take part in the current round")
    gets_accepted(two)


def test_after_an_update_for_a_closed_round_the_site_takes_part_in_the_current_round(two: TwoSites) -> None:
    two.round()
    upload(two)
    lists_refusal(two.hub("exchange", two.stick), "E_ROUND_CLOSED", "take part in the current round")
    download(two)
    gets_accepted(two)


def test_a_site_restored_from_a_backup_joins_again(two: TwoSites) -> None:
    shutil.copytree(two.folder / "site", two.folder / "backup")
    (two.folder / "site" / "number.txt").write_text(f"{2**50}")  # as from a clock far ahead
    upload(two)
    two.round()
    shutil.rmtree(two.folder / "site")
    (two.folder / "backup").rename(two.folder / "site")
    download(two)
    clinic.train(two.folder / "site")
    upload(two)
    lists_refusal(two.hub("exchange", two.stick), "E_REPLAY", "leave and join again with a new invite")
    joins_again(two)
    two.round()
    download(two)
    gets_accepted(two)


def test_a_site_of_which_only_the_keys_were_restored_continues(two: TwoSites) -> None:
    upload(two)
    two.round()
    (two.folder / "site").rename(two.folder / "broken")
    (two.folder / "site").mkdir(mode=0o700)
    for name in ("keys.txt", "keys.pub"):
        shutil.copy2(two.folder / "broken" / name, two.folder / "site")
    succeeds(two.hub("invite", "A on a new PC", "--tier", "small", "--out", "new.invite"))
    succeeds(two.site("join", "new.invite", "--via", two.stick))
    lists_refusal(
        two.hub("exchange", two.stick), "E_KEY_REUSED", "make new keys"
    )  # nothing needs to be done: the hub knows the site by its keys
    assert command.json_output(status_after_download(two))["site"] == "site-001"
    gets_accepted(two)


def test_a_site_admitted_during_a_round_waits_for_the_next_one(two: TwoSites) -> None:
    joins_again(two)  # in the middle of round 2
    download(two)
    assert "nothing to do until a new round" in succeeds(two.site("status")).stdout
    home = two.folder / "site"
    clinic.train(home)
    outbox.seal_current(home, str)  # as a kit that does not wait might
    upload(two)
    lists_refusal(two.hub("exchange", two.stick), "E_SIGNER_WINDOW", "wait for the first round")
    two.round()
    download(two)
    gets_accepted(two)


# --- tasks ------------------------------------------------------------------------------------------------------
def test_a_forged_roster_is_refused_and_the_coordinators_accepted(people: SiteAndHub) -> None:
    download(people)
    (roster,) = on_stick(people, "roster")
    with parcel.open(roster, parcel.any_signer) as seen:
        roster_statement, payload = seen.statement, seen.json()
    sealed(
        people.stick / "from-coordinator" / "forged.fhx",
        {**roster_statement.context, "version": 9},
        to_json(payload),
        site_keys(people),
    )
    lists_refusal(people.site("download", "--via", people.stick), "E_ROLE", "come with the next download")
    admit_another(people)
    assert "new: roster 3" in download(people).stdout


def admit_another(people: SiteAndHub) -> None:
    """Admits another site, which makes a new roster."""
    succeeds(people.hub("invite", "B", "--tier", "small", "--out", "b.invite"))
    succeeds(people.run("other", command.SITE, ("join", "b.invite", "--via", people.stick)))
    exchange(people)


def test_a_wrong_key_is_replaced_by_the_root_key(people: SiteAndHub) -> None:
    words = ("rotate", "--coordinator", "--root-key")
    fails_with(people.hub(*words, "hub/front"), "E_ROLE", "name the folder that holds it with --root-key")
    succeeds(people.hub(*words, "hub/root"))


def test_an_old_stick_is_filled_again(people: SiteAndHub) -> None:
    old = people.folder / "old"
    shutil.copytree(people.stick, old)
    admit_another(people)
    download(people)
    lists_refusal(people.site("download", "--via", old), "E_ROLLBACK", "ask for a newer stick")
    succeeds(people.hub("exchange", old))
    assert "refused" not in succeeds(people.site("download", "--via", old)).stdout


def test_a_missing_charter_is_delivered_later(people: SiteAndHub) -> None:
    for _ in range(2):
        succeeds(people.hub("rotate", "--coordinator", "--root-key", "hub/root"))
    exchange(people)
    bring = taken_off(people, on_stick(people, "charter")[1])
    lists_refusal(
        people.site("download", "--via", people.stick), "E_ROOT_CHAIN", "so that every version of the charter arrives"
    )
    bring()
    done = download(people).stdout
    assert "new: charter 3" in done
    assert "refused" not in done


def test_a_missing_roster_is_delivered_later(people: SiteAndHub) -> None:
    succeeds(people.hub("open"))
    exchange(people)
    bring = taken_off(people, *on_stick(people, "roster"))
    lists_refusal(
        people.site("download", "--via", people.stick), "E_TASK_ROSTER", "so that roster and task arrive together"
    )
    bring()
    assert "new: task for round 1" in download(people).stdout


def test_a_charter_below_its_threshold_is_signed_by_both_root_keys(people: SiteAndHub) -> None:
    download(people)
    current_charter, new = verified.require_state(people.folder / "site").charter, keys.generate()
    context = statement.new_context("charter", epoch=1, version=2, previous=current_charter.hash)
    forged = people.stick / "from-coordinator" / "half.fhx"
    sealed(
        forged,
        context,
        to_json(charter.body("x", (new.public.sign,), current_charter.coordinator)),
        hub_keys(people, "root"),
    )
    lists_refusal(people.site("download", "--via", people.stick), "E_THRESHOLD", "as many different root keys")
    forged.unlink()
    succeeds(people.hub("rotate", "--root", "--root-key", "hub/root", "--new-root-key", "root2"))
    exchange(people)
    assert "new: charter 2" in download(people).stdout


@pytest.mark.parametrize(
    ("code", "hint", "before", "after"),
    [
        ("E_SPLIT_VIEW", "keep both files", 1, 1),
        ("E_EQUIVOCATION", "keep both files", 0, 1),
        ("E_LOG_ROLLBACK", "phone the coordinator", 20, 0),
    ],
)
def test_a_hub_copied_back_by_hand_is_repaired_with_its_root_key(
    late: TwoSites, code: str, hint: str, before: int, after: int
) -> None:
    home, copy = late.folder / "hub", late.folder / "copy"
    shutil.copytree(home, copy)
    open_next_round(late, before, "small")
    download(late)
    for gone in (home, late.stick / "from-coordinator"):
        shutil.rmtree(gone)
    copy.rename(home)
    open_next_round(late, after, "large")
    if code == "E_LOG_ROLLBACK":
        late.round()
    lists_refusal(
        late.site("download", "--via", late.stick),
        code,
        "'fedhelp-coordinator restore FILE --root-key DIR'",
    )
    assert hint in errors.remedy_of(code)
    succeeds(late.hub("backup", "now.tar"))
    restore_hub(late, "now.tar")
    succeeds(late.hub("open"))
    exchange(late)
    assert "refused" not in download(late).stdout
    gets_accepted(late)


def open_next_round(people: SiteAndHub, invites: int, tier: str) -> None:
    """Issues so many invites, which the log records, and opens a round."""
    for next_number in range(invites):
        succeeds(people.hub("invite", f"Clinic {next_number}", "--tier", tier))
    succeeds(people.hub("open"))
    exchange(people)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TwoSites:
    return TwoSites.joined(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def late(pair: TwoSites, tmp_path: Path) -> TwoSites:
    """Two admitted sites, and no round yet."""
    return pair.copy_to(tmp_path / "people")


def test_an_expired_roster_and_task_are_renewed_by_the_next_round(fresh: SiteAndHub) -> None:
    pytest.importorskip("torch")
    long_ago = datetime.now(timezone.utc) - timedelta(days=200)
    old = create.new_hub(fresh.folder / "hub", plans.read(PLAN, METHODS), None, clock=lambda: long_ago)
    invites.write_files(fresh.folder / "a.invite", invites.issue(old, "A", "small", 14))
    succeeds(fresh.site("join", "a.invite", "--via", fresh.stick))
    admin_exchange.exchange(old, fresh.stick)
    judge.judge_waiting(old, old.coordinator_keys(str))
    opening.open_next(old, old.coordinator_keys(str))
    admin_exchange.exchange(old, fresh.stick)
    old.database.close()
    download(fresh)
    images = np.zeros((8, 8, 8, 3), np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None]
    np.savez(fresh.folder / "images.npz", images=images, labels=np.arange(8) % 3)
    assert "the roster is old" in succeeds(fresh.site("status")).stdout
    hint = "ask the coordinator to open a round, which renews the roster"
    fails_with(fresh.site("train", "images.npz"), "E_EXPIRED", hint)
    succeeds(fresh.hub("clock", "--accept"))  # after a long pause
    fails_with(fresh.hub("aggregate"), "E_QUORUM", "wait or remind")  # the old round has failed
    succeeds(fresh.hub("open"))
    exchange(fresh)
    download(fresh)
    assert "the roster is old" not in succeeds(fresh.site("status")).stdout
    succeeds(fresh.site("train", "images.npz"))


def test_a_stolen_update_is_refused_and_the_thiefs_own_update_accepted(late: TwoSites) -> None:
    train_next_round(late)
    upload(late)
    late.other("download", "--via", late.stick)
    (mine,) = (path for path in (late.stick / "to-coordinator").glob("*.fhx") if kind_of(path) == "update")
    seen, thief = parcel.inspect(mine, parcel.any_signer), keys.load(late.folder / "other", str)
    context = {**seen.statement.context, "sender": "site-002", "sender_key": sshsig.fingerprint(thief.public.sign)}
    stolen = replace(seen.statement, context=context | {"nonce": "7" * 32})
    (late.stick / "to-coordinator" / "stolen.fhx").write_bytes(
        parcel._build_prologue(stolen, [thief.sign]) + mine.read_bytes()[seen.offset :]
    )
    lists_refusal(
        late.hub("exchange", late.stick), "E_INNER_CONTEXT", "refuse it with 'fedhelp-coordinator review SITE --refuse'"
    )
    succeeds(late.hub("review", "site-002", "--refuse"))
    outbox.next_sequence_number(late.folder / "other")  # the stolen update used its first
    clinic.train(late.folder / "other")
    late.other("upload", "--via", late.stick)
    assert "site-002: accepted" in exchange(late).stdout


def kind_of(path: Path) -> str:
    return parcel.inspect(path, parcel.any_signer).statement.kind
