"""Faults B01-B19 of the catalogue: signatures and trust. The limits on guessing invite codes are tested with a hub."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedhelp_edge.errors import (
    BadBodyError,
    EquivocationError,
    ExpiredError,
    InviteCodeError,
    InviteExpiredError,
    InviteProofError,
    InviteUnknownError,
    InviteUsedError,
    KeyReusedError,
    PinnedKeyError,
    RollbackError,
    RootChainError,
    RotateProofError,
    SigAlgError,
    SigBadError,
    SigNamespaceError,
    SignerMismatchError,
    SignerRevokedError,
    SignerRoleError,
    SignerUnknownError,
    SignerWindowError,
    TaskRosterError,
    ThresholdError,
)
from fedhelp_edge.parcel import keys, parcel, sshsig
from fedhelp_edge.trust import charter, enrol, task
from fedhelp_edge.trust.enrol import Invite
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.roster import Roster, Site
from fedhelp_edge.trust.state import TrustedState
from fedhelp_edge.trust.task import SenderHistory
from tests.attacks.federation import DAY, LAST, START, Federation, SignedParcel, signed, string, write_parcel

ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group in which Ed25519 signs
PRIME = 2**255 - 19
EIGHTH = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7  # y of a point of order 8


@pytest.fixture(scope="module")
def fed() -> Federation:
    return Federation()


@pytest.fixture(scope="module")
def round_task(fed: Federation) -> SignedParcel:
    return fed.task(fed.roster())


@pytest.fixture(scope="module")
def stranger() -> keys.Keys:
    return keys.generate()


def judge(fed: Federation, update: SignedParcel, round_task: SignedParcel, *sites: Site) -> Site:
    """Judges an update as the hub does by its newest roster, in which `sites` replaces some."""
    site_roster = fed.read_roster(fed.roster(2, sites=sites))
    return task.judge_update(
        update.statement, update.signers, site_roster, {1: fed.read_task(round_task, site_roster)}, SenderHistory()
    )


def test_the_honest_update_is_accepted(fed: Federation, round_task: SignedParcel) -> None:
    assert judge(fed, fed.update("site-001", round_task), round_task).id == "site-001"


def test_b01_an_update_signed_by_nobodys_key_is_refused(
    fed: Federation, round_task: SignedParcel, stranger: keys.Keys
) -> None:
    update = fed.update("site-001", round_task, stranger.sign, sender_key=sshsig.fingerprint(stranger.public.sign))
    with pytest.raises(SignerUnknownError, match="nobody's key"):
        judge(fed, update, round_task)


def test_b01_an_update_of_an_unknown_sender_is_refused(
    fed: Federation, round_task: SignedParcel, stranger: keys.Keys
) -> None:
    with pytest.raises(SignerUnknownError, match="neither the sender nor the key"):
        judge(fed, fed.update("site-001", round_task, stranger.sign, sender="site-009"), round_task)


def test_b02_a_statement_that_names_another_key_than_its_signers_is_refused(
    fed: Federation, round_task: SignedParcel, stranger: keys.Keys
) -> None:
    update = fed.update("site-001", round_task, sender_key=sshsig.fingerprint(stranger.public.sign))
    with pytest.raises(SignerMismatchError, match="another key"):
        judge(fed, update, round_task)


@pytest.mark.parametrize("sender", ["site-002", "site-009"])
def test_b02_a_valid_key_under_another_senders_name_is_refused(
    fed: Federation, round_task: SignedParcel, sender: str
) -> None:
    with pytest.raises(SignerMismatchError, match="site-001"):
        judge(fed, fed.update("site-001", round_task, sender=sender), round_task)


def test_b03_an_update_of_a_revoked_sender_is_refused(fed: Federation, round_task: SignedParcel) -> None:
    with pytest.raises(SignerRevokedError):
        judge(
            fed, fed.update("site-001", round_task), round_task, fed.site("site-001", status="revoked", since_round=1)
        )


def test_b03_a_sender_revoked_while_its_update_is_in_transit_is_refused_when_judged_again(
    fed: Federation, round_task: SignedParcel
) -> None:
    update = fed.update("site-001", round_task)
    judge(fed, update, round_task)
    with pytest.raises(SignerRevokedError):
        judge(fed, update, round_task, fed.site("site-001", status="revoked"))


@pytest.mark.parametrize("changes", [{"status": "suspended"}, {"status": "left"}, {"from_round": 2}], ids=str)
def test_b04_a_sender_that_does_not_take_part_in_the_round_is_refused(
    fed: Federation, round_task: SignedParcel, changes: dict[str, str | int]
) -> None:
    with pytest.raises(SignerWindowError):
        judge(fed, fed.update("site-001", round_task), round_task, fed.site("site-001", **changes))


@pytest.mark.parametrize("namespace", ["global.v1.fedhelp-edge", "update.v2.fedhelp-edge", "git", "file"])
def test_b05_a_signature_made_for_another_purpose_is_refused(
    fed: Federation, round_task: SignedParcel, tmp_path: Path, namespace: str
) -> None:
    statement = fed.update("site-001", round_task).statement
    armor = sshsig.sign(statement.line, fed.site_keys["site-001"].sign, namespace)
    with pytest.raises(SigNamespaceError):
        parcel.inspect(write_parcel(tmp_path / "a.fhx", statement, [armor], b"sealed"), parcel.any_signer)


def armor(namespace: str, key: bytes, signature: bytes, hash_name: bytes = b"sha512") -> str:
    """An SSHSIG with any kind of key, for signatures that this kit never writes."""
    fields = (key, namespace.encode(), b"", hash_name, signature)
    text = base64.b64encode(b"SSHSIG\0\0\0\x01" + b"".join(map(string, fields))).decode()
    lines = "".join(text[start : start + 70] + "\n" for start in range(0, len(text), 70))
    return sshsig.BEGIN + lines + sshsig.END


def to_sign(message: bytes, namespace: str, hash_name: str = "sha512") -> bytes:
    digest = hashlib.new(hash_name, message).digest()
    return b"SSHSIG" + b"".join(map(string, (namespace.encode(), b"", hash_name.encode(), digest)))


def key_blob(public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return base64.b64decode(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])


def ed25519(raw: bytes, kind: bytes = b"ssh-ed25519") -> bytes:
    return string(kind) + string(raw)


def test_the_handmade_armor_equals_the_real_one() -> None:
    key = Ed25519PrivateKey.generate()
    ours = armor("file", ed25519(key.public_key().public_bytes_raw()), ed25519(key.sign(to_sign(b"x", "file"))))
    assert ours == sshsig.sign(b"x", key, "file")


def test_b06_a_valid_rsa_signature_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    signature = key.sign(to_sign(b"x", "file"), padding.PKCS1v15(), hashes.SHA512())
    with pytest.raises(SigAlgError):
        sshsig.parse(armor("file", key_blob(key.public_key()), string(b"rsa-sha2-512") + string(signature)))


def test_b06_a_valid_ecdsa_signature_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signature = key.sign(to_sign(b"x", "file"), ec.ECDSA(hashes.SHA256()))
    with pytest.raises(SigAlgError):
        sshsig.parse(armor("file", key_blob(key.public_key()), string(b"ecdsa-sha2-nistp256") + string(signature)))


def test_b06_a_key_on_a_security_stick_is_refused(stranger: keys.Keys) -> None:
    kind = b"sk-ssh-ed25519@openssh.com"
    key = ed25519(stranger.sign.public_key().public_bytes_raw(), kind) + string(b"ssh:")
    with pytest.raises(SigAlgError):
        sshsig.parse(armor("file", key, ed25519(bytes(64), kind) + b"\x01\0\0\0\x07"))


def test_b06_a_valid_signature_over_another_hash_is_refused(stranger: keys.Keys) -> None:
    key = ed25519(stranger.sign.public_key().public_bytes_raw())
    signature = ed25519(stranger.sign.sign(to_sign(b"x", "file", "sha256")))
    with pytest.raises(SigAlgError):
        sshsig.parse(armor("file", key, signature, b"sha256"))


def test_b07_a_second_encoding_of_a_valid_signature_is_refused(stranger: keys.Keys) -> None:
    good = stranger.sign.sign(to_sign(b"x", "file"))
    scalar = int.from_bytes(good[32:], "little") + ORDER
    again = good[:32] + scalar.to_bytes(32, "little")
    key = ed25519(stranger.sign.public_key().public_bytes_raw())
    with pytest.raises(SigBadError):
        sshsig.parse(armor("file", key, ed25519(again))).verify(b"x")


def test_b07_the_signature_that_needs_no_private_key_is_refused() -> None:
    identity, forged = (1).to_bytes(32, "little"), (1).to_bytes(32, "little") + bytes(32)
    with pytest.raises(SigBadError):
        sshsig.parse(armor("file", ed25519(identity), ed25519(forged))).verify(b"x")


@pytest.mark.parametrize("y", [0, 1, PRIME - 1, EIGHTH, PRIME - EIGHTH, PRIME, PRIME + 1], ids=hex)
@pytest.mark.parametrize("sign", [0, 1])
def test_b07_a_charter_with_a_key_under_which_anybody_can_sign_is_refused(fed: Federation, y: int, sign: int) -> None:
    weak = sshsig.public_line((y | sign << 255).to_bytes(32, "little"))
    statement, signers, payload = fed.charter()
    with pytest.raises(SigBadError):
        charter.read_first(statement, signers, {**payload, "coordinator": weak})


def test_b08_a_signature_with_a_key_other_than_the_senders_is_refused(
    fed: Federation, round_task: SignedParcel
) -> None:
    with pytest.raises(SignerMismatchError, match="site-002"):
        judge(fed, fed.update("site-001", round_task, fed.site_keys["site-002"].sign), round_task)


def test_b08_a_statement_that_names_another_key_than_its_signers_is_refused(
    fed: Federation, round_task: SignedParcel, stranger: keys.Keys
) -> None:
    with pytest.raises(SignerMismatchError):
        judge(fed, fed.update("site-001", round_task, sender_key=sshsig.fingerprint(stranger.public.sign)), round_task)


def test_b08_a_second_signature_beside_the_senders_is_refused(fed: Federation, round_task: SignedParcel) -> None:
    both = [fed.site_keys[name].sign for name in ("site-001", "site-002")]
    with pytest.raises(SignerMismatchError):
        judge(fed, fed.update("site-001", round_task, *both), round_task)


def test_b09_an_older_roster_is_a_rollback(fed: Federation) -> None:
    with pytest.raises(RollbackError):
        fed.trusted(fed.roster(2)).with_roster(*fed.roster(1))


def test_b10_another_roster_of_the_same_version_is_an_equivocation(fed: Federation) -> None:
    other = fed.roster(2, sites=fed.site("site-001", status="revoked"))
    with pytest.raises(EquivocationError):
        fed.trusted(fed.roster(2)).with_roster(*other)


def test_b10_the_same_roster_again_changes_nothing(fed: Federation) -> None:
    trusted = fed.trusted(fed.roster(2))
    assert trusted.with_roster(*fed.roster(2)) == trusted


def test_b11_an_expired_roster_is_overdue_and_still_valid_in_its_grace_period(fed: Federation) -> None:
    trusted, clock = fed.trusted(fed.roster(expires=START + 10 * DAY)), START + 12 * DAY
    trusted.check_fresh(clock, grace=2 * DAY)
    assert trusted.overdue(clock) == 2 * DAY


def test_b11_a_roster_beyond_its_grace_period_is_expired(fed: Federation) -> None:
    with pytest.raises(ExpiredError, match="2 days"):
        fed.trusted(fed.roster(expires=START + 10 * DAY)).check_fresh(START + 12 * DAY, grace=DAY)


def test_b11_without_a_roster_no_task_is_valid(fed: Federation) -> None:
    with pytest.raises(ExpiredError):
        fed.trusted().check_fresh(START, grace=DAY)


def test_b12_a_charter_that_skips_a_version_is_refused(fed: Federation) -> None:
    second = charter.read_next(fed.pinned, *fed.charter(fed.pinned))
    with pytest.raises(RootChainError):
        fed.trusted().with_charter(*fed.charter(second))


def test_b12_a_charter_that_does_not_name_the_previous_one_is_refused(fed: Federation) -> None:
    with pytest.raises(RootChainError):
        fed.trusted().with_charter(*fed.charter(fed.pinned, previous="e" * 64))


def test_b12_a_charter_that_lowers_the_epoch_is_refused(fed: Federation) -> None:
    with pytest.raises(RootChainError):
        fed.trusted().with_charter(*fed.charter(fed.pinned, epoch=0))


@pytest.mark.parametrize("again", [1, 2], ids=["too few", "one key twice"])
def test_b12_a_charter_signed_by_too_few_different_roots_is_refused(again: int) -> None:
    strict = Federation(threshold=2)
    with pytest.raises(ThresholdError, match="1 of 2"):
        strict.trusted().with_charter(*strict.charter(strict.pinned, signers=[strict.roots[0]] * again))


def test_b12_new_roots_without_the_old_ones_are_refused(fed: Federation, stranger: keys.Keys) -> None:
    with pytest.raises(ThresholdError):
        fed.trusted().with_charter(*fed.charter(fed.pinned, roots=[stranger.sign], signers=[stranger.sign]))


def test_b12_new_roots_that_did_not_sign_themselves_are_refused(fed: Federation, stranger: keys.Keys) -> None:
    with pytest.raises(ThresholdError):
        fed.trusted().with_charter(*fed.charter(fed.pinned, roots=[stranger.sign], signers=fed.roots))


def recovered(fed: Federation, trusted: TrustedState, coordinator: Ed25519PrivateKey) -> TrustedState:
    """The state after the root keys named a new coordinator in a new epoch, which then published."""
    trusted = trusted.with_charter(*fed.charter(fed.pinned, epoch=2, coordinator=coordinator))
    signed_roster = fed.roster(1, under=trusted.charter, signer=coordinator)
    trusted = trusted.with_roster(*signed_roster)
    return trusted.with_task(*fed.task(signed_roster, 1, signer=coordinator)).with_model(fed.model(1, epoch=2))


def test_b13_tasks_with_the_highest_number_are_undone_by_a_new_charter(fed: Federation) -> None:
    stolen = fed.roster(LAST)
    trusted = fed.trusted(stolen, fed.task(stolen, LAST, log=Log(LAST, "f" * 64))).with_model(fed.model(LAST))
    restored = recovered(fed, trusted, Ed25519PrivateKey.generate())
    assert (restored.charter.rank, restored.roster and restored.roster.rank, restored.round) == ((2, 2), (2, 1), 1)


def test_b13_tasks_dated_in_the_far_future_are_undone_by_a_new_charter(fed: Federation) -> None:
    late = START + 365_000 * DAY
    stolen = fed.roster(LAST, created=late, expires=late)
    again = recovered(fed, fed.trusted(stolen, fed.task(stolen, created=late)), Ed25519PrivateKey.generate())
    again.check_fresh(START, grace=DAY)


def test_b13_a_stolen_coordinator_key_cannot_raise_the_epoch(fed: Federation) -> None:
    with pytest.raises(RootChainError):
        fed.trusted().with_roster(*fed.roster(epoch=LAST))


def test_b13_a_stolen_coordinator_key_cannot_send_a_model_from_a_later_epoch(fed: Federation) -> None:
    with pytest.raises(RootChainError):
        fed.trusted().with_model(fed.model(1, epoch=LAST))


def test_b13_parcels_signed_by_the_thief_are_void_after_the_recovery(fed: Federation) -> None:
    again = recovered(fed, fed.trusted(), Ed25519PrivateKey.generate())
    with pytest.raises(SignerUnknownError):
        again.with_roster(*fed.roster(LAST, under=again.charter))


def test_b13_earlier_tasks_are_void_even_if_the_coordinators_key_stays(fed: Federation) -> None:
    before = fed.roster(7)
    again = recovered(fed, fed.trusted(before), fed.coordinator)
    with pytest.raises(RollbackError):
        again.with_task(*fed.task(before, 9))


@pytest.mark.parametrize("changes", [{"roster": "e" * 64}, {"roster_version": 2}], ids=str)
def test_b14_a_task_that_names_another_roster_is_refused(fed: Federation, changes: dict[str, str | int]) -> None:
    rests_on = fed.roster()
    with pytest.raises(TaskRosterError):
        fed.trusted(rests_on).with_task(*fed.task(rests_on, **changes))


def test_b14_a_task_before_any_roster_is_refused(fed: Federation, round_task: SignedParcel) -> None:
    with pytest.raises(TaskRosterError):
        fed.trusted().with_task(*round_task)


def test_b14_a_roster_under_another_charter_is_refused(fed: Federation) -> None:
    with pytest.raises(RootChainError):
        fed.trusted().with_roster(*fed.roster(charter="e" * 64))


def test_b15_a_clinic_may_not_sign_rosters_tasks_or_coordinator_receipts(fed: Federation) -> None:
    rests_on, clinic = fed.roster(), fed.site_keys["site-001"].sign
    for news in (fed.roster(2, signer=clinic), fed.task(rests_on, signer=clinic), fed.receipt("coordinator", clinic)):
        with pytest.raises(SignerRoleError):
            fed.trusted(rests_on).check_signers(news.statement, news.signers)


def test_b15_a_clinic_may_not_sign_a_model_or_a_charter(fed: Federation) -> None:
    clinic = fed.site_keys["site-001"].public.sign
    for statement in (fed.model(1), fed.charter(fed.pinned).statement):
        with pytest.raises(SignerRoleError):
            fed.trusted(fed.roster()).check_signers(statement, (clinic,))


def test_b15_the_front_may_sign_its_own_receipts_and_nothing_else(fed: Federation) -> None:
    rests_on = fed.roster()
    trusted = fed.trusted(rests_on)
    trusted.check_signers(*fed.receipt("front", fed.front)[:2])
    for news in (fed.receipt("coordinator", fed.front), fed.task(rests_on, signer=fed.front)):
        with pytest.raises(SignerRoleError):
            trusted.check_signers(news.statement, news.signers)


def test_b15_nobody_signs_receipts_in_the_fronts_name(fed: Federation) -> None:
    news = fed.receipt("front", fed.site_keys["site-001"].sign)
    with pytest.raises(SignerRoleError):
        fed.trusted(fed.roster()).check_signers(news.statement, news.signers)


def test_b15_the_coordinator_may_not_sign_a_charter_nor_a_root_a_task(fed: Federation) -> None:
    rests_on = fed.roster()
    for news in (fed.charter(fed.pinned, signers=[fed.coordinator]), fed.task(rests_on, signer=fed.roots[0])):
        with pytest.raises(SignerRoleError):
            fed.trusted(rests_on).check_signers(news.statement, news.signers)


def test_b15_the_coordinators_signature_with_another_beside_it_is_refused(
    fed: Federation, round_task: SignedParcel
) -> None:
    with pytest.raises(SignerRoleError):
        fed.trusted(fed.roster()).check_signers(
            round_task.statement, (*round_task.signers, fed.site_keys["site-001"].public.sign)
        )


def test_b16_new_keys_signed_by_the_old_and_the_new_key_are_accepted(fed: Federation, stranger: keys.Keys) -> None:
    news = fed.rotate("site-001", stranger.public, fed.site_keys["site-001"].sign, stranger.sign)
    site, public = enrol.judge_rotation(*news, fed.read_roster(fed.roster()), SenderHistory())
    assert (site.id, public) == ("site-001", stranger.public)


@pytest.mark.parametrize("signers", ["new", "old", "new old", "other new", "old new new"])
def test_b16_new_keys_with_any_other_signatures_are_refused(fed: Federation, stranger: keys.Keys, signers: str) -> None:
    hands = {"old": fed.site_keys["site-001"].sign, "new": stranger.sign, "other": fed.site_keys["site-002"].sign}
    news = fed.rotate("site-001", stranger.public, *(hands[name] for name in signers.split()))
    with pytest.raises(RotateProofError):
        enrol.judge_rotation(*news, fed.read_roster(fed.roster()), SenderHistory())


def test_b16_an_unknown_site_cannot_rotate_keys(fed: Federation, stranger: keys.Keys) -> None:
    news = fed.rotate("site-009", stranger.public, fed.site_keys["site-001"].sign, stranger.sign)
    with pytest.raises(RotateProofError):
        enrol.judge_rotation(*news, fed.read_roster(fed.roster()), SenderHistory())


def test_b16_a_thief_cannot_rotate_the_keys_of_a_revoked_site(fed: Federation, stranger: keys.Keys) -> None:
    news = fed.rotate("site-001", stranger.public, fed.site_keys["site-001"].sign, stranger.sign)
    with pytest.raises(SignerRevokedError):
        enrol.judge_rotation(
            *news, fed.read_roster(fed.roster(sites=fed.site("site-001", status="revoked"))), SenderHistory()
        )


def judge_request(
    fed: Federation, request: SignedParcel, *invites: Invite, current_roster: Roster | None = None
) -> Invite:
    return enrol.judge_request(
        *request,
        federation=fed.id,
        invites={invite.id: invite for invite in invites},
        current_roster=current_roster or fed.read_roster(fed.roster()),
        now=START + DAY,
    )


@pytest.fixture(scope="module")
def code() -> str:
    return enrol.new_code()


@pytest.fixture(scope="module")
def invite(code: str) -> Invite:
    return enrol.derive_invite(code, "small", START + 14 * DAY)


def test_b17_a_request_with_an_open_invite_is_accepted(
    fed: Federation, stranger: keys.Keys, code: str, invite: Invite
) -> None:
    assert judge_request(fed, fed.enrol(code, stranger), invite) == invite


def test_b17_a_used_invite_is_refused(fed: Federation, stranger: keys.Keys, code: str, invite: Invite) -> None:
    with pytest.raises(InviteUsedError):
        judge_request(fed, fed.enrol(code, stranger), replace(invite, used=True))


def test_b17_an_expired_invite_is_refused(fed: Federation, stranger: keys.Keys, code: str, invite: Invite) -> None:
    with pytest.raises(InviteExpiredError):
        judge_request(fed, fed.enrol(code, stranger), replace(invite, expires=START))


def test_b17_a_code_that_nobody_issued_is_refused(fed: Federation, stranger: keys.Keys, invite: Invite) -> None:
    with pytest.raises(InviteUnknownError):
        judge_request(fed, fed.enrol(enrol.new_code(), stranger), invite)


def test_b17_a_request_that_only_names_an_invite_is_refused(
    fed: Federation, stranger: keys.Keys, invite: Invite
) -> None:
    statement, _, payload = fed.enrol(enrol.new_code(), stranger)
    guessed = signed(dict(statement.context), {**payload, "invite": invite.id}, stranger.sign)
    with pytest.raises(InviteProofError):
        judge_request(fed, guessed, invite)


def test_b17_a_proof_copied_from_another_request_is_refused(
    fed: Federation, stranger: keys.Keys, code: str, invite: Invite
) -> None:
    theirs, thief = fed.enrol(code, stranger), keys.generate()
    mine = {"sign": thief.public.sign, "recipient": thief.public.recipient}
    with pytest.raises(InviteProofError):
        judge_request(fed, signed(dict(theirs.statement.context), {**theirs.payload, **mine}, thief.sign), invite)


def test_b17_whoever_knows_no_code_learns_nothing_about_an_invite(
    fed: Federation, stranger: keys.Keys, invite: Invite
) -> None:
    statement, _, payload = fed.enrol(enrol.new_code(), stranger)
    guessed = signed(dict(statement.context), {**payload, "invite": invite.id}, stranger.sign)
    with pytest.raises(InviteProofError):
        judge_request(fed, guessed, replace(invite, used=True, expires=START))


def test_b17_every_single_wrong_letter_of_a_code_is_detected(code: str) -> None:
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    for index, letter in enumerate(code):
        if index < 4 or letter == "-":
            continue
        for other in set(alphabet) - {letter}:
            with pytest.raises(InviteCodeError):
                enrol.read_code(code[:index] + other + code[index + 1 :])


@pytest.mark.parametrize("name", ["\ud800", "\x1b[2J", "two\nlines", "\u202eekaf", "a" * 201], ids=ascii)
def test_b17_a_name_that_no_screen_can_show_safely_is_refused(
    fed: Federation, stranger: keys.Keys, code: str, invite: Invite, name: str
) -> None:
    statement, _, payload = fed.enrol(code, stranger)
    with pytest.raises(BadBodyError):
        judge_request(fed, signed(dict(statement.context), {**payload, "name": name}, stranger.sign), invite)


@pytest.mark.parametrize("status", ["active", "left", "revoked"])
def test_b18_a_signing_key_of_another_site_cannot_join_again(
    fed: Federation, stranger: keys.Keys, code: str, invite: Invite, status: str
) -> None:
    current_roster = fed.read_roster(fed.roster(sites=fed.site("site-001", status=status)))
    taken = keys.Keys(fed.site_keys["site-001"].sign, stranger.identity)
    with pytest.raises(KeyReusedError, match="site-001"):
        judge_request(fed, fed.enrol(code, taken), invite, current_roster=current_roster)


def test_b18_a_recipient_key_of_another_site_cannot_join(
    fed: Federation, stranger: keys.Keys, code: str, invite: Invite
) -> None:
    taken = keys.Keys(stranger.sign, fed.site_keys["site-002"].identity)
    with pytest.raises(KeyReusedError, match="site-002"):
        judge_request(fed, fed.enrol(code, taken), invite)


def test_b18_a_public_key_copied_from_another_site_cannot_be_proved(
    fed: Federation, stranger: keys.Keys, code: str, invite: Invite
) -> None:
    with pytest.raises(SignerMismatchError):
        judge_request(fed, fed.enrol(code, fed.site_keys["site-001"], stranger.sign), invite)


def test_b18_keys_cannot_be_rotated_to_those_of_another_site(fed: Federation) -> None:
    first, second = fed.site_keys["site-001"], fed.site_keys["site-002"]
    news = fed.rotate("site-001", second.public, first.sign, second.sign)
    with pytest.raises(KeyReusedError, match="site-002"):
        enrol.judge_rotation(*news, fed.read_roster(fed.roster()), SenderHistory())


def test_b19_the_charter_of_another_federation_is_refused_and_both_are_named(fed: Federation) -> None:
    other = Federation()
    with pytest.raises(PinnedKeyError) as stopped:
        charter.read_first(*other.charter(), fed.id)
    assert other.id in stopped.value.cause
    assert fed.id in stopped.value.cause


def test_b19_a_charter_altered_by_a_byte_is_another_federation(fed: Federation) -> None:
    statement, signers, payload = fed.charter(coordinator=fed.front)
    with pytest.raises(PinnedKeyError):
        charter.read_first(statement, signers, payload, fed.id)


def test_b19_a_later_charter_does_not_found_a_federation(fed: Federation) -> None:
    with pytest.raises(RootChainError):
        charter.read_first(*fed.charter(fed.pinned))


def test_b19_a_charter_that_begins_at_a_later_version_founds_nothing(fed: Federation) -> None:
    with pytest.raises(RootChainError):
        charter.read_first(*fed.charter(version=LAST))


def test_b19_a_site_invited_by_code_detects_a_charter_from_somebody_who_does_not_know_it(code: str) -> None:
    false = Federation()
    assert enrol.charter_proof(enrol.new_code(), false.id) != enrol.charter_proof(code, false.id)
