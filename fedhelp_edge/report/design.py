"""How every page looks: one style sheet, and icons. Nothing comes from elsewhere.

Text has a contrast of at least 4.5 to 1 on its ground, in light and in dark. Controls and marks have 3 to 1 (WCAG AA).
A state has a word and an icon beside its colour. Pages are light or dark as the system is; the class `dark` makes one
always dark, for images.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final


def read(path: str) -> str:
    """A style sheet or script of this program."""
    return (Path(__file__).parents[1] / path).read_text("utf-8")


def _style() -> str:
    dark = r"(?ms)^:root\.dark ({.*?})"
    return re.sub(dark, r"\g<0>\n@media (prefers-color-scheme: dark) { :root \1 }", read("report/style.css"), count=1)


STYLE: Final = _style()

_ICONS = {
    "good": '<circle cx="12" cy="12" r="9"/><path d="m8 12.5 2.8 2.8L16 9.5"/>',
    "warn": '<path d="M12 3.5 2.5 20h19z"/><path d="M12 10v4.5M12 17.3v.1"/>',
    "bad": '<circle cx="12" cy="12" r="9"/><path d="m9 9 6 6M15 9l-6 6"/>',
    "wait": '<circle cx="12" cy="12" r="9"/><path d="M12 7v5.2l3.2 2"/>',
    "unsure": '<circle cx="12" cy="12" r="9"/><path d="M9.4 9.3a2.7 2.7 0 1 1 3.9 2.6c-.9.5-1.3 1-1.3 2M12 17.2v.1"/>',
    "print": '<path d="M7 9V3.5h10V9M7 17H4V9h16v8h-3"/><path d="M7 14.5h10v6H7z"/>',
}


def icon(name: str) -> str:
    """An icon as SVG, which a screen reader skips: a word stands beside it."""
    return f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">{_ICONS[name]}</svg>'
