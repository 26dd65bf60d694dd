"""`knowledge build`, `show` and `start`."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhelp_edge.data import pack as packs
from fedhelp_edge.demo import phantoms
from tests.command import error_code, json_output, run_in_process
from tests.threads import one_thread  # noqa: F401 - a fixture

PLAN = """classes = ["round", "lobed", "granular"]
method = "fedhelp"
[image]
size = 8
[training]
epochs = 1
precision = "fp32"
[public]
size = 8
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A plan, public images of four kinds, and answers for them, half of which are right."""
    pixels, labels = phantoms.draw(16, 4, size=12, family="tissue")
    names = np.array(phantoms.TISSUES[:4])
    np.savez(tmp_path / "public.npz", images=pixels, labels=labels.astype(np.uint8), class_names=names)
    probabilities = np.eye(4, dtype=np.float32)[(labels + (np.arange(16) % 2)) % 4] * 0.6 + 0.1
    np.savez(tmp_path / "answers.npz", probabilities=probabilities)
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def build(home: Path, *more: str) -> None:
    words = ("--public", "public.npz", "--source", "files:answers.npz", "--out", "pack.safetensors")
    done = run_in_process("knowledge", "build", *words, *more, home=home)
    assert done.returncode == 0, done.stderr


def test_build_writes_a_pack_that_show_explains(home: Path) -> None:
    words = ("--public", "public.npz", "--source", "files:answers.npz", "--out", "pack.safetensors", "--licence", "CC0")
    built = json_output(run_in_process("knowledge", "build", *words, "--json", home=home))
    size = (home / "pack.safetensors").stat().st_size
    assert built == {
        "schema_version": 1, "pack": "pack.safetensors", "images": 16, "sources": ["files:answers.npz"], "size": size,
    }  # fmt: skip
    shown = json_output(run_in_process("knowledge", "show", "pack.safetensors", "--json", home=home))
    today = shown["sources"][0].pop("asked")
    assert datetime.now(timezone.utc) - datetime.fromisoformat(f"{today}T00:00+00:00") < timedelta(days=2)
    sha256 = hashlib.sha256((home / "answers.npz").read_bytes()).hexdigest()
    assert shown == {
        "schema_version": 1,
        "images": 16,
        "classes": list(phantoms.TISSUES[:4]),
        "sources": [{"name": "files:answers.npz", "accuracy": 0.5, "sha256": sha256}],
        "side": 12,
        "channels": 3,
        "size": size,
        "about": {"origin": "public.npz", "licence": "CC0"},
    }


def test_show_prints_the_same_for_people(home: Path) -> None:
    build(home)
    shown = run_in_process("knowledge", "show", "pack.safetensors", home=home).stdout
    assert "16 images of 12 pixels, colour, 0.0 MB" in shown
    assert "files:answers.npz, right in 50.0%" in shown


def test_a_pack_has_the_size_that_was_asked_for(home: Path) -> None:
    build(home, "--size", "6")
    assert json_output(run_in_process("knowledge", "show", "pack.safetensors", "--json", home=home))["images"] == 6


def test_a_pack_keeps_every_pixel_unless_a_lower_quality_is_asked_for(home: Path) -> None:
    pixels = np.load(home / "public.npz")["images"]
    for quality, same in (((), True), (("--quality", "60"), False)):
        build(home, *quality)
        loaded = packs.load(home / "pack.safetensors")
        assert bool((loaded.pixels == pixels).all()) is same
        assert np.abs(loaded.pixels.astype(int) - pixels).mean() < 20
        (home / "pack.safetensors").unlink()


def test_a_smaller_pack_asks_about_its_own_images_only_and_has_the_same_answers(home: Path) -> None:
    build(home)
    whole = packs.load(home / "pack.safetensors").subset(6)
    (home / "pack.safetensors").unlink()
    build(home, "--size", "6")
    small = packs.load(home / "pack.safetensors")
    assert small.pixels.tobytes() == whole.pixels.tobytes()
    assert small.probabilities.tobytes() == whole.probabilities.tobytes()
    asked = {path.name.split("-")[0]: len(np.load(path)) for path in (home / "pack.safetensors.answers").glob("*.npy")}
    assert sorted(asked.values()) == [6, 16]


def test_answers_are_cached_for_another_pack(home: Path) -> None:
    build(home)
    answer_files = list((home / "pack.safetensors.answers").iterdir())
    (home / "pack.safetensors").rename(home / "first")
    build(home)
    assert (home / "pack.safetensors").read_bytes() == (home / "first").read_bytes()
    assert list((home / "pack.safetensors.answers").iterdir()) == answer_files


def test_a_pack_is_not_overwritten(home: Path) -> None:
    (home / "pack.safetensors").write_text("mine")
    words = ("--public", "public.npz", "--source", "files:answers.npz", "--out", "pack.safetensors")
    assert error_code(run_in_process("knowledge", "build", *words, home=home)) == "E_FILE_EXISTS"
    assert (home / "pack.safetensors").read_text() == "mine"


@pytest.mark.parametrize(
    ("public", "source", "code"),
    [
        ("gone.npz", "files:answers.npz", "E_FILE_MISSING"),
        ("gone", "files:answers.npz", "E_FILE_MISSING"),
        ("answers.npz", "files:answers.npz", "E_PACK"),
        ("public.npz", "files:gone.npz", "E_FILE_MISSING"),
        ("public.npz", "files:public.npz", "E_PACK"),
        ("public.npz", "oracle:me", "E_USAGE"),
        ("public.npz", "https://user@host/ask", "E_USAGE"),
        ("public.npz", "http://192.0.2.1/ask", "E_USAGE"),
        ("public.npz", "program:gone.exe", "E_FILE_MISSING"),
        ("public.npz", "nets:resnet20", "E_USAGE"),
    ],
)
def test_bad_input_to_build_is_refused_with_a_code(home: Path, public: str, source: str, code: str) -> None:
    done = run_in_process("knowledge", "build", "--public", public, "--source", source, "--out", "pack", home=home)
    assert error_code(done) == code
    assert not (home / "pack").exists()


@pytest.mark.parametrize(
    ("file", "code"), [("gone", "E_FILE_MISSING"), ("answers.npz", "E_PACK"), ("plan.toml", "E_PACK")]
)
def test_show_refuses_a_file_that_is_not_a_pack(home: Path, file: str, code: str) -> None:
    assert error_code(run_in_process("knowledge", "show", file, home=home)) == code


def test_prompts_without_a_source_that_takes_any_are_wrong_usage(home: Path) -> None:
    words = ("--public", "public.npz", "--source", "files:answers.npz", "--out", "pack", "--prompts", "skin")
    assert error_code(run_in_process("knowledge", "build", *words, home=home)) == "E_USAGE"


def test_start_writes_first_weights_for_the_plans_net(home: Path) -> None:
    build(home)
    options = ("--out", "start.safetensors", "--epochs", "1", "--threads", "1")
    done = run_in_process("knowledge", "start", "plan.toml", "pack.safetensors", *options, home=home)
    assert done.returncode == 0, done.stderr
    weights = load_file(home / "start.safetensors")
    assert weights["linear.weight"].shape == (3, 64)
    assert sum(array.size for name, array in weights.items() if "running" not in name) == 269_267  # with 3 classes


def test_start_does_not_train_if_its_output_exists(home: Path) -> None:
    build(home)
    (home / "start.safetensors").write_text("mine")
    words = ("plan.toml", "pack.safetensors", "--out", "start.safetensors", "--epochs", "100000")
    assert error_code(run_in_process("knowledge", "start", *words, home=home)) == "E_FILE_EXISTS"
    assert (home / "start.safetensors").read_text() == "mine"
