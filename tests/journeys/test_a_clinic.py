"""A clinic's first round as typed, over a stick, with real training: join, download, train, upload, download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.demo import phantoms
from tests import command
from tests.site_and_hub import SiteAndHub, first_plan, succeeds
from tests.threads import one_thread  # noqa: F401 - a fixture

pytest.importorskip("torch")

PLAN = first_plan(phantoms.CLASSES[:2], "smears")


class Clinic(SiteAndHub):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, PLAN)
        pixels, labels = phantoms.draw(40, 2, size=8)
        parts = {"train": slice(0, 24), "val": slice(24, 32), "test": slice(32, 40)}
        arrays = {f"{name}_images": pixels[part] for name, part in parts.items()}
        arrays |= {f"{name}_labels": labels[part] for name, part in parts.items()}
        np.savez(folder / "images.npz", **arrays)

    def run_site(self, *words: str | Path) -> str:
        return succeeds(self.site(*words)).stdout

    def carry_stick(self) -> None:
        succeeds(self.hub("exchange", self.stick))

    @property
    def state(self) -> str:
        return str(command.json_output(self.site("status", "--json"))["state"])


def test_a_clinics_first_round_over_a_stick(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    assert command.error_code(clinic.site("train", "images.npz")) == "E_NOT_JOINED"
    succeeds(clinic.hub("init", "--plan", "plan.toml"))
    succeeds(clinic.hub("invite", "Clinic A", "--tier", "small", "--out", "a.invite"))

    words = command.json_output(clinic.site("join", "a.invite", "--via", clinic.stick, "--json"))["words"]
    assert len(words) == 8
    assert clinic.state == "joining"
    assert command.error_code(clinic.site("train", "images.npz")) == "E_NOT_YET"

    clinic.carry_stick()
    succeeds(clinic.hub("open"))
    clinic.carry_stick()
    assert "new: task for round 1" in clinic.run_site("download")
    assert clinic.state == "ready"
    assert command.error_code(clinic.site("distill", "images.npz")) == "E_TIER"

    assert "trained: 24 images" in clinic.run_site("train", "images.npz")
    assert clinic.state == "trained"
    assert "accuracy" in clinic.run_site("evaluate")
    assert "  chosen" in clinic.run_site("export", "--out", "model.onnx")
    assert "answer" in clinic.run_site("predict", "model.onnx", "images.npz")
    assert "trusted    yes" in clinic.run_site("inspect", "model.onnx")
    assert "parcels sent: 1" in clinic.run_site("upload")
    assert clinic.state == "sent"

    clinic.carry_stick()
    assert command.json_output(clinic.hub("aggregate", "--json"))["accepted"] == ["site-001"]
    clinic.carry_stick()
    clinic.run_site("download")
    status = command.json_output(clinic.site("status", "--json"))
    assert status["receipts"] == [{"round": "1", "state": "accepted", "code": "", "cause": ""}]
    assert status["outbox"] == []

    succeeds(clinic.hub("open"))
    clinic.carry_stick()
    clinic.run_site("download")
    clinic.run_site("train")  # the path of the images is remembered
    clinic.run_site("upload")
    clinic.carry_stick()
    assert command.json_output(clinic.hub("aggregate", "--json"))["round"] == 2
