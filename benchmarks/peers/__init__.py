"""Other frameworks on the same work, each in a throw-away environment of its own, never among our dependencies.

`python -m benchmarks.peers` makes the environments, in the folder that `FEDHELP_PEERS` names or else beside the
system's temporary files. The benchmarks compare with the peers whose environment they find there. The other files here
are run by the peers' Pythons, each as a script: they know the standard library, numpy and their framework. Where a peer
trains, it borrows torch and our learners from the environment that the benchmarks run in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PINNED = {"flwr": "flwr==1.41.0", "nvflare": "nvflare==2.9.0"}
SIMULATION = {"flwr": "flwr[simulation]==1.41.0"}  # what it takes beyond the plain package to simulate


def home() -> Path:
    return Path(os.environ.get("FEDHELP_PEERS") or Path(tempfile.gettempdir()) / "fedhelp-peers")


def program(peer: str, name: str = "python") -> Path:
    """A program of a peer's environment."""
    folder, suffix = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
    return home() / peer / folder / f"{name}{suffix}"


def installed() -> list[str]:
    """The peers that can be compared with."""
    return [peer for peer in PINNED if (home() / peer / "size.json").exists()]


def environment(**more: str) -> dict[str, str]:
    """What a measured process is started with: one thread for arithmetic, and where to borrow from."""
    ours = os.pathsep.join((sysconfig.get_path("purelib"), str(HERE.parent.parent)))
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FEDHELP_BORROWED": ours, **more}


def run_json(*command: object, **more: str) -> dict[str, Any]:
    """The JSON line that a process of its own prints last."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment(**more))
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_peer(peer: str, *arguments: object, **more: str) -> dict[str, Any]:
    """What a peer's script in this folder prints."""
    return run_json(program(peer), HERE / f"{SCRIPTS[peer]}.py", *arguments, **more)


SCRIPTS = {"flwr": "flower", "nvflare": "flare"}  # not the packages' own names, which they would hide
