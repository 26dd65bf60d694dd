"""Faults E01-E10 of the catalogue: invalid files and values in place of weights."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import update
from fedhelp_edge.errors import (
    NonFiniteError,
    NormStatisticsError,
    NotSafetensorsError,
    NumberRangeError,
    SchemaDtypeError,
    SchemaNamesError,
    SchemaShapeError,
    TensorHeaderError,
    TensorLayoutError,
    TensorMetadataError,
)
from fedhelp_edge.update import Schema

SCHEMA = Schema.parse(["conv1.weight F32 2x3", "bn1.running_var F32 2", "linear.bias F32 2"])


def valid_arrays() -> dict[str, update.Array]:
    shapes = {tensor.name: tensor.shape for tensor in SCHEMA.tensors}
    return {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}


def as_safetensors(arrays: dict[str, update.Array]) -> bytes:
    file = io.BytesIO()
    update.write(file, arrays)
    return file.getvalue()


def with_header(header: str | dict[str, Any], data: bytes = bytes(40)) -> bytes:
    """A file with any header."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text.encode() + data


def header_of(arrays: dict[str, update.Array]) -> dict[str, Any]:
    data = as_safetensors(arrays)
    header: dict[str, Any] = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return header


def read(data: bytes) -> update.FileArrays:
    return update.read(io.BytesIO(data), SCHEMA)


def test_the_honest_update_is_read() -> None:
    assert dict(read(as_safetensors(valid_arrays())).items()).keys() == valid_arrays().keys()


class Canary:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_e01_a_pickle_is_refused_and_never_run(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(NotSafetensorsError):
        read(pickle.dumps(Canary(tmp_path / "unpickled"), protocol))
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_e01_a_pickle_of_the_first_protocols_is_refused_by_its_length(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(TensorHeaderError):
        read(pickle.dumps(Canary(tmp_path / "unpickled"), protocol))
    assert not (tmp_path / "unpickled").exists()


def test_e01_a_pickle_behind_a_plausible_length_is_refused_and_never_run(tmp_path: Path) -> None:
    evil = pickle.dumps(Canary(tmp_path / "unpickled"))
    with pytest.raises(NotSafetensorsError):
        read(struct.pack("<Q", len(evil)) + evil + bytes(40))
    assert not (tmp_path / "unpickled").exists()


def test_the_canary_notices_that_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "unpickled")))
    assert (tmp_path / "unpickled").exists()


def test_e01_a_pt_file_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary(tmp_path / "unpickled")))
    with pytest.raises(NotSafetensorsError):
        read(file.getvalue())


def test_e01_a_numpy_file_of_objects_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([Canary(tmp_path / "unpickled")], object), allow_pickle=True)
    with pytest.raises(NotSafetensorsError):
        read(file.getvalue())
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("length", [0, 1, 100 << 20, (64 << 10) + 1, 2**63, 2**64 - 1])
def test_e02_a_header_of_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(TensorHeaderError):
        read(struct.pack("<Q", length) + b"{}" + bytes(100 << 10))


def test_e02_a_header_longer_than_its_file_is_refused() -> None:
    with pytest.raises(TensorHeaderError):
        read(struct.pack("<Q", 64) + b"{}")


@pytest.mark.parametrize("size", range(8))
def test_e02_a_file_too_short_for_a_header_is_refused(size: int) -> None:
    with pytest.raises(TensorHeaderError):
        read(bytes(size))


def test_e03_a_tensor_listed_twice_is_refused() -> None:
    entry = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    with pytest.raises(TensorLayoutError, match="repeated"):
        read(with_header("{" + entry + "," + entry + "}"))


OFFSETS = {
    "overlap": ([0, 24], [16, 24], [24, 32]),
    "gap": ([0, 24], [32, 40], [40, 48]),
    "late": ([8, 32], [32, 40], [40, 48]),
    "reversed": ([16, 40], [8, 16], [0, 8]),
    "backwards": ([24, 0], [24, 32], [32, 40]),
    "odd": ([0, 23], [23, 31], [31, 39]),
    "negative": ([-8, 16], [16, 24], [24, 32]),
    "huge": ([0, 24], [24, 32], [2**70, 2**70 + 8]),
    "same": ([0, 24], [24, 32], [24, 32]),
    "truth": ([False, 24], [24, 32], [32, 40]),
}


@pytest.mark.parametrize("offsets", OFFSETS.values(), ids=OFFSETS)
def test_e03_tensors_with_gaps_or_overlaps_are_refused(offsets: tuple[list[int], ...]) -> None:
    header = header_of(valid_arrays())
    for entry, data_offsets in zip(header.values(), offsets, strict=True):
        entry["data_offsets"] = data_offsets
    with pytest.raises(TensorLayoutError):
        read(with_header(header))


@pytest.mark.parametrize("extra", [-1, 1, 1 << 20])
def test_e03_a_file_that_is_shorter_or_longer_than_its_tensors_is_refused(extra: int) -> None:
    data = as_safetensors(valid_arrays())
    with pytest.raises(TensorLayoutError):
        read(data[:extra] if extra < 0 else data + bytes(extra))


def test_e03_tensors_in_another_order_are_refused() -> None:
    with pytest.raises(TensorLayoutError, match="another order"):
        read(as_safetensors(dict(reversed(valid_arrays().items()))))


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "x": 1},
        {"dtype": 32, "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]},
    ],
    ids=str,
)
def test_e03_an_entry_that_does_not_describe_a_tensor_is_refused(entry: Any) -> None:
    with pytest.raises(TensorLayoutError):
        read(with_header({"conv1.weight": entry}))


@pytest.mark.parametrize(
    "header",
    ["[]", "12", "{", "{}{}", "[" * 30000, '{"a":' * 9000, "1" * 5000, "\u00e9", "\ufeff{", '"\\ud800"'],
    ids=lambda text: ascii(text[:8]),
)
def test_e03_a_header_that_is_not_a_json_object_is_refused(header: str) -> None:
    with pytest.raises(NotSafetensorsError):
        read(with_header(header))


@pytest.mark.parametrize("space", [" ", "\n", "\t"])
def test_e03_a_second_encoding_of_the_header_is_refused(space: str) -> None:
    text = json.dumps(header_of(valid_arrays()), separators=("," + space, ":"))
    with pytest.raises(TensorLayoutError, match="canonical"):
        read(with_header(text))


@pytest.mark.parametrize(
    "notes", [{"format": "pt"}, {"a": {"b": "c"}}, [], "x" * 60000, None], ids=lambda n: str(n)[:9]
)
def test_e04_metadata_beside_the_tensors_is_refused(notes: Any) -> None:
    with pytest.raises(TensorMetadataError):
        read(with_header({"__metadata__": notes, **header_of(valid_arrays())}))


def test_e04_ten_megabytes_of_metadata_are_refused_unread() -> None:
    with pytest.raises(TensorHeaderError):
        read(with_header({"__metadata__": {"a": "x" * 10_000_000}, **header_of(valid_arrays())}))


def test_e05_a_missing_tensor_is_refused() -> None:
    with pytest.raises(SchemaNamesError, match=r"linear\.bias"):
        read(as_safetensors({name: array for name, array in valid_arrays().items() if name != "linear.bias"}))


def test_e05_an_extra_tensor_is_refused() -> None:
    with pytest.raises(SchemaNamesError, match="extra"):
        read(as_safetensors({**valid_arrays(), "extra": np.zeros(1, np.float32)}))


@pytest.mark.parametrize("name", ["linear.Bias", "linear.bias\0", "lineаr.bias", "\ud800", "x" * 9000], ids=ascii)
def test_e05_a_renamed_tensor_is_refused_and_its_name_is_not_printed_raw(name: str) -> None:
    arrays = valid_arrays()
    arrays[name] = arrays.pop("linear.bias")
    with pytest.raises(SchemaNamesError) as refused:
        read(as_safetensors(arrays))
    assert refused.value.cause.isprintable()
    assert len(refused.value.cause) < 200


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 2, 3), (2, 3, 1)])
def test_e06_another_shape_of_the_same_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SchemaShapeError):
        read(as_safetensors({**valid_arrays(), "conv1.weight": np.zeros(shape, np.float32)}))


def test_e06_a_single_number_in_place_of_a_tensor_is_refused() -> None:
    with pytest.raises(SchemaShapeError):
        read(as_safetensors({**valid_arrays(), "linear.bias": np.zeros((), np.float32)}))


@pytest.mark.parametrize("shape", [[0], [2, 0], [-1], [-2, -3], [2**31], [1.5], [True], ["2"], [1] * 9], ids=str)
def test_e06_an_impossible_shape_is_refused(shape: list[Any]) -> None:
    header = header_of(valid_arrays())
    header["linear.bias"]["shape"] = shape
    with pytest.raises(SchemaShapeError):
        read(with_header(header))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int64, np.int8, np.uint8])
def test_e07_another_number_format_is_refused(dtype: type[np.generic]) -> None:
    with pytest.raises(SchemaDtypeError):
        read(as_safetensors({**valid_arrays(), "linear.bias": np.zeros(2, dtype)}))


@pytest.mark.parametrize("dtype", ["BF16", "BOOL", "F8_E4M3", "U64", "f32", "", "\x1b[2J"], ids=ascii)
def test_e07_a_number_format_that_never_travels_is_refused_and_not_printed_raw(dtype: str) -> None:
    header = header_of(valid_arrays())
    header["linear.bias"]["dtype"] = dtype
    with pytest.raises(SchemaDtypeError) as refused:
        read(with_header(header))
    assert refused.value.cause.isprintable()


@pytest.mark.parametrize("name", list(valid_arrays()))
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_e08_nan_or_infinite_values_are_refused_by_tensor_and_count(name: str, number: float) -> None:
    arrays = valid_arrays()
    arrays[name].flat[1] = number
    with pytest.raises(NonFiniteError, match=rf"{name}: 1 of {arrays[name].size}"):
        update.check_values(read(as_safetensors(arrays)))


@pytest.mark.parametrize("variances", [[0.5, -1e-30], [0.0, 0.0]], ids=str)
def test_e09_negative_or_zero_variances_are_refused(variances: list[float]) -> None:
    with pytest.raises(NormStatisticsError):
        update.check_values({"bn1.running_var": np.array(variances, np.float32)})


def test_e09_a_dead_channel_is_accepted() -> None:
    update.check_values({"bn1.running_var": np.array([0.0, 0.5], np.float32)})


def test_e09_counters_of_batch_norm_do_not_travel() -> None:
    with pytest.raises(SchemaNamesError, match="num_batches_tracked"):
        read(as_safetensors({**valid_arrays(), "bn1.num_batches_tracked": np.array(-1, np.int64)}))


@pytest.mark.parametrize("number", [1e30, -1e30, 10001.0])
def test_e10_weights_far_beyond_trained_ones_are_refused(number: float) -> None:
    arrays = valid_arrays()
    arrays["linear.bias"][0] = number
    with pytest.raises(NumberRangeError, match=r"linear\.bias"):
        update.check_values(read(as_safetensors(arrays)))


def test_e10_subnormal_numbers_pass_unchanged() -> None:
    arrays = {**valid_arrays(), "linear.bias": np.array([1e-45, -1e-45], np.float32)}
    read_back = read(as_safetensors(arrays))
    update.check_values(read_back)
    assert read_back["linear.bias"].tobytes() == arrays["linear.bias"].tobytes()
