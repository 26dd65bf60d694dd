"""Fuzzes one target, or each in turn: python -m tests.fuzz NAME|--all SECONDS

Runs atheris from a corpus of real artefacts in a temporary folder. The exit code is not 0 if a target raises an
unexpected error; the input that caused it stays, and its path is printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main(arguments: list[str]) -> int:
    match arguments:
        case ["--all", seconds] if seconds.isdecimal():
            from tests.fuzz.targets import TARGETS

            return max(abs(start(name, int(seconds))) for name in TARGETS)  # negative: ended by a signal
        case [name, seconds] if seconds.isdecimal():
            return start(name, int(seconds))
        case [name, seconds, folder]:
            return fuzz(name, int(seconds), Path(folder))
    print("usage: python -m tests.fuzz NAME|--all SECONDS", file=sys.stderr)
    return 2


def start(name: str, seconds: int) -> int:
    """Fuzzes in a process of its own, because libFuzzer ends its process."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    command = [sys.executable, "-m", "tests.fuzz", name, str(seconds), str(folder)]
    code = subprocess.call(command, env={**os.environ, "TMPDIR": str(folder)})
    if code and list(folder.glob("crash-*")):
        print(f"the input that caused it: {next(folder.glob('crash-*'))}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return code


def fuzz(name: str, seconds: int, folder: Path) -> int:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install atheris (Linux, Python 3.11)", file=sys.stderr)
        return 3
    with atheris.instrument_imports(include=["fedhelp_edge"]):
        from tests.fuzz.targets import SEEDS, TARGETS
    if name not in TARGETS:
        print(f"no such target; there are: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[name]()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-max_len=8192"]
    options += ["-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
