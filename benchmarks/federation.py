"""Six sites, three rounds of FedAvg with ResNet20, on one core: the lab, one plain loop, and the peers' simulators.

All train the same images in batches of the same size, NVFlare's sites at once and the others' one after another. The
plain loop is what a person would write: nets, tensors and optimisers of PyTorch, and the mean of their states. It and
the lab also judge every net and the merged one: after each round on validation images, at the end on test images. The
peers only train and merge. Time begins after the imports; training is the time in which some site trained. On a busy
machine the CPU time of a single process says more than the clock. Memory is the most that all processes together had
(PSS, ten times a second). On Linux only.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import peers, report
from fedhelp_edge import plan as plans
from fedhelp_edge.demo import phantoms
from fedhelp_edge.methods.registry import METHODS

CLASSES, SITES, ROUNDS = 4, 6, 3


def write_work(folder: Path, images: int) -> None:
    """Writes the work: a plan, the first weights, and each site's images, one in ten for val and two for test."""
    names = ", ".join(f'"{name}"' for name in phantoms.CLASSES[:CLASSES])
    text = f'name = "six"\nclasses = [{names}]\nmethod = "fedavg"\nrounds = {ROUNDS}\n[image]\nsize = 32\n'
    text += "[training]\nepochs = 1\nbatch = 32\n"
    folder.mkdir()
    (folder / "plan.toml").write_text(text)
    plan = plans.read(text, METHODS)
    start = METHODS[plan.method].start(plan)
    np.save(folder / "start.npy", np.concatenate([array.ravel() for array in start.values()]))
    splits = np.array([("train", "test", "train", "train", "val", "train", "test", "train", "train", "train")[n % 10]
                       for n in range(images)])  # fmt: skip
    for index in range(SITES):
        pixels, labels = phantoms.draw(images, CLASSES, size=32, site=index + 1)
        np.savez(folder / f"site-{index + 1:03}.npz", pixels=pixels, labels=labels, splits=splits)


# --- contestants -----------------------------------------------------------------------------------------------------
def lab(folder: Path) -> None:
    from benchmarks.peers import work
    from fedhelp_edge.lab import run, visits
    from fedhelp_edge.lab.partition import SiteImages
    from fedhelp_edge.methods.base import Compute
    from fedhelp_edge.train import loop, visit

    train = loop.train
    visit.judge = visits.judge = work.timed_judging(folder, visit.judge)

    def timed(learner: Any, sets: Any, round_: int, **options: Any) -> Any:
        work.note(folder, "begin", round=round_, site=learner.site.id)
        try:
            return train(learner, sets, round_, **options)
        finally:
            work.note(folder, "end", round=round_, site=learner.site.id)

    loop.train = timed
    work.note(folder, "start")
    names = [f"site-{index + 1:03}" for index in range(SITES)]
    parts = [SiteImages(name, name, "small", work.images_of(folder, name)) for name in names]
    run.run(work.plan_of(folder), parts, folder / "out", compute=Compute())
    work.note(folder, "stop")


def plain(folder: Path) -> None:
    import copy
    from functools import partial

    import torch.nn.functional as F
    from sklearn import metrics

    from benchmarks.peers import work
    from fedhelp_edge.nets.resnet import ResNet
    from fedhelp_edge.nets.spec import Form

    work.note(folder, "start")
    names = [f"site-{index + 1:03}" for index in range(SITES)]
    images_of: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
    for name in names:
        with np.load(folder / f"{name}.npz") as archive:
            pixels = torch.from_numpy(archive["pixels"]).permute(0, 3, 1, 2).float().div(255)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            labels = torch.from_numpy(archive["labels"])
            images_of[name] = {
                s: (pixels[archive["splits"] == s], labels[archive["splits"] == s]) for s in ("train", "val", "test")
            }
    merged = ResNet("resnet20", Form(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @partial(work.timed_judging, folder)
    def rate(net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
        net.eval()
        with torch.inference_mode():
            probabilities = net(images).softmax(1).numpy()
        accuracy = metrics.balanced_accuracy_score(labels, probabilities.argmax(1))
        return accuracy, metrics.roc_auc_score(labels, probabilities, multi_class="ovr", labels=range(CLASSES))

    for round_ in range(1, ROUNDS + 1):
        nets = []
        for name in names:
            net = copy.deepcopy(merged).train()
            images, labels = images_of[name]["train"]
            optimiser = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
            work.note(folder, "begin", round=round_, site=name)
            for chosen in torch.randperm(len(images)).split(32):
                loss = F.cross_entropy(net(images[chosen]), labels[chosen])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            work.note(folder, "end", round=round_, site=name)
            nets.append(net)
        states = [net.state_dict() for net in nets]
        mean = {
            key: torch.stack([s[key].float() for s in states]).mean(0).to(states[0][key].dtype) for key in states[0]
        }
        merged.load_state_dict(mean)
        for name, net in zip(names, nets, strict=True):
            rate(net, *images_of[name]["val"])
            rate(merged, *images_of[name]["val"])
    for name, net in zip(names, nets, strict=True):
        rate(net, *images_of[name]["test"])
        rate(merged, *images_of[name]["test"])
    work.note(folder, "stop")


# --- measuring -------------------------------------------------------------------------------------------------------
def measure(command: list[object], folder: Path) -> dict[str, float]:
    started = time.time()
    with (folder / "log.txt").open("w") as log:
        running = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, env=peers.environment(), cwd=folder,
            preexec_fn=lambda: os.sched_setaffinity(0, {0}),
        )  # fmt: skip
        peak = 0.0
        while running.poll() is None:
            peak = max(peak, memory_mb(running.pid))
            time.sleep(0.1)
    if running.returncode:
        sys.exit(f"{command} ended with {running.returncode}\n{(folder / 'log.txt').read_text()[-3000:]}")
    return {**figures([json.loads(line) for line in (folder / "events.jsonl").open()], started), "memory_mb": peak}


def figures(events: list[dict[str, Any]], started: float) -> dict[str, float]:
    events_of = {
        what: [event for event in events if event["what"] == what] for what in ("start", "begin", "end", "stop")
    }
    start, stop = events_of["start"][0]["time"], events_of["stop"][-1]["time"]
    assert len(events_of["begin"]) == len(events_of["end"]) == SITES * ROUNDS, "not everybody trained in every round"
    first = {r: min(e["time"] for e in events_of["begin"] if e["round"] == r) for r in range(1, ROUNDS + 1)}
    last = {r: max(e["time"] for e in events_of["end"] if e["round"] == r) for r in range(1, ROUNDS + 1)}
    spent = {r: training_seconds([e for e in events if e.get("round") == r]) for r in first}
    cpu = {what: sum(event["cpu"] for event in events_of[what]) for what in events_of}
    work, training = cpu["stop"] - cpu["start"], cpu["end"] - cpu["begin"]
    judging = sum(event["spent"] for event in events if event["what"] == "judged")
    beside = {"CPU, total": work, "CPU, training": training, "CPU, judging": judging}
    beside["CPU, a round beside training and judging"] = (work - training - judging) / ROUNDS
    return {
        "imports": start - started,
        "first round beside training": first[2] - start - spent[1],
        "a later round beside training": (stop - first[2] - sum(spent[r] for r in range(2, ROUNDS + 1))) / (ROUNDS - 1),
        "idle between rounds": statistics.mean(first[r + 1] - last[r] for r in range(1, ROUNDS)),
        "training": sum(spent.values()),
        "total": stop - start,
        **(beside if judging else {}),  # where all of it is one process
    }


def training_seconds(events: list[dict[str, Any]]) -> float:
    """The time in which at least one site was training."""
    total, at_work, since = 0.0, 0, 0.0
    for event in sorted(events, key=lambda event: event["time"]):
        if event["what"] == "begin":
            since = since if at_work else event["time"]
            at_work += 1
        else:
            at_work -= 1
            total += 0.0 if at_work else event["time"] - since
    return total


def memory_mb(root: int) -> float:
    """The PSS of a process and all below it, in MB."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for pid in family:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6


def main() -> None:
    if sys.argv[1:2] == ["--once"]:
        torch.set_num_threads(1)
        return {"lab": lab, "plain loop": plain}[sys.argv[2]](Path(sys.argv[3]))
    short = "--short" in sys.argv
    repeats, images = (1, 80) if short else (5, 320)
    own_commands = {
        contestant: [sys.executable, "-m", "benchmarks.federation", "--once", contestant]
        for contestant in ("lab", "plain loop")
    }
    peer_commands: dict[str, list[object]] = {
        peer: [peers.program(peer), peers.HERE / f"{script}.py"]
        for peer, script in {"flwr": "simulate_flower", "nvflare": "simulate_flare"}.items()
        if peer in peers.installed()
    }
    results: dict[str, list[dict[str, float]]] = {contestant: [] for contestant in [*own_commands, *peer_commands]}
    for _ in range(repeats):
        for contestant, command in {**own_commands, **peer_commands}.items():
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "work"
                write_work(folder, images)
                results[contestant].append(measure([*command, folder], folder))
    for contestant, runs in results.items():
        values = {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}
        report(f"six sites, three rounds, seconds: {contestant}", ("torch",), images=SITES * images, **values)
    return None


if __name__ == "__main__":
    main()
