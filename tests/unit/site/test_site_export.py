"""Export at a site of a federation: its own net, the merged net and the local baseline are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from fedhelp_edge.demo import phantoms
from fedhelp_edge.errors import NotTrainedError, PassphraseNeededError
from fedhelp_edge.infer import bundle
from fedhelp_edge.parcel import keys
from fedhelp_edge.report import nets
from fedhelp_edge.site import export as site_export
from fedhelp_edge.site import ordered_training, signer_check, status
from tests.clinic import Clinic
from tests.federation import Federation, nobody


@pytest.fixture
def clinic(three: Federation, tmp_path: Path) -> Clinic:
    """A clinic that has trained for the first round, with three others."""
    clinic = Clinic(three, tmp_path / "clinic")
    clinic.join()
    clinic.carry_stick()
    task = three.open()
    clinic.carry_stick()
    clinic.download()
    pixels, labels = phantoms.draw(60, 3, size=8, seed=1)
    parts = {"train": slice(0, 30), "val": slice(30, 50), "test": slice(50, 60)}
    arrays = {f"{name}_images": pixels[part] for name, part in parts.items()}
    np.savez(tmp_path / "images.npz", **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    ordered_training.train(clinic.home, "small", tmp_path / "images.npz", lambda what: None, threads=1)
    three.send_updates(task)
    return clinic


def export(clinic: Clinic, **how: int | None) -> site_export.bundle.ExportResult:
    return site_export.export(clinic.home, how.get("round"), nobody, int8=False, target_sensitivity=0.9, threads=1)


def test_before_the_merge_a_site_compares_its_own_nets(clinic: Clinic) -> None:
    exported = export(clinic)
    assert set(exported.facts.figures) == {"own"}  # in round 1 the local baseline is the same net
    assert exported.facts.sites == 4


def test_the_merged_net_is_compared_once_it_is_downloaded(clinic: Clinic, three: Federation, tmp_path: Path) -> None:
    three.aggregate(now=True)
    clinic.carry_stick()
    clinic.download()
    exported = export(clinic)
    assert set(exported.facts.figures) - {"kept"} == {"own", "merged", "average"}
    assert exported.facts.net in exported.facts.figures  # "kept", or the only net that counts
    assert (exported.facts.round, exported.facts.sites) == (1, 3)  # this site's update was not sent
    assert exported.facts.federation == three.hub.federation
    exported.write(tmp_path / "model.onnx")
    loaded = bundle.load(tmp_path / "model.onnx", lambda key: signer_check.model_warning(clinic.home, key, None))
    assert (loaded.why, loaded.parity() <= 1) == ("", True)


def test_status_says_what_the_last_export_kept(clinic: Clinic, three: Federation) -> None:
    assert status.status(clinic.home)["kept"] is None
    three.aggregate(now=True)
    clinic.carry_stick()
    clinic.download()
    exported = export(clinic)
    kept = status.status(clinic.home)["kept"]
    assert kept == {"round": 1, "weighing": exported.facts.weighing}
    lines = nets.weighing_lines(kept["weighing"])
    assert lines[0].startswith("how much each net counts: ") and "from 20 validation images" in lines[1]
    assert all(line[1:] in exported.card for line in lines)
    (clinic.home / "kept.json").write_text('{"round": 1, "weighing": {"weights": 3}}')
    assert status.status(clinic.home)["kept"] is None  # damaged: the next export writes it again


def test_a_round_that_was_not_trained_here_cannot_be_exported(clinic: Clinic) -> None:
    with pytest.raises(NotTrainedError):
        export(clinic, round=7)


def test_evaluate_shows_the_nets_and_figures_that_export_chooses_by(clinic: Clinic, three: Federation) -> None:
    three.aggregate(now=True)
    clinic.carry_stick()
    clinic.download()
    evaluation = ordered_training.evaluate(clinic.home, None, nobody, threads=1)
    exported = export(clinic)
    assert set(evaluation.figures) - {"kept"} == {"own", "merged", "average"}
    assert evaluation.weighing == exported.facts.weighing
    assert exported.facts.weighing["gain"]["accuracy"]["value"] is not None  # against its own net, the local baseline
    assert evaluation.figures == exported.facts.figures
    assert evaluation.chosen == exported.facts.net
    assert evaluation.nets["merged"].images == 10
    # the local baseline is still the same net
    assert set(evaluation.nets) - {"kept"} == {"own", "alone", "merged", "average"}


def test_with_locked_keys_all_nets_except_the_merged_one_are_measured(clinic: Clinic, three: Federation) -> None:
    three.aggregate(now=True)
    clinic.carry_stick()
    clinic.download()
    site_keys = keys.load(clinic.home, nobody)
    for path in clinic.home.glob("keys.*"):
        path.unlink()
    keys.save(clinic.home, site_keys, "lunar-orbit-candle-frost-mango")

    def absent() -> str:
        raise PassphraseNeededError("nobody to ask")

    evaluation = ordered_training.evaluate(clinic.home, None, absent, threads=1)
    assert set(evaluation.figures) == {"own"}
    assert evaluation.findings[-1]["kind"] == "net-not-measured"
    assert "--passphrase-file" in evaluation.findings[-1]["sentence"]
    again = ordered_training.evaluate(clinic.home, None, lambda: "lunar-orbit-candle-frost-mango", threads=1)
    assert "merged" in again.figures
