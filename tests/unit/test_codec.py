from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fedhelp_edge.codec import CODECS, NamedArrays
from fedhelp_edge.errors import NumberRangeError
from fedhelp_edge.update import Schema, TensorSpec, schema_of

names = st.text("abc.", min_size=1, max_size=8)
shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)
kinds = st.sampled_from(["<f4", "<f2", "<f8", "u1", "i1", "<i4", "<i8"])
arrays_of_any_kind = st.dictionaries(
    names, st.tuples(kinds, shapes).map(lambda pair: np.ones(pair[1], pair[0])), max_size=5
)
usual = st.floats(-60000, 60000, width=32).filter(lambda number: number == 0 or abs(number) >= 2**-14)
both = pytest.mark.parametrize("name", sorted(CODECS))


def round_trip(name: str, arrays: NamedArrays) -> NamedArrays:
    codec = CODECS[name]
    wire, _ = codec.encode(arrays, {}, {})
    return codec.decode(wire, {})


@both
@given(arrays=arrays_of_any_kind)
def test_the_wire_schema_follows_from_the_schema_alone(name: str, arrays: NamedArrays) -> None:
    wire, _ = CODECS[name].encode(arrays, {}, {})
    assert CODECS[name].wire_schema(schema_of(arrays)) == schema_of(wire)


@given(arrays_of_any_kind)
def test_the_f32_codec_changes_nothing(arrays: NamedArrays) -> None:
    back = round_trip("f32", arrays)
    assert {name: (a.dtype, a.tobytes()) for name, a in back.items()} == {
        name: (a.dtype, a.tobytes()) for name, a in arrays.items()
    }


@given(npst.arrays(np.float32, st.integers(1, 40), elements=usual))
def test_the_f16_codec_rounds_by_at_most_half_a_unit_in_the_last_place(array: np.ndarray) -> None:
    back = round_trip("f16", {"a": array})["a"]
    assert back.dtype == np.float32
    assert (np.abs(back.astype(float) - array) <= np.abs(array.astype(float)) * 2**-11).all()


@given(npst.arrays(np.float16, st.integers(1, 40), elements=st.floats(width=16, allow_infinity=False)))
def test_the_f16_codec_keeps_half_precision_numbers_to_the_bit(array: np.ndarray) -> None:
    wide = array.astype(np.float32)
    assert np.array_equal(round_trip("f16", {"a": wide})["a"], wide, equal_nan=True)


def test_the_f16_codec_halves_the_bytes() -> None:
    schema = Schema((TensorSpec("a", "F32", (64, 16, 3, 3)), TensorSpec("b", "F32", (64,))))
    assert sum(t.size for t in CODECS["f16"].wire_schema(schema).tensors) * 2 == sum(t.size for t in schema.tensors)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, np.int64, np.float64])
def test_the_f16_codec_changes_only_float32(kind: type[np.generic]) -> None:
    array = np.array([1, 0, 100], kind)
    back = round_trip("f16", {"a": array})["a"]
    assert (back.dtype, back.tobytes()) == (array.dtype, array.tobytes())


@pytest.mark.parametrize("number", [65505, -1e5, np.inf])
def test_the_f16_codec_refuses_a_number_out_of_its_range(number: float) -> None:
    with pytest.raises(NumberRangeError, match="conv1"):
        CODECS["f16"].encode({"conv1": np.array([0, number], np.float32)}, {}, {})


def test_the_f16_codec_accepts_its_largest_number() -> None:
    assert round_trip("f16", {"a": np.array([65504], np.float32)})["a"] == 65504


@both
def test_encoding_does_not_change_the_sites_arrays(name: str) -> None:
    memory = {"a": np.ones(2, np.float32)}
    assert CODECS[name].encode({"a": np.zeros(2, np.float32)}, {}, memory)[1] is memory
