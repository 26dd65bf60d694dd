"""`python -m tests.golden --write [PART]`: write the record again; the package's docstring says when that is right."""

from __future__ import annotations

import argparse

from tests.golden import api, commands, exact, training, written


def _commands() -> None:
    api.write("commands", commands.record())
    (api.RECORD / "help").mkdir(exist_ok=True)
    for program in api.PROGRAMS:
        (api.RECORD / "help" / f"{program}.txt").write_text(commands.help_text(program), encoding="utf-8")


PARTS = {
    "exact": lambda: api.write("exact", exact.record()),
    "training": training.write,
    "commands": _commands,
    "json-keys": lambda: api.write("json-keys", commands.json_keys()),
    "written": written.write,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("--write", nargs="?", const="all", required=True, choices=["all", *PARTS])
    chosen = parser.parse_args().write
    api.RECORD.mkdir(exist_ok=True)
    for name, make in PARTS.items():
        if chosen in ("all", name):
            make()
            print(f"{name}: written")
