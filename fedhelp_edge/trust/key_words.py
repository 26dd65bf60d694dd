"""Words that two people compare by phone instead of keys, and passphrases of the same words."""

from __future__ import annotations

import functools
import hashlib
import secrets
from importlib import resources

from fedhelp_edge.parcel import canon
from fedhelp_edge.parcel.keys import PublicKeys


@functools.cache
def word_list() -> tuple[str, ...]:
    """Returns 2048 short words of 11 bits each; no two begin with the same four letters."""
    return tuple(resources.files(__package__).joinpath("words.txt").read_text("ascii").split())


def of_keys(federation: str, public_keys: PublicKeys) -> list[str]:
    """Returns eight words (88 bits) for a site's two keys in one federation."""
    return _eight_words(
        canon.encode({"federation": federation, "recipient": public_keys.recipient, "sign": public_keys.sign})
    )


def of_text(text: str) -> list[str]:
    """Returns eight words (88 bits) for a public key or id."""
    return _eight_words(text.encode())


def new_passphrase() -> str:
    """Returns five random words: 55 bits, and scrypt makes each guess slow."""
    return "-".join(secrets.choice(word_list()) for _ in range(5))


def _eight_words(data: bytes) -> list[str]:
    bits = int.from_bytes(hashlib.sha256(data).digest()[:11], "big")
    return [word_list()[bits >> 11 * index & 2047] for index in reversed(range(8))]
