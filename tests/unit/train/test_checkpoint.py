from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import files
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.train import checkpoint
from tests.unit.methods import small

STATE = {
    "net/weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "net/counter": np.array(7),
    "net!0/step": np.array(3, np.float32),
}


def test_a_saved_state_is_loaded_to_the_bit(tmp_path: Path) -> None:
    facts = {"round": 2, "loss": 0.1 + 0.2}
    checkpoint.save(tmp_path / "new" / "folder", 5, facts, STATE)
    saved = checkpoint.newest(tmp_path / "new" / "folder")
    assert saved is not None
    assert saved[0] == facts
    assert small.same(saved[1], STATE)


def test_an_empty_or_missing_folder_has_no_state(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "none") is None


@pytest.mark.parametrize("numbers", [[1, 2], [9, 10], [5, 5], [9, 3]], ids=str)
def test_only_the_newest_state_stays(numbers: list[int], tmp_path: Path) -> None:
    for number in numbers:
        checkpoint.save(tmp_path, number, {"number": number}, STATE)
    saved = checkpoint.newest(tmp_path)
    assert saved is not None
    assert saved[0]["number"] == numbers[-1]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_half_written_state_is_not_read_and_is_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {}, STATE)
    (tmp_path / ".000000002.state.0123456789ab.part").write_bytes(b"half")
    saved = checkpoint.newest(tmp_path)
    assert saved is not None
    assert small.same(saved[1], STATE)
    checkpoint.save(tmp_path, 2, {}, STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["000000002.state"]


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    checkpoint.save(tmp_path, 1, {}, STATE)
    assert (tmp_path / "report.json").exists()


def test_a_state_that_cannot_be_written_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, 1, {"number": 1}, STATE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, 2, {"number": 2}, STATE)
    saved = checkpoint.newest(tmp_path)
    assert saved is not None
    assert saved[0] == {"number": 1}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("body", [b"\x80\x04\x95", b"PK\x03\x04"], ids=["pickle", "archive"])
def test_a_file_that_could_contain_code_is_refused(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "000000001.state").write_bytes(b"{}\n" + body + bytes(64))
    with pytest.raises(FedhelpError) as caught:
        checkpoint.newest(tmp_path)
    assert caught.value.code == "E_SAFETENSORS"
