"""A clinic's first round as typed, over a stick, with real training: join, download, train, upload, download."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.data import phantom
from tests import command

pytest.importorskip("torch")

PLAN = f"""
name = "smears"
classes = {list(phantom.CLASSES[:2])}
method = "fedavg"
rounds = 2
[image]
size = 8
[training]
epochs = 1
[round]
quorum = 1
""".replace("'", '"')


class Clinic:
    def __init__(self, folder: Path) -> None:
        self.folder, self.stick = folder, folder / "stick"
        self.stick.mkdir()
        (folder / "plan.toml").write_text(PLAN)
        (folder / "pass").write_text("four quiet words here\n")
        pixels, labels = phantom.draw(40, 2, size=8)
        parts = {"train": slice(0, 24), "val": slice(24, 32), "test": slice(32, 40)}
        arrays = {f"{name}_images": pixels[part] for name, part in parts.items()}
        arrays |= {f"{name}_labels": labels[part] for name, part in parts.items()}
        np.savez(folder / "images.npz", **arrays)

    def hub(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self._type(words, "hub", command.COORDINATOR, fails=False)

    def site(self, *words: str | Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
        return self._type(words, "site", command.SITE, fails)

    def _type(
        self, words: tuple[str | Path, ...], home: str, program: tuple[str, ...], fails: bool
    ) -> subprocess.CompletedProcess[str]:
        env = {"FEDHELP_HOME": str(self.folder / home), "FEDHELP_PASSPHRASE_FILE": str(self.folder / "pass")}
        done = command.run(*words, home=self.folder, program=program, env={**env, "OMP_NUM_THREADS": "1"})
        assert done.returncode == int(fails), done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    @property
    def state(self) -> str:
        return str(command.answer(self.site("status", "--json"))["state"])


def test_a_clinics_first_round_over_a_stick(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    assert command.refusal(clinic.site("train", "images.npz", fails=True)) == "E_NOT_JOINED"
    clinic.hub("init", "--plan", "plan.toml")
    clinic.hub("invite", "Clinic A", "--tier", "small", "--out", "a.invite")

    words = command.answer(clinic.site("join", "a.invite", "--via", clinic.stick, "--json"))["words"]
    assert len(words) == 8
    assert clinic.state == "joining"
    assert command.refusal(clinic.site("train", "images.npz", fails=True)) == "E_NOT_YET"

    clinic.hub("exchange", clinic.stick)
    clinic.hub("open")
    clinic.hub("exchange", clinic.stick)
    assert "new: task for round 1" in clinic.site("download").stdout
    assert clinic.state == "ready"
    assert command.refusal(clinic.site("distill", "images.npz", fails=True)) == "E_TIER"

    assert "trained: 24 images" in clinic.site("train", "images.npz").stdout
    assert clinic.state == "trained"
    assert "accuracy" in clinic.site("evaluate").stdout
    assert "  chosen" in clinic.site("export", "--out", "model.onnx").stdout
    assert "answer" in clinic.site("predict", "model.onnx", "images.npz").stdout
    assert "trusted    yes" in clinic.site("inspect", "model.onnx").stdout
    assert "parcels sent: 1" in clinic.site("upload").stdout
    assert clinic.state == "sent"

    clinic.hub("exchange", clinic.stick)
    told = command.answer(clinic.hub("aggregate", "--json"))
    assert told["accepted"] == ["site-001"]
    clinic.hub("exchange", clinic.stick)
    clinic.site("download")
    status = command.answer(clinic.site("status", "--json"))
    assert status["receipts"] == [{"round": "1", "state": "accepted", "code": "", "cause": ""}]
    assert status["outbox"] == []

    clinic.hub("open")
    clinic.hub("exchange", clinic.stick)
    clinic.site("download")
    clinic.site("train")  # the images are remembered
    clinic.site("upload")
    clinic.hub("exchange", clinic.stick)
    assert command.answer(clinic.hub("aggregate", "--json"))["round"] == 2
