"""Decompression bombs are refused or cost what an ordinary file does; every limit is in the spec."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import errors, plan
from fedhelp_edge.data import budget, loading, npz, picture, table, webp
from tests.unit.data import bombs, samples

ROOT = Path(__file__).parents[3]
REFUSED = {
    "tall.png": "E_IMAGE_SIZE",
    "strip.tif": "E_IMAGE_COST",
    "strips.tif": "E_IMAGE_COST",
    "tiles.tif": "E_IMAGE_COST",
    "scans.jpg": "E_IMAGE_COST",
    "elements.dcm": "E_IMAGE_COST",
    "deflated.dcm": "E_IMAGE_COST",
    "larger.dcm": "E_IMAGE",
    "hidden.dcm": "E_IMAGE",
    "wavelet.dcm": "E_IMAGE",
    "scans.dcm": "E_IMAGE_COST",
    "runs.dcm": "E_IMAGE",
    "rows.npz": "E_NPZ",
    "confirmed.npz": "E_NPZ",
    "labels.npz": "E_NPZ",
    "names.npz": "E_NPZ",
    "header.npz": "E_NPZ",
    "members.npz": "E_NPZ",
    "columns.csv": "E_TABLE",
    "line.csv": "E_TABLE",
    "rows.csv": "E_TABLE",
    "list.toml": "E_PLAN",
    "key.toml": "E_PLAN",
}
LIKE_OTHERS = ("grey.png", "clear.png", "pages.tif")
THREADS = 3


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of each bomb in a process of its own, and of one in several threads."""
    if not hasattr(sys.modules["os"], "fork"):
        pytest.skip("this system has no fork")
    pytest.importorskip("pydicom", reason="pydicom is not installed (extra: medical)")
    files = tmp_path_factory.mktemp("bombs")
    for name, make in bombs.ALL.items():
        (files / name).write_bytes(make())
    arguments = [*map(str, sorted(files.iterdir())), f"{files / 'clear.png'}*{THREADS}"]
    done = subprocess.run([sys.executable, "-m", "tests.unit.data.bombs", *arguments], cwd=ROOT, capture_output=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(arguments), done.stderr.decode()
    return {line["name"] + "*" * (len(line["codes"]) > 1): line for line in lines}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bomb_is_refused_before_it_costs_anything(outcomes: dict[str, Any], name: str) -> None:
    assert outcomes[name]["codes"] == [REFUSED[name]]
    assert outcomes[name]["memory"] < 400 << 20
    assert outcomes[name]["seconds"] < budget.SECONDS


@pytest.mark.parametrize("name", LIKE_OTHERS)
def test_a_large_image_takes_the_estimated_memory(outcomes: dict[str, Any], name: str) -> None:
    assert outcomes[name]["codes"] == [""]
    assert outcomes[name]["memory"] < budget.PIXELS * budget.BYTES_PER_PIXEL
    assert outcomes[name]["seconds"] < budget.SECONDS


def test_threads_share_one_memory_budget(outcomes: dict[str, Any]) -> None:
    together = outcomes["clear.png*"]
    assert together["codes"] == [""] * THREADS
    assert together["memory"] < budget.MEMORY


def test_every_bomb_is_tried() -> None:
    assert {*REFUSED, *LIKE_OTHERS} == bombs.ALL.keys()


def test_decoding_that_takes_too_long_is_stopped_without_a_hint_in_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.2)
    with pytest.raises(errors.ImageCostError, match="too long to decode"):
        picture.decode(io.BytesIO(bombs.png_of_profiles()), plan.ImageSettings(16, 3))


def test_a_bomb_among_images_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    (source / "a" / "x.jpg").write_bytes(bombs.jpeg_of_scans())
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept")
    assert (len(images), samples.codes(images)) == (20, [("a/x.jpg", "E_IMAGE_COST")])


def test_out_of_memory_one_file_is_refused_and_tried_again_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = samples.folder(tmp_path / "images")
    samples.save(source / "a" / "x.png", samples.noise(1, 64, 64, 3)[0])
    monkeypatch.setattr(budget, "MEMORY", 16 * budget.BYTES_PER_PIXEL * 16 * 4)
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept")
    assert samples.codes(images) == [("a/x.png", "E_IMAGE_SIZE")]


def test_memory_is_released_and_waited_for() -> None:
    sequence: list[str] = []
    half = budget.MEMORY // 2 + 1

    def second() -> None:
        with budget.memory(half):
            sequence.append("second")

    with budget.memory(half):
        waiting = threading.Thread(target=second)
        waiting.start()
        sequence.append("first")
    waiting.join()
    assert sequence == ["first", "second"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_images_of_an_npz_are_read_one_by_one_in_any_order(tmp_path: Path, order: Any) -> None:
    pixels = np.asarray(samples.noise(5, 6, 6, 3), order=order)
    np.savez_compressed(tmp_path / "x.npz", images=pixels, labels=np.arange(5))
    rows = npz.read(tmp_path / "x.npz", plan.ImageSettings(6, 3)).arrays([0, 3, 1, 4, 4])
    assert np.array_equal(np.stack(list(rows)), pixels[[0, 3, 1, 4, 4]])


def test_an_encrypted_npz_or_one_with_another_compression_is_refused(tmp_path: Path) -> None:
    content = bytearray(bombs.npz(images=bombs.IMAGES))
    for offset in (content.index(b"PK\3\4") + 6, content.index(b"PK\1\2") + 8):
        content[offset] |= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(errors.BadNpzError):
        npz.read_unlabelled(tmp_path / "x.npz", plan.ImageSettings())


def test_a_table_with_an_endless_first_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"x" * 200_000)
    with pytest.raises(errors.BadTableError):
        table.read_sheet(tmp_path / "x.csv")


def test_each_limit_is_in_the_spec_with_its_value() -> None:
    page = (ROOT / "docs" / "spec" / "limits.md").read_text(encoding="utf-8")
    in_spec = {
        name: int(value.replace(",", "")) for name, value in re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", page, re.M)
    }
    in_code = {
        name: value for name, value in vars(budget).items() if name.isupper() and type(value) is int and name[0] != "_"
    }
    assert in_spec == {**in_code, "PLAN": plan.LIMIT, "TABLE": table.LIMIT, "PACK": webp.MAX_SIZE}


def test_a_file_within_the_budget_is_read_unchanged() -> None:
    with budget.metered(io.BytesIO(b"abc")) as (file, size):
        assert (file.read(2), file.tell(), file.read(), size) == (b"ab", 2, b"c", 3)
