"""Fuzzes one target, or each in turn: python -m tests.fuzz NAME|--all SECONDS

Runs atheris from a corpus of real artefacts in a temporary folder. The exit code is not 0 if a target raises an
unexpected error; the input that caused it stays, and its path is printed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn


def main(arguments: list[str]) -> int:
    match arguments:
        case [which, seconds] if seconds.isdecimal():
            return fuzz(which, int(seconds))
    print("usage: python -m tests.fuzz NAME|--all SECONDS", file=sys.stderr)
    return 2


def fuzz(which: str, seconds: int) -> int:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install atheris (Linux, Python 3.11)", file=sys.stderr)
        return 3
    with atheris.instrument_imports(include=["fedhelp_edge"]):  # once, for all targets
        from tests.fuzz.targets import TARGETS
    if which not in ("--all", *TARGETS):
        print(f"no such target; there are: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    return max(start(name, seconds) for name in (TARGETS if which == "--all" else [which]))


def start(name: str, seconds: int) -> int:
    """Fuzzes in a fork, because libFuzzer ends its process."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    sys.stdout.flush()
    child = os.fork()
    if not child:
        run(name, seconds, folder)  # raises what the target raises; libFuzzer saves the input as the process ends
    code = abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))  # negative: ended by a signal
    if code and list(folder.glob("crash-*")):
        print(f"the input that caused it: {next(folder.glob('crash-*'))}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return code


def run(name: str, seconds: int, folder: Path) -> NoReturn:
    import atheris

    from tests.fuzz import targets

    tempfile.tempdir, targets._FILE = str(folder), folder / "file.fhx"
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(targets.SEEDS[name]()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-max_len=8192"]
    options += ["-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], targets.TARGETS[name])
    atheris.Fuzz()
    sys.exit()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
