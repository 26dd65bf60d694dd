"""The test vectors of the age community: each file opens, or is refused by the right layer."""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO, cast

import pytest

from fedhelp_edge.errors import AgeError, ArmorError, HeaderError, MacError, NoMatchError, PayloadError
from fedhelp_edge.parcel import age
from tests.unit.parcel import vectors

pytestmark = vectors.needed

REFUSALS: dict[str, type[AgeError]] = {
    "no match": NoMatchError,
    "header failure": HeaderError,
    "HMAC failure": MacError,
    "payload failure": PayloadError,
    "armor failure": ArmorError,
}


class Pipe(io.RawIOBase):
    """A stream without seek that returns small pieces."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._rest.readinto(memoryview(buffer)[:1000])


@pytest.mark.parametrize("source", [io.BytesIO, Pipe])
@pytest.mark.parametrize("name", vectors.age_names())
def test_a_vector_opens_or_is_refused_by_the_right_layer(name: str, source: type[io.IOBase]) -> None:
    vector = vectors.age_vector(name)
    sink, fault = io.BytesIO(), None
    try:
        age.decrypt(cast(BinaryIO, source(vector.file)), sink, vector.identities, armor=vector.armored)
    except AgeError as error:
        fault = type(error)
    assert fault is REFUSALS.get(vector.expect)
    if fault:
        assert sink.getvalue() == b"", "something was released although the file is not whole"
    else:
        assert hashlib.sha256(sink.getvalue()).hexdigest() == vector.payload


def test_every_expected_outcome_of_a_vector_is_known() -> None:
    expected = {vectors.age_vector(name).expect for name in vectors.age_names()}
    assert expected == {"success", *REFUSALS}


def test_vectors_with_post_quantum_recipients_are_among_them() -> None:
    assert sum("hybrid" in name for name in vectors.age_names()) == 19
