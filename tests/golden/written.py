"""One small federation as a version writes it: a hub with a merged and an open round, and a site during training.

The two command lines make everything, with nets an eighth as wide as real ones to keep the archive small. Its keys are
throw-away test keys; the passphrase of their backup is beside it in the file `pass`.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.golden import api

PLAN = """
name = "golden"
classes = ["melanoma", "naevus"]
method = "fedavg"
rounds = 5
seed = 11
[image]
size = 8
[training]
epochs = 2
batch = 4
precision = "fp32"
yardstick = false
[round]
quorum = 1
days = 30
patience = 0
[wire]
up = "f16"
down = "f16"
"""
PASSPHRASE = "four quiet words here"
EXTRA = 1000  # images that the open round's checkpoint claims; training that continues from it reports them too


class WrittenFederation:
    """Both command lines in one folder, with a carrier folder between them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.carrier = folder, folder / "carrier"
        self.hub_home, self.site_home = folder / "hub", folder / "site"

    def hub(self, *words: str | Path) -> dict[str, Any]:
        return self._works(api.coordinator(*words, home=self.hub_home, folder=self.folder))

    def site(self, *words: str | Path, home: Path | None = None) -> dict[str, Any]:
        return self._works(api.site(*words, home=home or self.site_home, folder=self.folder))

    def exchange(self) -> dict[str, Any]:
        return self.hub("exchange", self.carrier, "--json")

    def download(self) -> dict[str, Any]:
        return self.site("download", "--via", self.carrier, "--json")

    @staticmethod
    def _works(done: Any) -> dict[str, Any]:
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout)) if done.stdout.startswith("{") and done.stdout.count("\n") == 1 else {}


def write() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "written"
        folder.mkdir()
        written = WrittenFederation(folder)
        with api.narrow_nets():
            make(written)
            (folder / "moment").write_text(datetime.now(timezone.utc).isoformat(timespec="seconds"))
            with tarfile.open(api.RECORD / "written.tar.xz", "w:xz", preset=9) as tar:
                tar.add(folder, ".", filter=_anonymous)
            api.write("written", summary(written))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def make(written: WrittenFederation) -> None:
    folder = written.folder
    written.carrier.mkdir()
    (folder / "plan.toml").write_text(PLAN)
    _images(folder)
    _pack(folder / "pack.safetensors")
    written.hub("init", "--plan", folder / "plan.toml", "--no-passphrase")
    written.hub("knowledge", "publish", folder / "pack.safetensors")
    written.hub("invite", "Clinic A", "--tier", "small", "--out", folder / "a.invite")
    written.site("join", folder / "a.invite", "--no-passphrase", "--via", written.carrier)
    written.exchange()
    written.download()
    written.hub("open")
    written.exchange()
    written.download()
    written.site("train", folder / "images.npz", "--threads", "1")
    written.site("upload", "--via", written.carrier)
    written.exchange()
    written.hub("aggregate", "--now")
    written.exchange()
    written.download()
    written.site("export", "--out", folder / "model.onnx", "--anyway", "--threads", "1")
    written.hub("audit", "export", "1", folder / "audit")
    written.hub("invite", "Clinic B", "--tier", "small", "--days", "365", "--out", folder / "b.invite")
    written.hub("backup", folder / "hub.tar")
    written.hub("open")
    written.exchange()
    written.download()
    with api.cut_off_after_one_step():
        left = api.site("train", folder / "images.npz", "--threads", "1", home=written.site_home, folder=folder)
    assert left.returncode == 1, left.stdout + left.stderr
    (state,) = written.site_home.glob("rounds/*2/own/*.state")
    api.claim_images(state, EXTRA)
    (folder / "pass").write_text(f"{PASSPHRASE}\n")
    (folder / "pass").chmod(0o600)
    written.site("keys", "backup", folder / "keys-backup.txt", "--passphrase-file", folder / "pass")


def _images(folder: Path) -> None:
    draw = np.random.Generator(np.random.Philox(31))
    arrays: dict[str, api.Array] = {}
    for part, count in (("train", 12), ("val", 6), ("test", 6)):
        labels = np.arange(count) % 2
        pixels = draw.integers(0, 128, (count, 8, 8, 3), np.uint8) + 100 * labels.astype(np.uint8)[:, None, None, None]
        arrays |= {f"{part}_images": pixels, f"{part}_labels": labels}
    np.savez_compressed(folder / "images.npz", **arrays)
    (folder / "pictures").mkdir()
    for index, pixels in enumerate(arrays["test_images"]):
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")


def _pack(path: Path) -> None:
    draw = np.random.Generator(np.random.Philox(37))
    probabilities = draw.permuted(np.tile(np.array([0.5, 0.25, 0.25], np.float16), (2, 8, 1)), axis=2)
    pixels = draw.integers(0, 256, (8, 8, 8, 3), np.uint8)
    facts = {"origin": "drawn", "licence": "CC0"}
    api.packs.save(path, api.packs.Pack(pixels, np.arange(8) % 3, ("x", "y", "z"), ("s", "t"), probabilities, facts))


def summary(written: WrittenFederation) -> dict[str, Any]:
    """The program's output about everything that was written."""
    folder = written.folder
    return {
        "parcels": {
            path.relative_to(folder).as_posix(): written.site("inspect", path, "--json")
            for path in {path.read_bytes(): path for path in sorted(folder.rglob("*.fhx"))}.values()
        },
        "model": written.site("inspect", folder / "model.onnx", "--json"),
        "predictions": predictions(written),
        "pack": written.site("knowledge", "show", folder / "pack.safetensors", "--json"),
        "plan": written.site("plan", "check", folder / "plan.toml", "--json"),
        "keys": written.site("keys", "show", "--json"),
        "words": written.site("keys", "words", "--json"),
        "site": written.site("status", "--json"),
        "hub": written.hub("status", "--json"),
        "log": written.hub("audit", "verify", "--json"),
        "audit": written.site("audit", folder / "audit", "--json"),
    }


def predictions(written: WrittenFederation) -> list[dict[str, Any]]:
    done = api.site(
        "predict", written.folder / "model.onnx", written.folder / "pictures", "--format", "json",
        home=written.site_home, folder=written.folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return list(json.loads(done.stdout)["results"])
