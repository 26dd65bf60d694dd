"""Bech32 (BIP 173) without its limit of 90 characters: how age writes keys."""

from __future__ import annotations

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def encode(prefix: str, data: bytes) -> str:
    """Encode data in lower case, with a checksum of six characters."""
    words = _convert_bits(list(data), 8, 5)
    checksum = _polymod(_expand_prefix(prefix) + words + [0] * 6) ^ 1
    words += [checksum >> 5 * (5 - index) & 31 for index in range(6)]
    return prefix + "1" + "".join(_ALPHABET[word] for word in words)


def decode(prefix: str, text: str) -> bytes | None:
    """Decode a lower-case string with this prefix; None if it is malformed."""
    text_prefix, _, encoded = text.rpartition("1")
    words = [_ALPHABET.find(letter) for letter in encoded]
    if text_prefix != prefix or len(words) < 6 or min(words) < 0 or _polymod(_expand_prefix(prefix) + words) != 1:
        return None
    data = _convert_bits(words[:-6], 5, 8)[: (len(words) - 6) * 5 // 8]
    return bytes(data) if _convert_bits(data, 8, 5) == words[:-6] else None  # refuses padding that is not zero


def _expand_prefix(prefix: str) -> list[int]:
    return [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]


def _generator_sum(top: int) -> int:
    total = 0
    for bit, value in enumerate(_GENERATOR):
        total ^= value if top >> bit & 1 else 0
    return total


_GENERATOR_SUMS = [_generator_sum(top) for top in range(32)]


def _polymod(words: list[int]) -> int:
    checksum = 1
    for word in words:
        checksum = (checksum & 0x1FFFFFF) << 5 ^ word ^ _GENERATOR_SUMS[checksum >> 25]
    return checksum


def _convert_bits(words: list[int], width: int, new_width: int) -> list[int]:
    """Regroup bits into words of another width; the last one is padded with zeros."""
    bits = 0
    for word in words:
        bits = bits << width | word
    padding = -len(words) * width % new_width
    mask = (1 << new_width) - 1
    return [
        bits << padding >> shift & mask for shift in range(len(words) * width + padding - new_width, -1, -new_width)
    ]
