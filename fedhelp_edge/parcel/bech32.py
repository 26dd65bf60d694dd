"""Bech32 (BIP 173) without its limit of 90 characters: how age writes keys."""

from __future__ import annotations

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def encode(prefix: str, data: bytes) -> str:
    words = _regroup(list(data), 8, 5)
    check = _polymod(_expand(prefix) + words + [0] * 6) ^ 1
    words += [check >> 5 * (5 - place) & 31 for place in range(6)]
    return prefix + "1" + "".join(_ALPHABET[word] for word in words)


def decode(prefix: str, text: str) -> bytes | None:
    """The data of a lower-case string with this prefix, or None."""
    found, _, tail = text.rpartition("1")
    words = [_ALPHABET.find(letter) for letter in tail]
    if found != prefix or len(words) < 6 or min(words) < 0 or _polymod(_expand(prefix) + words) != 1:
        return None
    data = _regroup(words[:-6], 5, 8)[: (len(words) - 6) * 5 // 8]
    return bytes(data) if _regroup(data, 8, 5) == words[:-6] else None  # refuses padding that is not zero


def _expand(prefix: str) -> list[int]:
    return [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]


def _mixed(top: int) -> int:
    mixed = 0
    for place, value in enumerate(_GENERATOR):
        mixed ^= value if top >> place & 1 else 0
    return mixed


_MIXED = [_mixed(top) for top in range(32)]


def _polymod(words: list[int]) -> int:
    check = 1
    for word in words:
        check = (check & 0x1FFFFFF) << 5 ^ word ^ _MIXED[check >> 25]
    return check


def _regroup(words: list[int], width: int, into: int) -> list[int]:
    """The same bits in groups of another width, the last one filled up with zeros."""
    bits = 0
    for word in words:
        bits = bits << width | word
    fill = -len(words) * width % into
    most = (1 << into) - 1
    return [bits << fill >> at & most for at in range(len(words) * width + fill - into, -1, -into)]
