"""Training is killed repeatedly at random moments."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from fedhelp_edge.methods.base import Learner
from fedhelp_edge.train import checkpoint, loop
from tests.unit.methods import small

_ROOT = Path(__file__).resolve().parents[3]

# After each step the program prints a line, waits for one, and saves its state.
PROGRAM = """
import sys
from pathlib import Path
import torch
from fedhelp_edge.train import checkpoint, loop
from tests.unit.methods import small

torch.set_num_threads(1)
for tier in ("small", "large"):
    def report_step(done, total, rate):
        print(tier, done, flush=True)
        sys.stdin.readline()

    learner = small.learner(small.plan("fedhelp"), tier, small.pack())
    sets = small.sets(learner.plan, tier)
    report = loop.train(learner, sets, 1, checkpoints=Path("kept", tier), every=0, progress=report_step)
    checkpoint.save(Path("end", tier), 0, report.means(), learner.state())
"""


def start(folder: Path, stdin: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )


def killed(folder: Path, tier: str, step: int) -> int:
    """Runs until a step is done, and a moment longer, in which a state is saved and the next step starts."""
    with start(folder, subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            print("go on", file=process.stdin, flush=True)
            if line.split() == [tier, str(step)]:
                time.sleep(random.uniform(0, 0.05))
                process.kill()
                break
    return process.returncode


def test_killed_at_any_moment_the_same_command_ends_with_the_same_bits(tmp_path: Path) -> None:
    for tier, step in (("small", 2), ("small", 5), ("large", 4)):
        assert killed(tmp_path, tier, step) == -9
    with start(tmp_path, subprocess.DEVNULL) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert lines[0] in ("large 4", "large 5", "large 6")  # training continued from a saved state
    for tier in ("small", "large"):
        undisturbed: Learner = small.learner(small.plan("fedhelp"), tier, small.pack())
        report = loop.train(undisturbed, small.sets(undisturbed.plan, tier), 1)
        saved = checkpoint.newest(tmp_path / "end" / tier)
        assert saved is not None
        assert saved[0] == report.means()
        assert small.same(saved[1], undisturbed.state())
