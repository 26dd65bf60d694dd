"""Plans that our results support, one for each kind of images, with the reason for each line.

`plan.toml` has them all. A line that begins with `#WORDS|` is for plans that all of these words describe: a kind,
and `encoder` or `pixels`. `$encoder`, `$sha256`, `$width` and `$side` stand for what an encoder's file says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from fedhelp_edge.errors import UsageError

KINDS = ("skin", "xray", "cells")
_LINE = re.compile(r"(?:#([a-z ]+)\| )?(.*\n)")


def plan(kind: str, encoder: Mapping[str, object] | None) -> str:
    """The text of the plan for a kind of images; `encoder` is what the encoder's file says, None without one."""
    if kind not in KINDS:
        raise UsageError(
            f"there is no recipe for {kind[:60]!r}",
            remedy=f"choose one of {', '.join(KINDS)}; without --for the plan has every key",
        )
    plan_words = {kind, "pixels" if encoder is None else "encoder"}
    text = Path(__file__).with_name("plan.toml").read_text(encoding="utf-8")
    lines = (line for words, line in _LINE.findall(text) if plan_words.issuperset(words.split()))
    return Template("".join(lines)).substitute(encoder or {}, kind=kind)
