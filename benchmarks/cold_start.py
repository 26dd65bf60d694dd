"""How long the command line takes to say what it can do."""

from __future__ import annotations

import subprocess
import sys

from benchmarks import interleaved, report


def run(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    repeats = 5 if "--short" in sys.argv else 21
    seconds = interleaved(
        {
            "nothing": lambda: run("-c", ""),
            "site_help": lambda: run("-m", "fedhelp_edge", "--help"),
            "keys_help": lambda: run("-m", "fedhelp_edge", "keys", "--help"),
            "coordinator_help": lambda: run(
                "-c", "import server_ref.cli as c, sys; sys.argv[1:] = ['--help']; c.main()"
            ),
        },
        repeats,
    )
    report("cold start, seconds", ("typer",), aim_s=0.3, **{name: round(value, 3) for name, value in seconds.items()})


if __name__ == "__main__":
    main()
