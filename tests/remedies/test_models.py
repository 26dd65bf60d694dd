"""Faults of a model or of training: the test follows the hint, and the command works."""

from __future__ import annotations

import io
import json
import shutil
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import onnx
from safetensors.torch import save_file
from torch import nn

from export import walk
from fedhelp_edge import api, update
from fedhelp_edge.cli import predict
from fedhelp_edge.errors import MaskModelError
from fedhelp_edge.infer import bundle, metadata
from fedhelp_edge.knowledge import torchvision_shim
from fedhelp_edge.parcel import keys, sshsig
from server_ref.intake import receive
from tests import encoders, hostile_front, mask_bundles
from tests.site_and_hub import SiteAndHub, fails_with, lists_refusal, succeeds
from tests.threads import one_thread as one_thread
from tests.unit.data import samples
from tests.unit.knowledge.test_clip import TINY as TINY_CLIP

PLAN = """name = "cells"
classes = ["a", "b", "c"]
method = "fedavg"
rounds = 3
[image]
size = 8
[nets]
small = "resnet8"
[data]
val = 0.3
[training]
epochs = 1
batch = 8
precision = "fp32"
yardstick = false
"""
Spoil = Callable[[bytes], bytes]
TRAIN = ("train", "images", "--plan", "plan.toml", "--threads", "1")
EXPORT = ("export", "--plan", "plan.toml", "--threads", "1", "--out")


def test_a_plan_whose_encoder_is_not_here_trains_once_it_is(tmp_path: Path) -> None:
    people = SiteAndHub(tmp_path, PLAN)
    samples.folder(people.folder / "images", 12, ("a", "b", "c"))
    file = encoders.save(people.folder / "elsewhere.onnx")
    nets = f'encoder = "tiny.onnx"\nencoder_sha256 = "{encoders.digest(file)}"\nencoder_width = {encoders.WIDTH}'
    plan = PLAN.replace('small = "resnet8"', f'small = "linear"\nlarge = "linear"\n{nets}')
    (people.folder / "plan.toml").write_text(plan)
    fails_with(people.site(*TRAIN), "E_ENCODER", "put the file that the plan names beside the plan")
    file.rename(people.folder / "tiny.onnx")
    succeeds(people.site(*TRAIN))


def test_a_model_for_masks_draws_outlines_with_predict(tmp_path: Path) -> None:
    people = SiteAndHub(tmp_path, PLAN)
    mask_bundles.saved_model(people.folder)
    samples.folder(people.folder / "images", 1)
    signer = ("--signer", mask_bundles.export_result().facts.signer)
    with pytest.raises(MaskModelError) as raised:
        api.load_bundle(people.folder / "model.onnx", signer=signer[1])
    assert raised.value.code == "E_MASK_MODEL"
    assert "draw outlines with 'fedhelp-edge predict" in raised.value.remedy
    succeeds(people.site("predict", "model.onnx", "images", "--out", "outlines", *signer))
    assert (people.folder / "outlines" / "answers.txt").exists()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> SiteAndHub:
    """A site with two trained rounds and an exported model of each."""
    people = SiteAndHub(tmp_path_factory.mktemp("people"), PLAN)
    samples.folder(people.folder / "images", 12, ("a", "b", "c"))
    succeeds(people.site("keys", "new"))
    succeeds(people.site(*TRAIN, "--rounds", "2"))
    for round_ in "12":
        succeeds(people.site(*EXPORT, f"{round_}.onnx", "--round", round_))
    return people


@pytest.fixture
def people(first: SiteAndHub, tmp_path: Path) -> SiteAndHub:
    """A copy for one test."""
    return first.copy_to(tmp_path / "people")


def with_notes(change: Callable[[dict[str, str]], None]) -> Spoil:
    """The same model with changed metadata."""

    def spoil(data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        notes = {entry.key: entry.value for entry in model.metadata_props}
        change(notes)
        onnx.helper.set_model_props(model, notes)
        return bytes(model.SerializeToString())

    return spoil


def of_another_version(notes: dict[str, str]) -> None:
    notes[metadata.FACTS_NOTE] = json.dumps({**json.loads(notes[metadata.FACTS_NOTE]), "schema_version": 9})


def with_other_answers(notes: dict[str, str]) -> None:
    parity = json.loads(notes[metadata.PARITY_NOTE])
    parity["logits"] = metadata.encode_array(metadata.decode_array(parity["logits"]) + np.float32(1))
    notes[metadata.PARITY_NOTE] = json.dumps(parity)


def of_another_kit(notes: dict[str, str]) -> None:
    notes.clear()


@pytest.mark.parametrize(
    ("spoil", "code", "hint"),
    [
        (with_notes(of_another_version), "E_BUNDLE", "export the model again with this version of the kit"),
        (with_notes(of_another_kit), "E_BUNDLE", "or ask for the file again"),
        (with_notes(with_other_answers), "E_PARITY", "update onnxruntime, or export the model again on this machine"),
    ],
)
def test_a_model_that_does_not_work_here_is_exported_again(
    people: SiteAndHub, spoil: Spoil, code: str, hint: str
) -> None:
    site_keys = keys.load(people.folder / "site", lambda: "four quiet words here")
    data = spoil((people.folder / "1.onnx").read_bytes())
    odd = people.folder / "odd.onnx"
    odd.write_bytes(data)
    bundle.signature_path(odd).write_text(sshsig.sign(data, site_keys.sign, bundle.NAMESPACE))
    for words in (("predict", "odd.onnx"), ("compare", "2.onnx", "odd.onnx")):
        fails_with(people.site(*words, "images"), code, hint)
    succeeds(people.site(*EXPORT, "again.onnx", "--round", "1"))
    succeeds(people.site("predict", "again.onnx", "images"))


def of_chests(notes: dict[str, str]) -> None:
    notes[metadata.FACTS_NOTE] = json.dumps({**json.loads(notes[metadata.FACTS_NOTE]), "kinds": {"modalities": ["DX"]}})


def test_images_of_another_kind_are_answered_once_a_person_asks_for_it(people: SiteAndHub) -> None:
    pytest.importorskip("pydicom")
    data = with_notes(of_chests)((people.folder / "1.onnx").read_bytes())
    (people.folder / "chest.onnx").write_bytes(data)
    site_keys = keys.load(people.folder / "site", lambda: "four quiet words here")
    (people.folder / "chest.onnx.sig").write_text(sshsig.sign(data, site_keys.sign, bundle.NAMESPACE))
    samples.dicom(people.folder / "ct.dcm", samples.noise(1)[0], Modality="CT")
    words = ("predict", "chest.onnx", "ct.dcm", "--format", "json")
    (row,) = json.loads(people.site(*words).stdout)["results"]
    assert row["error"]["code"] == "E_OTHER_KIND"
    assert row["error"]["remedy"].endswith("add --any-kind")
    succeeds(people.site(*words, "--any-kind"))


def test_a_model_opens_once_its_signature_file_is_beside_it(people: SiteAndHub) -> None:
    shutil.copy(people.folder / "1.onnx", people.stick)
    carried = people.stick / "1.onnx"
    fails_with(people.site("predict", carried, "images"), "E_BUNDLE_UNSIGNED", "copy the file that ends in .onnx.sig")
    shutil.copy(people.folder / "1.onnx.sig", people.stick)
    succeeds(people.site("predict", carried, "images"))


def test_models_of_one_federation_are_compared_and_each_models_answers_get_their_own_folder(people: SiteAndHub) -> None:
    (people.folder / "plan.toml").write_text(PLAN.replace('"a", "b", "c"', '"b", "c"'))
    succeeds(people.site(*TRAIN))
    succeeds(people.site(*EXPORT, "other.onnx"))
    samples.folder(people.folder / "new", 3, ("a", "b", "c"), seed=7)
    fails_with(people.site("compare", "1.onnx", "other.onnx", "new"), "E_CLASSES", "compare models of one federation")
    succeeds(people.site("compare", "1.onnx", "2.onnx", "new"))
    succeeds(people.site("predict", "1.onnx", "new", "--out", "answers"))
    fails_with(
        people.site("predict", "2.onnx", "new", "--out", "answers"), "E_ANSWERS", "name another folder with --out"
    )
    succeeds(people.site("predict", "2.onnx", "new", "--out", "answers of 2"))
    succeeds(people.site("predict", "1.onnx", "new", "--out", "answers"))


def test_ctrl_c_ends_watching_without_an_error(people: SiteAndHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed() -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "_wait", pressed)
    succeeds(people.site("predict", "1.onnx", "--watch", "stick", "--out", "seen"))


def test_too_few_validation_images_are_increased_by_new_ones(people: SiteAndHub) -> None:
    (people.folder / "plan.toml").write_text(PLAN.replace("val = 0.3", "val = 0.05"))
    shutil.rmtree(people.folder / "site" / "images")
    succeeds(people.site(*TRAIN))
    fails_with(
        people.site(*EXPORT, "x.onnx"), "E_CALIBRATION", "add new images that a table (labels.csv) puts into val"
    )
    samples.folder(people.folder / "images", 2, ("d",), seed=5)
    old = [f"{name}/{number:03}.png,{name}," for name in "abc" for number in range(12)]
    lines = ["path,label,split", *old, "d/000.png,a,val", "d/001.png,b,val"]
    table = people.folder / "images" / "labels.csv"
    table.write_text("\n".join(lines))
    succeeds(people.site(*EXPORT, "x.onnx"))
    shutil.rmtree(people.folder / "images" / "d")
    table.unlink()
    (people.folder / "plan.toml").write_text(PLAN)
    for step in (("keys", "new"), TRAIN, (*EXPORT, "y.onnx")):
        succeeds(people.site(*step, "--home", "another"))


def test_diverged_training_works_with_a_lower_learning_rate(people: SiteAndHub) -> None:
    (people.folder / "plan.toml").write_text(
        PLAN.replace("epochs = 1", 'epochs = 40\noptimiser = "sgd"\nlr = 10\nweight_decay = 1.0')
    )
    fails_with(people.site(*TRAIN), "E_DIVERGED", "lower the plan's learning rate")
    (people.folder / "plan.toml").write_text(
        PLAN.replace("epochs = 1", 'epochs = 40\noptimiser = "sgd"\nlr = 0.01\nweight_decay = 1.0')
    )
    succeeds(people.site(*TRAIN))


def test_a_program_that_answers_wrongly_or_ends_is_mended_and_asked_only_for_the_rest(people: SiteAndHub) -> None:
    public = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(people.folder / "public.npz", images=public, labels=np.arange(4) % 2, class_names=np.array(["a", "b"]))
    program = people.folder / "ask.py"
    build = ("knowledge", "build", "--public", "public.npz", "--source", f"program:{sys.executable} ask.py", "--batch")

    def write(end: str) -> None:
        program.write_text(
            "import json, os, sys\nfor line in sys.stdin:\n    asked = json.loads(line)\n"
            "    rows = [[0.25, 0.75]] * len(asked['images'])\n"
            f"    {end}\n    print(json.dumps({{**asked, 'probabilities': rows, 'images': None}}), flush=True)\n"
        )

    write("rows[0] = [1, 1]")
    fails_with(people.site(*build, "4", "--out", "first"), "E_SOURCE_ANSWER", "mend the program")
    write("pass")
    succeeds(people.site(*build, "4", "--out", "first"))
    write("os.path.exists('there') or sys.exit('no GPU')")
    fails_with(people.site(*build, "4", "--out", "second"), "E_SOURCE_STOPPED", "see to the program")
    (people.folder / "there").touch()
    succeeds(people.site(*build, "4", "--out", "second"))


def test_prompts_are_corrected_or_chosen_among_the_built_in_ones(people: SiteAndHub) -> None:
    torchvision_shim.prepare()
    open_clip = pytest.importorskip("open_clip")
    (people.folder / "tiny-remedy.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(people.folder / "tiny-remedy.json")
    state = open_clip.create_model("tiny-remedy").state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, people.folder / "tiny.safetensors")
    np.savez(people.folder / "public.npz", images=samples.noise(4, 8, 8, 3), labels=np.arange(4) % 2)
    build = ("knowledge", "build", "--public", "public.npz", "--source", "clip:tiny-remedy@tiny.safetensors")
    fails_with(people.site(*build, "--prompts", "skins", "--out", "a"), "E_PROMPTS", "name a built-in set")
    succeeds(people.site(*build, "--prompts", "skin", "--out", "a"))
    (people.folder / "own.toml").write_text('templates = ["a photo"]')
    fails_with(people.site(*build, "--prompts", "own.toml", "--out", "b"), "E_PROMPTS", "templates with one {} each")
    (people.folder / "own.toml").write_text('templates = ["a photo of {}"]\n[classes]\n"class 1" = ["a cell"]')
    succeeds(people.site(*build, "--prompts", "own.toml", "--out", "b"))


def test_a_service_gets_a_key_that_it_accepts(people: SiteAndHub) -> None:
    np.savez(people.folder / "public.npz", images=samples.noise(4, 8, 8, 3), labels=np.arange(4) % 2)
    key = people.folder / "key"

    def answer(request: hostile_front.ReceivedRequest) -> bytes:
        asked = json.loads(request.body)
        if b"Bearer right\r" not in request.head:
            return hostile_front.response(b"", "401 Unauthorized")
        said = {**asked, "probabilities": [[0.25, 0.75]] * len(asked.pop("images"))}
        return hostile_front.response(json.dumps(said).encode())

    with hostile_front.running(answer) as service:
        build = (
            "knowledge",
            "build",
            "--public",
            "public.npz",
            "--yes",
            "--source",
            f"{service.url}/ask",
            "--out",
            "p",
        )
        fails_with(people.site(*build), "E_SOURCE_KEY", "--key-file")
        for text in ("", "wrong", "right"):
            key.write_text(text)
            key.chmod(0o600)
            if text != "right":
                fails_with(people.site(*build, "--key-file", "key"), "E_SOURCE_KEY", "ask the service for a key")
        succeeds(people.site(*build, "--key-file", "key"))


def test_images_with_patients_are_asked_about_as_public_ones_or_on_this_machine(people: SiteAndHub) -> None:
    pixels, labels = samples.noise(4, 8, 8, 3), np.arange(4) % 2
    np.savez(people.folder / "own.npz", images=pixels, labels=labels, patients=labels)
    np.savez(people.folder / "answers.npz", probabilities=np.full((4, 2), 0.5, np.float32))
    (people.folder / "ask.py").write_text(
        "import json, sys\nfor line in sys.stdin:\n    asked = json.loads(line)\n"
        "    print(json.dumps({**asked, 'probabilities': [[0.5, 0.5]] * len(asked.pop('images'))}), flush=True)\n"
    )
    build = ("knowledge", "build", "--source", f"program:{sys.executable} ask.py")
    fails_with(people.site(*build, "--public", "own.npz", "--out", "p"), "E_PRIVATE_IMAGES", "name public images")
    np.savez(people.folder / "public.npz", images=pixels, labels=labels)
    succeeds(people.site(*build, "--public", "public.npz", "--out", "p"))
    here = ("knowledge", "build", "--source", "files:answers.npz")
    succeeds(people.site(*here, "--public", "own.npz", "--out", "here"))


def test_a_damaged_knowledge_pack_is_built_again(people: SiteAndHub) -> None:
    folder = people.folder
    np.savez(folder / "public.npz", images=samples.noise(9, 8, 8, 3), labels=np.arange(9) % 3)
    np.savez(folder / "answers.npz", probabilities=np.full((8, 3), 1 / 3, np.float32))
    build = ("knowledge", "build", "--public", "public.npz", "--source", "files:answers.npz", "--out", "pack")
    fails_with(people.site(*build), "E_PACK", "build the pack again")
    np.savez(folder / "answers.npz", probabilities=np.full((9, 3), 1 / 3, np.float32))
    succeeds(people.site(*build))
    whole = (folder / "pack").read_bytes()
    for damage in (whole[:-9], b"PK\3\4" + whole, whole.replace(b"probabilities", b"possibilities")):
        (folder / "pack").write_bytes(damage)
        fails_with(people.site("knowledge", "show", "pack"), "E_PACK", "build the pack again")
        (folder / "pack").unlink()
        succeeds(people.site(*build))
        succeeds(people.site("knowledge", "show", "pack"))


# --- a refused update -------------------------------------------------------------------------------
Older = Callable[[Mapping[str, Any]], bytes]  # the update as another kit would write it


def as_safetensors(arrays: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    WRITE(file, arrays, notes)
    return file.getvalue()


def with_changed(change: Callable[[np.ndarray], np.ndarray], name: str = "linear.bias") -> Older:
    return lambda arrays: as_safetensors({**arrays, name: change(np.array(arrays[name]))})


WRITE = update.write
OLDER: dict[str, Older] = {
    "E_SAFETENSORS": lambda arrays: b"\x80\x04" + as_safetensors(arrays),
    "E_ST_HEADER": lambda arrays: struct.pack("<Q", 1 << 30) + as_safetensors(arrays)[8:],
    "E_ST_LAYOUT": lambda arrays: as_safetensors(arrays)[:-4],
    "E_ST_META": lambda arrays: as_safetensors(arrays, {"format": "pt"}),
    "E_SCHEMA_NAMES": lambda arrays: as_safetensors({f"net.{name}": array for name, array in arrays.items()}),
    "E_SCHEMA_SHAPE": with_changed(lambda bias: bias[:, None]),
    "E_SCHEMA_DTYPE": with_changed(lambda bias: bias.astype(np.float64)),
    "E_NONFINITE": with_changed(lambda bias: bias * np.float32("nan")),
    "E_BN_STATS": with_changed(lambda variance: -variance, "bn1.running_var"),
    "E_RANGE": with_changed(lambda bias: bias + np.float32(1e6)),
}


def test_a_refused_update_is_trained_again_with_an_updated_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        receive, "QUOTA_UPDATES", 2 * len(OLDER)
    )  # more refused updates than a site may send in a round
    people = SiteAndHub(tmp_path, PLAN)
    samples.folder(people.folder / "images", 6, ("a", "b", "c"))
    train = ("train", "images", "--threads", "1")
    succeeds(people.hub("init", "--plan", "plan.toml", "--no-passphrase"))
    succeeds(people.hub("invite", "A", "--tier", "small", "--out", "a.invite"))
    succeeds(people.site("join", "a.invite", "--via", people.stick, "--no-passphrase"))
    for step in (("exchange", people.stick), ("open",), ("exchange", people.stick)):
        succeeds(people.hub(*step))
    for step in (("download",), train):
        succeeds(people.site(*step))
    for code, older in OLDER.items():
        with monkeypatch.context() as before:
            before.setattr(update, "write", lambda file, arrays, notes=None, older=older: file.write(older(arrays)))
            succeeds(people.site("upload"))
        succeeds(people.hub("exchange", people.stick))
        succeeds(people.site("download"))
        status = succeeds(people.site("status"))
        assert "update of round 1: refused" in status.stdout
        lists_refusal(status, code, "update the kit, then train or distill again")
        assert status.stderr == "next: fedhelp-edge train\n"
        succeeds(people.site(*train))
    succeeds(people.site("upload"))
    succeeds(people.hub("exchange", people.stick))
    succeeds(people.site("download"))
    assert "update of round 1: accepted" in succeeds(people.site("status")).stdout


def test_a_net_with_an_unknown_layer_is_exported_once_the_walker_knows_the_layer(
    people: SiteAndHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    relu6 = walk._LAYERS[nn.ReLU6]
    plan = people.folder / "plan.toml"
    plan.write_text(PLAN.replace("resnet8", "mobilenetv2"))
    succeeds(people.site(*TRAIN))
    with monkeypatch.context() as before:
        before.delitem(walk._LAYERS, nn.ReLU6)  # type: ignore[arg-type]
        refused = people.site(*EXPORT, "mobile.onnx")
        fails_with(refused, "E_LAYER", "use a net of the kit, or add its layer to export/walk.py")
        assert "mobilenetv2 has a layer of a kind that export does not know: ReLU6" in refused.stderr
        before.setitem(walk._LAYERS, nn.ReLU6, relu6)  # type: ignore[arg-type]
        succeeds(people.site(*EXPORT, "mobile.onnx"))
    assert "own: mobilenetv2" in succeeds(people.site("inspect", "mobile.onnx")).stdout


def test_wrong_start_weights_are_replaced_by_those_made_for_the_net(people: SiteAndHub) -> None:
    folder = people.folder
    np.savez(folder / "public.npz", images=samples.noise(9, 8, 8, 3), labels=np.arange(9) % 3)
    np.savez(folder / "answers.npz", probabilities=np.full((9, 3), 1 / 3, np.float32))
    succeeds(
        people.site("knowledge", "build", "--public", "public.npz", "--source", "files:answers.npz", "--out", "pack")
    )
    succeeds(
        people.site("knowledge", "start", "plan.toml", "pack", "--out", "start", "--epochs", "1", "--threads", "1")
    )
    run = (
        "lab",
        "run",
        "plan.toml",
        "--data",
        "images",
        "--split",
        "sizes:12/4,12/4",
        "--threads",
        "1",
        "--out",
        "lab",
    )
    (folder / "other").write_bytes(as_safetensors({"linear.weight": np.zeros((10, 64), np.float32)}))
    for wrong, code in (("plan.toml", "E_ST_HEADER"), ("public.npz", "E_SAFETENSORS"), ("other", "E_SCHEMA_SHAPE")):
        fails_with(people.site(*run, "--start", wrong), code, "take the original file, made for this net")
    succeeds(people.site(*run, "--start", "start"))
