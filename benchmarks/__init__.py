"""One file a figure. `python -m benchmarks` runs them all and prints a table; `--short` runs a short form of each."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version


def interleaved(
    contestants: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The median seconds of each, run in turn within one process: the machine's other work falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            begin = clock()
            run()
            seconds[name].append(clock() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_mb(module: str, *arguments: str) -> float:
    """The peak memory of `python -m module arguments`, in MB. (Of `getrusage` a process inherits its parent's.)"""
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__');"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, module, *arguments], check=True, capture_output=True, text=True)
    return int(done.stderr.split()[-1]) / 1024


def report(figure: str, packages: tuple[str, ...], /, **values: object) -> None:
    """One JSON line, with what it depends on."""
    where = {"python": platform.python_version(), "cores": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({"figure": figure, **values, **where, **{name: version(name) for name in packages}}))
