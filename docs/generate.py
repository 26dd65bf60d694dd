"""Write what follows from the code: `python docs/generate.py`. A test fails while the two differ.

`errors.md` comes from the tree of errors, the pictures of the floors from the import contracts in `pyproject.toml`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from fedhelp_edge import errors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parent
ROOT = DOCS.parent


HEAD = """# What can go wrong

Every error has a code, a cause, and a hint about what to do next:

```
error: E_TRUNCATED: the file ends in its payload
hint: the copy is not complete; copy it again, and take the stick out only when the copy has ended
```

Codes are stable, so programs may rely on them. Exit codes: 0 done ("don't know" is an answer), 1 refused, failed or not
ready, 2 wrong usage. With `--json` stdout has the same as `{"error": {"code", "cause", "remedy"}}`.

`make docs` generates this page from `fedhelp_edge/errors.py`.
"""


def page() -> str:
    parts = [HEAD]
    for kind in errors.tree():
        meaning = (kind.__doc__ or "").strip()
        if kind.code:
            parts.append(f"### {kind.code}\n\n{meaning}\n\n*What to do:* {kind.remedy}.\n")
        else:
            parts.append(f"## {meaning}\n")
    return "\n".join(parts)


def houses() -> Iterator[tuple[str, list[list[str]]]]:
    """Each contract of layers that has more than one: its name, and its floors from the top, each a list of rooms."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in project["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers" and len(contract["layers"]) > 1:
            inside = "".join(f"{name}." for name in contract.get("containers", ()))
            floors = [[inside + room for room in re.findall(r"[\w.]+", layer)] for layer in contract["layers"]]
            yield contract["name"], floors


def picture(name: str, floors: list[list[str]]) -> str:
    """A house as SVG: a row for each floor, narrow enough for a phone."""
    width, height, gap = 420, 34, 6
    rows = [
        '<svg xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" font-size="13"'
        f' viewBox="0 0 {width} {len(floors) * (height + gap) + gap}" role="img" aria-label="{escape(name)}">',
        '<rect width="100%" height="100%" rx="8" fill="#f6f7f9"/>',
    ]
    for number, floor in enumerate(floors):
        side, y = (width - gap) / len(floor), gap + number * (height + gap)
        for place, room in enumerate(floor):
            x, name = gap + place * side, room.removeprefix("fedhelp_edge.")
            size = f' font-size="{fits:g}"' if (fits := round(1.6 * (side - gap) / len(name), 1)) < 13 else ""
            rows.append(
                f'<rect x="{x:g}" y="{y}" width="{side - gap:g}" height="{height}" rx="5" fill="{_colour(room)}"/>'
                f'<text x="{x + (side - gap) / 2:g}" y="{y + 22}" text-anchor="middle" fill="#16202c"{size}>'
                f"{escape(name)}</text>"
            )
    return "\n".join([*rows, "</svg>", ""])


def _colour(room: str) -> str:
    return {"fedhelp_edge": "#cfe3f7", "export": "#d6ecd2", "server_ref": "#f8dfc4"}[room.split(".")[0]]


def files() -> dict[Path, str]:
    """Every generated file, and its text."""
    drawn = {DOCS / "pictures" / f"{name.replace(' ', '-')}.svg": picture(name, floors) for name, floors in houses()}
    return {DOCS / "errors.md": page(), **drawn}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
