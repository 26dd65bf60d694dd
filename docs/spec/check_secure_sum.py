"""Computes the numbers of section 8 of secure-sum.md again, with nothing but Python: `python3 check_secure_sum.py`.

It shares no code with the kit. It prints what differs from the page, or "all numbers agree".
"""

import re
import sys
from pathlib import Path

WORD = 2**64
SITES, LARGEST_CHANGE = 1024, 20_000


def bits(largest_weight: int) -> int:
    """Section 3: binary places of a number."""
    return ((2**63 - 1) // (SITES * largest_weight * LARGEST_CHANGE)).bit_length() - 1


def vector(changes: list[float], weight: int, largest_weight: int, counts: list[int]) -> list[int]:
    """Section 3: the words of an update. Python rounds half to even."""
    return [round(change * weight * 2.0 ** bits(largest_weight)) % WORD for change in changes] + counts


def mask(seed: bytes, words: int) -> list[int]:
    """Section 4: ChaCha20 of RFC 8439 with block counter 0 and a nonce of zeros."""
    stream = b"".join(block(seed, counter) for counter in range(-(-words // 8)))
    return [int.from_bytes(stream[8 * index : 8 * index + 8], "little") for index in range(words)]


def block(key: bytes, counter: int) -> bytes:
    """64 bytes of the key stream."""
    start = [
        int.from_bytes(text[i : i + 4], "little") for text in (b"expand 32-byte k", key) for i in range(0, len(text), 4)
    ]
    start += [counter, 0, 0, 0]
    state = list(start)
    for _ in range(10):
        for a, b, c, d in ("048c", "159d", "26ae", "37bf", "05af", "16bc", "278d", "349e"):
            quarter_round(state, *(int(digit, 16) for digit in (a, b, c, d)))
    return b"".join(((x + y) % 2**32).to_bytes(4, "little") for x, y in zip(state, start, strict=True))


def quarter_round(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for to, add, turn, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[to] = (state[to] + state[add]) % 2**32
        mixed = state[turn] ^ state[to]
        state[turn] = (mixed << by | mixed >> 32 - by) % 2**32


def main() -> None:
    page = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("secure-sum.md"))
    section = page.read_text(encoding="utf-8").split("## 8.")[1]
    wrong = [f"bits for W = {weight}: {bits(weight)}" for weight, expected in
             ((1, 38), (1000, 28), (10**6, 18), (10**9, 8)) if bits(weight) != expected]  # fmt: skip
    words = vector([0.25, -2.5], 7, 10**6, [7, 3, 2])
    masks = mask(bytes(range(32)), len(words))
    rows = re.findall(r"^\| \d \| (\w{16}) \| (\w{16}) \| (\w{16}) \|$", section, re.M)
    ours = [tuple(f"{word:016x}" for word in (w, m, (w + m) % WORD)) for w, m in zip(words, masks, strict=True)]
    wrong += [f"a row of the table: {' '.join(row)}" for row in ours if row not in rows]
    if len(rows) != len(ours):
        wrong.append(f"{len(rows)} rows in the table")
    print("\n".join(wrong) or "all numbers agree")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
