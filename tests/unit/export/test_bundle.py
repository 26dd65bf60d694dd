"""The exported bundle: the nets that count, the same bytes each time, and nothing of the machine that made it."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from export import calibrate, choose, graph, keep, quantize
from fedhelp_edge.data.images import Images
from fedhelp_edge.errors import DisagreesError, TargetExistsError, TooFewError
from fedhelp_edge.infer import appearance, bundle, decide, metadata
from fedhelp_edge.infer.engine import Engine
from fedhelp_edge.nets.net import create
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.parcel import keys, sshsig
from fedhelp_edge.report import metrics
from fedhelp_edge.site import signer_check
from tests import bundles


def blank() -> ResNet:
    """An untrained net."""
    torch.manual_seed(1)
    return ResNet("resnet8", Form(len(bundles.CLASSES)))


def test_the_same_model_gives_the_same_bytes_whatever_the_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    again = bundles.site().make()
    torch.set_num_threads(threads)
    assert again.model == bundles.export_result().model
    assert again.signature == bundles.export_result().signature


def test_the_file_has_no_path_person_or_source_line() -> None:
    data = bundles.export_result().model
    for secret in (str(Path.cwd()), str(Path.home()) + "/", getpass.getuser() + "@", ".py", "stack_trace"):
        assert secret.encode() not in data
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)


def test_ssh_keygen_verifies_a_models_signature(tmp_path: Path) -> None:
    path = bundles.saved_model(tmp_path)
    (tmp_path / "signers").write_text(f"site {bundles.site().keys.public.sign}\n")
    words = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        "signers",
        "-I",
        "site",
        "-n",
        bundle.NAMESPACE,
        "-s",
        "model.onnx.sig",
    ]
    try:
        done = subprocess.run(words, cwd=tmp_path, input=path.read_bytes(), capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    assert b"Good" in done.stdout, done.stderr


def test_the_net_that_knows_most_counts_most_and_all_figures_are_in_the_bundle() -> None:
    net = bundles.site().nets["own"]
    facts = bundles.site().make(nets={"merged": blank(), "own": net}).facts
    weights = facts.weighing["weights"]
    assert weights.get("merged", 0) < weights["own"]
    assert set(facts.figures) == {"merged", "own", "average", *({"kept"} if len(weights) > 1 else {})}
    assert (facts.figures[facts.net]["accuracy"] or 0) >= (facts.figures["average"]["accuracy"] or 0)
    assert metadata.read(facts.text()).weighing == facts.weighing
    assert facts.weighing["gain"]["accuracy"]["reason"] == "there is no local baseline to compare with"


def disagreeing() -> tuple[dict[str, ResNet], Images]:
    """Two nets: one is nearly always right on validation images, only the other on test images."""
    site = bundles.site()
    nets = {"own": site.nets["own"], "merged": blank()}
    labels = site.images.labels.copy()
    for part, name in (("val", "own"), ("test", "merged")):
        nets_ = np.flatnonzero([split == part for split in site.images.splits])
        labels[nets_] = choose.logits(nets[name], site.images.pixels[nets_], site.plan.image, None).argmax(1)
        labels[nets_[::6]] = (labels[nets_[::6]] + 1) % len(bundles.CLASSES)
    return nets, replace(site.images, labels=labels)


def test_validation_images_decide_whatever_the_test_images_say() -> None:
    nets, images = disagreeing()
    choice = choose.choose(nets, images.split("val"), images.split("test"), bundles.site().plan.image, None)
    assert choice.kept.weights["own"] > 0.6
    assert (choice.figures["own"]["test_accuracy"] or 0) < (choice.figures["merged"]["test_accuracy"] or 0)
    assert bundles.site().make(nets=nets, images=images).facts.weighing == choice.kept.to_json()


def test_each_net_answers_test_images_with_the_temperature_of_validation_images() -> None:
    nets, images = disagreeing()
    val, test, image = images.split("val"), images.split("test"), bundles.site().plan.image
    choice = choose.choose(nets, val, test, image, None)
    for name, net in nets.items():
        temperature = calibrate.fit_temperature(choose.logits(net, val.pixels, image, None), val.labels)
        probabilities = calibrate.softmax(choose.logits(net, test.pixels, image, None) / temperature)
        assert choice.test[name] == metrics.scores(probabilities, test.labels)


def test_test_images_change_only_their_own_figures_in_a_model() -> None:
    nets, images = disagreeing()
    labels = images.labels.copy()
    labels[180:] = (labels[180:] + 1) % len(bundles.CLASSES)
    upside_down = images.pixels.copy()
    upside_down[180:] = 255 - upside_down[180:]
    others = replace(images, labels=labels, pixels=upside_down)
    first, second = (bundles.site().make(nets=nets, images=chosen).facts for chosen in (images, others))
    assert first.test != second.test
    assert (first.net, first.weighing, first.validation, first.calibration.temperature) == (
        second.net, second.weighing, second.validation, second.calibration.temperature
    )  # fmt: skip
    assert replace(first.calibration, ece=None) == replace(second.calibration, ece=None)
    assert np.array_equal(first.likeness.root, second.likeness.root)
    assert first.likeness.limit == second.likeness.limit


def weighed(*names: str, parts: Sequence[float] = ()) -> Callable[..., choose.Choice]:
    """A choice in which nets of these names count so much, by default all alike."""
    weights = dict(zip(names, parts or [1 / len(names)] * len(names), strict=True))
    figures = bundles.export_result().facts.figures
    rows = {**figures, **({choose.KEPT: figures["average"]} if len(names) > 1 else {})}
    unknown = keep.Gain(metrics.Figure(None, reason="few"), metrics.Figure(None, reason="few"))
    return lambda *arguments: choose.Choice(
        keep.Kept(weights, weights, 1.0, 9, unknown), np.zeros((1, 1)), rows, {}, {}, {}
    )


@pytest.mark.parametrize("parts", [(0.5, 0.5), (0.8, 0.2)])
def test_several_nets_are_one_graph_in_which_each_counts_its_part(
    parts: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = bundles.site()
    some = site.images.split("val").pixels[:4]
    prior = (0.7, 0.2, 0.1)
    logits = [choose.logits(net, some, site.plan.image, prior) for net in site.nets.values()]
    monkeypatch.setattr(choose, "choose", weighed("own", "alone", parts=parts))
    result = site.make(origin=replace(bundles.ORIGIN, prior=prior))
    assert result.facts.members == ("own: resnet8", "alone: resnet8")
    outputs = Engine(result.model)(some)
    assert np.allclose(outputs.logits, parts[0] * logits[0] + parts[1] * logits[1], atol=1e-4)
    assert np.allclose(outputs.cam.mean((2, 3)) + result.facts.bias, outputs.logits, atol=1e-4)
    assert result.facts.likeness.mean.shape == (128,)
    assert result.parity < 1e-4


@pytest.mark.parametrize("names", [["mobilenetv2"], ["mobilenetv2", "shufflenetv2", "resnet20"]])
def test_nets_of_any_family_make_a_bundle_that_answers(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = bundles.site()
    form = Form.of(site.plan)
    nets = {role: create(name, form) for role, name in zip(("own", "merged", "alone"), names, strict=False)}
    monkeypatch.setattr(choose, "choose", weighed(*nets))
    result = site.make(nets=nets)
    result.write(tmp_path / "model.onnx")
    opened = bundle.load(tmp_path / "model.onnx", lambda key: "", threads=1)
    assert opened.facts.members == tuple(f"{role}: {net.name}" for role, net in nets.items())
    assert "own: mobilenetv2" in opened.card
    some = site.images.split("test").pixels[:5]
    logits = [choose.logits(net, some, site.plan.image, None) for net in nets.values()]
    assert opened.engine(np.asarray(some)).logits == pytest.approx(np.mean(logits, 0), abs=1e-4)
    assert len(decide.answer_images(opened, np.asarray(some))) == 5
    assert result.parity < 1e-4


def test_a_repeated_net_counts_once() -> None:
    net = bundles.site().nets["own"]
    assert list(choose.distinct({"own": net, "merged": net, "alone": bundles.site().nets["alone"]})) == ["own", "alone"]


def test_the_separate_prior_is_part_of_the_answers() -> None:
    prior = (0.7, 0.2, 0.1)
    nets = {"own": bundles.site().nets["own"]}
    without = bundles.site().make(nets=nets)
    result = bundles.site().make(nets=nets, origin=replace(bundles.ORIGIN, prior=prior))
    images = bundles.noise(2, 20, 20, 3)
    shift = Engine(result.model)(images).logits - Engine(without.model)(images).logits
    assert np.allclose(shift, np.log(prior), atol=1e-4)
    outputs = Engine(result.model)(images)
    assert np.allclose(outputs.cam.mean((2, 3)) + result.facts.bias, outputs.logits, atol=1e-4)


def test_files_are_written_once_and_an_equal_export_is_not_an_error(tmp_path: Path) -> None:
    path = bundles.saved_model(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert set(before) == {"model.onnx", "model.onnx.sig", "model_CARD.md"}
    bundles.saved_model(tmp_path)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
    with pytest.raises(TargetExistsError):
        bundles.site().make(nets={"own": blank()}).write(path)


def test_a_model_without_its_signature_is_completed_by_the_next_export(tmp_path: Path) -> None:
    path = bundles.saved_model(tmp_path)
    bundle.signature_path(path).unlink()  # a power cut
    bundles.saved_model(tmp_path)
    assert bundle.load(path, lambda key: "").parity() <= 1


def test_too_few_validation_images_are_refused_before_any_work() -> None:
    images = bundles.site().images
    few = images.only(np.flatnonzero([split == "train" or i in (130, 131) for i, split in enumerate(images.splits)]))
    with pytest.raises(TooFewError):
        bundles.site().make(images=few)


def test_the_metadata_are_those_that_other_programs_know() -> None:
    notes = metadata.read_notes(bundles.export_result().model)
    assert notes["Image.BitmapPixelFormat"] == "Rgb8"
    assert notes["Image.NominalPixelRange"] == "NominalRange_0_255"
    facts = json.loads(notes[metadata.FACTS_NOTE])
    assert (facts["round"], facts["federation"], facts["sites"]) == (3, "fh-" + "3c" * 16, 4)
    engine = Engine(bundles.export_result().model)
    assert engine._session._session.get_modelmeta().custom_metadata_map == notes


def test_the_card_has_no_gaps_and_names_its_limits(tmp_path: Path) -> None:
    bundles.saved_model(tmp_path)
    card = (tmp_path / "model_CARD.md").read_text(encoding="utf-8")
    assert card == metadata.read_notes(bundles.export_result().model)[metadata.CARD_NOTE]
    assert card.startswith("---\n")
    for word in ("not a medical device", "What so few images cannot promise", *bundles.CLASSES, "40 test images"):
        assert word in card
    for gap in ("None", "nan", "TODO", "More Information", "[]", "{}"):
        assert gap not in card


def test_int8_is_used_only_where_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantize.reason_against(0.995, 0.0, 1.5) == ""
    assert "98.0% of the answers" in quantize.reason_against(0.98, 0.0, 3.0)
    assert "right less often" in quantize.reason_against(1.0, -0.01, 3.0)
    assert "1.10 times as fast" in quantize.reason_against(1.0, 0.0, 1.1)
    for verdict, precision in (("", "int8"), ("it is slow", "fp32")):
        monkeypatch.setattr(quantize, "reason_against", lambda *measured, verdict=verdict: verdict)
        result = bundles.site().make(int8=True)
        assert result.facts.precision == precision
        assert result.int8
        assert result.int8.agreement > 0.9
    assert result.model == bundles.export_result().model


def test_an_int8_model_is_smaller_and_checked_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "reason_against", lambda *measured: "")
    result = bundles.site().make(int8=True)
    assert len(result.model) < 0.5 * len(bundles.export_result().model)
    result.write(tmp_path / "small.onnx")
    keys.save(tmp_path / "home", bundles.site().keys, None)
    opened = bundle.load(tmp_path / "small.onnx", lambda key: signer_check.model_warning(tmp_path / "home", key, None))
    assert opened.parity() <= 1
    assert opened.facts.precision == "int8"


def with_parts(train: int, val: int = 60, test: int = 40) -> Images:
    """The site's images with only the first ones of each set."""
    images = bundles.site().images
    indices = [np.flatnonzero([split == part for split in images.splits]) for part in ("train", "val", "test")]
    return images.only(
        np.concatenate([chosen[:count] for chosen, count in zip(indices, (train, val, test), strict=True)])
    )


def test_by_default_a_model_misses_one_in_ten_and_is_fp32() -> None:
    result = bundles.export_result()
    assert result.facts.calibration.wanted == 0.9
    assert (result.facts.precision, result.int8) == ("fp32", None)


def test_all_training_images_contribute_to_the_appearance_statistics() -> None:
    likeness, train = bundles.export_result().facts.likeness, bundles.site().images.split("train").pixels
    assert likeness.images == len(train)
    for name, look in appearance.KINDS.items():
        assert likeness.looks[name].mean == pytest.approx(look(np.asarray(train)).mean(0), abs=1e-4)


@pytest.mark.parametrize(("train", "expected"), [(19, False), (20, True)])
def test_a_bundle_has_no_appearance_statistics_of_fewer_than_twenty_training_images(train: int, expected: bool) -> None:
    result = bundles.site().make(nets={"own": blank()}, images=with_parts(train))
    assert bool(result.facts.likeness.looks) is expected


@pytest.mark.parametrize(("side", "expected"), [(11, False), (12, True)])
def test_images_below_twelve_pixels_a_side_have_no_appearance_statistics(side: int, expected: bool) -> None:
    site, images = bundles.site(), with_parts(30, 20)
    small = replace(images, pixels=np.asarray(images.pixels)[:, :side, :side])
    plan = replace(site.plan, image=replace(site.plan.image, size=side))
    result = replace(site, plan=plan).make(nets={"own": blank()}, images=small)
    assert bool(result.facts.likeness.looks) is expected


def test_four_validation_images_are_enough_and_no_test_image_is_needed() -> None:
    result = bundles.site().make(nets={"own": blank()}, images=with_parts(20, 4, 0))
    assert result.facts.calibration.images and result.facts.test == {}
    assert result.facts.validation["images"] == 4


def test_too_few_validation_images_are_refused_before_a_net_runs() -> None:
    with pytest.raises(TooFewError):
        bundles.site().make(nets={}, images=with_parts(20, 3))


def test_the_figures_on_test_images_are_those_of_the_models_answers(tmp_path: Path) -> None:
    opened, chosen = bundles.loaded_bundle(tmp_path), bundles.site().images.split("test")
    answers, figures = decide.answer_images(opened, np.asarray(chosen.pixels)), opened.facts.test
    names = [bundles.CLASSES[label] for label in chosen.labels]
    right = [answer.answer == name for answer, name in zip(answers, names, strict=True)]
    assert (figures["images"], figures["right"]) == (len(chosen), sum(right))
    assert figures["answered"] == sum(answer.answer is not None for answer in answers)
    assert figures["unlike"] == sum(answer.distance > 1 for answer in answers)
    assert figures["in_set"] == sum(name in answer.set for answer, name in zip(answers, names, strict=True))
    scores = metrics.scores([list(answer.probabilities.values()) for answer in answers], chosen.labels)
    for name in ("accuracy", "balanced_accuracy", "auc", "ece", "overconfidence"):
        value = getattr(scores, name).value
        assert figures[name] == (None if value is None else round(value, 4))


def test_each_validation_image_is_judged_by_what_the_others_say_of_it() -> None:
    """Its fold is left out of temperature, sets and limits; all calibrate the model itself."""
    site = bundles.site()
    chosen, made = site.images.split("val"), site.make(nets={"own": site.nets["own"]})  # one net: nothing is weighed
    opened = bundle.Bundle(made.model, "", "", "", {}, made.facts)
    pixels, names = np.asarray(chosen.pixels), np.array(bundles.CLASSES)[chosen.labels]
    outputs, facts, folds = opened.engine(pixels), opened.facts, keep.folds(chosen.labels, np.arange(len(chosen)))
    looks = {name: appearance.KINDS[name](pixels) for name in facts.likeness.looks}
    distances = calibrate.held_out_distances(facts.likeness, outputs.embedding, looks, folds)
    inside = np.zeros(len(chosen), np.bool_)
    for fold, others in calibrate.held_out_calibrations(outputs.logits, chosen.labels, 0.9, folds):
        probabilities = calibrate.softmax(outputs.logits[fold] / others.temperature)
        truth = probabilities[np.arange(len(probabilities)), chosen.labels[fold]]
        inside[fold] = truth >= np.array(others.least)[chosen.labels[fold]]
    figures = facts.validation
    assert (figures["images"], figures["unlike"]) == (len(chosen), (distances > 1).sum())
    assert figures["in_set"] == inside.sum()
    in_sample = decide.answer_images(opened, pixels)
    assert sum(name in answer.set for answer, name in zip(in_sample, names, strict=True)) > inside.sum()


def test_a_grey_model_of_another_depth_records_both() -> None:
    site, images = bundles.site(), with_parts(20, 8, 4)
    grey = replace(images, pixels=np.asarray(images.pixels)[..., :1])
    plan = replace(site.plan, image=replace(site.plan.image, channels=1, mean=(0.5,), std=(0.25,)))
    net = ResNet("resnet32", Form(len(bundles.CLASSES), 1))
    result = replace(site, plan=plan).make(nets={"own": net}, images=grey)
    assert metadata.read_notes(result.model)["Image.BitmapPixelFormat"] == "Gray8"
    assert result.facts.members == ("own: resnet32",)


def test_a_model_is_written_to_a_new_folder_readable_by_all_and_its_hash_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "round 3" / "models" / "model.onnx"
    assert bundles.export_result().write(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    if os.name == "posix":
        assert all(file.stat().st_mode & 0o444 == 0o444 for file in path.parent.iterdir())


def test_a_model_whose_outputs_differ_from_its_metadata_is_refused_on_writing(tmp_path: Path) -> None:
    result = bundles.export_result()
    model = onnx.load_from_string(result.model)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, "bias"))
    other = model.SerializeToString(deterministic=True)
    signed = sshsig.sign(other, bundles.site().keys.sign, bundle.NAMESPACE)
    with pytest.raises(DisagreesError):
        replace(result, model=other, signature=signed).write(tmp_path / "model.onnx")


# --- 8 bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("agreement", "accuracy", "speed_up"), [(0.99, 0.0, 1.2), (1.0, 0.5, 9.0)])
def test_an_int8_model_that_is_just_good_enough_is_used(agreement: float, accuracy: float, speed_up: float) -> None:
    assert quantize.reason_against(agreement, accuracy, speed_up) == ""


def test_the_reason_against_int8_states_its_loss_of_accuracy() -> None:
    assert "by 1.0% of the validation images" in quantize.reason_against(1.0, -0.01, 3.0)


def test_the_gain_of_int8_is_measured_on_validation_images_and_on_one_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two programs move the clock; the second gives another class to every fourth image."""
    clock = [0.0]
    labels = np.arange(80) % 2

    def program(seconds: float, other: int) -> Any:
        def answer(images: NDArray[np.uint8]) -> Any:
            clock[0] += seconds * len(images)
            chosen = images[:, 0, 0, 0] % 2
            chosen = np.where(images[:, 0, 0, 0] % 4 == other, 1 - chosen, chosen)
            return SimpleNamespace(logits=np.eye(2)[chosen])

        return answer

    monkeypatch.setattr(quantize.time, "perf_counter", lambda: clock[0])
    images = np.arange(80, dtype=np.uint8)[:, None, None, None]
    gain = quantize.measure_gain(program(3.0, -1), program(1.0, 0), images, 40, labels[:40])
    assert (gain.agreement, gain.accuracy, gain.speed_up) == (0.75, -0.25, pytest.approx(3.0))
    assert gain.why == quantize.reason_against(0.75, -0.25, 3.0)


def test_int8_weights_have_seven_bits_and_a_scale_for_each_channel(caplog: pytest.LogCaptureFixture) -> None:
    site = bundles.site()
    fp32 = graph.build([site.nets["own"]], site.plan.image, None)
    before = fp32.SerializeToString()
    int8 = quantize.quantize(fp32, np.asarray(site.images.split("train").pixels[:40]))
    weights = [
        onnx.numpy_helper.to_array(tensor) for tensor in int8.graph.initializer if tensor.data_type == TensorProto.INT8
    ]
    kernels = [tensor for tensor in weights if tensor.ndim == 4]
    assert len(kernels) == 7
    assert min(tensor.min() for tensor in kernels) >= -64 and max(tensor.max() for tensor in kernels) <= 64
    scales = [
        tensor for tensor in int8.graph.initializer if tensor.name.endswith("_scale") and list(tensor.dims) == [16]
    ]
    assert scales
    assert fp32.SerializeToString() == before
    assert not any(tensor.HasField("data_location") for tensor in int8.graph.initializer)
    assert not caplog.records
    assert logging.root.manager.disable == logging.NOTSET
