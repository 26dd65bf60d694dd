"""Write docs/errors.md from the tree of errors: `python docs/generate.py`. A test fails while the two differ."""

from __future__ import annotations

from pathlib import Path

from fedhelp_edge import errors

HEAD = """# What can go wrong

Every refusal prints a code, what was met, and what to do next:

```
error: E_TRUNCATED: the file ends in its payload
hint: the copy is not complete; copy it again, and take the stick out only when the copy has ended
```

Codes are stable: programs may rely on them. Exit codes: 0 done ("don't know" is an answer), 1 refused, failed or not
ready, 2 wrong usage. With `--json` the same stands on stdout as `{"error": {"code", "cause", "remedy"}}`.

This page is made from `fedhelp_edge/errors.py` by `make docs`.
"""


def page() -> str:
    parts = [HEAD]
    for kind in errors.tree():
        said = (kind.__doc__ or "").strip()
        if kind.code:
            parts.append(f"### {kind.code}\n\n{said}\n\n*What to do:* {kind.remedy}.\n")
        else:
            parts.append(f"## {said}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("errors.md").write_text(page(), encoding="utf-8")
