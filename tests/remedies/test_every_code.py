"""Every error has a test here that follows its hint."""

from __future__ import annotations

import re
from pathlib import Path

from fedhelp_edge import errors


def test_every_remedy_is_followed() -> None:
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    followed = {code for text in texts for code in re.findall(r'"(E_[A-Z_]+)"', text)}
    assert followed == {kind.code for kind in errors.tree() if kind.code}
