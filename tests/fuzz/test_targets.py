"""Every fuzz target in short: real artefacts, and a few hundred alterations of each kind."""

from __future__ import annotations

import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets

ODD = [b"[" * 2000, b"\n", b"\r\n", b"\0", b"-1", b"1e999", b"\\ud800", b'"', b"\xff" * 8]
SEEDS = {name: make() for name, make in targets.SEEDS.items()}


def test_every_target_has_seeds() -> None:
    assert targets.SEEDS.keys() == targets.TARGETS.keys()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_real_artefacts_are_accepted(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        targets.CHECKS[name](seed)


@pytest.mark.parametrize("name", targets.TARGETS)
@settings(max_examples=400, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(seed=st.integers(0, 2**64 - 1))
def test_altered_artefacts_raise_no_unexpected_error(name: str, seed: int) -> None:
    """One draw of hypothesis an example: twenty draws took nearly all of the time."""
    draw = random.Random(seed)
    artefact = draw.choice(SEEDS[name])
    for _ in range(draw.randint(1, 3)):
        offset, start = draw.randint(0, len(artefact)), draw.randint(0, len(artefact))
        cut = draw.choice([draw.randint(0, 4), draw.randint(0, len(artefact))])
        piece = draw.choice([draw.randbytes(draw.randint(0, 8)), draw.choice(ODD), artefact[start : start + 40]])
        artefact = artefact[:offset] + piece + artefact[offset + cut :]
    targets.TARGETS[name](artefact)


@pytest.mark.parametrize("name", targets.TARGETS)
@given(data=st.binary())
def test_any_bytes_raise_no_unexpected_error(name: str, data: bytes) -> None:
    targets.TARGETS[name](data)
