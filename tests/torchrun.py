"""Runs several processes on this machine with torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def start(processes: int, *arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*torchrun, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(processes: int, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    with start(processes, *arguments, folder=folder) as process:
        try:
            outputs = process.communicate(timeout=600)  # processes may wait for each other for ever
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun ends its own
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, *outputs)
