"""Results of training: each method, tier, codec and kind of normalisation on a few images, and the whole journey.

The same machine gives the same bits; another processor, torch or numpy may round differently.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import api
from tests.golden.exact import CLASSES

# method, numbers of the method, how updates travel, which norm layers travel, kind of norm layers
RUNS = [
    ("fedavg", "", "f32", "shared", "batch"),
    ("fedavg", "", "f16", "local", "batch"),
    ("fedavg", "", "f16", "shared", "group"),
    ("fedprox", "mu = 0.1", "f32", "shared", "group"),
    ("fedprox", "mu = 0.1", "f16", "local", "batch"),
    ("fedhelp", "", "f32", "shared", "batch"),
    ("fedhelp", 'schedule = "alternate"', "f16", "local", "batch"),
    ("fedhelp", 'alpha = "label_fit"\nbackward = "kl"', "f16", "shared", "group"),
    ("local", "", "f32", "shared", "batch"),
]


def machine() -> dict[str, str]:
    """The facts that decide the last bit of training on one thread."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = sorted(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "flags": api.sha256(" ".join(flags))[:16],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def runs() -> dict[str, Any]:
    return {name_of(run): train(*run) for run in RUNS}


def name_of(run: tuple[str, ...]) -> str:
    return " ".join(run).replace("\n", " ")


def train(method: str, method_settings: str, codec: str, norm: str, layers: str) -> dict[str, Any]:
    """One round at a large and a small site; the answers of their nets and of the merged one."""
    agreed = api.plan(
        f'classes = {CLASSES}\nmethod = "{method}"\nrounds = 2\nseed = 11\n[image]\nsize = 8\n'.replace("'", '"')
        + f'[nets]\nlarge = "resnet20"\nnorm = "{layers}"\n[wire]\nup = "{codec}"\ndown = "{codec}"\nnorm = "{norm}"\n'
        + '[training]\nepochs = 1\nbatch = 4\nprecision = "fp32"\n[fedhelp]\npublic_size = 8\npublic_every = 2\n'
        + (method_settings if method == "fedhelp" else f"[{method}]\n{method_settings}")
        + "\n"
    )
    draw = np.random.Generator(np.random.Philox(29))
    labels = [n % 3 for n in range(22)]
    pixels = draw.integers(0, 128, (22, 8, 8, 3), np.uint8) + 42 * np.asarray(labels, np.uint8)[:, None, None, None]
    parts = [("train", "train", "train", "val", "test")[n % 5] for n in range(22)]
    images = api.images(pixels, labels, parts, (), ["one" if n < 13 else "two" for n in range(22)])
    answers_drawn = draw.integers(1, 9, (2, 6, 4)).astype(np.float16) / 16
    public = draw.integers(0, 256, (6, 8, 8, 3), np.uint8)
    pack = api.packs.Pack(
        public, np.arange(6) % 4, ("w", "x", "y", "z"), ("s", "t"), answers_drawn / answers_drawn.sum(2, keepdims=True)
    )
    with tempfile.TemporaryDirectory() as name:
        progress = api.lab(agreed, images, "natural:centers", Path(name), pack, large=1)
        with np.load(Path(name) / "answers.npz") as archive:
            answers = {key: archive[key] for key in sorted(archive.files) if not key.endswith("groups")}
    first_answers = {
        key: np.round(answer[:3], 6).tolist() for key, answer in answers.items() if key.endswith(("own", "merged"))
    }
    return {
        "merged_sha256": progress["merged_sha256"],
        "answers_sha256": api.sha256_of(answers),
        "bytes": [progress["bytes_up"], progress["bytes_down"]],
        "answers": first_answers,
    }


def journey() -> str:
    with tempfile.TemporaryDirectory() as name:
        return api.journey(Path(name))


def entry() -> dict[str, Any]:
    return {"machine": machine(), "runs": runs(), "journey": journey()}


def here(machines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The entry recorded on a machine like this."""
    this_machine = machine()
    return next((entry_ for entry_ in machines if entry_["machine"] == this_machine), None)


def write() -> None:
    """Writes this machine's entry again and keeps the others."""
    entries = api.read("training") if (api.RECORD / "training.json").exists() else []
    new_entry = entry()
    api.write(
        "training", [*(old_entry for old_entry in entries if old_entry["machine"] != new_entry["machine"]), new_entry]
    )
