"""The open_clip source with real weight files. The models are tiny and random: the tests check how they are asked."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from fedhelp_edge.data.pack import without_predictions
from fedhelp_edge.errors import BadPackError, FileMissingError, UsageError
from fedhelp_edge.knowledge import build, prompts, torchvision_shim
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.source_spec import SourceSpec
from fedhelp_edge.knowledge.sources.clip import ClipModel, ClipSource

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed (extra: foundation)"
)
CLASSES = ("horse", "ship", "frog")
SIDE = 16
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
USUAL = [
    [f"a photo of a {name}.", f"a picture of a {name}.", f"an image of a {name}.", f"a close-up photo of a {name}."]
    for name in CLASSES
]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # as CLIP was trained


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any use of a socket fails."""

    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """open_clip with a tiny model added."""
    torchvision_shim.prepare()
    import open_clip

    path = tmp_path_factory.mktemp("models") / "tiny-for-tests.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return open_clip


@pytest.fixture
def saved(open_clip: Any, tmp_path: Path) -> Callable[..., tuple[Any, str]]:
    """Gives a model with random weights and the source of its weight file."""

    def make(seed: int = 0) -> tuple[Any, str]:
        torch.manual_seed(seed)
        net = open_clip.create_model("tiny-for-tests").eval()
        path = tmp_path / f"weights{seed}.safetensors"
        state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
        save_file(state, path)
        return net, f"clip:tiny-for-tests@{path}"

    return make


def opened(text: str, classes: Sequence[str], asking: Asking | None = None) -> Source:
    return build.open_source(SourceSpec.parse(text), classes, asking or Asking())


def noise(count: int = 5, side: int = SIDE, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.Generator(np.random.Philox(7)).integers(0, 256, (count, side, side, channels), np.uint8)


@torch.no_grad()
def by_hand(
    net: Any, tokens: Any, images: NDArray[np.uint8], sentences: Sequence[Sequence[str]] = USUAL
) -> NDArray[np.float32]:
    """Zero-shot probabilities, class by class and sentence by sentence."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    features = net.encode_image((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    logits = torch.zeros(len(images), len(CLASSES))
    for index, of_class in enumerate(sentences):
        total = torch.zeros(TINY["embed_dim"])  # type: ignore[call-overload]
        for text in of_class:
            sentence = net.encode_text(tokens([text]))[0]
            total += sentence / sentence.norm()
        for row, image in enumerate(features):
            logits[row, index] = net.logit_scale.exp() * torch.cosine_similarity(image, total, 0)
    return np.asarray(torch.softmax(logits, 1).numpy())


def test_clip_gives_the_answers_of_the_same_model_by_hand(
    open_clip: Any, saved: Callable[..., tuple[Any, str]], tmp_path: Path
) -> None:
    net, spec = saved(0)
    expected = by_hand(net, open_clip.get_tokenizer("tiny-for-tests"), noise())
    answers = opened(spec, CLASSES).probabilities(noise(), 0)
    assert np.abs(answers - expected).max() < 1e-5
    assert (
        np.ptp(expected, axis=0).max() > 0.01
    )  # the answers differ between images, so that the comparison is meaningful
    pack = build.build(noise(), np.zeros(5, np.int64), CLASSES, [spec], tmp_path / "kept")
    assert np.abs(pack.probabilities[0] - expected).max() < 1e-3
    assert pack.sources == ("clip:tiny-for-tests@weights0.safetensors",)


def test_a_file_of_prompts_gives_the_mean_of_all_its_sentences_of_a_class(
    open_clip: Any, saved: Callable[..., tuple[Any, str]], tmp_path: Path
) -> None:
    net, spec = saved(0)
    (tmp_path / "sea.toml").write_text(
        'templates = ["an {} at sea.", "{}, drawn {}"]\n'.replace(", drawn {}", ", drawn")
        + '[classes]\nSHIP = ["boat", "large ship with sails"]\n" Horse" = ["sea horse"]\n'
    )
    words = (("sea horse",), ("boat", "large ship with sails"), ("frog",))
    sentences = [[text for word in of for text in (f"an {word} at sea.", f"{word}, drawn")] for of in words]
    expected = by_hand(net, open_clip.get_tokenizer("tiny-for-tests"), noise(), sentences)
    chosen = prompts.read(str(tmp_path / "sea.toml"), CLASSES)
    answers = opened(spec, CLASSES, Asking(prompts=chosen)).probabilities(noise(), 0)
    assert np.abs(answers - expected).max() < 1e-5
    assert np.abs(opened(spec, CLASSES).probabilities(noise(), 0) - expected).max() > 1e-3


def test_other_prompts_are_asked_again_and_the_pack_says_by_which(
    saved: Callable[..., tuple[Any, str]], tmp_path: Path
) -> None:
    specs = [SourceSpec.parse(saved()[1])]

    def answers(named: str | None) -> build.Building:
        chosen = prompts.read(named, CLASSES) if named else None
        asking = Asking(prompts=chosen)
        return build.Building(
            without_predictions(noise(), np.zeros(5, np.int64), CLASSES), specs, tmp_path / "kept", asking
        )

    def missing(named: str | None) -> int:
        building = answers(named)
        return len(building.missing(building.answers[0]))

    usual = answers(None).run()
    assert usual.asked[0]["prompts"].startswith("photo: a photo of a {}. | a picture of a {}.")
    assert (missing("photo"), missing("skin"), missing("cells")) == (0, 1, 1)
    skin = answers("skin").run()
    assert skin.asked[0]["prompts"].startswith("skin: a dermoscopic image of {}.")
    assert skin.probabilities.tobytes() != usual.probabilities.tobytes()
    assert (missing("skin"), missing("cells")) == (0, 1)


def test_saved_answers_count_only_for_the_sentences_by_which_they_were_asked(
    saved: Callable[..., tuple[Any, str]], tmp_path: Path
) -> None:
    """An earlier version asked about `an aquarium_fish`."""
    specs, kept = [SourceSpec.parse(saved()[1])], tmp_path / "kept"

    def missing(classes: tuple[str, ...]) -> int:
        building = build.Building(without_predictions(noise(), np.zeros(5, np.int64), classes), specs, kept, Asking())
        return len(building.missing(building.answers[0]))

    plain, joined = ("horse", "ship"), ("horse", "aquarium_fish")
    for classes in (plain, joined):  # as that version named its files
        sees = hashlib.sha256(noise().data).hexdigest()
        name = hashlib.sha256(f"{specs[0].identity}/{sees}/{'/'.join(classes)}".encode()).hexdigest()[:24]
        kept.mkdir(exist_ok=True)
        np.save(kept / f"{name}-0000000.npy", np.full((5, 2), 0.5, np.float32))
    assert (missing(plain), missing(joined)) == (0, 1)


def test_images_pass_through_the_net_in_blocks_that_fit_into_memory(saved: Callable[..., tuple[Any, str]]) -> None:
    model = ClipModel.parse(saved()[1].partition(":")[2])
    usual = prompts.read(prompts.DEFAULT, CLASSES)
    seen: list[int] = []
    model.net.visual.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    tokens, width = (SIDE // 8) ** 2 + 1, 4 * 32  # the widest layer
    a_block_of_two = 2 * 4 * tokens * width * 4  # four live tensors of four bytes a number
    blocks = ClipSource(model, CLASSES, usual, a_block_of_two).probabilities(noise(), 0)
    assert seen == [1, 2, 2, 1]  # one to measure
    whole = ClipSource(model, CLASSES, usual).probabilities(noise(), 0)
    assert seen[4:] == [1, 5]
    assert np.abs(blocks - whole).max() < 1e-6
    assert ClipSource(model, CLASSES, usual, 1).probabilities(noise(), 0).shape == (5, 3)


def test_a_class_of_very_many_sentences_is_encoded_in_blocks(
    open_clip: Any, saved: Callable[..., tuple[Any, str]]
) -> None:
    net, spec = saved()
    model = ClipModel.parse(spec.partition(":")[2])
    templates = tuple(f"picture {number} of a {{}}" for number in range(150))
    seen: list[int] = []
    model.net.token_embedding.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    answers = ClipSource(model, CLASSES, prompts.Prompts("many", templates, {})).probabilities(noise(), 0)
    assert max(seen) <= 64
    sentences = [[text.replace("{}", name) for text in templates] for name in CLASSES]
    expected = by_hand(net, open_clip.get_tokenizer("tiny-for-tests"), noise(), sentences)
    assert np.abs(answers - expected).max() < 1e-5


# --- the activation -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pair(open_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """open_clip with a tiny model in both forms, of which no published weights are known."""
    folder = tmp_path_factory.mktemp("pair")
    for name, quick in (("tiny-pair", False), ("tiny-pair-quickgelu", True)):
        (folder / f"{name}.json").write_text(json.dumps({**TINY, **({"quick_gelu": True} if quick else {})}))
    open_clip.add_model_config(folder)
    return open_clip


def weights_of_pair(open_clip: Any, path: Path) -> Path:
    torch.manual_seed(0)
    net = open_clip.create_model("tiny-pair")
    path.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(
    ("model", "name", "right"),
    [
        ("RN50x16", "weights", "RN50x16-quickgelu"),  # all weights that are known
        ("RN50", "rn50", "RN50-quickgelu"),
        ("ViT-L-14", "ViT-L-14-openai", "ViT-L-14-quickgelu"),
        ("ViT-L-14", "vit_l14_dfn2b", "ViT-L-14-quickgelu"),
        ("ViT-L-14-quickgelu", "vit-l-14.dfn2b_s39b", "ViT-L-14"),  # a longer tag counts
        ("ViT-B-32-quickgelu", "laion2b-s34b-b79k", "ViT-B-32"),
        ("ViT-B-32", "b32-quickgelu", "ViT-B-32-quickgelu"),
    ],
)
def test_weights_that_are_known_to_need_the_other_activation_are_refused(
    open_clip: Any, tmp_path: Path, model: str, name: str, right: str
) -> None:
    (tmp_path / f"{name}.safetensors").touch()
    with pytest.raises(UsageError, match=f"does not belong to {model}:") as refused:
        opened(f"clip:{model}@{tmp_path / name}.safetensors", CLASSES)
    assert f"clip:{right}@" in refused.value.remedy
    with pytest.raises(BadPackError):  # the right name goes on to the weights, which are none
        opened(f"clip:{right}@{tmp_path / name}.safetensors", CLASSES)


@pytest.mark.parametrize("quick", [True, False])
def test_a_config_beside_the_weights_decides(pair: Any, tmp_path: Path, quick: bool) -> None:
    path = weights_of_pair(pair, tmp_path / "openai.safetensors")
    config = {**TINY, **({"quick_gelu": True} if quick else {})}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    right, wrong = ("tiny-pair-quickgelu", "tiny-pair")[:: 1 if quick else -1]
    lines: list[str] = []
    opened(f"clip:{right}@{path}", CLASSES, Asking(say=lines.append))
    assert lines == []
    with pytest.raises(UsageError, match=r"open_clip_config\.json beside it says so"):
        opened(f"clip:{wrong}@{path}", CLASSES)


@pytest.mark.parametrize("config", ["", "{", "[]", '{"model_cfg": 3}', json.dumps({"model_cfg": {"embed_dim": 5}})])
def test_where_nothing_tells_the_activation_a_person_is_told_and_the_answers_differ(
    pair: Any, tmp_path: Path, config: str
) -> None:
    path = weights_of_pair(pair, tmp_path / "weights.safetensors")
    if config:
        (tmp_path / "open_clip_config.json").write_text(config)
    answers = []
    for model in ("tiny-pair", "tiny-pair-quickgelu"):
        lines: list[str] = []
        answers.append(opened(f"clip:{model}@{path}", CLASSES, Asking(say=lines.append)).probabilities(noise(), 0))
        assert len(lines) == 1
        assert lines[0].startswith("nobody can tell whether weights.safetensors belongs to tiny-pair-quickgelu, or ")
        assert lines[0].endswith(f"; {model} is asked")
    assert np.abs(answers[0] - answers[1]).max() > 1e-4


def test_a_model_with_one_activation_is_asked_without_a_word(saved: Callable[..., tuple[Any, str]]) -> None:
    lines: list[str] = []
    opened(saved()[1], CLASSES, Asking(say=lines.append))
    assert lines == []


def test_other_weights_give_other_answers(saved: Callable[..., tuple[Any, str]]) -> None:
    first, second = (opened(saved(seed)[1], CLASSES).probabilities(noise(), 0) for seed in (0, 1))
    assert np.abs(first - second).max() > 0.01


def test_answers_follow_the_names_of_the_classes(saved: Callable[..., tuple[Any, str]]) -> None:
    _, spec = saved()
    forward = opened(spec, CLASSES).probabilities(noise(), 0)
    backward = opened(spec, CLASSES[::-1]).probabilities(noise(), 0)
    assert np.abs(forward - backward[:, ::-1]).max() < 1e-5


def test_grey_images_are_seen_as_colour(saved: Callable[..., tuple[Any, str]]) -> None:
    source = opened(saved()[1], CLASSES)
    grey = noise(channels=1)
    assert source.probabilities(grey, 0).tobytes() == source.probabilities(np.repeat(grey, 3, 3), 0).tobytes()


def test_images_of_any_size_are_accepted(saved: Callable[..., tuple[Any, str]]) -> None:
    answers = opened(saved()[1], CLASSES).probabilities(noise(side=40), 0)
    assert answers.shape == (5, 3)
    assert np.abs(answers.sum(1) - 1).max() < 1e-5


def test_an_unknown_model_is_wrong_usage(saved: Callable[..., tuple[Any, str]]) -> None:
    path = saved()[1].partition("@")[2]
    for model in ("ViT-Z-99", "hf-hub:somebody/something", "local-dir:somewhere"):
        with pytest.raises(UsageError, match="knows no model"):
            opened(f"clip:{model}@{path}", CLASSES)


def test_a_missing_weight_file_is_an_error(open_clip: Any, tmp_path: Path) -> None:
    with pytest.raises(FileMissingError, match=r"gone\.safetensors"):
        opened(f"clip:tiny-for-tests@{tmp_path / 'gone.safetensors'}", CLASSES)


def test_a_file_named_like_a_known_tag_is_read_and_nothing_is_downloaded(
    open_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "laion400m_e32").write_text("no weights at all")
    assert "laion400m_e32" in open_clip.list_pretrained_tags_by_model("ViT-B-32")
    downloads: list[str] = []
    monkeypatch.setattr(
        open_clip.factory, "download_pretrained", lambda *arguments, **options: downloads.append("download")
    )
    monkeypatch.setattr(open_clip.factory, "get_model_config", lambda name: json.loads(json.dumps(TINY)))
    with pytest.raises(UsageError, match="with a safetensors file"):
        opened("clip:ViT-B-32@laion400m_e32", CLASSES)
    assert downloads == []


def write_text(path: Path) -> None:
    path.write_text("no weights at all, but some text that is long enough to be read")


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": Path}))


def write_other_net(path: Path) -> None:
    state = {"conv.weight": torch.zeros(3, 3)}
    save_file(state, path)


@pytest.mark.parametrize("write", [write_text, write_nothing, write_pickle, write_other_net])
def test_a_file_with_other_content_is_refused(open_clip: Any, tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "wrong.safetensors"
    write(path)
    with pytest.raises(BadPackError, match=r"wrong\.safetensors does not hold the weights of tiny-for-tests"):
        opened(f"clip:tiny-for-tests@{path}", CLASSES)


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.npz"])
def test_weights_that_would_have_to_be_unpickled_are_not_opened(open_clip: Any, tmp_path: Path, name: str) -> None:
    torch.save({}, tmp_path / name)
    with pytest.raises(UsageError, match="with a safetensors file"):
        opened(f"clip:tiny-for-tests@{tmp_path / name}", CLASSES)
