"""A parcel as large as a real update, damaged at random in the ways that carriers damage files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.parcel import keys, parcel


def damage(data: bytes, random_: random.Random) -> bytes:
    """One fault: a bit, a byte, a block, a cut, a repetition, a swap."""
    start, end = sorted((random_.randrange(len(data)), random_.randrange(len(data))))
    length = random_.choice([1, 2, 16, 512, 4096, 65552])
    match random_.randrange(6):
        case 0:
            return data[:start] + bytes([data[start] ^ 1 << random_.randrange(8)]) + data[start + 1 :]
        case 1:
            return data[:start]
        case 2:
            return data[:start] + data[start + length :]
        case 3:
            return data[:start] + data[start : start + length] + data[start:]
        case 4:
            return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]
    return (
        data[:start] + data[end : end + length] + data[start + length : end] + data[start : start + length] + data[end:]
    )


@pytest.mark.proof
def test_every_damage_is_detected(
    effort: Callable[[int, int], int], context: dict[str, Any], site: keys.Keys, hub: keys.Keys, tmp_path: Path
) -> None:
    random_ = random.Random(0)
    path, damaged = tmp_path / "update.fhx", tmp_path / "damaged.fhx"
    parcel.seal(path, context, random_.randbytes(1_092_040), site.sign, [hub.public.recipient])
    sealed = path.read_bytes()
    codes: dict[str, int] = {}
    for _ in range(effort(150, 20_000)):
        data = damage(sealed, random_)
        if data == sealed:
            continue
        damaged.write_bytes(data)
        with pytest.raises(FedhelpError) as caught, parcel.open(damaged, parcel.any_signer, [hub.identity]):
            pass
        codes[caught.value.code] = codes.get(caught.value.code, 0) + 1
    assert {"E_PAYLOAD_HASH", "E_TRUNCATED", "E_TRAILING"} <= codes.keys()
