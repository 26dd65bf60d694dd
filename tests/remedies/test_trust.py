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
from tests.desk import Desk, Done, fails, lists, works
from tests.federation import PLAN


@pytest.fixture
def fresh(tmp_path: Path) -> Desk:
    return Desk(tmp_path, PLAN, locked=False)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One site that was let in; no round is open."""
    desk = Desk(tmp_path_factory.mktemp("joined"), PLAN, locked=False)
    desk.join()
    return desk


@pytest.fixture
def desk(joined: Desk, tmp_path: Path) -> Desk:
    return joined.lent(tmp_path / "desk")


@pytest.fixture(scope="module")
def ordered(joined: Desk, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The same, with a round open and its order at the site, which has trained."""
    desk = joined.lent(tmp_path_factory.mktemp("ordered") / "desk")
    works(desk.hub("backup", "before.tar"))
    take_up(desk)
    return desk


@pytest.fixture
def trained(ordered: Desk, tmp_path: Path) -> Desk:
    return ordered.lent(tmp_path / "desk")


def take_up(desk: Desk) -> None:
    """The coordinator opens a round, and the site trains; what it learns is drawn."""
    works(desk.hub("open"))
    exchange(desk)
    download(desk)
    clinic.train(desk.folder / "site")


def exchange(desk: Desk) -> Done:
    return works(desk.hub("exchange", desk.stick))


def download(desk: Desk) -> Done:
    return works(desk.site("download", "--via", desk.stick))


def upload(desk: Desk) -> Done:
    return works(desk.site("upload", "--via", desk.stick))


def accepted(desk: Desk) -> None:
    """The site trains for the open round if it has not, and its share is taken."""
    if command.answer(works(desk.site("status", "--json")))["state"] == "ready":
        clinic.train(desk.folder / "site")
    upload(desk)
    assert ": accepted" in exchange(desk).stdout
    assert "accepted" in str(command.answer(told(desk))["receipts"])


def told(desk: Desk) -> Done:
    download(desk)
    return works(desk.site("status", "--json"))


def boss(desk: Desk, office: str = "coordinator") -> keys.Keys:
    return keys.load(desk.folder / "hub" / office, str)


def own(desk: Desk) -> keys.Keys:
    return keys.load(desk.folder / "site", str)


def number(desk: Desk) -> int:
    return outbox.next_sequence_number(desk.folder / "site")


def sealed(path: Path, context: dict[str, Any], body: bytes, *signers: keys.Keys, **more: Any) -> None:
    parcel.seal(path, context, body, [one.sign for one in signers], **more)


def brought(desk: Desk, kind: str) -> list[Path]:
    """The parcels of this kind on the stick, by their number."""
    there = (desk.stick / "from-coordinator").glob("*.fhx")
    found = [(parcel.inspect(path, parcel.any_signer).statement, path) for path in there]
    return [
        path for _, path in sorted((said.context.get("version", 0), path) for said, path in found if said.kind == kind)
    ]


def held_back(desk: Desk, *paths: Path) -> Callable[[], None]:
    """These are not on the stick; what is returned brings them back."""
    for path in paths:
        path.rename(desk.folder / path.name)
    return lambda: [(desk.folder / path.name).rename(path) for path in paths] and None


def changed(desk: Desk, query: str) -> None:
    """As the coordinator's program would: what another hand changes stops the hub."""
    with unlocked_hub(desk.folder / "hub", None, judge=False) as (own, _), own.database.transaction():
        assert own.database.run(query)


# --- joining -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "query", "hint"),
    [
        ("E_INVITE_EXPIRED", "UPDATE invites SET expires = '2020-01-01T00:00:00Z'", "for a new invite"),
        ("E_INVITE_USED", "UPDATE invites SET used = 'by another'", "ask the coordinator for a new one"),
    ],
)
def test_an_invite_that_holds_no_more_is_replaced_by_a_new_one(fresh: Desk, code: str, query: str, hint: str) -> None:
    works(fresh.hub("init", "--plan", "plan.toml"))
    works(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    works(fresh.site("join", "a.invite", "--via", fresh.stick))
    changed(fresh, query)
    lists(fresh.hub("exchange", fresh.stick), code, hint)
    download(fresh)
    lists(fresh.site("status"), code, hint)
    assert "fedhelp-edge leave" in works(fresh.site("status")).stderr
    works(fresh.hub("invite", "A again", "--tier", "small", "--out", "new.invite"))
    works(fresh.site("leave"))
    works(fresh.site("join", "new.invite", "--via", fresh.stick))
    assert ": approved" in exchange(fresh).stdout
    download(fresh)
    assert "(small)" in works(fresh.site("status")).stdout


def test_a_request_without_an_invite_is_refused_and_nothing_of_it_is_kept(fresh: Desk) -> None:
    works(fresh.hub("init", "--plan", "plan.toml"))
    works(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    works(fresh.site("join", "a.invite", "--via", fresh.stick))
    changed(fresh, "DELETE FROM invites")
    lists(fresh.hub("exchange", fresh.stick), "E_INVITE_UNKNOWN", "ask the coordinator for a new invite")
    works(fresh.hub("invite", "A again", "--tier", "small", "--out", "new.invite"))
    works(fresh.site("leave"))
    works(fresh.site("join", "new.invite", "--via", fresh.stick))
    assert ": approved" in exchange(fresh).stdout


def request(desk: Desk, code: str, who: keys.Keys, **said: Any) -> None:
    """A request as some program might make it."""
    context = statement.new_context("enrol", federation=verified.require_state(desk.folder / "site").charter.federation)
    body = enrol.request_body(code, "C", who.public, context) | said
    sealed(desk.stick / "to-coordinator" / "request.fhx", context, to_json(body), who)


def test_who_does_not_prove_the_code_joins_with_it(desk: Desk) -> None:
    code = str(command.answer(desk.hub("invite", "C", "--tier", "small", "--json"))["code"])
    request(desk, code, keys.generate(), proof="0" * 64)
    lists(desk.hub("exchange", desk.stick), "E_INVITE_PROOF", "join again with the code")
    works(desk.site("join", code, "--via", desk.stick, "--home", desk.folder / "third"))
    assert "site-002: approved" in exchange(desk).stdout


def test_a_code_at_another_federations_stick_is_taken_to_its_own(desk: Desk, tmp_path: Path) -> None:
    works(desk.hub("init", "--plan", "plan.toml", "--home", desk.folder / "others"))
    (tmp_path / "others").mkdir()
    works(desk.hub("exchange", tmp_path / "others", "--home", desk.folder / "others"))
    code = str(command.answer(desk.hub("invite", "C", "--tier", "small", "--json"))["code"])
    exchange(desk)
    new = ("--home", desk.folder / "third")
    fails(desk.site("join", code, "--via", tmp_path / "others", *new), "E_INVITE_PROOF", "the coordinator who gave")
    works(desk.site("join", code, "--via", desk.stick, *new))
    lists(desk.site("download", "--via", tmp_path / "others"), "E_FEDERATION", "that belongs to this federation")
    assert "refused" not in download(desk).stdout


def test_keys_of_another_site_do_not_join_and_new_ones_do(desk: Desk) -> None:
    copy, new = desk.folder / "copy", desk.folder / "new"
    copy.mkdir()
    for name in ("keys.txt", "keys.pub"):
        shutil.copy2(desk.folder / "site" / name, copy)
    works(desk.hub("invite", "B", "--tier", "small", "--out", "b.invite"))
    works(desk.site("join", "b.invite", "--via", desk.stick, "--home", copy))
    lists(desk.hub("exchange", desk.stick), "E_KEY_REUSED", "'fedhelp-edge keys new' in a new folder")
    works(desk.site("keys", "new", "--no-passphrase", "--home", new))
    works(desk.site("join", "b.invite", "--via", desk.stick, "--home", new))
    assert "site-002: approved" in exchange(desk).stdout


def test_an_invite_to_another_federation_joins_nothing_and_the_words_are_compared(fresh: Desk) -> None:
    (fresh.folder / "plan.toml").write_text(PLAN + 'enrolment = "manual"\n')
    for home in ("hub", "others"):
        works(fresh.hub("init", "--plan", "plan.toml", "--home", fresh.folder / home))
        works(fresh.hub("invite", "A", "--tier", "small", "--out", f"{home}.invite", "--home", fresh.folder / home))
    mine, others = ((fresh.folder / f"{home}.invite").read_text() for home in ("hub", "others"))
    name = next(line for line in mine.splitlines() if '"federation"' in line)
    (fresh.folder / "bad.invite").write_text(
        others.replace(next(line for line in others.splitlines() if '"federation"' in line), name)
    )
    hint = "phone the coordinator on a number you know: compare the words"
    fails(fresh.site("join", "bad.invite", "--via", fresh.stick), "E_PIN", hint)
    fails(fresh.site("status"), "E_NOT_JOINED", "fedhelp-edge join")
    words = command.answer(fresh.site("join", "hub.invite", "--via", fresh.stick, "--json"))["words"]
    exchange(fresh)
    assert " ".join(words) in works(fresh.hub("requests")).stdout
    works(fresh.hub("approve", "site-001"))


def test_of_two_who_ask_on_one_invite_the_one_whose_words_are_read_out_by_phone_is_approved(fresh: Desk) -> None:
    works(fresh.hub("init", "--plan", "plan.toml"))
    works(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    words = [
        command.answer(works(fresh.site("join", "a.invite", "--via", fresh.stick, "--home", home, "--json")))["words"]
        for home in ("thief", "clinic")
    ]
    assert "approved" not in exchange(fresh).stdout
    shown = works(fresh.hub("requests")).stdout
    assert shown.count("ALARM") == 2
    assert "ALARM       site-001" in works(fresh.hub("status")).stdout
    fails(fresh.hub("approve", "site-001"), "E_AMBIGUOUS", "then approve the request that matches, by its hash")
    known = command.answer(works(fresh.hub("approve", *words[1], "--json")))
    assert (known["site"], known["words"]) == ("site-001", " ".join(words[1]))


def test_a_passphrase_that_would_soon_be_guessed_is_exchanged_for_five_words(fresh: Desk) -> None:
    (fresh.folder / "pass").write_text("secret\n")
    words = ("init", "--plan", "plan.toml", "--passphrase-file", "pass", "--home", "locked")
    done = command.here(*words, home=fresh.folder, program=command.COORDINATOR)
    fails(done, "E_PASSPHRASE_WEAK", "take five unrelated words")
    (fresh.folder / "pass").write_text("four quiet words here\n")
    works(command.here(*words, home=fresh.folder, program=command.COORDINATOR))


def test_new_keys_that_only_the_old_one_signed_are_signed_by_both(desk: Desk) -> None:
    download(desk)
    federation, new = verified.require_state(desk.folder / "site").charter.federation, keys.generate()
    context = statement.new_context("rotate", federation=federation, sender="site-001", seq=number(desk))
    sealed(desk.stick / "to-coordinator" / "new.fhx", context, to_json(vars(new.public)), own(desk))
    lists(desk.hub("exchange", desk.stick), "E_ROTATE_PROOF", "with the old key as well as with the new one")
    works(desk.site("keys", "rotate"))
    shown = works(desk.site("keys", "show")).stdout
    works(desk.site("upload", "--via", desk.stick))
    exchange(desk)
    download(desk)
    assert works(desk.site("keys", "show")).stdout != shown


# --- shares ------------------------------------------------------------------------------------------------------
def share(desk: Desk, signer: keys.Keys, **said: Any) -> None:
    """A share as some program might make it under the order that the site has."""
    order, mine = verified.require_state(desk.folder / "site").task, own(desk)
    assert order
    context = statement.new_context(
        "update", federation=order.federation, round=order.round, task=order.hash, base=order.base, sender="site-001",
        sender_key=sshsig.fingerprint(mine.public.sign), recipients=list(order.recipients), seq=number(desk),
    )  # fmt: skip
    readers = said.get("recipients", order.recipients)
    path = desk.stick / "to-coordinator" / "share.fhx"
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
    trained: Desk, code: str, said: dict[str, Any], hint: str
) -> None:
    share(trained, own(trained), **said)
    lists(trained.hub("exchange", trained.stick), code, hint)
    download(trained)
    accepted(trained)


def test_a_file_of_another_kind_is_found_out_with_inspect(trained: Desk) -> None:
    (roster,) = brought(trained, "roster")
    wrong = Path(shutil.copy(roster, trained.stick / "to-coordinator"))
    lists(trained.hub("exchange", trained.stick), "E_KIND", "'fedhelp-edge inspect FILE'")
    assert "the roster of all sites" in works(trained.site("inspect", wrong)).stdout
    wrong.unlink()
    accepted(trained)


def restored(desk: Desk, backup: str) -> None:
    """The hub's disk died, and it comes back as it was."""
    (desk.folder / "hub").rename(desk.folder / "died")
    works(desk.hub("restore", backup, "--root-key", desk.folder / "died" / "root"))


def test_a_share_for_a_hub_that_was_restored_is_made_under_its_new_order(trained: Desk) -> None:
    restored(trained, "before.tar")
    upload(trained)
    lists(trained.hub("exchange", trained.stick), "E_ROUND_UNKNOWN", "run 'fedhelp-edge download' first")
    download(trained)
    assert "new round" in works(trained.site("status")).stdout
    works(trained.hub("open"))
    lists(trained.hub("exchange", trained.stick), "E_TASK", "run 'fedhelp-edge download', then train or distill again")
    download(trained)
    accepted(trained)


def test_a_site_that_the_coordinator_does_not_know_any_more_is_invited_again(fresh: Desk) -> None:
    works(fresh.hub("init", "--plan", "plan.toml"))
    works(fresh.hub("backup", "empty.tar"))
    works(fresh.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    works(fresh.site("join", "a.invite", "--via", fresh.stick))
    exchange(fresh)
    take_up(fresh)
    upload(fresh)
    restored(fresh, "empty.tar")
    lists(fresh.hub("exchange", fresh.stick), "E_SIGNER_UNKNOWN", "whether this site is in the roster")
    assert "0 sites" in works(fresh.hub("roster")).stdout
    joins_anew(fresh)
    works(fresh.hub("open"))
    exchange(fresh)
    download(fresh)
    accepted(fresh)


def joins_anew(desk: Desk) -> None:
    works(desk.hub("invite", "A again", "--tier", "small", "--out", "new.invite"))
    works(desk.site("leave"))
    works(desk.site("join", "new.invite", "--via", desk.stick))
    assert ": approved" in exchange(desk).stdout


def test_a_site_whose_key_was_revoked_joins_anew(trained: Desk) -> None:
    works(trained.hub("revoke", "site-001", "--reason", "PC stolen"))
    upload(trained)
    lists(trained.hub("exchange", trained.stick), "E_SIGNER_REVOKED", "a site that lost its PC needs a new invite")
    works(trained.site("download"))
    assert "train the round again" not in works(trained.site("status")).stdout
    joins_anew(trained)
    assert command.answer(told(trained))["site"] == "site-002"


# --- rounds that others play -------------------------------------------------------------------------------------
class Two(Desk):
    """And another site at the same stick, whose share is enough for a round."""

    @classmethod
    def joined(cls, folder: Path) -> Two:
        desk = cls(folder, PLAN.replace("quorum = 2", "quorum = 1"), locked=False)
        desk.join()
        invited(desk)
        return desk

    def other(self, *words: str | Path) -> Done:
        return works(self.type("other", command.SITE, words))

    def round(self) -> None:
        """The other's share makes a round, and the next one is opened."""
        self.other("download", "--via", self.stick)
        clinic.train(self.folder / "other")
        self.other("upload", "--via", self.stick)
        exchange(self)
        works(self.hub("aggregate", "--now"))
        works(self.hub("open"))
        exchange(self)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """One site has trained for round 1 and not sent, when the other has closed it and round 2 is open."""
    desk = Two.joined(tmp_path_factory.mktemp("two"))
    take_up(desk)
    desk.round()
    return desk


@pytest.fixture
def two(both: Two, tmp_path: Path) -> Desk:
    return both.lent(tmp_path / "desk")


def test_a_share_whose_rounds_key_is_gone_is_followed_by_one_of_the_present_round(two: Two) -> None:
    (two.folder / "hub" / "round-keys" / "000001.age").unlink()
    upload(two)
    exchange(two)
    download(two)
    lists(two.site("status"), "E_ROUND_KEY_GONE", "take part in the current round")
    accepted(two)


def test_a_share_of_a_round_that_is_over_is_followed_by_one_of_the_present_round(two: Two) -> None:
    two.round()
    upload(two)
    lists(two.hub("exchange", two.stick), "E_ROUND_CLOSED", "take part in the current round")
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
    lists(two.hub("exchange", two.stick), "E_REPLAY", "leave and join again with a new invite")
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
    works(two.hub("invite", "A on a new PC", "--tier", "small", "--out", "new.invite"))
    works(two.site("join", "new.invite", "--via", two.stick))
    lists(two.hub("exchange", two.stick), "E_KEY_REUSED", "make new keys")  # nothing need be done: it is known by them
    assert command.answer(told(two))["site"] == "site-001"
    accepted(two)


def test_a_site_that_came_late_waits_for_its_round(two: Two) -> None:
    joins_anew(two)  # in the middle of round 2
    download(two)
    assert "nothing to do until a new round" in works(two.site("status")).stdout
    home = two.folder / "site"
    clinic.train(home)
    outbox.seal_current(home, str)  # as a kit might that does not wait
    upload(two)
    lists(two.hub("exchange", two.stick), "E_SIGNER_WINDOW", "wait for the first round")
    two.round()
    download(two)
    accepted(two)


# --- orders ------------------------------------------------------------------------------------------------------
def test_news_that_another_signed_are_left_and_the_coordinators_taken(desk: Desk) -> None:
    download(desk)
    (roster,) = brought(desk, "roster")
    with parcel.open(roster, parcel.any_signer) as seen:
        said, holds = seen.statement, seen.json()
    sealed(desk.stick / "from-coordinator" / "forged.fhx", {**said.context, "version": 9}, to_json(holds), own(desk))
    lists(desk.site("download", "--via", desk.stick), "E_ROLE", "come with the next download")
    invited(desk)
    assert "new: roster 3" in download(desk).stdout


def invited(desk: Desk) -> None:
    """Another site is let in, which makes a new roster."""
    works(desk.hub("invite", "B", "--tier", "small", "--out", "b.invite"))
    works(desk.type("other", command.SITE, ("join", "b.invite", "--via", desk.stick)))
    exchange(desk)


def test_another_key_than_the_root_key_is_exchanged_for_it(desk: Desk) -> None:
    words = ("rotate", "--coordinator", "--root-key")
    fails(desk.hub(*words, "hub/front"), "E_ROLE", "name the folder that holds it with --root-key")
    works(desk.hub(*words, "hub/root"))


def test_an_old_stick_is_filled_anew(desk: Desk) -> None:
    old = desk.folder / "old"
    shutil.copytree(desk.stick, old)
    invited(desk)
    download(desk)
    lists(desk.site("download", "--via", old), "E_ROLLBACK", "ask for a newer stick")
    works(desk.hub("exchange", old))
    assert "refused" not in works(desk.site("download", "--via", old)).stdout


def test_the_charter_that_is_missing_is_brought_too(desk: Desk) -> None:
    for _ in range(2):
        works(desk.hub("rotate", "--coordinator", "--root-key", "hub/root"))
    exchange(desk)
    bring = held_back(desk, brought(desk, "charter")[1])
    lists(desk.site("download", "--via", desk.stick), "E_ROOT_CHAIN", "so that every version of the charter arrives")
    bring()
    done = download(desk).stdout
    assert "new: charter 3" in done
    assert "refused" not in done


def test_the_roster_that_is_missing_is_brought_too(desk: Desk) -> None:
    works(desk.hub("open"))
    exchange(desk)
    bring = held_back(desk, *brought(desk, "roster"))
    lists(desk.site("download", "--via", desk.stick), "E_TASK_ROSTER", "so that roster and task arrive together")
    bring()
    assert "new: task for round 1" in download(desk).stdout


def test_a_charter_that_one_key_too_few_signed_is_signed_by_both(desk: Desk) -> None:
    download(desk)
    law, new = verified.require_state(desk.folder / "site").charter, keys.generate()
    context = statement.new_context("charter", epoch=1, version=2, previous=law.hash)
    forged = desk.stick / "from-coordinator" / "half.fhx"
    sealed(forged, context, to_json(charter.body("x", (new.public.sign,), law.coordinator)), boss(desk, "root"))
    lists(desk.site("download", "--via", desk.stick), "E_THRESHOLD", "as many different root keys")
    forged.unlink()
    works(desk.hub("rotate", "--root", "--root-key", "hub/root", "--new-root-key", "root2"))
    exchange(desk)
    assert "new: charter 2" in download(desk).stdout


@pytest.mark.parametrize(
    ("code", "hint", "before", "after"),
    [
        ("E_SPLIT_VIEW", "keep both files", 1, 1),
        ("E_EQUIVOCATION", "keep both files", 0, 1),
        ("E_LOG_ROLLBACK", "its log is shorter", 20, 0),
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
    lists(
        late.site("download", "--via", late.stick),
        code,
        "'fedhelp-coordinator restore FILE --root-key DIR' put it right",
    )
    assert hint in errors.remedy_of(code)
    works(late.hub("backup", "now.tar"))
    restored(late, "now.tar")
    works(late.hub("open"))
    exchange(late)
    assert "refused" not in download(late).stdout
    accepted(late)


def opens(desk: Desk, invites: int, tier: str) -> None:
    """The coordinator opens a round, after something that its log tells of."""
    for number in range(invites):
        works(desk.hub("invite", f"Clinic {number}", "--tier", tier))
    works(desk.hub("open"))
    exchange(desk)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Two:
    return Two.joined(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def late(pair: Two, tmp_path: Path) -> Two:
    """Two sites that were let in, and no round yet."""
    return pair.lent(tmp_path / "desk")


def test_orders_that_are_too_old_are_renewed_by_the_next_round(fresh: Desk) -> None:
    pytest.importorskip("torch")
    long_ago = datetime.now(timezone.utc) - timedelta(days=200)
    old = create.new_hub(fresh.folder / "hub", plans.read(PLAN, TABLES), None, clock=lambda: long_ago)
    invites.write_files(fresh.folder / "a.invite", invites.issue(old, "A", "small", 14))
    works(fresh.site("join", "a.invite", "--via", fresh.stick))
    admin_exchange.exchange(old, fresh.stick)
    judge.judge_waiting(old, old.coordinator_keys(str))
    opening.open_next(old, old.coordinator_keys(str))
    admin_exchange.exchange(old, fresh.stick)
    old.database.close()
    download(fresh)
    images = np.zeros((8, 8, 8, 3), np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None]
    np.savez(fresh.folder / "images.npz", images=images, labels=np.arange(8) % 3)
    assert "the roster is old" in works(fresh.site("status")).stdout
    hint = "ask the coordinator to open a round, which renews the roster"
    fails(fresh.site("train", "images.npz"), "E_EXPIRED", hint)
    works(fresh.hub("clock", "--accept"))  # after so long a pause
    fails(fresh.hub("aggregate"), "E_QUORUM", "wait or remind")  # the round of long ago has failed
    works(fresh.hub("open"))
    exchange(fresh)
    download(fresh)
    assert "the roster is old" not in works(fresh.site("status")).stdout
    works(fresh.site("train", "images.npz"))


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
    lists(
        late.hub("exchange", late.stick), "E_INNER_CONTEXT", "refuse it with 'fedhelp-coordinator review SITE --refuse'"
    )
    works(late.hub("review", "site-002", "--refuse"))
    outbox.next_sequence_number(late.folder / "other")  # the stolen one took its first
    clinic.train(late.folder / "other")
    late.other("upload", "--via", late.stick)
    assert "site-002: accepted" in exchange(late).stdout


def of_kind(path: Path) -> str:
    return parcel.inspect(path, parcel.any_signer).statement.kind
