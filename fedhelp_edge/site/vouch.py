"""Judge a statement, or a key, by what this site has verified."""

from __future__ import annotations

from pathlib import Path

from fedhelp_edge.errors import (
    FedhelpError,
    SignerMismatchError,
    SignerRevokedError,
    SignerUnknownError,
    SignerWindowError,
)
from fedhelp_edge.parcel import sshsig
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.site import verified as site_verified
from fedhelp_edge.trust.roster import ACTIVE, REVOKED


def judge(home: Path, said: Statement, signers: tuple[str, ...]) -> str:
    """Why a whole parcel should not be trusted here, or "" if it may be."""
    if said.kind != "charter" and site_verified.own_keys_line(home) in signers:
        return ""
    known = site_verified.state(home)
    if known is None:
        return "this computer has joined no federation, so it cannot say whose key signed"
    try:
        known.trust(said, signers)
    except FedhelpError as fault:
        return f"{fault.code}: {fault.cause}"
    return ""


def vouch(home: Path, key: str, wanted: str | None) -> str:
    """Why the signer of a model is not vouched for here, or ""; refused where a home says that it is a stranger.

    `wanted` is the fingerprint that a person asks for. With keys or a federation in the home the signer must be this
    site or one that takes part; without, the signature alone counts, and the answer says so.
    """
    if wanted and sshsig.fingerprint(key) != wanted:
        raise SignerMismatchError(f"signed by {sshsig.fingerprint(key)}")
    own = site_verified.own_keys_line(home)
    if key == own:
        return ""
    known = site_verified.state(home)
    site = known.roster.owner(key) if known and known.roster else None
    if site and site.status == REVOKED:
        raise SignerRevokedError(f"the key of {site.id} was revoked")
    if wanted or (site and site.status == ACTIVE):
        return ""
    trust = "export it again here, or name the key that you trust with --signer"
    if site:
        raise SignerWindowError(f"{site.id} takes part no more", remedy=trust)
    if own or known:
        raise SignerUnknownError(f"signed by {sshsig.fingerprint(key)}, which is nobody's key here", remedy=trust)
    return "there is no home here that could say whose key signed"
