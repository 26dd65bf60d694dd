"""How long the command line takes to print its help, and how much disk an installation takes.

Ours is the installation of a site that only diagnoses. Each peer has its plain package, in its environment of
`benchmarks.peers` if there is one. Compiled files and pip's own are counted, for all alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial

from benchmarks import interleaved, peers, report


def run(*command: str) -> None:
    run_silently(sys.executable, *command)


def run_silently(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    repeats = 5 if "--short" in sys.argv else 21
    contestants = {
        "nothing": lambda: run("-c", ""),
        "site_help": lambda: run("-m", "fedhelp_edge", "--help"),
        "keys_help": lambda: run("-m", "fedhelp_edge", "keys", "--help"),
        "coordinator_help": lambda: run("-c", "import server_ref.cli as c, sys; sys.argv[1:] = ['--help']; c.main()"),
        **{f"{name}_help": partial(run_silently, peers.program(name, name), "--help") for name in peers.installed()},
    }
    for what, clock in {"seconds": time.perf_counter, "CPU seconds": lambda: sum(os.times()[2:4])}.items():
        seconds = interleaved(contestants, repeats, clock)
        rounded = {name: round(value, 3) for name, value in seconds.items()}
        report(f"cold start, {what}", ("typer",), **({"aim_s": 0.3} if what == "seconds" else {}), **rounded)
    for name in (*peers.PINNED, "fedhelp-edge"):
        note = peers.home() / name / "size.json"
        if note.exists():
            report(f"installed: {name}", (), aim_mb=280, **json.loads(note.read_text()))


if __name__ == "__main__":
    main()
