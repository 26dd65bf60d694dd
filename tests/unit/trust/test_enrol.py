from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_edge.errors import (
    BadBodyError,
    BadNameError,
    FedhelpError,
    InviteCodeError,
    InviteProofError,
    ParcelKindError,
    RecipientTypeError,
    ReplayError,
    SigAlgError,
    SignerMismatchError,
)
from fedhelp_edge.errors import FederationError as OtherFederation
from fedhelp_edge.parcel import keys
from fedhelp_edge.trust import enrol
from fedhelp_edge.trust.enrol import Invite
from fedhelp_edge.trust.task import SenderHistory
from tests.attacks.federation import DAY, START, Federation, SignedParcel, signed

CODE = "FH1-01234-56789-ABCDE-FGHJK-"
codes = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=20, max_size=20).map(enrol._format_code)


@pytest.fixture(scope="module")
def fed() -> Federation:
    return Federation()


@pytest.fixture(scope="module")
def newcomer() -> keys.Keys:
    return keys.generate()


def test_a_code_has_the_format_of_the_manual() -> None:
    assert re.fullmatch(r"FH1(-[0-9A-HJKMNP-TV-Z]{5}){4}-[0-9A-HJKMNP-TV-Z]", enrol.new_code())


def test_proofs_of_a_code_are_the_same_in_every_version() -> None:
    """Codes issued by an older version still work."""
    code = enrol.read_code(CODE + "A")
    invite = enrol.derive_invite(code, "small", START)
    assert invite.id == "33bb76517bc9eae1698531d95875da69"
    assert invite.key.hex() == "e43b7484ba5c9294ce1fe2df210272ed6750863f15d2e598a4f5dc3adac35640"
    assert enrol.charter_proof(code, "fh-0") == "01d3f92381e51eb7b60fddb022b73f971e885e32828a7f3d8aac97235d6ef99a"
    proof = enrol._proof(invite.key, "Clinic 4", keys.PublicKeys("sign", "recipient"), {"nonce": "0"})
    assert proof == "7fb1728ad029b5482b0eb08117330cfc6c2ea4136fc168701954b01144b9caaf"


def test_no_two_codes_are_alike() -> None:
    assert len({enrol.new_code() for _ in range(100)}) == 100


@given(codes)
def test_a_code_is_read_as_issued(code: str) -> None:
    assert enrol.read_code(code) == code


@given(codes, st.data())
def test_case_spaces_hyphens_and_look_alikes_do_not_matter(code: str, data: st.DataObject) -> None:
    alike = {"0": "0Oo", "1": "1IiLl"}
    typed = ""
    for sign in code.replace("-", ""):
        typed += data.draw(st.sampled_from(alike.get(sign, sign + sign.lower())))
        typed += data.draw(st.sampled_from(["", "", "-", " ", "\t", " - "]))
    assert enrol.read_code(typed) == code


@given(codes)
def test_a_code_is_read_without_its_prefix(code: str) -> None:
    assert enrol.read_code(code.removeprefix("FH1-")) == code


def test_a_code_whose_letters_start_like_the_prefix_is_read() -> None:
    code = enrol._format_code("FH1" + "7" * 17)
    assert enrol.read_code(code) == enrol.read_code(code.removeprefix("FH1-")) == code


@pytest.mark.parametrize(
    "typed",
    ["", "FH1", "FH2-", CODE, f"FH2{CODE[3:]}A", CODE * 2, "ÜÜÜÜÜ" * 5, "\ud800" * 21],
    ids=ascii,
)
def test_an_invalid_code_is_refused(typed: str) -> None:
    with pytest.raises(InviteCodeError):
        enrol.read_code(typed)


@given(codes, st.integers(0, 20), st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ"))
def test_a_missing_or_extra_letter_is_detected(code: str, index: int, letter: str) -> None:
    letters = code.replace("-", "")[3:]
    for typed in (letters[:index] + letters[index + 1 :], letters[:index] + letter + letters[index:]):
        with pytest.raises(InviteCodeError):
            enrol.read_code(typed)


@given(codes, codes)
def test_an_invite_does_not_show_its_code(first: str, second: str) -> None:
    invite = enrol.derive_invite(first, "small", START)
    assert (first == second) == (enrol.derive_invite(second, "small", START) == invite)
    assert first.encode() not in invite.key


def test_an_invite_is_valid_to_the_last_second(fed: Federation, newcomer: keys.Keys) -> None:
    code = enrol.new_code()
    invite = enrol.derive_invite(code, "large", START)
    assert judge(fed, fed.enrol(code, newcomer), invite) == invite


def judge(fed: Federation, request: SignedParcel, invite: Invite, now: timedelta = timedelta()) -> Invite:
    return enrol.judge_request(
        *request, federation=fed.id, invites={invite.id: invite}, current_roster=None, now=START + now
    )


def test_the_first_site_joins_before_there_is_a_roster(fed: Federation, newcomer: keys.Keys) -> None:
    code = enrol.new_code()
    assert judge(fed, fed.enrol(code, newcomer), enrol.derive_invite(code, "small", START + DAY)).tier == "small"


@pytest.mark.parametrize("name", ["Zdravotní středisko Šumperk", "क्लिनिक", "诊所", "N'Djaména — 3", ""])
def test_a_clinic_may_choose_its_name(fed: Federation, newcomer: keys.Keys, name: str) -> None:
    code = enrol.new_code()
    invite = enrol.derive_invite(code, "small", START + DAY)
    assert judge(fed, fed.enrol(code, newcomer, name=name), invite) == invite


@pytest.mark.parametrize("changes", [{"nonce": "0" * 32}, {"created": "2026-03-01T08:00:01Z"}], ids=str)
def test_a_proof_is_valid_for_one_request_only(fed: Federation, newcomer: keys.Keys, changes: dict[str, str]) -> None:
    code = enrol.new_code()
    statement, _, payload = fed.enrol(code, newcomer)
    with pytest.raises(InviteProofError):
        judge(
            fed,
            signed({**statement.context, **changes}, payload, newcomer.sign),
            enrol.derive_invite(code, "small", START + DAY),
        )


def test_a_request_cannot_change_its_name_afterwards(fed: Federation, newcomer: keys.Keys) -> None:
    code = enrol.new_code()
    statement, _, payload = fed.enrol(code, newcomer)
    other = signed(dict(statement.context), {**payload, "name": "Clinic 5"}, newcomer.sign)
    with pytest.raises(InviteProofError):
        judge(fed, other, enrol.derive_invite(code, "small", START + DAY))


def test_a_request_to_another_federation_is_refused(fed: Federation, newcomer: keys.Keys) -> None:
    code = enrol.new_code()
    with pytest.raises(OtherFederation):
        judge(fed, Federation().enrol(code, newcomer), enrol.derive_invite(code, "small", START + DAY))


def test_a_request_with_a_second_signature_is_refused(fed: Federation, newcomer: keys.Keys) -> None:
    code = enrol.new_code()
    with pytest.raises(SignerMismatchError):
        judge(
            fed,
            fed.enrol(code, newcomer, newcomer.sign, fed.front),
            enrol.derive_invite(code, "small", START + DAY),
        )


@pytest.mark.parametrize("changes", [{"invite": "a"}, {"proof": ""}, {"name": 1}, {"tier": "large"}], ids=str)
def test_a_request_of_another_form_is_refused(fed: Federation, newcomer: keys.Keys, changes: dict[str, Any]) -> None:
    statement, signers, payload = fed.enrol(enrol.new_code(), newcomer)
    with pytest.raises(BadBodyError):
        judge(
            fed,
            SignedParcel(statement, signers, {**payload, **changes}),
            enrol.derive_invite(enrol.new_code(), "small", START),
        )


def test_a_clinic_cannot_make_a_request_with_an_invalid_name(fed: Federation, newcomer: keys.Keys) -> None:
    with pytest.raises(BadNameError):
        fed.enrol(enrol.new_code(), newcomer, name="two\nlines")


@pytest.mark.parametrize(("key", "error"), [("sign", SigAlgError), ("recipient", RecipientTypeError)])
def test_an_invalid_key_cannot_join(fed: Federation, newcomer: keys.Keys, key: str, error: type[FedhelpError]) -> None:
    code, context = enrol.new_code(), dict(fed.enrol(enrol.new_code(), newcomer).statement.context)
    public = replace(newcomer.public, **{key: "none"})
    request = signed(context, enrol.request_body(code, "Clinic 4", public, context), newcomer.sign)
    with pytest.raises(error):
        judge(fed, request, enrol.derive_invite(code, "small", START + DAY))


def test_a_rotation_is_not_a_request_to_join(fed: Federation, newcomer: keys.Keys) -> None:
    with pytest.raises(ParcelKindError):
        judge(
            fed,
            fed.rotate("site-001", newcomer.public, newcomer.sign),
            enrol.derive_invite(enrol.new_code(), "small", START),
        )


def test_a_replayed_rotation_does_not_restore_old_keys(fed: Federation, newcomer: keys.Keys) -> None:
    first = fed.site_keys["site-001"]
    rotation = fed.rotate("site-001", newcomer.public, first.sign, newcomer.sign)
    changed = fed.site("site-001", sign=newcomer.public.sign, recipient=newcomer.public.recipient)
    with pytest.raises(enrol.RotateProofError):
        enrol.judge_rotation(*rotation, fed.read_roster(fed.roster(2, sites=changed)), SenderHistory())


def test_an_old_rotation_cannot_be_replayed_even_after_the_old_key_returns(
    fed: Federation, newcomer: keys.Keys
) -> None:
    rotation = fed.rotate("site-001", newcomer.public, fed.site_keys["site-001"].sign, newcomer.sign)
    with pytest.raises(ReplayError):
        enrol.judge_rotation(
            *rotation, fed.read_roster(fed.roster()), SenderHistory(seq=rotation.statement.context["seq"])
        )


def test_a_site_that_does_not_take_part_yet_may_rotate_its_keys(fed: Federation, newcomer: keys.Keys) -> None:
    rotation = fed.rotate("site-001", newcomer.public, fed.site_keys["site-001"].sign, newcomer.sign)
    roster = fed.read_roster(fed.roster(sites=fed.site("site-001", from_round=9)))
    assert enrol.judge_rotation(*rotation, roster, SenderHistory())[0].id == "site-001"


def test_a_charter_proof_needs_the_code(fed: Federation) -> None:
    code = enrol.new_code()
    assert enrol.charter_proof(code, fed.id) == enrol.charter_proof(enrol.read_code(code.lower()), fed.id)
    assert enrol.charter_proof(code, fed.id) != enrol.charter_proof(enrol.new_code(), fed.id)
