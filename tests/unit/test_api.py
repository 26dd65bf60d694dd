"""The functions of `fedhelp_edge` refuse what the command line refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedhelp_edge as fh

FEDERATION = "fh-" + "0" * 32


@pytest.fixture
def plan(tmp_path: Path) -> fh.Plan:
    (tmp_path / "plan.toml").write_text('classes = ["a", "b"]')
    return fh.read_plan(tmp_path / "plan.toml")


@pytest.fixture
def pack(tmp_path: Path) -> tuple[Path, fh.Keys]:
    """An unencrypted parcel and the keys that signed it."""
    keys = fh.make_keys(tmp_path / "keys", None)
    fh.seal_parcel(tmp_path / "pack.fhx", "knowledge", b"images", keys, federation=FEDERATION)
    return tmp_path / "pack.fhx", keys


def test_settings_are_python_values(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('classes = ["a", "b"]')
    settings = {
        "rounds": 3,
        "method": "fedavg",
        "training.lr": 0.5,
        "fedhelp.proxy_ce": True,
        "classes": ["x", "y", "z"],
    }
    plan = fh.read_plan(tmp_path / "plan.toml", settings)
    assert (plan.rounds, plan.method, plan.training.lr, plan.classes) == (3, "fedavg", 0.5, ("x", "y", "z"))
    with pytest.raises(fh.FedhelpError, match="rounds: should be a whole number"):
        fh.read_plan(tmp_path / "plan.toml", {"rounds": "3"})


@pytest.mark.parametrize("options", [{"tier": "hospital"}, {"rounds": 0}], ids=str)
def test_a_site_trains_as_small_or_large_and_at_least_once(
    plan: fh.Plan, options: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    with pytest.raises(fh.FedhelpError) as refused:
        fh.train_site(plan, "images", tmp_path / "home", **options)
    assert refused.value.code == "E_USAGE"
    assert not (tmp_path / "home").exists()


def test_a_sensitivity_is_between_0_and_1(plan: fh.Plan, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(fh.FedhelpError, match=r"sensitivity is 90"):
        fh.export_bundle(plan, tmp_path, tmp_path / "model.onnx", sensitivity=90)


@pytest.mark.parametrize(
    "images", [np.zeros((8, 8), np.uint8), np.zeros((1, 8, 8, 2), np.uint8), np.zeros((1, 8, 8))], ids=str
)
def test_an_array_that_is_not_images_is_refused_before_the_model_runs(images: Any) -> None:
    bundle: Any = None
    with pytest.raises(fh.FedhelpError) as refused:
        fh.predict_arrays(bundle, images)
    assert "N x height x width" in refused.value.remedy


def test_a_parcel_opens_for_its_signer_by_key_or_fingerprint(pack: tuple[Path, fh.Keys]) -> None:
    path, keys = pack
    for signer in (keys.public.sign, _fingerprint(path)):
        with fh.open_parcel(path, signer) as parcel:
            assert parcel.body.read() == b"images"


@pytest.mark.parametrize("signer", ["", "SHA256:", "ssh-ed25519 AAAA"])
def test_a_parcel_opens_for_no_other_signer(signer: str, pack: tuple[Path, fh.Keys]) -> None:
    with pytest.raises(fh.FedhelpError) as refused:
        fh.open_parcel(pack[0], signer)
    assert refused.value.code == "E_SIGNER_MISMATCH"


def test_a_parcel_is_of_a_known_kind(pack: tuple[Path, fh.Keys], tmp_path: Path) -> None:
    with pytest.raises(fh.FedhelpError, match="'model' is no kind of parcel"):
        fh.seal_parcel(tmp_path / "model.fhx", "model", b"", pack[1])
    assert not (tmp_path / "model.fhx").exists()


def _fingerprint(path: Path) -> str:
    from fedhelp_edge.parcel import sshsig

    return sshsig.fingerprint(fh.inspect_parcel(path).keys[0])
