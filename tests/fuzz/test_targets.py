"""Every fuzz target in short: real artefacts, and a few hundred alterations of each kind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import targets

SEEDS = {name: make() for name, make in targets.SEEDS.items()}


def test_every_target_has_seeds() -> None:
    assert targets.SEEDS.keys() == targets.TARGETS.keys()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_real_artefacts_are_accepted(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        targets.CHECKS[name](seed)


@pytest.mark.parametrize("name", targets.TARGETS)
@settings(max_examples=400)
@given(data=st.data())
def test_altered_artefacts_raise_no_unexpected_error(name: str, data: st.DataObject) -> None:
    artefact = data.draw(st.sampled_from(SEEDS[name]))
    for _ in range(data.draw(st.integers(1, 3))):
        offset = data.draw(st.integers(0, len(artefact)))
        cut = data.draw(st.integers(0, 4) | st.integers(0, len(artefact)))
        piece = data.draw(
            st.binary(max_size=8)
            | st.sampled_from([b"[" * 2000, b"\n", b"\r\n", b"\0", b"-1", b"1e999", b"\\ud800", b'"', b"\xff" * 8])
            | st.integers(0, len(artefact)).map(lambda start, whole=artefact: whole[start : start + 40])
        )
        artefact = artefact[:offset] + piece + artefact[offset + cut :]
    targets.TARGETS[name](artefact)


@pytest.mark.parametrize("name", targets.TARGETS)
@given(data=st.binary())
def test_any_bytes_raise_no_unexpected_error(name: str, data: bytes) -> None:
    targets.TARGETS[name](data)
