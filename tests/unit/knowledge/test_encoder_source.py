"""A frozen encoder answers about public images through their labels, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge.errors import EncoderError
from fedhelp_edge.knowledge import build
from tests import encoders

CLASSES = ("dark", "light", "striped")
BOTH = ("encoder", "prototypes")


def images(count: int = 60, side: int = 12, channels: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images whose class an eye sees at once."""
    draw, labels = np.random.default_rng(0), np.arange(count) % 3
    pixels = draw.integers(0, 60, (count, side, side, channels)).astype(np.uint8)
    pixels[labels == 1] += 150
    pixels[labels == 2, : side // 2] += 150
    return pixels, labels


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return encoders.save(tmp_path / "tiny.onnx")


@pytest.mark.parametrize("side", ["side", 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoder_is_right_where_its_features_tell_the_class(tmp_path: Path, side: int | str, channels: int) -> None:
    file = encoders.save(tmp_path / "tiny.onnx", encoders.model(side=side))
    pixels, labels = images(channels=channels)
    pack = build.build(pixels, labels, CLASSES, [f"{kind}:{file}" for kind in BOTH], tmp_path / "answers")
    assert pack.sources == ("encoder:tiny.onnx", "prototypes:tiny.onnx")
    assert [(answers.argmax(1) == labels).mean() for answers in pack.probabilities] == [1.0, 1.0]
    assert [facts["sha256"] for facts in pack.asked] == [encoders.digest(file)] * 2


def test_the_answer_for_an_image_does_not_follow_from_its_own_label(encoder: Path, tmp_path: Path) -> None:
    pixels, labels = images()
    labels[0] = 1  # it is dark
    pack = build.build(pixels, labels, CLASSES, [f"{kind}:{encoder}" for kind in BOTH], tmp_path / "answers")
    assert [answers[0].argmax() for answers in pack.probabilities] == [0, 0]


def test_features_are_computed_once_and_answers_again_where_labels_changed(encoder: Path, tmp_path: Path) -> None:
    pixels, labels = images()
    first = build.build(pixels, labels, CLASSES, [f"encoder:{encoder}"], tmp_path / "answers")
    (features,) = (tmp_path / "answers").glob("features/*/*")
    written = features.stat().st_mtime_ns
    other = build.build(pixels, labels[::-1].copy(), CLASSES, [f"encoder:{encoder}"], tmp_path / "answers")
    again = build.build(pixels, labels, CLASSES, [f"encoder:{encoder}"], tmp_path / "answers")
    assert [path.stat().st_mtime_ns for path in (tmp_path / "answers").glob("features/*/*")] == [written]
    assert (other.probabilities != first.probabilities).any()
    assert again.probabilities.tobytes() == first.probabilities.tobytes()


def test_a_file_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wrong.onnx").write_bytes(b"no graph")
    with pytest.raises(EncoderError, match=r"wrong\.onnx"):
        build.build(*images(), CLASSES, [f"encoder:{tmp_path / 'wrong.onnx'}"], tmp_path / "answers")


def test_the_command_needs_no_torch(encoder: Path, tmp_path: Path) -> None:
    pixels, labels = images()
    np.savez(tmp_path / "public.npz", images=pixels, labels=labels, class_names=np.array(CLASSES))
    code = (
        "import sys; from fedhelp_edge.__main__ import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    words = ["knowledge", "build", "--public", "public.npz", "--source", f"encoder:{encoder}", "--out", "pack"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pack").exists()
