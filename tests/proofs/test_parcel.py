"""A parcel as large as a real share, damaged at random in every way that carriers damage files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.parcel import keys, parcel


def damage(data: bytes, draw: random.Random) -> bytes:
    """One fault: a bit, a byte, a block, a cut, a repetition, a swap."""
    at, other = sorted((draw.randrange(len(data)), draw.randrange(len(data))))
    length = draw.choice([1, 2, 16, 512, 4096, 65552])
    match draw.randrange(6):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[at + length :]
        case 3:
            return data[:at] + data[at : at + length] + data[at:]
        case 4:
            return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]
    return data[:at] + data[other : other + length] + data[at + length : other] + data[at : at + length] + data[other:]


@pytest.mark.proof
def test_no_damage_gets_through(
    effort: Callable[[int, int], int], context: dict[str, Any], site: keys.Keys, hub: keys.Keys, tmp_path: Path
) -> None:
    draw = random.Random(0)
    path, damaged = tmp_path / "share.fhx", tmp_path / "damaged.fhx"
    parcel.seal(path, context, draw.randbytes(1_092_040), site.sign, [hub.public.recipient])
    whole = path.read_bytes()
    met: dict[str, int] = {}
    for _ in range(effort(150, 20_000)):
        data = damage(whole, draw)
        if data == whole:
            continue
        damaged.write_bytes(data)
        with pytest.raises(FedhelpError) as caught, parcel.open(damaged, parcel.any_signer, [hub.identity]):
            pass
        met[caught.value.code] = met.get(caught.value.code, 0) + 1
    assert {"E_PAYLOAD_HASH", "E_TRUNCATED", "E_TRAILING"} <= met.keys()
