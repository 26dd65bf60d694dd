"""Diagnosing: cold start, images a second in fp32 and 8 bits against torch eager, memory, and 10,000 files.

Everything runs on models that this script trains for a moment and exports. Decoding is left out of images/s and is part
of all else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import interleaved, report

_PEAK = (  # of this program alone: what getrusage says is never below what its parent held
    "print(int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]) / 1024,"
    " file=sys.stderr)"
)
COMMAND = f"import sys; from fedhelp_edge.__main__ import main\ntry: main()\nexcept SystemExit: {_PEAK}"
_EAGER = (
    "import sys, numpy as np, torch; from PIL import Image\n"
    "from fedhelp_edge.nets.resnet import ResNet; from fedhelp_edge.nets.spec import Form\n"
    "net = ResNet('resnet20', Form(3)).eval(); net.load_state_dict(torch.load(sys.argv[1], weights_only=True))\n"
    "pixels = np.asarray(Image.open(sys.argv[2]).convert('RGB').resize((32, 32), 2), np.float32)\n"
    "with torch.no_grad(): net(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255).softmax(1)\n" + _PEAK
)
CLASSES = ("round", "lobed", "granular")


def peak_memory_of(code: str, *arguments: object) -> float:
    """Run it in a process of its own, and give its peak memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )  # fmt: skip
    return float(done.stderr.split()[-1])


def export_model(folder: Path, side: int, *, int8: bool) -> tuple[Path, object]:
    """A model of `side` pixels, and the net that is in it."""
    import torch

    from export import bundle, quantize
    from fedhelp_edge import plan as plans
    from fedhelp_edge.data.images import Images
    from fedhelp_edge.demo import phantoms
    from fedhelp_edge.methods.base import Compute
    from fedhelp_edge.methods.registry import METHODS
    from fedhelp_edge.parcel import keys
    from fedhelp_edge.site import local_training
    from fedhelp_edge.train import loop

    names = ", ".join(f'"{name}"' for name in CLASSES)
    plan = plans.read(f'classes = [{names}]\nmethod = "fedavg"\n[image]\nsize = {side}\n', METHODS)
    pixels, labels = phantoms.draw(400, 3, size=side, seed=1, difficulty=0.0)
    blank = ("",) * len(labels)
    images = Images(pixels, labels, ("train",) * 300 + ("val",) * 100, tuple(map(str, range(400))), blank, blank)
    learner = local_training.TrainingContext(plan, "site-001", "small", images, None, Compute()).learner()
    learner.receive(METHODS["fedavg"].start(plan), 1)
    loop.train(learner, {"private": images.split("train")}, 1)
    net = learner.net.eval()
    if int8:
        quantize.MIN_SPEED_UP, quantize.MIN_AGREEMENT = 0.0, 0.0  # it is measured here, kept or not
        quantize.reason_against = lambda *measured: ""
    result = bundle.create(
        {"own": net}, images, plan, bundle.Origin("", 1, "small", 1, None), keys.generate().sign, int8=int8
    )
    path = folder / f"{side}-{result.facts.precision}.onnx"
    result.write(path)
    torch.save(net.state_dict(), folder / f"{side}.pt")
    return path, net


def throughput(folder: Path, side: int, repeats: int) -> None:
    import torch

    from fedhelp_edge.infer.engine import Engine

    fp32, net = export_model(folder, side, int8=False)
    paths = {"fp32": fp32, "int8": export_model(folder, side, int8=True)[0]}
    engines = {name: Engine(path.read_bytes(), 1) for name, path in paths.items()}
    flat = net.to(memory_format=torch.channels_last)  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    for batch in (1, 64):
        images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
        runs: dict[str, Callable[[], object]] = {"torch_eager": partial(_eager, flat, images)}
        runs |= {name: partial(engine, images) for name, engine in engines.items()}
        seconds = interleaved(runs, repeats)
        rates = {name: round(batch / spent) for name, spent in seconds.items()}
        ratios = {f"{name}_of_eager": round(seconds["torch_eager"] / seconds[name], 2) for name in engines}
        agreement = float((engines["fp32"](images).logits.argmax(1) == engines["int8"](images).logits.argmax(1)).mean())
        report(
            f"diagnosing at {side} px, batch {batch}, one thread, images/s", ("onnxruntime", "torch"), **rates,
            **ratios,
            aim_of_eager=2 if batch == 1 else None, same_answers_on_noise=round(agreement, 3),
        )  # fmt: skip


def _eager(net: Any, images: NDArray[np.uint8]) -> object:
    import torch

    with torch.no_grad():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return net((x - 0.485) / 0.229).softmax(1)


def cold_start(folder: Path, repeats: int) -> None:
    """One photograph, from the command line to the answer."""
    model, photograph = folder / "32-fp32.onnx", folder / "photograph.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (450, 600, 3), np.uint8)).save(photograph)
    peaks: dict[str, float] = {}

    def ours() -> None:
        words = ("predict", model, photograph, "--home", folder / "none")
        peaks["ours"] = peak_memory_of(COMMAND, *words)

    def eager() -> None:
        peaks["torch"] = peak_memory_of(_EAGER, folder / "32.pt", photograph)

    seconds = interleaved({"ours": ours, "torch": eager}, repeats)
    rounded = {f"{name}_s": round(spent, 3) for name, spent in seconds.items()}
    memory = {f"{name}_mb": round(peak, 1) for name, peak in peaks.items()}
    report("one photograph, cold", ("onnxruntime", "torch"), **rounded, **memory, aim_s=0.5, aim_mb=120)


def many_files(folder: Path, count: int) -> None:
    """Thousands of JPEGs into a folder of answers: seconds, and the memory that they take beside few."""
    source = folder / "many"
    source.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (15, 20, 3), np.uint8))
        coarse.resize((200, 150)).save(source / f"{index:05}.jpg")
    few = folder / "few"
    few.mkdir()
    for path in sorted(source.iterdir())[: count // 10]:
        (few / path.name).write_bytes(path.read_bytes())
    arguments = ("--home", folder / "none", "--format", "csv", "--out")
    peaks = {
        "few_mb": peak_memory_of(COMMAND, "predict", folder / "32-fp32.onnx", few, *arguments, folder / "out-few"),
    }  # fmt: skip
    started = time.perf_counter()
    peaks["all_mb"] = peak_memory_of(COMMAND, "predict", folder / "32-fp32.onnx", source, *arguments, folder / "out")
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    peak_memory_of(COMMAND, "predict", folder / "32-fp32.onnx", source, *arguments, folder / "out")
    seconds_again = time.perf_counter() - started
    memory = {name: round(peak, 1) for name, peak in peaks.items()}
    report(
        f"{count} photographs of 200 x 150 into a folder", ("onnxruntime", "pillow"), **memory,
        seconds=round(seconds, 1), images_s=round(count / seconds), seconds_when_all_is_done=round(seconds_again, 1),
    )  # fmt: skip


def main() -> None:
    short = "--short" in sys.argv
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for side in (32,) if short else (32, 64):
            throughput(folder, side, 1 if short else 31)
        cold_start(folder, 1 if short else 11)
        many_files(folder, 50 if short else 10_000)


if __name__ == "__main__":
    main()
