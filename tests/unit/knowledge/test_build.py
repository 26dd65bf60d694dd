"""Foundation models are asked about each public image once, in order; their answers are cached and checked."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from fedhelp_edge.errors import (
    BadPackError,
    FileMissingError,
    NotSafetensorsError,
    SchemaNamesError,
    SourceAnswerError,
    UsageError,
)
from fedhelp_edge.knowledge import build, public_images, torchvision_shim
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.source_spec import SourceSpec

CLASSES = ("a", "b", "c")
GIVEN = Path(__file__).parents[3] / os.environ.get("FEDHELP_DATA", "../shared/data")
RESNET20 = GIVEN.parent / "weights" / "resnet20_cifar10.safetensors"
CIFAR = GIVEN / "public" / "cifar10_5k.npz"

Answer = Callable[[NDArray[np.uint8]], Any]


def fair(images: NDArray[np.uint8]) -> Any:
    """Answers that differ between images: from each image's mean."""
    first = (images.reshape(len(images), -1).mean(1) + 1) / 258
    return np.stack([first, (1 - first) / 2, (1 - first) / 2], 1).astype(np.float32)


class Fake(Source):
    """A fake foundation model that records the images and answers by a formula."""

    def __init__(self, answer: Answer = fair, breaks_after: int = 1000) -> None:
        self.asked: list[tuple[int, bytes]] = []
        self.made: list[str] = []
        self._answer, self._breaks_after = answer, breaks_after

    def make(self, spec: SourceSpec, classes: Sequence[str], asking: Asking) -> Fake:
        self.made.append(spec.text)
        return self

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        if len(self.asked) == self._breaks_after:
            raise KeyboardInterrupt
        self.asked.append((first, images.tobytes()))
        return np.asarray(self._answer(images))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    """Replaces every source by a fake; a block has four images."""

    def put(*arguments: Any) -> Fake:
        source = Fake(*arguments)
        monkeypatch.setattr(build, "open_source", source.make)
        monkeypatch.setattr(SourceSpec, "batch", 4)
        return source

    return put


def opened(text: str, classes: Sequence[str]) -> Source:
    """The source that a person names."""
    return build.open_source(SourceSpec.parse(text), classes, Asking())


def noise(count: int = 10, side: int = 8, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.Generator(np.random.Philox(5)).integers(0, 256, (count, side, side, channels), np.uint8)


def labels(count: int = 10) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) % 3


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two sources with placeholder weight files."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    return [f"clip:M@{tmp_path / name}" for name in ("one", "two")]


def test_each_source_sees_each_image_once_in_order(fake: Callable[..., Fake], two: list[str], tmp_path: Path) -> None:
    source, images = fake(), noise()
    build.build(images, labels(), CLASSES, two, tmp_path)
    assert source.made == two
    assert [first for first, _ in source.asked] == [0, 4, 8, 0, 4, 8]
    sent = b"".join(block for _, block in source.asked)
    assert sent == images.tobytes() * 2  # only the public images


def test_the_pack_has_every_answer_with_its_image(fake: Callable[..., Fake], two: list[str], tmp_path: Path) -> None:
    fake()
    images = noise()
    pack = build.build(images, labels(), CLASSES, two, tmp_path)
    assert pack.pixels.tobytes() == images.tobytes()
    assert pack.labels.tolist() == labels().tolist()
    assert (pack.classes, pack.sources) == (CLASSES, ("clip:M@one", "clip:M@two"))
    assert pack.probabilities.tobytes() == np.stack([fair(images)] * 2).astype(np.float16).tobytes()


def test_a_second_run_asks_no_source(fake: Callable[..., Fake], two: list[str], tmp_path: Path) -> None:
    fake()
    first = build.build(noise(), labels(), CLASSES, two[:1], tmp_path)
    again = fake()
    second = build.build(noise(), labels(), CLASSES, two[:1], tmp_path)
    assert (again.made, again.asked) == ([], [])
    assert second.probabilities.tobytes() == first.probabilities.tobytes()


@pytest.mark.parametrize("answered", [0, 1, 2, 3, 4, 5])
def test_an_interrupted_run_continues_without_asking_again(
    fake: Callable[..., Fake], two: list[str], tmp_path: Path, answered: int
) -> None:
    cut = fake(fair, answered)
    with pytest.raises(KeyboardInterrupt):
        build.build(noise(), labels(), CLASSES, two, tmp_path / "kept")
    resumed = fake()
    pack = build.build(noise(), labels(), CLASSES, two, tmp_path / "kept")
    assert len(cut.asked) == answered
    assert len(resumed.asked) == 6 - answered
    complete = fake()
    undisturbed = build.build(noise(), labels(), CLASSES, two, tmp_path / "other")
    assert cut.asked + resumed.asked == complete.asked
    assert pack.probabilities.tobytes() == undisturbed.probabilities.tobytes()


def test_other_images_are_asked_again(fake: Callable[..., Fake], two: list[str], tmp_path: Path) -> None:
    fake()
    build.build(noise(), labels(), CLASSES, two[:1], tmp_path)
    again = fake()
    build.build(255 - noise(), labels(), CLASSES, two[:1], tmp_path)
    assert len(again.asked) == 3


def test_changed_weights_are_asked_again_and_moved_ones_are_not(
    fake: Callable[..., Fake], two: list[str], tmp_path: Path
) -> None:
    fake()
    build.build(noise(), labels(), CLASSES, two, tmp_path)
    (tmp_path / "one").rename(tmp_path / "moved")
    (tmp_path / "two").write_bytes(b"other weights")
    again = fake()
    build.build(noise(), labels(), CLASSES, [f"clip:M@{tmp_path / 'moved'}", two[1]], tmp_path)
    assert again.made == two[1:]
    assert len(again.asked) == 3


def test_the_same_weights_in_another_net_are_another_source(
    fake: Callable[..., Fake], two: list[str], tmp_path: Path
) -> None:
    fake()
    build.build(noise(), labels(), CLASSES, two[:1], tmp_path)
    again = fake()
    build.build(noise(), labels(), CLASSES, [two[0].replace("clip:M", "clip:N")], tmp_path)
    assert len(again.asked) == 3


def test_class_names_that_are_no_text_for_others_are_still_names(
    fake: Callable[..., Fake], two: list[str], tmp_path: Path
) -> None:
    fake()
    odd = ("a\ud800", "b", "c")
    assert build.build(noise(), labels(), odd, two, tmp_path / "kept").classes == odd


def test_progress_counts_images_of_all_sources(fake: Callable[..., Fake], two: list[str], tmp_path: Path) -> None:
    fake()
    progress: list[tuple[int, int]] = []
    build.build(noise(), labels(), CLASSES, two, tmp_path, lambda *counts: progress.append(counts))
    assert progress == [(4, 20), (8, 20), (10, 20), (14, 20), (18, 20), (20, 20)]


ODD: dict[str, Answer] = {
    "too few rows": lambda images: fair(images)[:-1],
    "too many rows": lambda images: np.concatenate([fair(images)] * 2),
    "too few classes": lambda images: np.full((len(images), 2), 0.5, np.float32),
    "one number an image": lambda images: np.ones(len(images), np.float32),
    "below zero": lambda images: fair(images) * 0 + np.array([1.5, -0.5, 0], np.float32),
    "no number": lambda images: fair(images) * np.float32("nan"),
    "logits": lambda images: fair(images) * 3,
    "nothing": lambda images: fair(images) * 0,
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_an_answer_that_is_not_probabilities_is_refused_and_not_cached(
    fake: Callable[..., Fake], two: list[str], tmp_path: Path, answer: Answer
) -> None:
    fake(answer)
    with pytest.raises(SourceAnswerError, match="clip:M@one"):
        build.build(noise(), labels(), CLASSES, two, tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("clip:ViT-L-14@private/folder/w.pt", "clip:ViT-L-14@w.pt"),
        ("nets:resnet20@folder/a@b/w.safetensors", "nets:resnet20@w.safetensors"),
        ("files:private/folder/answers.npz", "files:answers.npz"),
        ("files:private@home/folder/answers.npz", "files:answers.npz"),
        ("files:answers.npz", "files:answers.npz"),
    ],
)
def test_source_names_in_a_pack_have_no_folders_of_this_machine(
    spec: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / (spec.partition(":") if spec.startswith("files:") else spec.partition("@"))[2]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert SourceSpec.parse(spec).name == shown


@pytest.mark.parametrize("spec", ["", "files", "files:", "oracle:me@w", "clip", "clip:ViT-B-32", "nets:resnet20"])
def test_an_unknown_source_is_wrong_usage(spec: str) -> None:
    with pytest.raises(UsageError):
        opened(spec, CLASSES)


@pytest.mark.parametrize(
    "spec", ["files:gone.npz", "files:a@gone.npz", "clip:ViT-B-32@gone.pt", "torchvision:resnet18@gone", "nets:x@gone"]
)
def test_a_source_with_a_missing_file_is_an_error(spec: str) -> None:
    with pytest.raises(FileMissingError, match="gone"):
        opened(spec, CLASSES)


def test_an_unknown_net_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"")
    for spec in (f"nets:resnet21@{tmp_path / 'w'}", f"torchvision:resnet21@{tmp_path / 'w'}"):
        with pytest.raises(UsageError, match=r"resnet21|NET"):
            opened(spec, CLASSES)


# --- answers from a file ---------------------------------------------------------------------------------------------


def test_answers_from_a_file_are_used_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceSpec, "batch", 4)
    answers = fair(noise())
    np.savez(tmp_path / "said@home.npz", probabilities=answers)
    pack = build.build(noise(), labels(), CLASSES, [f"files:{tmp_path / 'said@home.npz'}"], tmp_path / "kept")
    assert pack.probabilities.tobytes() == answers.astype(np.float16)[None].tobytes()
    assert pack.sources == ("files:said@home.npz",)


def test_a_file_with_fewer_answers_than_images_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "said.npz", probabilities=fair(noise(9)))
    with pytest.raises(BadPackError, match="9 answers"):
        build.build(noise(10), labels(), CLASSES, [f"files:{tmp_path / 'said.npz'}"], tmp_path / "kept")


def write_nothing_fitting(path: Path) -> None:
    np.savez(path, logits=np.zeros((3, 3), np.float32))


def write_objects(path: Path) -> None:
    np.savez(path, probabilities=np.array([{"a": 1}], dtype=object), images=np.array([{}]), labels=np.array([{}]))


def write_one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, fair(noise()))


def write_half(path: Path) -> None:
    np.savez(path, probabilities=fair(noise()), images=noise(), labels=labels())
    path.write_bytes(path.read_bytes()[:-50])


def write_text(path: Path) -> None:
    path.write_text("no archive at all")


BROKEN = [write_nothing_fitting, write_objects, write_one_array, write_half, write_text]


@pytest.mark.parametrize("write", BROKEN)
def test_a_file_without_answers_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "said.npz")
    with pytest.raises(BadPackError, match=r"said\.npz"):
        opened(f"files:{tmp_path / 'said.npz'}", CLASSES)


# --- the public images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "train_"])
def test_an_npz_keeps_the_order_of_its_images(tmp_path: Path, prefix: str) -> None:
    arrays = {f"{prefix}images": noise(channels=1)[..., 0], f"{prefix}labels": labels()[:, None].astype(np.uint8)}
    np.savez(tmp_path / "public.npz", class_names=np.array(CLASSES), **arrays)
    public = public_images.read(tmp_path / "public.npz", tmp_path / "kept")
    assert public.pixels.tobytes() == noise(channels=1).tobytes()
    assert (public.labels.tolist(), public.classes, public.masks) == (labels().tolist(), CLASSES, None)


@pytest.mark.parametrize("write", BROKEN)
def test_an_npz_without_images_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "public.npz")
    with pytest.raises(BadPackError, match=r"public\.npz"):
        public_images.read(tmp_path / "public.npz", tmp_path / "kept")


@pytest.mark.parametrize(
    "changed",
    [
        {"images": noise().astype(np.float32)},
        {"images": noise(0)},
        {"images": noise()[..., :2]},
        {"labels": labels(9)},
        {"labels": labels().astype(np.float64)},
        {"labels": np.stack([labels()] * 2, 1)},
        {"labels": np.int64(1)},
        {"labels": labels() + 1},
        {"labels": labels() - 1},
    ],
)
def test_an_npz_whose_images_and_labels_do_not_match_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    np.savez(tmp_path / "public.npz", **{"images": noise(), "labels": labels(), "class_names": CLASSES, **changed})
    with pytest.raises(BadPackError, match=r"public\.npz"):
        public_images.read(tmp_path / "public.npz", tmp_path / "kept")


# --- nets of this kit's kind -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not (RESNET20.exists() and CIFAR.exists()), reason="the public CIFAR weights or images are absent")
def test_the_public_resnet20_is_right_in_81_percent_of_cifar(tmp_path: Path) -> None:
    public = public_images.read(CIFAR, tmp_path).only(np.arange(500))
    images, truth = public.pixels, public.labels
    pack = build.build(images, truth, public.classes, [f"nets:resnet20@{RESNET20}"], tmp_path / "kept")
    right = int((pack.probabilities[0].argmax(1) == truth).sum())
    expected, spread = 500 * 0.8103, math.sqrt(500 * 0.8103 * (1 - 0.8103))
    assert abs(right - expected) < 3 * spread
    assert np.abs(pack.probabilities[0].astype(np.float64).sum(1) - 1).max() < 2e-3


@pytest.mark.skipif(not RESNET20.exists(), reason="the public CIFAR weights are absent")
def test_a_net_takes_grey_images_of_another_size() -> None:
    grey = noise(3, side=20, channels=1)
    source = opened(f"nets:resnet20@{RESNET20}", [str(n) for n in range(10)])
    wide = source.probabilities(np.repeat(grey, 3, 3), 0)
    assert source.probabilities(grey, 0).tobytes() == wide.tobytes()
    assert wide.shape == (3, 10)


@pytest.mark.skipif(not RESNET20.exists(), reason="the public CIFAR weights are absent")
@pytest.mark.parametrize(("net", "classes"), [("resnet32", 10), ("resnet20", 9)])
def test_weights_of_another_net_are_refused(net: str, classes: int) -> None:
    with pytest.raises(SchemaNamesError):
        opened(f"nets:{net}@{RESNET20}", [str(n) for n in range(classes)])


# --- classifiers of torchvision --------------------------------------------------------------------------------------


@pytest.fixture
def torchvision_net(tmp_path: Path) -> tuple[torch.nn.Module, str]:
    """A small classifier with random weights, and its source."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed (extra: foundation)")
    torchvision_shim.prepare()
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None, num_classes=3).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    return net, f"torchvision:resnet18@{tmp_path / 'w.safetensors'}"


def test_a_torchvision_classifier_gives_the_answers_of_the_model_itself(
    torchvision_net: tuple[torch.nn.Module, str], tmp_path: Path
) -> None:
    net, spec = torchvision_net
    images = noise(2, side=224)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        inputs = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
        expected = torch.nn.functional.softmax(net(inputs), 1).numpy()
    pack = build.build(images, labels(2), CLASSES, [spec], tmp_path / "kept")
    assert np.abs(pack.probabilities[0] - expected).max() < 1e-3
    assert np.abs(opened(spec, CLASSES).probabilities(images, 0) - expected).max() < 1e-5
    assert (
        np.ptp(expected, axis=0).max() > 1e-4
    )  # the answers differ between images, so that the comparison is meaningful


def test_a_torchvision_classifier_takes_small_grey_images(torchvision_net: tuple[torch.nn.Module, str]) -> None:
    answers = opened(torchvision_net[1], CLASSES).probabilities(noise(2, side=8, channels=1), 0)
    assert answers.shape == (2, 3)
    assert np.abs(answers.sum(1) - 1).max() < 1e-5


def test_torchvision_weights_of_another_model_are_refused(torchvision_net: tuple[torch.nn.Module, str]) -> None:
    with pytest.raises(SchemaNamesError, match="resnet18 with 4 classes"):
        opened(torchvision_net[1], [*CLASSES, "d"])
    with pytest.raises(SchemaNamesError, match="resnet34"):
        opened(torchvision_net[1].replace("resnet18", "resnet34"), CLASSES)


def test_a_pickle_of_torchvision_weights_is_not_opened(
    torchvision_net: tuple[torch.nn.Module, str], tmp_path: Path
) -> None:
    torch.save(torchvision_net[0].state_dict(), tmp_path / "w.pt")
    with pytest.raises(NotSafetensorsError):
        opened(f"torchvision:resnet18@{tmp_path / 'w.pt'}", CLASSES)
