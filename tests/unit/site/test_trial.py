"""A plan tried out at one site is the laboratory's run with that site alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import choose
from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.images import Images
from fedhelp_edge.demo import phantoms
from fedhelp_edge.errors import KnowledgeMissingError
from fedhelp_edge.infer.engine import Engine
from fedhelp_edge.lab import run
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import export as site_export
from fedhelp_edge.site import local_training, trial
from tests.threads import one_thread as one_thread
from tests.unit.methods import small


def plan(method: str, norm: str) -> Plan:
    return plans.read(
        f'classes = ["round", "lobed"]\nmethod = "{method}"\nrounds = 2\n[image]\nsize = 8\n[wire]\nnorm = "{norm}"\n'
        '[nets]\nsmall = "resnet8"\nlarge = "resnet8"\n[training]\nepochs = 1\nprecision = "fp32"\nyardstick = false\n',
        METHODS,
    )


def loaded(folder: Path, agreed: Plan) -> tuple[Path, Images]:
    pixels, labels = phantoms.draw(30, 2, size=8)
    parts = {"train": slice(0, 16), "val": slice(16, 22), "test": slice(22, None)}
    arrays = {f"{name}_images": pixels[part] for name, part in parts.items()}
    source = folder / "own.npz"
    np.savez(source, **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    return source, loading.load(source, agreed, state_dir=folder / "kept")


def saved_pack(folder: Path, agreed: Plan) -> Path | None:
    """The file of a knowledge pack, where the plan's method works on one."""
    if not METHODS[agreed.method].public:
        return None
    packs.save(folder / "pack.safetensors", small.pack(10))
    return folder / "pack.safetensors"


@pytest.mark.parametrize(
    ("method", "tier", "norm"),
    [("fedavg", "small", "shared"), ("fedavg", "small", "local"), ("fedhelp", "large", "local"),
     ("local", "small", "local"), ("fedgh", "large", "shared"), ("fedkemf", "small", "shared"),
     ("mdhfl", "large", "local")],
)  # fmt: skip
def test_two_rounds_of_a_trial_are_those_of_a_laboratory_with_one_site(
    method: str, tier: str, norm: str, tmp_path: Path
) -> None:
    agreed = plan(method, norm)
    source, images = loaded(tmp_path, agreed)
    file = saved_pack(tmp_path, agreed)
    trained = trial.train(
        tmp_path / "home", agreed, tier, source, lambda what: None, rounds=2, knowledge=file, threads=1
    )
    assert trained
    pack = packs.load(file).for_plan(agreed) if file else None
    context = local_training.TrainingContext(agreed, trial.SITE_ID, tier, images, pack, Compute())
    own = local_training.predictions(context, trained[0], "test")["own"]
    sites = [SiteImages(trial.SITE_ID, "here", tier, images)]
    record = run.run(agreed, sites, tmp_path / "lab", compute=Compute(), pack=pack)
    with np.load(tmp_path / "lab" / "answers.npz") as answers:
        assert own.tobytes() == answers[f"{trial.SITE_ID}/test_own"].tobytes()
    if METHODS[method].exchanges:
        merged = trial.merged_model(agreed, trained[0], pack)
        assert run.model_hash(merged, METHODS[method].down(agreed, pack)) == record["merged_sha256"]


@pytest.mark.parametrize("method", ["fedgh", "pfedbayes", "scaffold", "pfedme"])
def test_a_local_baseline_begins_from_the_common_net_whatever_else_a_method_sends(method: str, tmp_path: Path) -> None:
    answers = []
    for name in ("fedavg", method):
        agreed = plans.read(plan(name, "shared").text.replace("yardstick = false", ""), METHODS)
        folder = tmp_path / name
        folder.mkdir()
        source, images = loaded(folder, agreed)
        trained = trial.train(folder / "home", agreed, "small", source, lambda what: None, threads=1)
        context = local_training.TrainingContext(agreed, trial.SITE_ID, "small", images, None, Compute())
        answers.append(local_training.predictions(context, trained[0], "test")["alone"])
    assert answers[0].tobytes() == answers[1].tobytes()


def test_a_trial_by_a_method_that_works_on_a_pack_is_measured_with_that_pack(tmp_path: Path) -> None:
    agreed = plan("fedkemf", "shared")
    source, _ = loaded(tmp_path, agreed)
    file = saved_pack(tmp_path, agreed)
    assert file
    assert trial.train(tmp_path / "home", agreed, "small", source, lambda what: None, knowledge=file, threads=1)
    measured = trial.evaluate(tmp_path / "home", agreed, "small", None, threads=1)
    assert set(measured.nets) - {"kept"} == {"own", "merged", "average"}
    file.unlink()
    with pytest.raises(KnowledgeMissingError, match="gone with which the round was trained") as caught:
        trial.evaluate(tmp_path / "home", agreed, "small", None, threads=1)
    assert "a trial needs it where it was" in caught.value.remedy


def test_a_large_site_compares_and_exports_nets_of_two_families_and_their_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own net and its local baseline are ShuffleNetV2; the merged model is the proxy, a ResNet8."""
    text = plan("fedhelp", "shared").text.replace('large = "resnet8"', 'large = "shufflenetv2"')
    agreed, home = plans.read(text.replace("yardstick = false", ""), METHODS), tmp_path / "home"
    source, images = loaded(tmp_path, agreed)
    keys.save(home, keys.generate(), None)
    trial.train(home, agreed, "large", source, lambda what: None, threads=1)
    measured = choose.choose
    alike = dict.fromkeys(("own", "alone", "merged"), 1 / 3)

    def all_count(*of: Any) -> choose.Choice:
        choice = measured(*of)
        return replace(choice, kept=replace(choice.kept, scales=alike, weights=alike))

    monkeypatch.setattr(choose, "choose", all_count)
    exported = site_export.export_trial(
        home, agreed, "large", None, lambda: "", int8=False, target_sensitivity=0.9, threads=1
    )
    members = {"own": "shufflenetv2", "alone": "shufflenetv2", "merged": "resnet8"}
    assert dict(member.split(": ") for member in exported.facts.members) == members
    assert set(exported.facts.figures) >= {*members, choose.AVERAGE}
    inputs = np.asarray(images.split("test").pixels)
    assert Engine(exported.model)(inputs).embedding.shape == (len(inputs), 2 * 1024 + 64)
