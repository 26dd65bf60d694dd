"""Run the benchmarks and print a table of what each printed. Those of hours are run by their own names."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import benchmarks

_BY_NAME = ("__main__", "claims", "coverage", "keeps", "ray_sites", "sum_attacks")


def main() -> None:
    for module in sorted(
        entry.name
        for entry in pkgutil.iter_modules(benchmarks.__path__)
        if not entry.ispkg and entry.name not in _BY_NAME
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", *sys.argv[1:]], check=True, stdout=subprocess.PIPE, text=True
        )
        for line in done.stdout.splitlines():
            values = json.loads(line)
            print(f"\n{values.pop('figure')}")
            for name, value in values.items():
                print(f"  {name:<28}{value}")


if __name__ == "__main__":
    main()
