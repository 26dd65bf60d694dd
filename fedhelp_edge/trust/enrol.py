"""Joining a federation, and rotating keys. A site makes its own keys; it proves that it knows an invite's code.

The code has 100 random bits in Crockford's base 32 and a check letter: `FH1-XXXXX-XXXXX-XXXXX-XXXXX-C`. Whoever sees a
request can guess codes against its proof offline, hence so many bits. The hub stores only keys derived from the code.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhelp_edge import safe_text
from fedhelp_edge.errors import (
    BadBodyError,
    FederationError,
    InviteCodeError,
    InviteExpiredError,
    InviteProofError,
    InviteUnknownError,
    InviteUsedError,
    KeyReusedError,
    ParcelKindError,
    RotateProofError,
    SignerMismatchError,
)
from fedhelp_edge.parcel import age, canon, sshsig
from fedhelp_edge.parcel.keys import PublicKeys
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import roster
from fedhelp_edge.trust.roster import Roster, Site
from fedhelp_edge.trust.task import SenderHistory

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LOOK_ALIKES = str.maketrans("ILO", "110")
_REQUEST_SHAPE = {
    "invite": re.compile(r"[0-9a-f]{32}"), "name": safe_text.NAME_PATTERN, "sign": str, "recipient": str,
    "proof": re.compile(r"[0-9a-f]{64}"),
}  # fmt: skip
_ROTATION_SHAPE = {"sign": str, "recipient": str}


@dataclass(frozen=True)
class Invite:
    """What the hub stores of an invite: keys derived from its code, never the code itself."""

    id: str
    key: bytes
    tier: str
    expires: datetime
    used: bool = False


def new_code() -> str:
    """Returns a new random code."""
    return _format_code("".join(secrets.choice(_ALPHABET) for _ in range(20)))


def read_code(typed: str) -> str:
    """Returns a typed code in its one spelling: spaces, hyphens, case and look-alike letters do not matter.

    The check letter notices every single wrong letter.
    """
    letters = re.sub(r"[\s-]", "", typed.upper()).translate(_LOOK_ALIKES)
    letters = letters[3:] if len(letters) == 24 and letters.startswith("FH1") else letters
    if len(letters) != 21 or set(letters) - set(_ALPHABET) or letters[20] != _check_letter(letters[:20]):
        raise InviteCodeError("the code has a wrong letter, a letter too many or one too few")
    return _format_code(letters[:20])


def derive_invite(code: str, tier: str, expires: datetime) -> Invite:
    """Returns what the hub stores of an invite with this code."""
    return Invite(_derive(code, b"id")[:16].hex(), _derive(code, b"proof"), tier, expires)


def charter_proof(code: str, federation: str) -> str:
    """Proves that whoever offers this federation's charter knows the invite's code: an HMAC of the federation's id.

    A site that joins by a typed code checks it before it pins the charter; an attacker cannot offer his own.
    """
    return hmac.digest(_derive(code, b"charter"), federation.encode(), hashlib.sha256).hex()


def request_body(code: str, name: str, public_keys: PublicKeys, context: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the body of a request to join; its proof covers the keys, the name and the `context`."""
    safe_text.check_name(name)
    invite = derive_invite(code, "", datetime.max)
    return {
        "invite": invite.id, "name": name, "sign": public_keys.sign, "recipient": public_keys.recipient,
        "proof": _proof(invite.key, name, public_keys, context),
    }  # fmt: skip


def judge_request(
    statement: Statement,
    signers: tuple[str, ...],
    payload: dict[str, Any],
    *,
    federation: str,
    invites: Mapping[str, Invite],
    current_roster: Roster | None,
    now: datetime,
) -> Invite:
    """Returns the live invite whose code the request proves.

    The request is signed by the key that it brings, so nobody can enrol the key of another.
    """
    _check_shape(statement, "enrol", payload, _REQUEST_SHAPE)
    if statement.context["federation"] != federation:
        raise FederationError(f"made for {statement.context['federation']}")
    new_keys = _read_public_keys(payload)
    if signers != (new_keys.sign,):
        raise SignerMismatchError("the request is not signed by the key that it brings")
    invite = invites.get(payload["invite"])
    if invite is None:
        raise InviteUnknownError("the hub knows no such invite")
    if not hmac.compare_digest(_proof(invite.key, payload["name"], new_keys, statement.context), payload["proof"]):
        raise InviteProofError("the proof does not fit the invite")
    if invite.used:
        raise InviteUsedError("this invite was used before")
    if now > invite.expires:
        raise InviteExpiredError(f"the invite expired on {invite.expires:%Y-%m-%d}")
    _check_keys_unused(new_keys, current_roster)
    return invite


def judge_rotation(
    statement: Statement,
    signers: tuple[str, ...],
    payload: dict[str, Any],
    current_roster: Roster,
    history: SenderHistory,
) -> tuple[Site, PublicKeys]:
    """Returns the site that rotates its keys, and the new keys. Both must sign, the old key first.

    A thief of the old key cannot take over keys of another site, and nobody can register a key that he does not hold.
    """
    _check_shape(statement, "rotate", payload, _ROTATION_SHAPE)
    new_keys = _read_public_keys(payload)
    sender = current_roster.site(statement.context["sender"])
    if sender is None or signers != (sender.sign, new_keys.sign):
        raise RotateProofError("new keys must be signed by the old key, then by the new one")
    roster.check_sender(statement, signers[:1], current_roster, sender.from_round)
    history.check_not_replayed(statement)
    _check_keys_unused(new_keys, current_roster)
    return sender, new_keys


def _check_shape(statement: Statement, kind: str, payload: dict[str, Any], shape: Any) -> None:
    if statement.kind != kind:
        raise ParcelKindError(f"a {statement.kind}, where {kind} is expected")
    if complaint := canon.shape_error(payload, shape, "the request"):
        raise BadBodyError(complaint)


def _read_public_keys(payload: dict[str, Any]) -> PublicKeys:
    sshsig.public_raw(payload["sign"])
    age.check_recipient(payload["recipient"])
    return PublicKeys(payload["sign"], payload["recipient"])


def _check_keys_unused(new_keys: PublicKeys, current_roster: Roster | None) -> None:
    """Raises where a key belongs to a site already, even a revoked one: it cannot come back under another name."""
    if current_roster and (site := current_roster.owner(new_keys.sign) or current_roster.owner(new_keys.recipient)):
        raise KeyReusedError(f"this is a key of {site.id}")


def _proof(key: bytes, name: str, public_keys: PublicKeys, context: Mapping[str, Any]) -> str:
    fields = {"name": name.encode().hex(), "recipient": public_keys.recipient, "sign": public_keys.sign}
    message = canon.encode({"context": dict(context), **fields})
    return hmac.digest(key, message, hashlib.sha256).hex()


def _derive(code: str, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, b"fedhelp-edge/v1 invite " + purpose).derive(code.encode())


def _format_code(letters: str) -> str:
    groups = [letters[start : start + 5] for start in range(0, 20, 5)]
    return "-".join(["FH1", *groups, _check_letter(letters)])


def _check_letter(letters: str) -> str:
    """Weights 1, 3, 5, … are odd, so every single wrong letter changes it, and so do most swapped neighbours."""
    return _ALPHABET[sum((2 * index + 1) * _ALPHABET.index(letter) for index, letter in enumerate(letters)) % 32]
