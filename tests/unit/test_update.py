"""Updates are written and read in one canonical form, and everything else is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fedhelp_edge import update
from fedhelp_edge.errors import (
    FedhelpError,
    FileKindError,
    SchemaNamesError,
    SchemaShapeError,
    TensorHeaderError,
    TensorLayoutError,
    TensorMetadataError,
)
from fedhelp_edge.update import Array, Schema, TensorSpec, schema_of

DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "U8": "u1", "I8": "i1", "I32": "<i4", "I64": "<i8"}

names = st.text("abcXYZ019._-", min_size=1, max_size=12)
shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)
schemas = st.lists(
    st.builds(TensorSpec, names, st.sampled_from(list(DTYPES)), shapes),
    max_size=6,
    unique_by=lambda tensor: tensor.name,
).map(lambda tensors: Schema(tuple(tensors)))


@st.composite
def updates(draw: st.DrawFn) -> dict[str, Array]:
    """Arrays of a random schema with any bits, NaN included."""
    return {
        tensor.name: draw(npst.arrays(np.dtype(DTYPES[tensor.dtype]), tensor.shape)) for tensor in draw(schemas).tensors
    }


def as_bytes(arrays: Mapping[str, Array]) -> bytes:
    file = io.BytesIO()
    update.write(file, arrays)
    return file.getvalue()


def same(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    return list(first) == list(second) and all(
        (first[name].dtype, first[name].shape, first[name].tobytes())
        == (second[name].dtype, second[name].shape, second[name].tobytes())
        for name in first
    )


@given(updates())
def test_a_written_update_is_read_to_the_bit(arrays: dict[str, Array]) -> None:
    assert same(update.read(io.BytesIO(as_bytes(arrays)), schema_of(arrays)), arrays)


@given(updates())
def test_the_size_of_a_file_is_known_before_it_is_written(arrays: dict[str, Array]) -> None:
    assert schema_of(arrays).size == len(as_bytes(arrays))


@given(schemas)
def test_a_schema_is_read_back_from_its_lines(schema: Schema) -> None:
    assert Schema.parse(schema.lines()) == schema


@pytest.mark.parametrize(
    "line",
    [
        "a F32",
        "a F32 ",
        "a F32 0",
        "a F32 2x",
        "a F32 2x0",
        "a F32 -2",
        "a F32 02",
        "a F32 2 ",
        "a F32 2\n",
        "a BF16 2",
        "a f32 2",
        "a  F32 2",
        " F32 2",
        "a b F32 2",
        "é F32 2",
        "a F32 2X2",
    ],
)
def test_a_line_that_does_not_describe_a_tensor_is_refused(line: str) -> None:
    with pytest.raises(SchemaNamesError):
        Schema.parse([line])


def test_a_schema_names_no_tensor_twice() -> None:
    with pytest.raises(SchemaNamesError):
        Schema.parse(["a F32 2", "a F16 2"])


def test_the_bytes_of_an_update_are_the_same_on_every_machine() -> None:
    arrays = {
        "conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
        "bn1.running_var": np.array([0.5, 2.0], np.float32),
        "count": np.array(7, np.int64),
    }
    assert (
        hashlib.sha256(as_bytes(arrays)).hexdigest()
        == "c9f5c2573e64beb3edfbbb0591696e11945cfa40e7a9c90f50f991a922edcd41"
    )


def test_an_array_with_another_memory_layout_has_the_same_bytes() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert as_bytes({"a": np.asfortranarray(array)}) == as_bytes({"a": array})


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_looks_like_the_first_bytes_of_a_pickle_is_read(length: int) -> None:
    arrays = {f"a{index}": np.zeros(1, np.float32) for index in range(8)}
    room = length - int.from_bytes(as_bytes(arrays)[:8], "little")
    arrays["a0" + "x" * room] = arrays.pop("a0")
    data = as_bytes(arrays)
    assert int.from_bytes(data[:8], "little") == length
    assert same(update.read(io.BytesIO(data), schema_of(arrays)), arrays)


@given(updates())
def test_the_reference_library_reads_our_files(arrays: dict[str, Array]) -> None:
    read_back = safetensors.numpy.load(as_bytes(arrays))
    assert same({name: read_back[name] for name in arrays}, arrays)


@given(updates().filter(bool))
def test_we_read_files_of_the_reference_library(arrays: dict[str, Array]) -> None:
    file = io.BytesIO(safetensors.numpy.save(arrays))
    ours = update.load(file)
    assert same({name: ours[name] for name in arrays}, arrays)


@given(updates())
def test_a_file_is_loaded_alike_from_its_path_from_an_open_file_and_from_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Array]
) -> None:
    data, path = as_bytes(arrays), tmp_path_factory.getbasetemp() / "update.safetensors"
    path.write_bytes(data)
    for source in (path, io.BytesIO(data), data):
        assert same(update.load(source), arrays)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileKindError):
        update.load(tmp_path / "pipe")


def test_loading_refuses_notes_and_headers_beyond_what_its_reader_allows() -> None:
    data = safetensors.numpy.save({"a": np.zeros(2, np.float32)}, {"format": "np"})
    assert list(update.load(data, metadata=["format"])) == ["a"]
    with pytest.raises(TensorMetadataError):
        update.load(data)
    with pytest.raises(TensorHeaderError):
        update.load(data, metadata=["format"], limit=8)


def test_metadata_is_read_where_it_is_allowed() -> None:
    data = safetensors.numpy.save({"a": np.zeros(2, np.float32)}, {"format": "np"})
    assert update.read_header(io.BytesIO(data), metadata=["format"]).metadata == {"format": "np"}


@pytest.mark.parametrize("note", [1, None, {"a": "b"}, ["np"]], ids=repr)
def test_a_note_that_is_not_text_is_refused_even_if_its_name_is_allowed(note: object) -> None:
    text = json.dumps({"__metadata__": {"format": note}}).encode()
    with pytest.raises(TensorMetadataError):
        update.read_header(io.BytesIO(len(text).to_bytes(8, "little") + text), metadata=["format"])


def test_a_file_keeps_its_metadata_in_their_order() -> None:
    file, arrays = io.BytesIO(), {"a": np.arange(2, dtype=np.float32)}
    update.write(file, arrays, {"z": "1", "format": "np"})
    header = update.read_header(file, metadata=["format", "z"])
    assert (list(header.metadata.items()), header.canonical) == ([("format", "np"), ("z", "1")], True)
    assert same(update.FileArrays(file, header), arrays)


@given(updates())
def test_the_header_that_a_schema_predicts_is_that_of_the_file(arrays: dict[str, Array]) -> None:
    assert schema_of(arrays).header == update.read_header(io.BytesIO(as_bytes(arrays)))


def test_the_shortest_header_names_nothing_and_fills_its_file() -> None:
    data = (2).to_bytes(8, "little") + b"{}"
    assert update.read_header(io.BytesIO(data)).entries == ()
    with pytest.raises(TensorHeaderError):
        update.read_header(io.BytesIO(data), limit=1)
    for length in (1, 3, 10):
        with pytest.raises(TensorHeaderError):
            update.read_header(io.BytesIO(length.to_bytes(8, "little") + b"{}"))


def with_shapes_and_offsets(*entries: tuple[list[int], list[int]]) -> io.BytesIO:
    """A file whose tensors have these shapes of single bytes, and these offsets."""
    text = json.dumps(
        {
            f"t{n}": {"dtype": "U8", "shape": shape, "data_offsets": offsets}
            for n, (shape, offsets) in enumerate(entries)
        }
    ).encode()
    return io.BytesIO(len(text).to_bytes(8, "little") + text + bytes(max(offsets[1] for _, offsets in entries)))


def test_tensors_do_not_overlap_even_where_they_fill_the_file() -> None:
    update.read_header(with_shapes_and_offsets(([4], [0, 4]), ([2], [4, 6]), ([2], [6, 8])))
    with pytest.raises(TensorLayoutError):
        update.read_header(with_shapes_and_offsets(([4], [0, 4]), ([2], [3, 5]), ([2], [6, 8])))


def test_a_tensor_has_up_to_eight_dimensions_of_up_to_31_bits() -> None:
    assert update.read_header(with_shapes_and_offsets(([1] * 8, [0, 1]))).entries[0][0].shape == (1,) * 8
    with pytest.raises(SchemaShapeError):
        update.read_header(with_shapes_and_offsets(([1] * 9, [0, 1])))
    with pytest.raises(SchemaShapeError):
        update.read_header(with_shapes_and_offsets(([2**31], [0, 1])))
    with pytest.raises(TensorLayoutError):  # valid, but not present
        update.read_header(with_shapes_and_offsets(([2**31 - 1], [0, 1])))


@pytest.mark.parametrize("stop", [4, 12])
def test_a_tensor_takes_the_bytes_that_its_shape_needs(stop: int) -> None:
    text = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,%d]}}' % stop
    with pytest.raises(TensorLayoutError):
        update.read_header(io.BytesIO(len(text).to_bytes(8, "little") + text + bytes(stop)))


SMALL = {"a": np.array([7, 8], np.uint8)}


def test_every_altered_byte_of_a_header_is_detected() -> None:
    data, schema = as_bytes(SMALL), schema_of(SMALL)
    for index in range(len(data) - 2):
        for flipped in range(1, 256):
            altered = bytearray(data)
            altered[index] ^= flipped
            with pytest.raises(FedhelpError):
                update.read(io.BytesIO(altered), schema)


def test_an_altered_byte_of_the_data_alters_one_number_and_nothing_else() -> None:
    data, schema = as_bytes(SMALL), schema_of(SMALL)
    for flipped in range(1, 256):
        arrays_read = update.read(io.BytesIO(data[:-1] + bytes([data[-1] ^ flipped])), schema)
        assert arrays_read["a"].tolist() == [7, 8 ^ flipped]


def test_no_shortened_file_is_read() -> None:
    data, schema = as_bytes(SMALL), schema_of(SMALL)
    for size in range(len(data)):
        with pytest.raises(FedhelpError):
            update.read(io.BytesIO(data[:size]), schema)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    with pytest.raises(FedhelpError):
        update.read(io.BytesIO(len(data).to_bytes(8, "little") + data), schema_of(SMALL))


def test_a_reader_may_ask_for_the_tensors_in_any_order() -> None:
    arrays = {"a": np.zeros(3, np.float32), "b": np.ones((2, 2), np.float16)}
    arrays_read = update.read(io.BytesIO(as_bytes(arrays)), schema_of(arrays))
    assert same({"b": arrays_read["b"], "a": arrays_read["a"]}, {"b": arrays["b"], "a": arrays["a"]})


def test_values_of_trained_weights_pass() -> None:
    update.check_values({"a": np.array([-1e4, 0, 1e4], np.float32), "n": np.array([2**40], np.int64)})
    update.check_values({"a": np.zeros(3, np.float32), "b": np.zeros(0, np.float32)})


@pytest.mark.parametrize("behind", [1, 8, 1 << 12])
def test_a_file_ends_with_its_last_tensor(behind: int) -> None:
    arrays = {"conv.weight": np.ones((2, 3), np.float32)}
    data = as_bytes(arrays)
    assert update.read_header(io.BytesIO(data)).canonical
    for longer in (data + bytes(behind), data + data[-behind:]):
        with pytest.raises(TensorLayoutError):
            update.read_header(io.BytesIO(longer))
        with pytest.raises(TensorLayoutError):
            update.read(io.BytesIO(longer), schema_of(arrays))


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ("layer1.0.conv1.weight F32 2x3x3x3", "weight"), ("bn1.weight F32 3", "norm"),
        ("bn1.running_var F32 3", "stat"),
        ("features.1.running_mean F32 3", "stat"), ("features.1.weight F32 3 norm", "norm"),
        ("moments.w F32 3 even", "even"), ("answers F16 100x8 table", "table"), ("bn1.weight F32 3 weight", "weight"),
    ],
)  # fmt: skip
def test_a_schemas_line_names_the_role_that_no_name_tells(line: str, role: str) -> None:
    schema = Schema.parse([line])
    assert (schema.lines(), schema.tensors[0].role) == ([line], role)
    assert schema.role_of(schema.tensors[0].name) == role


@pytest.mark.parametrize("line", ["a F32 3 boss", "a F32 3 ", "a F32 3  norm", "a F32 3 norm norm", "a F32 norm"])
def test_a_role_that_does_not_exist_describes_no_tensor(line: str) -> None:
    with pytest.raises(SchemaNamesError):
        Schema.parse([line])
