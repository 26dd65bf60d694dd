"""Joining, and changing keys. A site makes its keys itself; an invite's code, proved but never shown, lets it in.

The code has 100 random bits in Crockford's base 32 and a check letter: `FH1-XXXXX-XXXXX-XXXXX-XXXXX-C`. Who sees a
request could try codes against its proof as fast as they like, hence so many bits. The hub keeps only what is derived
from the code.
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
from fedhelp_edge.parcel.keys import Public
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import roster
from fedhelp_edge.trust.roster import Roster, Site
from fedhelp_edge.trust.task import Seen

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ALIKE = str.maketrans("ILO", "110")
_REQUEST = {
    "invite": re.compile(r"[0-9a-f]{32}"), "name": safe_text.NAME, "sign": str, "recipient": str,
    "proof": re.compile(r"[0-9a-f]{64}"),
}  # fmt: skip
_ROTATION = {"sign": str, "recipient": str}


@dataclass(frozen=True)
class Invite:
    """What a code stands for. The hub keeps this, not the code."""

    id: str
    key: bytes
    tier: str
    expires: datetime
    used: bool = False


def new_code() -> str:
    return _spell("".join(secrets.choice(_ALPHABET) for _ in range(20)))


def read_code(typed: str) -> str:
    """A code as it was meant: spaces, hyphens, case and look-alike letters do not matter; a wrong letter is noticed."""
    letters = re.sub(r"[\s-]", "", typed.upper()).translate(_ALIKE)
    letters = letters[3:] if len(letters) == 24 and letters.startswith("FH1") else letters
    if len(letters) != 21 or set(letters) - set(_ALPHABET) or letters[20] != _check_letter(letters[:20]):
        raise InviteCodeError("the code has a wrong letter, one too many or one too few")
    return _spell(letters[:20])


def invite_of(code: str, tier: str, expires: datetime) -> Invite:
    return Invite(_derive(code, b"id")[:16].hex(), _derive(code, b"proof"), tier, expires)


def vouch(code: str, federation: str) -> str:
    """What shows a clinic that whoever hands it this federation's charter knows the code that it typed."""
    return hmac.digest(_derive(code, b"charter"), federation.encode(), hashlib.sha256).hex()


def request(code: str, name: str, keys: Public, context: Mapping[str, Any]) -> dict[str, Any]:
    """The body of an enrolment request whose context is `context`."""
    safe_text.check_name(name)
    invite = invite_of(code, "", datetime.max)
    return {
        "invite": invite.id, "name": name, "sign": keys.sign, "recipient": keys.recipient,
        "proof": _proof(invite.key, name, keys, context),
    }  # fmt: skip


def judge_request(
    said: Statement,
    keys: tuple[str, ...],
    holds: dict[str, Any],
    *,
    federation: str,
    invites: Mapping[str, Invite],
    known: Roster | None,
    now: datetime,
) -> Invite:
    """The live invite that a request proves."""
    _kind(said, "enrol", holds, _REQUEST)
    if said.context["federation"] != federation:
        raise FederationError(f"made for {said.context['federation']}")
    asked = _public(holds)
    if keys != (asked.sign,):
        raise SignerMismatchError("the request is not signed by the key that it brings")
    invite = invites.get(holds["invite"])
    if invite is None:
        raise InviteUnknownError("no such invite was given out")
    if not hmac.compare_digest(_proof(invite.key, holds["name"], asked, said.context), holds["proof"]):
        raise InviteProofError("the proof does not fit the invite")
    if invite.used:
        raise InviteUsedError("a request with this invite came before")
    if now > invite.expires:
        raise InviteExpiredError(f"the invite ended on {invite.expires:%Y-%m-%d}")
    _fresh(asked, known)
    return invite


def judge_rotation(
    said: Statement, keys: tuple[str, ...], holds: dict[str, Any], known: Roster, seen: Seen
) -> tuple[Site, Public]:
    """The site that changes its keys, and the new ones, both of which signed: old key first."""
    _kind(said, "rotate", holds, _ROTATION)
    asked = _public(holds)
    sender = known.site(said.context["sender"])
    if sender is None or keys != (sender.sign, asked.sign):
        raise RotateProofError("new keys must be signed by the old key, then by the new one")
    roster.of_site(said, keys[:1], known, sender.from_round)
    seen.check_new(said)
    _fresh(asked, known)
    return sender, asked


def _kind(said: Statement, kind: str, holds: dict[str, Any], shape: Any) -> None:
    if said.kind != kind:
        raise ParcelKindError(f"a {said.kind}, where {kind} is wanted")
    if complaint := canon.misfit(holds, shape, "the request"):
        raise BadBodyError(complaint)


def _public(holds: dict[str, Any]) -> Public:
    sshsig.public_raw(holds["sign"])
    age.check_recipient(holds["recipient"])
    return Public(holds["sign"], holds["recipient"])


def _fresh(asked: Public, known: Roster | None) -> None:
    """A key belongs to one site, for ever: a revoked one does not come back under another name."""
    if known and (site := known.owner(asked.sign) or known.owner(asked.recipient)):
        raise KeyReusedError(f"this is a key of {site.id}")


def _proof(key: bytes, name: str, keys: Public, context: Mapping[str, Any]) -> str:
    said = canon.encode(
        {"context": dict(context), "name": name.encode().hex(), "recipient": keys.recipient, "sign": keys.sign}
    )
    return hmac.digest(key, said, hashlib.sha256).hex()


def _derive(code: str, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, b"fedhelp-edge/v1 invite " + purpose).derive(code.encode())


def _spell(letters: str) -> str:
    parts = [letters[at : at + 5] for at in range(0, 20, 5)]
    return "-".join(["FH1", *parts, _check_letter(letters)])


def _check_letter(letters: str) -> str:
    """Weights 1, 3, 5, … are all odd: a single wrong letter always changes it, most swapped neighbours too."""
    return _ALPHABET[sum((2 * place + 1) * _ALPHABET.index(letter) for place, letter in enumerate(letters)) % 32]
