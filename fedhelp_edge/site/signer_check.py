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
from fedhelp_edge.site import identity
from fedhelp_edge.site import verified as site_verified
from fedhelp_edge.trust.roster import ACTIVE, REVOKED


def parcel_warning(home: Path, statement: Statement, signers: tuple[str, ...]) -> str:
    """Why a whole parcel should not be trusted here, or "" if it may be."""
    if statement.kind != "charter" and identity.own_signing_key(home) in signers:
        return ""
    trusted = site_verified.state(home)
    if trusted is None:
        return "this computer has joined no federation, so it cannot say whose key signed"
    try:
        trusted.check_signers(statement, signers)
    except FedhelpError as error:
        return f"{error.code}: {error.cause}"
    return ""


def model_warning(home: Path, key: str, fingerprint: str | None) -> str:
    """Why the signer of a model is not vouched for here, or ""; refused where a home says that it is a stranger.

    `wanted` is the fingerprint that a person asks for. With keys or a federation in the home the signer must be this
    site or one that takes part; without, the signature alone counts, and the answer says so.
    """
    if fingerprint and sshsig.fingerprint(key) != fingerprint:
        raise SignerMismatchError(f"signed by {sshsig.fingerprint(key)}")
    own_key = identity.own_signing_key(home)
    if key == own_key:
        return ""
    trusted = site_verified.state(home)
    site = trusted.roster.owner(key) if trusted and trusted.roster else None
    if site and site.status == REVOKED:
        raise SignerRevokedError(f"the key of {site.id} was revoked")
    if fingerprint or (site and site.status == ACTIVE):
        return ""
    remedy = "export it again here, or name the key that you trust with --signer"
    if site:
        raise SignerWindowError(f"{site.id} takes part no more", remedy=remedy)
    if own_key or trusted:
        raise SignerUnknownError(f"signed by {sshsig.fingerprint(key)}, which is nobody's key here", remedy=remedy)
    return "there is no home here that could say whose key signed"
