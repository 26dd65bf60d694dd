"""A site names the first weights of the net that it keeps, once: they are checked, remembered and reported."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import update
from fedhelp_edge.demo import phantoms
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.net import Net, arrays_of
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.site import layout
from fedhelp_edge.train import checkpoint
from tests.command import error_code, json_output
from tests.site_and_hub import SiteAndHub, succeeds
from tests.threads import one_thread as one_thread
from tests.unit.methods import small
from tests.unit.nets.test_timm import theirs

PLAN = """classes = ["round", "lobed"]
method = "fedhelp"
rounds = 3
[image]
size = 8
[nets]
small = "resnet8"
large = "resnet20"
[training]
epochs = 1
lr = 1e-7
weight_decay = 0
precision = "fp32"
[round]
quorum = 1
"""


def weights_of(net: str, classes: int = 2, seed: int = 5) -> dict[str, update.Array]:
    return spec.initial_weights(spec.schema(net, Form(classes)), seed)


def saved(path: Path, weights: dict[str, update.Array]) -> str:
    """Writes a file of weights; returns its SHA-256."""
    with io.BytesIO() as file:
        update.write(file, weights)
        path.write_bytes(file.getvalue())
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def hospital(tmp_path: Path) -> SiteAndHub:
    """A large site with images, before its first round."""
    hospital = SiteAndHub(tmp_path, PLAN, locked=False)
    pixels, labels = phantoms.draw(24, 2, size=8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels, class_names=np.array(["round", "lobed"]))
    hospital.join("large")
    next_round(hospital, "open")
    return hospital


def next_round(people: SiteAndHub, *words: str) -> None:
    for word in words:
        succeeds(people.hub(word))
    succeeds(people.hub("exchange", people.stick))
    succeeds(people.site("download", "--via", people.stick))


def distill(people: SiteAndHub, *words: str | Path) -> dict[str, Any]:
    return json_output(succeeds(people.site("distill", *words, "--threads", "1", "--json")))


def teachers(report: dict[str, Any]) -> list[update.Array]:
    """The first layer of the teacher and of the net trained alone, as a round left them."""
    states = [checkpoint.newest(Path(report["folder"]) / name) for name in ("own", "alone")]
    return [state[1][f"{net}/conv1.weight"] for state, net in zip(states, ("teacher", "net"), strict=True) if state]


def test_a_hospitals_own_nets_start_from_the_file_that_it_names(hospital: SiteAndHub, tmp_path: Path) -> None:
    given = weights_of("resnet20", classes=10)
    digest = saved(tmp_path / "first", given)
    report = distill(hospital, "images.npz", "--start", "first")
    drawn = ["linear.weight", "linear.bias"]
    assert report["start"] == {"sha256": digest, "net": "resnet20", "tensors": len(given) - 2, "drawn": drawn}
    assert [np.allclose(layer, given["conv1.weight"], atol=1e-5) for layer in teachers(report)] == [True, True]


def test_the_file_is_remembered_for_an_interrupted_round_and_named_by_later_reports(
    hospital: SiteAndHub, tmp_path: Path
) -> None:
    digest = saved(tmp_path / "first", weights_of("resnet20"))
    report = distill(hospital, "images.npz", "--start", "first")
    for path in Path(report["folder"]).glob("*/*.state"):
        path.unlink()  # as if the power had failed before the first of them was written
    (Path(report["folder"]) / "report.json").unlink()
    (tmp_path / "first").unlink()
    again = distill(hospital)
    assert (again["start"]["sha256"], again["loss"]) == (digest, report["loss"])
    assert [a.tobytes() for a in teachers(again)] == [a.tobytes() for a in teachers(report)]


def test_a_net_that_has_begun_to_learn_takes_no_other_file(hospital: SiteAndHub, tmp_path: Path) -> None:
    saved(tmp_path / "first", weights_of("resnet20"))
    saved(tmp_path / "other", weights_of("resnet20", seed=6))
    first = distill(hospital, "images.npz", "--start", "first")
    refused = hospital.site("distill", "--start", "other", "--threads", "1")
    assert error_code(refused) == "E_USAGE"
    assert "leave --start out: the net continues from the site's last round" in refused.stderr
    assert distill(hospital, "--start", "first") == first  # the same command again


@pytest.mark.parametrize(
    ("net", "code", "cause"),
    [
        ("resnet8", "E_SCHEMA_SHAPE", "the first weights are for resnet8; the net that this site keeps is resnet20"),
        ("resnet56", "E_SCHEMA_SHAPE", "the first weights are for resnet56, which is no net of this plan"),
    ],
)
def test_a_file_for_another_net_is_refused_and_not_remembered(
    hospital: SiteAndHub, tmp_path: Path, net: str, code: str, cause: str
) -> None:
    saved(tmp_path / "wrong", weights_of(net))
    refused = hospital.site("distill", "images.npz", "--start", "wrong", "--threads", "1")
    assert error_code(refused) == code
    assert cause in refused.stderr
    assert "take the original file, made for this net" in refused.stderr
    assert distill(hospital)["start"] is None


def test_a_clinic_whose_net_comes_with_the_round_is_sent_to_its_coordinator(tmp_path: Path) -> None:
    clinic = SiteAndHub(tmp_path, PLAN, locked=False)
    pixels, labels = phantoms.draw(24, 2, size=8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels, class_names=np.array(["round", "lobed"]))
    clinic.join()
    next_round(clinic, "open")
    saved(tmp_path / "first", weights_of("resnet8"))
    refused = clinic.site("train", "images.npz", "--start", "first", "--threads", "1")
    assert error_code(refused) == "E_USAGE"
    assert "fedhelp-coordinator open --start FILE" in refused.stderr


def test_a_trial_starts_all_nets_of_the_files_name_as_a_laboratory_does(hospital: SiteAndHub, tmp_path: Path) -> None:
    given = weights_of("resnet20")
    saved(tmp_path / "first", given)
    words = ("images.npz", "--plan", "plan.toml")
    without, report = distill(hospital, *words), distill(hospital, *words, "--start", "first")
    assert (without["start"], report["start"]["net"]) == (None, "resnet20")
    assert without["folder"] != report["folder"]
    assert [np.allclose(layer, given["conv1.weight"], atol=1e-5) for layer in teachers(report)] == [True, True]


def test_sync_gives_the_file_to_the_round_that_it_trains(hospital: SiteAndHub, tmp_path: Path) -> None:
    saved(tmp_path / "first", weights_of("resnet20"))
    layout.resolve_images(tmp_path / "site", tmp_path / "images.npz")
    done = hospital.site("sync", "--via", hospital.stick, "--start", "first", "--threads", "1")
    assert "trained: round 1" in succeeds(done).stdout
    assert distill(hospital)["start"]["net"] == "resnet20"


def test_sync_says_that_no_round_has_taken_the_file(tmp_path: Path) -> None:
    waiting = SiteAndHub(tmp_path, PLAN, locked=False)
    waiting.join("large")
    done = waiting.site("sync", "--via", waiting.stick, "--start", "first")
    assert "the first weights wait for a round: name them again" in succeeds(done).stdout


@pytest.mark.parametrize(("method", "tier", "settings"), small.EVERYBODY)
def test_a_site_keeps_the_nets_that_no_merged_model_overwrites(
    method: str, tier: str, settings: dict[str, Any]
) -> None:
    """What a learner says of its nets is what becomes of given weights as its first round begins."""
    plan = small.plan(method, **{method: settings})
    form = Form.of(plan)
    given = {net: spec.initial_weights(spec.schema(net, form), 5) for net in (plan.nets.small, plan.nets.large)}
    learner = small.learner(plan, tier, small.pack(), first_weights=given)
    kept = set()
    for net in (module for module in learner.trained().values() if isinstance(module, Net)):
        first, array = next(iter(arrays_of(net).items()))
        kept |= {net.name} if np.array_equal(array, given[net.name][first]) else set()
    assert learner.own_nets() == kept


def test_a_coordinator_opens_from_timms_file_as_it_was_published(tmp_path: Path) -> None:
    people = SiteAndHub(tmp_path, PLAN.replace("resnet8", "mobilenetv2"), locked=False)
    people.join()
    published = theirs("mobilenetv2", classes=10)
    with (tmp_path / "published").open("wb") as file:
        update.write(file, published, {"format": "pt"})
    done = succeeds(people.hub("open", "--start", "published"))
    assert "first weights of the net that travels: 260 tensors from the file" in done.stderr
    assert "2 tensors keep their random values" in done.stderr
    next_round(people)
    (base,) = (tmp_path / "site" / "base").glob("*.safetensors")
    assert np.array_equal(update.load(base)["stem.conv.weight"], published["conv_stem.weight"])
