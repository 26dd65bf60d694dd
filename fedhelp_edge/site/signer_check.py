"""Says whether this site trusts the signer of a parcel or of a model."""

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
from fedhelp_edge.site import identity, verified
from fedhelp_edge.trust.roster import ACTIVE, REVOKED


def parcel_warning(home: Path, statement: Statement, signers: tuple[str, ...]) -> str:
    """Returns why this site does not trust the signers of an intact parcel, or ""."""
    if statement.kind != "charter" and identity.own_signing_key(home) in signers:
        return ""
    trusted = verified.state(home)
    if trusted is None:
        return "this computer has joined no federation, so it cannot say whose key signed"
    try:
        trusted.check_signers(statement, signers)
    except FedhelpError as error:
        return f"{error.code}: {error.cause}"
    return ""


def model_warning(home: Path, key: str, fingerprint: str | None) -> str:
    """Returns why nobody vouches for the signer of a model, or "". Raises where the home knows it as a stranger.

    A `fingerprint` that a person names decides alone. In a home with keys or a federation the signer must be this site
    or an active one. Otherwise only the signature itself is checked, and the returned text says so.
    """
    if fingerprint and sshsig.fingerprint(key) != fingerprint:
        raise SignerMismatchError(f"signed by {sshsig.fingerprint(key)}")
    own_key = identity.own_signing_key(home)
    if key == own_key:
        return ""
    trusted = verified.state(home)
    site = trusted.roster.owner(key) if trusted and trusted.roster else None
    if site and site.status == REVOKED:
        raise SignerRevokedError(f"the key of {site.id} was revoked")
    if fingerprint or (site and site.status == ACTIVE):
        return ""
    remedy = "export it again here, or name the key that you trust with --signer"
    if site:
        raise SignerWindowError(f"{site.id} does not take part any more", remedy=remedy)
    if own_key or trusted:
        raise SignerUnknownError(f"signed by {sshsig.fingerprint(key)}, which is nobody's key here", remedy=remedy)
    return "there is no home here that knows whose key signed"
