"""Nets for masks as sources: their maps of probabilities, in a pack of 8-bit numbers, that small sites learn from."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.pack import MAP_SCALE, Pack
from fedhelp_edge.encoder import embed_pack
from fedhelp_edge.errors import BadPackError, SourceAnswerError, UsageError
from fedhelp_edge.knowledge import public_images
from fedhelp_edge.knowledge.asking import Asking
from fedhelp_edge.knowledge.build import Building
from fedhelp_edge.knowledge.source_spec import SourceSpec
from fedhelp_edge.lab import partition, run
from fedhelp_edge.lab.transport import SealedTransport
from fedhelp_edge.methods.base import Compute
from tests import mask_bundles
from tests.unit.data.test_masks import npz, squares

SIDE, CLASSES = mask_bundles.SIDE, mask_bundles.CLASSES


def write_net(path: Path, side: int | str = "side", channels: int = 1, maps: int = 3, output: str = "logits") -> Path:
    """A net that finds the two classes of `squares` by how bright a pixel is."""
    weights = np.array([[0.0], [30.0], [60.0]], np.float32)[:maps, :, None, None] / channels
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["rows"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["rows", "weights", "bias"], [output]),
    ]
    constants = {
        "scale": np.float32(255), "bias": np.array([0.0, -9.0, -28.0], np.float32)[:maps],
        "weights": np.repeat(weights, channels, 1),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", side, side, channels])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", maps, side, side])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def public(count: int = 6) -> Pack:
    images, truth = squares(count, seed=3)
    return packs.of_masks(images[..., None], truth, CLASSES)


def build(source: Path, folder: Path, images: Pack | None = None) -> Pack:
    return Building(images or public(), [SourceSpec.parse(f"masks:{source}")], folder / "kept", Asking(batch=4)).run()


def test_a_models_bundle_answers_for_each_pixel(tmp_path: Path) -> None:
    model = mask_bundles.saved_model(tmp_path)
    pack = build(model, tmp_path)
    assert (pack.probabilities.dtype, pack.probabilities.shape) == (np.uint8, (1, 6, 3, SIDE, SIDE))
    bundle = mask_bundles.loaded_bundle(tmp_path)
    expected = bundle.engine(pack.pixels).probabilities * MAP_SCALE
    assert np.abs(pack.probabilities[0] - expected).max() <= 0.51
    assert (pack.probabilities[0].argmax(1) == pack.masks).mean() > 0.9
    assert pack.sources == ("masks:model.onnx",)


@pytest.mark.parametrize(("side", "channels"), [("side", 1), (SIDE, 3), (2 * SIDE, 1)])
def test_any_net_that_takes_images_and_gives_logits_is_a_source(side: int | str, channels: int, tmp_path: Path) -> None:
    pack = build(write_net(tmp_path / "bright.onnx", side, channels), tmp_path)
    found = (pack.probabilities[0].argmax(1) == pack.masks)[pack.masks > 0].mean()
    assert found > (0.9 if side != 2 * SIDE else 0.7)


def test_an_interrupted_build_asks_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = write_net(tmp_path / "bright.onnx")
    first = build(net, tmp_path)
    saved = sorted((tmp_path / "kept").glob("*.npy"))
    assert [np.load(path).dtype for path in saved] == [np.uint8, np.uint8]
    saved[1].unlink()
    asked: list[int] = []
    monkeypatch.setattr(
        "fedhelp_edge.knowledge.sources.masks.MaskSource._maps",
        lambda self, image: (asked.append(1), np.full((3, SIDE, SIDE), 1 / 3, np.float32))[1],
    )
    again = build(net, tmp_path)
    assert len(asked) == 2
    assert np.array_equal(again.probabilities[:, :4], first.probabilities[:, :4])


def test_a_pack_of_masks_is_read_as_written_and_brought_to_a_plans_size(tmp_path: Path) -> None:
    pack = build(write_net(tmp_path / "bright.onnx"), tmp_path)
    packs.save(tmp_path / "pack", pack, 100)
    loaded = packs.load(tmp_path / "pack")
    for name in ("pixels", "labels", "masks", "mask_pixels", "probabilities"):
        assert np.array_equal(getattr(loaded, name), getattr(pack, name)), name
    assert (loaded.classes, loaded.sources, loaded.outputs) == (pack.classes, pack.sources, 3)
    small = loaded.resized(8, 3)
    assert (small.masks.shape, small.probabilities.shape) == ((6, 8, 8), (1, 6, 3, 8, 8))
    assert np.array_equal(small.masks, pack.masks[:, 1::2, 1::2])
    assert np.abs(small.probabilities.sum(2, dtype=int) - MAP_SCALE).max() <= 2
    part = loaded.subset(4)
    assert (len(part), part.masks.shape, part.probabilities.shape[1]) == (4, (4, SIDE, SIDE), 4)
    packs.save(tmp_path / "plain", public())
    assert packs.load(tmp_path / "plain").probabilities.shape == (0, 6, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    "change",
    [
        {"masks": np.full((6, SIDE, SIDE), 3, np.uint8)},
        {"masks": np.zeros((6, SIDE, 8), np.uint8)},
        {"probabilities": np.zeros((1, 6, 3, SIDE, SIDE), np.uint8)},
        {"probabilities": np.zeros((1, 6, 2, SIDE, SIDE), np.uint8)},
        {"classes": ("a",)},
    ],
)
def test_a_pack_whose_masks_do_not_fit_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    maps = np.full((1, 6, 3, SIDE, SIDE), 85, np.uint8)
    packs.save(tmp_path / "pack", replace(public(), sources=("s",), probabilities=maps))
    assert len(packs.load(tmp_path / "pack")) == 6
    packs.save(tmp_path / "wrong", replace(public(), **{"sources": ("s",), "probabilities": maps, **change}))
    with pytest.raises(BadPackError, match="do not fit together"):
        packs.load(tmp_path / "wrong")


def test_what_is_no_net_for_these_masks_is_refused(tmp_path: Path) -> None:
    for words, cause in (
        ({"maps": 2}, "gives 2 maps; the background and 2 classes"), ({"output": "raw"}, "should have an output"),
        ({"channels": 2}, "should have one input"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=cause):
            build(write_net(tmp_path / "wrong.onnx", **words), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(SourceAnswerError, match="a negative value"):
        build(write_net(tmp_path / "wrong.onnx", output="probabilities"), tmp_path)
    net = write_net(tmp_path / "bright.onnx")
    plain = packs.without_predictions(public().pixels, np.zeros(6, np.int64), ("a", "b"))
    with pytest.raises(UsageError, match="masks: answers with masks, and the public images have labels"):
        build(net, tmp_path, plain)
    with pytest.raises(UsageError, match="answers with classes of images"):
        Building(public(), [SourceSpec.parse(f"encoder:{net}")], tmp_path / "kept", Asking())


def test_the_command_needs_no_torch_and_small_sites_learn_from_its_pack(tmp_path: Path) -> None:
    net = write_net(tmp_path / "bright.onnx")
    npz(tmp_path / "public.npz", *squares(8, seed=3), class_names=np.array(CLASSES))
    code = (
        "import sys; sys.modules.update(torch=None); from fedhelp_edge.__main__ import main\n"
        "for words in (['build', '--public', 'public.npz', '--source', 'masks:bright.onnx', '--out', 'pack'],"
        " ['show', 'pack']):\n"
        "    sys.argv = ['fedhelp-edge', 'knowledge', *words]\n"
        "    try: main()\n    except SystemExit as end: assert not end.code, end.code\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "of the pixels" in done.stdout
    assert net.exists()
    plan = mask_bundles.plan_of(
        1,
        'method="fedhelp"',
        "rounds=1",
        "public.size=8",
        "training.epochs=1",
        "fedhelp.public_every=1",
        'training.loss="ce"',
    )
    pack = embed_pack(packs.load(tmp_path / "pack"), plan, None, tmp_path)
    assert pack.borders is not None
    sites = partition.distribute(mask_bundles.site().images, "sizes:20/8,15/5", 0)
    merged = [
        run.run(plan, sites, tmp_path / str(index), compute=Compute(), pack=knowledge, transport=transport)[
            "merged_sha256"
        ]
        for index, (knowledge, transport) in enumerate(((None, None), (pack, None), (pack, SealedTransport())))
    ]
    assert merged[0] != merged[1] == merged[2]


def test_public_masks_of_an_npz_are_checked(tmp_path: Path) -> None:
    images, truth = squares(4)
    read = public_images.read(npz(tmp_path / "a.npz", images, truth), tmp_path)
    assert (read.classes, read.masks.shape) == (("1", "2"), (4, SIDE, SIDE))
    for wrong in (truth[:, :8], truth.astype(np.float32), truth[:3]):
        with pytest.raises(BadPackError, match="masks should be whole numbers"):
            public_images.read(npz(tmp_path / "b.npz", images, wrong), tmp_path)
    with pytest.raises(BadPackError, match="values of masks"):
        public_images.read(npz(tmp_path / "c.npz", images, truth, class_names=np.array(["x"])), tmp_path)
