from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from fedhelp_edge import plan as plans
from fedhelp_edge import update
from fedhelp_edge.codec import CODECS, Codec, NamedArrays
from fedhelp_edge.codec.lowrank import RELATIVE, LowRankCodec, rank_of_energy
from fedhelp_edge.errors import NumberRangeError, SchemaShapeError, TensorLayoutError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.plan import LowRankSettings
from fedhelp_edge.update import Array, Schema, TensorSpec, schema_of

names = st.text("abc.", min_size=1, max_size=8)
shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)
kinds = st.sampled_from(["<f4", "<f2", "<f8", "u1", "i1", "<i4", "<i8"])
arrays_of_any_kind = st.dictionaries(
    names, st.tuples(kinds, shapes).map(lambda pair: np.ones(pair[1], pair[0])), max_size=5
)
usual = st.floats(-60000, 60000, width=32).filter(lambda number: number == 0 or abs(number) >= 2**-14)
casts = pytest.mark.parametrize("name", ["f16", "f32"])


def round_trip(name: str, arrays: NamedArrays) -> NamedArrays:
    codec = CODECS[name]
    wire, _ = codec.encode(arrays, {}, {})
    return codec.decode(wire, {})


@casts
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


@casts
def test_encoding_does_not_change_the_sites_arrays(name: str) -> None:
    memory = {"a": np.ones(2, np.float32)}
    assert CODECS[name].encode({"a": np.zeros(2, np.float32)}, {}, memory)[1] is memory


# --- int8-delta and lowrank ------------------------------------------------------------------------------------------
SHAPES: dict[str, tuple[int, ...]] = {
    "conv": (4, 3, 3, 3), "row": (1, 7), "column": (7, 1), "one": (1, 1), "wide": (3, 3), "bias": (5,), "scale": (),
}  # fmt: skip


def drawn(seed: int, size: float = 1.0) -> dict[str, Array]:
    stream = np.random.Generator(np.random.Philox(seed))
    return {name: np.asarray(size * stream.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}


def lowrank(energy: float = 0.95, **settings: Any) -> LowRankCodec:
    return LowRankCodec(LowRankSettings(**settings), energy)


def moved(base: NamedArrays, change: NamedArrays) -> dict[str, Array]:
    return {name: np.asarray(base[name] + change[name], np.float32) for name in base}


CHANGING: dict[str, Codec] = {
    "int8-delta": CODECS["int8-delta"], "int8": CODECS["int8"], "energy": lowrank(), "aic": lowrank(rule="aic"),
    "fixed": lowrank(rule="fixed", rank=1), "weights": lowrank(of="weights", feedback=False),
}  # fmt: skip
WITHOUT_BASE = {"int8", "weights"}  # and without a memory
changing = pytest.mark.parametrize("name", CHANGING)
with_base = pytest.mark.parametrize("name", sorted(CHANGING.keys() - WITHOUT_BASE))


@changing
@pytest.mark.parametrize("seed", range(4))
def test_an_encoded_update_fits_the_wires_schema_and_comes_back_with_its_names_and_shapes(name: str, seed: int) -> None:
    codec, base = CHANGING[name], drawn(seed)
    arrays, file = moved(base, drawn(seed + 50, 0.01)), io.BytesIO()
    update.write(file, codec.encode(arrays, base, {})[0])
    back = codec.decode(update.read(file, codec.wire_schema(schema_of(arrays))), base)
    assert [(key, a.shape, a.dtype) for key, a in back.items()] == [
        (key, a.shape, a.dtype) for key, a in arrays.items()
    ]
    assert all(back[key].tobytes() == arrays[key].tobytes() for key in ("bias", "scale"))


@with_base
def test_an_update_that_changes_nothing_comes_back_as_the_base(name: str) -> None:
    base = drawn(1)
    back = CHANGING[name].decode(CHANGING[name].encode(base, base, {})[0], base)
    assert all(np.array_equal(back[key], base[key]) for key in base)


@changing
def test_what_an_update_loses_is_in_the_memory_where_there_is_one(name: str) -> None:
    codec, base = CHANGING[name], drawn(1)
    arrays = moved(base, drawn(2, 0.1))
    wire, memory = codec.encode(arrays, base, {})
    back = codec.decode(wire, base)
    assert set(memory) == (set() if name in WITHOUT_BASE else {key for key, shape in SHAPES.items() if len(shape) > 1})
    assert all(np.allclose(back[key] + memory[key], arrays[key], atol=1e-5) for key in memory)


@with_base
def test_with_its_memory_a_codec_loses_over_many_rounds_no_more_than_in_one(name: str) -> None:
    codec, base, memory = CHANGING[name], drawn(1), dict[str, Array]()
    arrived, sent = ({key: np.zeros_like(array, np.float64) for key, array in base.items()} for _ in range(2))
    for round_ in range(12):
        change = drawn(round_ + 9, 0.1)
        wire, kept = codec.encode(moved(base, change), base, memory)
        memory, back = dict(kept), codec.decode(wire, base)
        for key in base:
            arrived[key] += back[key].astype(float) - base[key]
            sent[key] += change[key]
    for key in base:
        assert np.abs(sent[key] - arrived[key] - memory.get(key, 0)).max() < 1e-4


rounding = pytest.mark.parametrize("name", ["int8-delta", "int8"])
matrices = npst.arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32))


@rounding
@given(change=matrices)
def test_int8_errs_by_at_most_half_a_step_of_its_channel(name: str, change: Array) -> None:
    base = {"a": np.zeros_like(change)}
    back = CODECS[name].decode(CODECS[name].encode({"a": change}, base, {})[0], base)["a"]
    step = np.abs(change.astype(float)).max(1, keepdims=True) / 127
    assert (np.abs(back - change) <= step * 0.5001 + 1e-28).all()


NORMAL = np.random.Generator(np.random.Philox(2)).standard_normal((3000, 4)).astype(np.float32)


@given(numbers=matrices)
@example(numbers=NORMAL)
def test_int8_encodes_what_arrived_to_the_same_bytes_again(numbers: Array) -> None:
    """Otherwise a model that is read and saved again would have another hash."""
    codec = CODECS["int8"]
    wire, _ = codec.encode({"a": numbers, "bias": numbers[0]}, {}, {})
    again, _ = codec.encode(codec.decode(wire, {}), {}, {})
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in wire.items()
    }


def test_int8_of_a_model_needs_no_base_and_no_memory() -> None:
    arrays, other, codec = drawn(1), drawn(2), CODECS["int8"]
    wire, memory = codec.encode(arrays, other, other)
    alone, _ = codec.encode(arrays, {}, {})
    assert not memory
    assert all(wire[name].tobytes() == alone[name].tobytes() for name in wire)
    back = codec.decode(wire, other)
    assert all(back[name].tobytes() == array.tobytes() for name, array in codec.decode(wire, {}).items())


@rounding
def test_int8_takes_at_most_27_percent_of_a_resnet20s_bytes(name: str) -> None:
    plain = spec.schema("resnet20", Form(8))
    assert CODECS[name].wire_schema(plain).size <= 0.27 * plain.size


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("net", spec.NETS)
def test_every_net_that_travels_has_a_header_that_a_reader_accepts(name: str, net: str) -> None:
    schema = CODECS[name].wire_schema(spec.schema(net, Form(8)))
    assert len(schema.header_bytes) <= update.HEADER_LIMIT


@changing
def test_an_empty_tensor_comes_back_empty(name: str) -> None:
    empty = {"a": np.zeros((0, 3, 2), np.float32)}
    back = CHANGING[name].decode(CHANGING[name].encode(empty, empty, {})[0], empty)
    assert back["a"].shape == (0, 3, 2)


def test_int8_refuses_names_that_its_steps_would_have() -> None:
    with pytest.raises(ValueError, match=r"a\.step"):
        CODECS["int8-delta"].wire_schema(Schema.parse(["a F32 2x2", "a.step F32 2"]))


# 6.2.1
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.95, 0.99])
@given(seed=st.integers(0, 99), rows=st.integers(2, 9), columns=st.integers(2, 12))
def test_rank_by_energy_is_the_smallest_that_keeps_it(energy: float, seed: int, rows: int, columns: int) -> None:
    matrix = np.random.Generator(np.random.Philox(seed)).standard_normal((rows, columns))
    u, sigma, v = np.linalg.svd(matrix, full_matrices=False)
    rank, total = rank_of_energy(sigma, energy), (matrix**2).sum()
    lost, lost_by_one_less = (
        float(((matrix - (u[:, :k] * sigma[:k]) @ v[:k]) ** 2).sum() / total) for k in (rank, rank - 1)
    )
    assert lost <= 1 - energy + 1e-9
    assert lost_by_one_less > 1 - energy - 1e-9
    assert lost == pytest.approx((sigma[rank:] ** 2).sum() / total, abs=1e-9)


# 6.2.2
@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(10), np.linalg.qr(np.random.Generator(np.random.Philox(0)).standard_normal((8, 8)))[0],
        np.zeros((6, 6)), np.ones((1, 9)), np.ones((9, 1)),
        np.outer(np.arange(1, 9), np.arange(1, 12)), np.ones((1, 1)),
    ],
    ids=["identity", "orthogonal", "zero", "one row", "one column", "rank one", "one number"],
)  # fmt: skip
@pytest.mark.parametrize("energy", [0.95, 0.98, 1.0])
def test_flat_and_degenerate_spectra_survive(matrix: NDArray[np.float64], energy: float) -> None:
    codec, arrays = lowrank(energy), {"a": matrix.astype(np.float32)}
    base = {"a": np.zeros_like(arrays["a"])}
    back = codec.decode(codec.encode(arrays, base, {})[0], base)["a"]
    assert np.abs(back - matrix).max() <= 1e-5 * max(1, np.abs(matrix).max())


@pytest.mark.parametrize("seed", range(3))
def test_all_of_the_energy_is_the_whole_update(seed: int) -> None:
    codec, base = lowrank(1.0), drawn(seed)
    arrays = moved(base, drawn(seed + 7, 0.1))
    back = codec.decode(codec.encode(arrays, base, {})[0], base)
    assert max(float(np.abs(back[key] - arrays[key]).max()) for key in arrays) < 1e-6


# 6.2.3
def test_a_kernels_update_of_rank_four_travels_in_its_factors() -> None:
    stream = np.random.Generator(np.random.Philox(5))
    change = (stream.standard_normal((64, 4)) @ stream.standard_normal((4, 576))).reshape(64, 64, 3, 3)
    arrays = {"a": change.astype(np.float32)}
    wire, _ = lowrank(0.999999).encode(arrays, {"a": np.zeros_like(arrays["a"])}, {})
    assert wire["a"].shape == (4 * (64 + 576 + 1),)


@pytest.mark.parametrize("name", sorted(CHANGING.keys() - {"int8-delta", "int8"}))
@given(seed=st.integers(0, 50))
def test_no_tensor_of_lowrank_grows(name: str, seed: int) -> None:
    arrays = drawn(seed + 1)
    wire, _ = CHANGING[name].encode(arrays, drawn(seed), {})
    assert all(wire[key].nbytes <= array.nbytes for key, array in arrays.items())


# 6.2.2: of these spectra published code keeps no triplet at all, and sends a tensor of zeros
@pytest.mark.parametrize(("sigma", "energy", "rank"), [([1] * 10, 0.5, 5), ([1] * 10, 0.95, 10), ([3, 1, 1], 0.95, 3)])
def test_the_rank_of_a_flat_spectrum_is_never_zero(sigma: list[int], energy: float, rank: int) -> None:
    assert rank_of_energy(np.array(sigma, np.float64), energy) == rank


# 6.2.4
def test_a_bias_of_three_classes_is_not_taken_for_factors() -> None:
    arrays = {"bias": np.array([1, 2, 3], np.float32), "a": np.ones((3, 2, 3, 3), np.float32)}
    base = {name: np.zeros_like(array) for name, array in arrays.items()}
    back = lowrank().decode(lowrank().encode(arrays, base, {})[0], base)
    assert all(np.allclose(back[name], array, atol=1e-6) for name, array in arrays.items())


# 6.2.4
def test_a_raw_tensor_with_three_rows_is_not_taken_for_factors() -> None:
    codec, arrays = lowrank(), {"a": np.arange(9, dtype=np.float32).reshape(3, 3) ** 2}
    base = {"a": np.zeros((3, 3), np.float32)}
    wire, _ = codec.encode(arrays, base, {})
    assert wire["a"].shape in ((7,), (9,))
    assert np.abs(codec.decode(wire, base)["a"] - arrays["a"]).max() < 0.3 * np.abs(arrays["a"]).max()


# 6.2.5
def test_the_energy_rises_to_its_end_in_the_last_round() -> None:
    plan = plans.read('classes = ["a", "b"]\nrounds = 8\n[wire]\nup = "lowrank"\n', METHODS)
    energies = [LowRankCodec.of(plan, round_).energy for round_ in range(1, 9)]
    assert energies[0] == pytest.approx(0.95 + 0.03 / 8)
    assert energies[-1] == pytest.approx(0.98)
    assert energies == sorted(energies)
    sigma = np.sort(np.random.Generator(np.random.Philox(1)).random(40))[::-1]
    ranks = [rank_of_energy(sigma, energy) for energy in energies]
    assert ranks == sorted(ranks)


def test_aic_finds_the_rank_of_a_matrix_with_noise() -> None:
    stream = np.random.Generator(np.random.Philox(3))
    signal = stream.standard_normal((32, 3)) @ stream.standard_normal((3, 480))
    matrix = signal + 0.1 * stream.standard_normal((32, 480))
    arrays = {"a": matrix.astype(np.float32)}
    wire, _ = lowrank(rule="aic").encode(arrays, {"a": np.zeros_like(arrays["a"])}, {})
    assert len(wire["a"]) == 3 * (32 + 480 + 1)


@pytest.mark.parametrize("length", [2, 7, 8, 13, 31, 33, 107, 109])
def test_a_row_of_another_length_is_refused(length: int) -> None:
    base = {"a": np.zeros((4, 27), np.float32)}  # a triplet has 32 numbers, the whole 108
    with pytest.raises(SchemaShapeError):
        lowrank().decode({RELATIVE: np.array(1, np.uint8), "a": np.ones(length, np.float32)}, base)


@pytest.mark.parametrize(("length", "fits"), [(1, True), (27 * 4, True), (27 * 4 + 1, False)])
def test_a_free_tensor_is_read_up_to_its_bound(length: int, fits: bool) -> None:
    schema = lowrank().wire_schema(Schema((TensorSpec("a", "F32", (4, 3, 3, 3)),)))
    file = io.BytesIO()
    update.write(file, {RELATIVE: np.array(1, np.uint8), "a": np.ones(length, np.float32)})
    if fits:
        assert update.read(file, schema)["a"].shape == (length,)
    else:
        with pytest.raises(SchemaShapeError):
            update.read(file, schema)


def test_a_file_of_a_free_schema_must_be_in_canonical_form_too() -> None:
    schema = lowrank().wire_schema(Schema((TensorSpec("a", "F32", (4, 3)),)))
    file = io.BytesIO()
    update.write(file, {RELATIVE: np.array(1, np.uint8), "a": np.ones(5, np.float32)})
    length, body = int.from_bytes(file.getvalue()[:8], "little"), file.getvalue()[8:]
    spaced = (length + 8).to_bytes(8, "little") + body[:length] + b" " * 8 + body[length:]
    with pytest.raises(TensorLayoutError):
        update.read(io.BytesIO(spaced), schema)
