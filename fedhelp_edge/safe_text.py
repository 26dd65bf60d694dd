"""Text for people: escape what others wrote, for a terminal, a page, or a table that a spreadsheet opens; list; count.

A name with a line end forges a line of output. ESC repaints a terminal, a direction mark reverses text, and an
invisible character makes two names look alike. A spreadsheet evaluates a cell that begins with `=`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from fedhelp_edge.errors import BadNameError

_UNSAFE = (
    r"\x00-\x1f\x7f-\x9f"  # control characters: line ends, tab, ESC, C1
    r"\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # direction, lines, invisible
    r"\ud800-\udfff\U000e0000-\U000e007f"  # halves of letters, as of bytes that are no UTF-8; invisible tags
)
_UNSAFE_CHARACTER = re.compile(f"[{_UNSAFE}]")
NAME_PATTERN = re.compile(f"[^{_UNSAFE}]{{0,200}}")  # of a federation or a site (a plan is stricter)
_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    """The text as one line: control and invisible characters are escaped, `\\x1b` for ESC."""
    return _UNSAFE_CHARACTER.sub(_escape, text)


def visible_html(text: str) -> str:
    """The same for a page, with markup escaped too."""
    import html

    return html.escape(visible(text))


def check_name(name: str) -> None:
    """Raise if a name or a reason is too long, or if `visible` would change it, before others read it."""
    if not NAME_PATTERN.fullmatch(name):
        raise BadNameError(
            f"'{visible(name[:60])}' has a line end, a control or invisible character, or over 200 letters"
        )


def shortened(names: Iterable[str], limit: int = 20) -> str:
    """A list for people: the first names, and how many more there are."""
    rest = iter(names)
    first = ", ".join(itertools.islice(rest, limit))
    remaining = sum(1 for _ in rest)
    return f"{first} and {remaining} more" if remaining else first


def counted(number: int, one: str, several: str = "") -> str:
    """A number and what it counts: `1 update`, `2 updates`; `several` spells a plural that is not formed by an s."""
    return f"{number} {one}" if number == 1 else f"{number} {several or f'{one}s'}"


def csv_cell(value: object) -> object:
    """A cell of a CSV file that a spreadsheet does not evaluate as a formula."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if value.lstrip().startswith(_FORMULA_STARTS) or value.startswith(_FORMULA_STARTS) else text


def _escape(match: re.Match[str]) -> str:
    character, code_point = match[0], ord(match[0])
    width = 2 if code_point < 0x100 else 4 if code_point < 0x10000 else 8
    return _SHORT_ESCAPES.get(character) or f"\\{'xuU'[width // 4]}{code_point:0{width}x}"
