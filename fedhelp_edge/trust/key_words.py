"""Keys as words that two people compare by phone, and passphrases made of the same words."""

from __future__ import annotations

import functools
import hashlib
import secrets
from importlib import resources

from fedhelp_edge.parcel import canon
from fedhelp_edge.parcel.keys import Public


@functools.cache
def words() -> tuple[str, ...]:
    """2048 short words, no two of which begin with the same four letters: 11 bits each."""
    return tuple(resources.files(__package__).joinpath("words.txt").read_text("ascii").split())


def of_keys(federation: str, keys: Public) -> list[str]:
    """Eight words (88 bits) for a site's two keys in one federation."""
    return _spell(canon.encode({"federation": federation, "recipient": keys.recipient, "sign": keys.sign}))


def of_text(text: str) -> list[str]:
    """Eight words for a key or an id that is public."""
    return _spell(text.encode())


def passphrase() -> str:
    """Five words (55 bits, each guess made dear by scrypt)."""
    return "-".join(secrets.choice(words()) for _ in range(5))


def _spell(data: bytes) -> list[str]:
    bits = int.from_bytes(hashlib.sha256(data).digest()[:11], "big")
    return [words()[bits >> 11 * place & 2047] for place in reversed(range(8))]
