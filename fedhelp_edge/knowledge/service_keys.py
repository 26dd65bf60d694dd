"""The keys of services, each from a private file, each for one origin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fedhelp_edge import passphrase
from fedhelp_edge.errors import SourceKeyError, UsageError
from fedhelp_edge.knowledge.source_spec import SourceSpec

_KEY = re.compile(r"[\x21-\x7e]{1,4096}")  # what a header can carry


def read(named: Sequence[str], specs: Sequence[SourceSpec]) -> dict[str, str]:
    """Keys by origin, of `FILE` or `https://HOST=FILE`. A file alone is for the only service that is asked."""
    origins = {spec.origin for spec in specs if spec.is_service}
    keys = {}
    for text in named:
        is_for_one = text.lower().startswith(("https://", "http://")) and "=" in text
        origin, file = text.split("=", 1) if is_for_one else ("", text)
        if not origin and len(origins) != 1:
            raise UsageError(
                "a key is for one service", remedy="name the service of each key: --key-file https://HOST=FILE"
            )
        origin = origin.lower().rstrip("/") or next(iter(origins))
        if origin not in origins:
            raise UsageError(f"no source is at {origin[:60]!r}, for which there is a key")
        keys[origin] = _read_key(Path(file))
    return keys


def _read_key(file: Path) -> str:
    try:
        key = passphrase.read_private_line(file, "a key").strip()
    except UnicodeDecodeError:
        key = ""
    if not _KEY.fullmatch(key):
        raise SourceKeyError(f"{file.name} does not begin with a line of letters, digits and signs")
    return key
