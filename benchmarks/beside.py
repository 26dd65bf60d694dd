"""Training beside other work: ResNet20 steps at 32 px with nothing else running, and beside one busy process.

A thread library reads how its threads shall wait as it loads, so each measurement is a process of its own. They take
turns: the kit as it is, threads that always spin (the library's default), threads that sleep at once, and one thread.
Run it on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import report

WAYS = {
    "kit": ({}, 0),
    "always_spin": ({"GOMP_SPINCOUNT": "300000"}, 0),
    "passive": ({"OMP_WAIT_POLICY": "PASSIVE"}, 0),
    "one_thread": ({}, 1),
}
BATCH = 64


def training_rate(threads: int, seconds: float) -> float:
    """Images a second of a bare training loop, in this process."""
    import torch
    import torch.nn.functional as F

    from fedhelp_edge.methods.optimisers import Adam
    from fedhelp_edge.nets.resnet import ResNet
    from fedhelp_edge.nets.spec import Form
    from fedhelp_edge.train import machine

    machine.configure(threads or None)
    net = ResNet("resnet20", Form(4)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = Adam([{"params": list(net.parameters())}], 1e-3, 0.0)
    images = torch.rand(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 4, (BATCH,))

    def step() -> None:
        loss = F.cross_entropy(net(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for _ in range(3):
        step()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    return BATCH * steps / (time.perf_counter() - begin)


def measure(way: str, seconds: float) -> float:
    settings, threads = WAYS[way]
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-m", "benchmarks.beside", "--once", str(threads), str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**clean, **settings})
    return float(json.loads(done.stdout))


def medians(ways: Sequence[str], repeats: int, seconds: float) -> dict[str, float]:
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            rates[way].append(measure(way, seconds))
    return {way: statistics.median(values) for way, values in rates.items()}


def main() -> None:
    if sys.argv[1:2] == ["--once"]:
        print(json.dumps(training_rate(int(sys.argv[2]), float(sys.argv[3]))))
        return
    short = "--short" in sys.argv
    ways, repeats, seconds = (["kit", "always_spin"], 1, 0.3) if short else ([*WAYS], 5, 3.0)
    idle = medians(ways, repeats, seconds)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            busy = medians(ways, repeats, seconds)
        finally:
            other.kill()
    best = idle["always_spin"]
    report(
        "training beside a busy process, images/s", ("torch",),
        **{f"{way}_{when}": round(rates[way]) for way in ways for when, rates in (("idle", idle), ("busy", busy))},
        kept_beside={way: round(busy[way] / best, 2) for way in ways}, aim_kept=0.45,
        of_default_idle={way: round(idle[way] / best, 2) for way in ways}, aim_idle=0.95,
    )  # fmt: skip


if __name__ == "__main__":
    main()
