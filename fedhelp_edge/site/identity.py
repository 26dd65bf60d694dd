"""Who this site is: its keys, and its entry in the roster. No torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedhelp_edge.errors import (
    FedhelpError,
)
from fedhelp_edge.parcel import keys, sshsig
from fedhelp_edge.site import layout
from fedhelp_edge.trust.roster import Site
from fedhelp_edge.trust.state import TrustedState


def own_site(home: Path, trusted: TrustedState) -> Site | None:
    """Returns this site's entry in the roster, or None while its request waits."""
    return trusted.roster.owner(own_signing_key(home)) if trusted.roster else None


def adopt_new_keys(home: Path, trusted: TrustedState) -> None:
    """Replaces the site's keys by the requested ones once the roster names them. Called again, it finishes the work."""
    next_keys = home / layout.NEXT_KEYS
    if (next_keys / "keys.pub").exists():
        if trusted.roster and trusted.roster.owner(_canonical_line(keys.read_public_file(next_keys))):
            keys.replace(home, next_keys)
    elif next_keys.exists() and not keys.exist(next_keys):  # adopted except for this last step, or never made
        shutil.rmtree(next_keys)


def own_signing_key(home: Path) -> str:
    """Returns this site's public signing key as an OpenSSH line, or "" without keys."""
    try:
        return _canonical_line(keys.load_public(home))
    except FedhelpError:
        return ""


def _canonical_line(public_keys: keys.PublicKeys) -> str:
    return sshsig.public_line(sshsig.public_raw(public_keys.sign))
