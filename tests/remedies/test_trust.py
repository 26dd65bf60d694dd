"""Who may send what, and when: a parcel is refused, what the hint says is done, and the person gets on."""

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
from fedhelp_edge.methods.registry import TABLES
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
    """One site that was let in; no round is open."""
    people = SiteAndHub(tmp_path_factory.mktemp("joined"), PLAN, locked=False)
    people.join()
    return people


@pytest.fixture
def people(joined: SiteAndHub, tmp_path: Path) -> SiteAndHub:
    return joined.copy_to(tmp_path / "desk")


@pytest.fixture(scope="module")
def ordered(joined: SiteAndHub, tmp_path_factory: pytest.TempPathFactory) -> SiteAndHub:
    """The same, with a round open and its order at the site, which has trained."""
    people = joined.copy_to(tmp_path_factory.mktemp("ordered") / "desk")
    succeeds(people.hub("backup", "before.tar"))
    take_up(people)
    return people


@pytest.fixture
def trained(ordered: SiteAndHub, tmp_path: Path) -> SiteAndHub:
    return ordered.copy_to(tmp_path / "desk")


def take_up(people: SiteAndHub) -> None:
    """The coordinator opens a round, and the site trains; what it learns is drawn."""
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


def accepted(people: SiteAndHub) -> None:
    """The site trains for the open round if it has not, and its share is taken."""
    if command.json_output(succeeds(people.site("status", "--json")))["state"] == "ready":
        clinic.train(people.folder / "site")
    upload(people)
    assert ": accepted" in exchange(people).stdout
    assert "accepted" in str(command.json_output(told(people))["receipts"])


def told(people: SiteAndHub) -> Completed:
    download(people)
    return succeeds(people.site("status", "--json"))


def boss(people: SiteAndHub, office: str = "coordinator") -> keys.Keys:
    return keys.load(people.folder / "hub" / office, str)


def own(people: SiteAndHub) -> keys.Keys:
    return keys.load(people.folder / "site", str)


def number(people: SiteAndHub) -> int:
    return outbox.next_sequence_number(people.folder / "site")


def sealed(path: Path, context: dict[str, Any], body: bytes, *signers: keys.Keys, **more: Any) -> None:
    parcel.seal(path, context, body, [one.sign for one in signers], **more)


def brought(people: SiteAndHub, kind: str) -> list[Path]:
    """The parcels of this kind on the stick, by their number."""
    there = (people.stick / "from-coordinator").glob("*.fhx")
    found = [(parcel.inspect(path, parcel.any_signer).statement, path) for path in there]
    return [
        path for _, path in sorted((said.context.get("version", 0), path) for said, path in found if said.kind == kind)
    ]


def held_back(people: SiteAndHub, *paths: Path) -> Callable[[], None]:
    """These are not on the stick; what is returned brings them back."""
    for path in paths:
        path.rename(people.folder / path.name)
    return lambda: [(people.folder / path.name).rename(path) for path in paths] and None


def changed(people: SiteAndHub, query: str) -> None:
    """As the coordinator's program would: what another hand changes stops the hub."""
    with unlocked_hub(people.folder / "hub", None, judge=False) as (own, _), own.database.transaction():
        assert own.database.run(query)


# --- joining -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "query", "hint"),
    [
        ("E_INVITE_EXPIRED", "UPDATE invites SET expires = '2020-01-01T00:00:00Z'", "for a new invite"),
        ("E_INVITE_USED", "UPDATE invites SET used = 'by another'", "ask the coordinator for a new one"),
    ],
)
def test_an_invite_that_holds_no_more_is_replaced_by_a_new_one(
    fresh: SiteAndHub, code: str, query: str, hint: str
) -> None:
    succeeds(fresh.hub("init", "--plan", "plan.toml"))
    succeeds(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    succeeds(fresh.site("join", "a.invite", "--via", fresh.stick))
    changed(fresh, query)
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


def test_a_request_without_an_invite_is_refused_and_nothing_of_it_is_kept(fresh: SiteAndHub) -> None:
    succeeds(fresh.hub("init", "--plan", "plan.toml"))
    succeeds(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    succeeds(fresh.site("join", "a.invite", "--via", fresh.stick))
    changed(fresh, "DELETE FROM invites")
    lists_refusal(fresh.hub("exchange", fresh.stick), "E_INVITE_UNKNOWN", "ask the coordinator for a new invite")
    succeeds(fresh.hub("invite", "A again", "--tier", "small", "--out", "new.invite"))
    succeeds(fresh.site("leave"))
    succeeds(fresh.site("join", "new.invite", "--via", fresh.stick))
    assert ": approved" in exchange(fresh).stdout


def request(people: SiteAndHub, code: str, who: keys.Keys, **said: Any) -> None:
    """A request as some program might make it."""
    context = statement.new_context(
        "enrol", federation=verified.require_state(people.folder / "site").charter.federation
    )
    body = enrol.request_body(code, "C", who.public, context) | said
    sealed(people.stick / "to-coordinator" / "request.fhx", context, to_json(body), who)


def test_who_does_not_prove_the_code_joins_with_it(people: SiteAndHub) -> None:
    code = str(command.json_output(people.hub("invite", "C", "--tier", "small", "--json"))["code"])
    request(people, code, keys.generate(), proof="0" * 64)
    lists_refusal(people.hub("exchange", people.stick), "E_INVITE_PROOF", "join again with the code")
    succeeds(people.site("join", code, "--via", people.stick, "--home", people.folder / "third"))
    assert "site-002: approved" in exchange(people).stdout


def test_a_code_at_another_federations_stick_is_taken_to_its_own(people: SiteAndHub, tmp_path: Path) -> None:
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


def test_keys_of_another_site_do_not_join_and_new_ones_do(people: SiteAndHub) -> None:
    copy, new = people.folder / "copy", people.folder / "new"
    copy.mkdir()
    for name in ("keys.txt", "keys.pub"):
        shutil.copy2(people.folder / "site" / name, copy)
    succeeds(people.hub("invite", "B", "--tier", "small", "--out", "b.invite"))
    succeeds(people.site("join", "b.invite", "--via", people.stick, "--home", copy))
    lists_refusal(people.hub("exchange", people.stick), "E_KEY_REUSED", "'fedhelp-edge keys new' in a new folder")
    succeeds(people.site("keys", "new", "--no-passphrase", "--home", new))
    succeeds(people.site("join", "b.invite", "--via", people.stick, "--home", new))
    assert "site-002: approved" in exchange(people).stdout


def test_an_invite_to_another_federation_joins_nothing_and_the_words_are_compared(fresh: SiteAndHub) -> None:
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


def test_of_two_who_ask_on_one_invite_the_one_whose_words_are_read_out_by_phone_is_approved(fresh: SiteAndHub) -> None:
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
    known = command.json_output(succeeds(fresh.hub("approve", *words[1], "--json")))
    assert (known["site"], known["words"]) == ("site-001", " ".join(words[1]))


def test_a_passphrase_that_would_soon_be_guessed_is_exchanged_for_five_words(fresh: SiteAndHub) -> None:
    (fresh.folder / "pass").write_text("secret\n")
    words = ("init", "--plan", "plan.toml", "--passphrase-file", "pass", "--home", "locked")
    done = command.run_in_process(*words, home=fresh.folder, program=command.COORDINATOR)
    fails_with(done, "E_PASSPHRASE_WEAK", "take five unrelated words")
    (fresh.folder / "pass").write_text("four quiet words here\n")
    succeeds(command.run_in_process(*words, home=fresh.folder, program=command.COORDINATOR))


def test_new_keys_that_only_the_old_one_signed_are_signed_by_both(people: SiteAndHub) -> None:
    download(people)
    federation, new = verified.require_state(people.folder / "site").charter.federation, keys.generate()
    context = statement.new_context("rotate", federation=federation, sender="site-001", seq=number(people))
    sealed(people.stick / "to-coordinator" / "new.fhx", context, to_json(vars(new.public)), own(people))
    lists_refusal(
        people.hub("exchange", people.stick), "E_ROTATE_PROOF", "with the old key as well as with the new one"
    )
    succeeds(people.site("keys", "rotate"))
    shown = succeeds(people.site("keys", "show")).stdout
    succeeds(people.site("upload", "--via", people.stick))
    exchange(people)
    download(people)
    assert succeeds(people.site("keys", "show")).stdout != shown


# --- shares ------------------------------------------------------------------------------------------------------
def share(people: SiteAndHub, signer: keys.Keys, **said: Any) -> None:
    """A share as some program might make it under the order that the site has."""
    order, mine = verified.require_state(people.folder / "site").task, own(people)
    assert order
    context = statement.new_context(
        "update", federation=order.federation, round=order.round, task=order.hash, base=order.base, sender="site-001",
        sender_key=sshsig.fingerprint(mine.public.sign), recipients=list(order.recipients), seq=number(people),
    )  # fmt: skip
    readers = said.get("recipients", order.recipients)
    path = people.stick / "to-coordinator" / "share.fhx"
    sealed(path, context | said, b"share", signer, recipients=readers, facts={"examples": 7})


@pytest.mark.parametrize(
    ("code", "said", "hint"),
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
def test_a_share_that_does_not_fit_the_order_is_made_again(
    trained: SiteAndHub, code: str, said: dict[str, Any], hint: str
) -> None:
    share(trained, own(trained), **said)
    lists_refusal(trained.hub("exchange", trained.stick), code, hint)
    download(trained)
    accepted(trained)


def test_a_file_of_another_kind_is_found_out_with_inspect(trained: SiteAndHub) -> None:
    (roster,) = brought(trained, "roster")
    wrong = Path(shutil.copy(roster, trained.stick / "to-coordinator"))
    lists_refusal(trained.hub("exchange", trained.stick), "E_KIND", "'fedhelp-edge inspect FILE'")
    assert "the roster of all sites" in succeeds(trained.site("inspect", wrong)).stdout
    wrong.unlink()
    accepted(trained)


def restored(people: SiteAndHub, backup: str) -> None:
    """The hub's disk died, and it comes back as it was."""
    (people.folder / "hub").rename(people.folder / "died")
    succeeds(people.hub("restore", backup, "--root-key", people.folder / "died" / "root"))


def test_a_share_for_a_hub_that_was_restored_is_made_under_its_new_order(trained: SiteAndHub) -> None:
    restored(trained, "before.tar")
    upload(trained)
    lists_refusal(trained.hub("exchange", trained.stick), "E_ROUND_UNKNOWN", "run 'fedhelp-edge download' first")
    download(trained)
    assert "new round" in succeeds(trained.site("status")).stdout
    succeeds(trained.hub("open"))
    lists_refusal(
        trained.hub("exchange", trained.stick), "E_TASK", "run 'fedhelp-edge download', then train or distill again"
    )
    download(trained)
    accepted(trained)


def test_a_site_that_the_coordinator_does_not_know_any_more_is_invited_again(fresh: SiteAndHub) -> None:
    succeeds(fresh.hub("init", "--plan", "plan.toml"))
    succeeds(fresh.hub("backup", "empty.tar"))
    succeeds(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    succeeds(fresh.site("join", "a.invite", "--via", fresh.stick))
    exchange(fresh)
    take_up(fresh)
    upload(fresh)
    restored(fresh, "empty.tar")
    lists_refusal(fresh.hub("exchange", fresh.stick), "E_SIGNER_UNKNOWN", "whether this site is in the roster")
    assert "0 sites" in succeeds(fresh.hub("roster")).stdout
    joins_anew(fresh)
    succeeds(fresh.hub("open"))
    exchange(fresh)
    download(fresh)
    accepted(fresh)


def joins_anew(people: SiteAndHub) -> None:
    succeeds(people.hub("invite", "A again", "--tier", "small", "--out", "new.invite"))
    succeeds(people.site("leave"))
    succeeds(people.site("join", "new.invite", "--via", people.stick))
    assert ": approved" in exchange(people).stdout


def test_a_site_whose_key_was_revoked_joins_anew(trained: SiteAndHub) -> None:
    succeeds(trained.hub("revoke", "site-001", "--reason", "PC stolen"))
    upload(trained)
    lists_refusal(
        trained.hub("exchange", trained.stick), "E_SIGNER_REVOKED", "a site that lost its PC needs a new invite"
    )
    succeeds(trained.site("download"))
    assert "train the round again" not in succeeds(trained.site("status")).stdout
    joins_anew(trained)
    assert command.json_output(told(trained))["site"] == "site-002"


# --- rounds that others play -------------------------------------------------------------------------------------
class Two(SiteAndHub):
    """And another site at the same stick, whose share is enough for a round."""

    @classmethod
    def joined(cls, folder: Path) -> Two:
        people = cls(folder, PLAN.replace("quorum = 2", "quorum = 1"), locked=False)
        people.join()
        invited(people)
        return people

    def other(self, *words: str | Path) -> Completed:
        return succeeds(self.run("other", command.SITE, words))

    def round(self) -> None:
        """The other's share makes a round, and the next one is opened."""
        self.other("download", "--via", self.stick)
        clinic.train(self.folder / "other")
        self.other("upload", "--via", self.stick)
        exchange(self)
        succeeds(self.hub("aggregate", "--now"))
        succeeds(self.hub("open"))
        exchange(self)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """One site has trained for round 1 and not sent, when the other has closed it and round 2 is open."""
    people = Two.joined(tmp_path_factory.mktemp("two"))
    take_up(people)
    people.round()
    return people


@pytest.fixture
def two(both: Two, tmp_path: Path) -> SiteAndHub:
    return both.copy_to(tmp_path / "desk")


def test_a_share_whose_rounds_key_is_gone_is_followed_by_one_of_the_present_round(two: Two) -> None:
    (two.folder / "hub" / "round-keys" / "000001.age").unlink()
    upload(two)
    exchange(two)
    download(two)
    lists_refusal(two.site("status"), "E_ROUND_KEY_GONE", "take part in the current round")
    accepted(two)


def test_a_share_of_a_round_that_is_over_is_followed_by_one_of_the_present_round(two: Two) -> None:
    two.round()
    upload(two)
    lists_refusal(two.hub("exchange", two.stick), "E_ROUND_CLOSED", "take part in the current round")
    download(two)
    accepted(two)


def test_a_site_that_came_back_from_a_backup_joins_anew(two: Two) -> None:
    shutil.copytree(two.folder / "site", two.folder / "backup")
    (two.folder / "site" / "number.txt").write_text(f"{2**50}")  # as of a clock that was far ahead
    upload(two)
    two.round()
    shutil.rmtree(two.folder / "site")
    (two.folder / "backup").rename(two.folder / "site")
    download(two)
    clinic.train(two.folder / "site")
    upload(two)
    lists_refusal(two.hub("exchange", two.stick), "E_REPLAY", "leave and join again with a new invite")
    joins_anew(two)
    two.round()
    download(two)
    accepted(two)


def test_a_site_of_which_only_the_keys_came_back_goes_on(two: Two) -> None:
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
    )  # nothing need be done: it is known by them
    assert command.json_output(told(two))["site"] == "site-001"
    accepted(two)


def test_a_site_that_came_late_waits_for_its_round(two: Two) -> None:
    joins_anew(two)  # in the middle of round 2
    download(two)
    assert "nothing to do until a new round" in succeeds(two.site("status")).stdout
    home = two.folder / "site"
    clinic.train(home)
    outbox.seal_current(home, str)  # as a kit might that does not wait
    upload(two)
    lists_refusal(two.hub("exchange", two.stick), "E_SIGNER_WINDOW", "wait for the first round")
    two.round()
    download(two)
    accepted(two)


# --- orders ------------------------------------------------------------------------------------------------------
def test_news_that_another_signed_are_left_and_the_coordinators_taken(people: SiteAndHub) -> None:
    download(people)
    (roster,) = brought(people, "roster")
    with parcel.open(roster, parcel.any_signer) as seen:
        said, holds = seen.statement, seen.json()
    sealed(
        people.stick / "from-coordinator" / "forged.fhx", {**said.context, "version": 9}, to_json(holds), own(people)
    )
    lists_refusal(people.site("download", "--via", people.stick), "E_ROLE", "come with the next download")
    invited(people)
    assert "new: roster 3" in download(people).stdout


def invited(people: SiteAndHub) -> None:
    """Another site is let in, which makes a new roster."""
    succeeds(people.hub("invite", "B", "--tier", "small", "--out", "b.invite"))
    succeeds(people.run("other", command.SITE, ("join", "b.invite", "--via", people.stick)))
    exchange(people)


def test_another_key_than_the_root_key_is_exchanged_for_it(people: SiteAndHub) -> None:
    words = ("rotate", "--coordinator", "--root-key")
    fails_with(people.hub(*words, "hub/front"), "E_ROLE", "name the folder that holds it with --root-key")
    succeeds(people.hub(*words, "hub/root"))


def test_an_old_stick_is_filled_anew(people: SiteAndHub) -> None:
    old = people.folder / "old"
    shutil.copytree(people.stick, old)
    invited(people)
    download(people)
    lists_refusal(people.site("download", "--via", old), "E_ROLLBACK", "ask for a newer stick")
    succeeds(people.hub("exchange", old))
    assert "refused" not in succeeds(people.site("download", "--via", old)).stdout


def test_the_charter_that_is_missing_is_brought_too(people: SiteAndHub) -> None:
    for _ in range(2):
        succeeds(people.hub("rotate", "--coordinator", "--root-key", "hub/root"))
    exchange(people)
    bring = held_back(people, brought(people, "charter")[1])
    lists_refusal(
        people.site("download", "--via", people.stick), "E_ROOT_CHAIN", "so that every version of the charter arrives"
    )
    bring()
    done = download(people).stdout
    assert "new: charter 3" in done
    assert "refused" not in done


def test_the_roster_that_is_missing_is_brought_too(people: SiteAndHub) -> None:
    succeeds(people.hub("open"))
    exchange(people)
    bring = held_back(people, *brought(people, "roster"))
    lists_refusal(
        people.site("download", "--via", people.stick), "E_TASK_ROSTER", "so that roster and task arrive together"
    )
    bring()
    assert "new: task for round 1" in download(people).stdout


def test_a_charter_that_one_key_too_few_signed_is_signed_by_both(people: SiteAndHub) -> None:
    download(people)
    law, new = verified.require_state(people.folder / "site").charter, keys.generate()
    context = statement.new_context("charter", epoch=1, version=2, previous=law.hash)
    forged = people.stick / "from-coordinator" / "half.fhx"
    sealed(forged, context, to_json(charter.body("x", (new.public.sign,), law.coordinator)), boss(people, "root"))
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
def test_a_hub_that_was_copied_back_by_hand_is_put_right_with_its_root_key(
    late: Two, code: str, hint: str, before: int, after: int
) -> None:
    home, copy = late.folder / "hub", late.folder / "copy"
    shutil.copytree(home, copy)
    opens(late, before, "small")
    download(late)
    for gone in (home, late.stick / "from-coordinator"):
        shutil.rmtree(gone)
    copy.rename(home)
    opens(late, after, "large")
    if code == "E_LOG_ROLLBACK":
        late.round()
    lists_refusal(
        late.site("download", "--via", late.stick),
        code,
        "'fedhelp-coordinator restore FILE --root-key DIR'",
    )
    assert hint in errors.remedy_of(code)
    succeeds(late.hub("backup", "now.tar"))
    restored(late, "now.tar")
    succeeds(late.hub("open"))
    exchange(late)
    assert "refused" not in download(late).stdout
    accepted(late)


def opens(people: SiteAndHub, invites: int, tier: str) -> None:
    """The coordinator opens a round, after something that its log tells of."""
    for number in range(invites):
        succeeds(people.hub("invite", f"Clinic {number}", "--tier", tier))
    succeeds(people.hub("open"))
    exchange(people)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Two:
    return Two.joined(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def late(pair: Two, tmp_path: Path) -> Two:
    """Two sites that were let in, and no round yet."""
    return pair.copy_to(tmp_path / "desk")


def test_orders_that_are_too_old_are_renewed_by_the_next_round(fresh: SiteAndHub) -> None:
    pytest.importorskip("torch")
    long_ago = datetime.now(timezone.utc) - timedelta(days=200)
    old = create.new_hub(fresh.folder / "hub", plans.read(PLAN, TABLES), None, clock=lambda: long_ago)
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
    succeeds(fresh.hub("clock", "--accept"))  # after so long a pause
    fails_with(fresh.hub("aggregate"), "E_QUORUM", "wait or remind")  # the round of long ago has failed
    succeeds(fresh.hub("open"))
    exchange(fresh)
    download(fresh)
    assert "the roster is old" not in succeeds(fresh.site("status")).stdout
    succeeds(fresh.site("train", "images.npz"))


def test_a_share_that_another_signed_as_its_own_is_refused_and_its_own_taken(late: Two) -> None:
    take_up(late)
    upload(late)
    late.other("download", "--via", late.stick)
    (mine,) = (path for path in (late.stick / "to-coordinator").glob("*.fhx") if of_kind(path) == "update")
    seen, thief = parcel.inspect(mine, parcel.any_signer), keys.load(late.folder / "other", str)
    context = {**seen.statement.context, "sender": "site-002", "sender_key": sshsig.fingerprint(thief.public.sign)}
    said = replace(seen.statement, context=context | {"nonce": "7" * 32})
    (late.stick / "to-coordinator" / "stolen.fhx").write_bytes(
        parcel._build_prologue(said, [thief.sign]) + mine.read_bytes()[seen.offset :]
    )
    lists_refusal(
        late.hub("exchange", late.stick), "E_INNER_CONTEXT", "refuse it with 'fedhelp-coordinator review SITE --refuse'"
    )
    succeeds(late.hub("review", "site-002", "--refuse"))
    outbox.next_sequence_number(late.folder / "other")  # the stolen one took its first
    clinic.train(late.folder / "other")
    late.other("upload", "--via", late.stick)
    assert "site-002: accepted" in exchange(late).stdout


def of_kind(path: Path) -> str:
    return parcel.inspect(path, parcel.any_signer).statement.kind
