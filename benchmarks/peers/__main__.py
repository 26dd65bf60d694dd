"""Make the environments: the peers', and one of ours for a site that only diagnoses. Prints what each takes on disk."""

from __future__ import annotations

import json
import subprocess
import sys
import venv

from benchmarks import peers, report


def make(name: str, package: str, also: str = "") -> None:
    folder = peers.home() / name
    note = folder / "size.json"
    if not note.exists():
        venv.create(folder, with_pip=True, clear=True)
        empty, bare = size(name)
        install(name, package)
        whole, packages = size(name)
        if also:
            install(name, also)
        note.write_text(json.dumps({"mb": whole, "of_it_pip_mb": empty, "packages": packages - bare}))
    report(f"installed: {name}", (), **json.loads(note.read_text()))


def install(name: str, package: str) -> None:
    command = [peers.program(name), "-m", "pip", "install", "--quiet", package]
    subprocess.run(command, check=True, stdout=sys.stderr)


def size(name: str) -> tuple[int, int]:
    """MB on disk, compiled files included, and the number of packages."""
    taken = sum(path.lstat().st_blocks for path in (peers.home() / name).rglob("*")) * 512
    command = [peers.program(name), "-m", "pip", "list", "--format", "json"]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return round(taken / 1e6), len(json.loads(listed))


def main() -> None:
    for name, package in peers.PINNED.items():
        make(name, package, peers.SIMULATION.get(name, ""))
    make("fedhelp-edge", str(peers.HERE.parent.parent))


if __name__ == "__main__":
    main()
