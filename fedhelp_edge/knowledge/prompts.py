"""The sentences that name a class for CLIP: templates, filled with each of the class's words.

A file of prompts is TOML: `templates`, each with one `{}`, and a table `[classes]` with a list of words for a class. A
class without words is called by its own name. The built-in sets are such files too.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.data.source_row import normalise
from fedhelp_edge.errors import BadPromptsError
from fedhelp_edge.safe_text import NAME_PATTERN, shortened

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = "photo"
_SETS = Path(__file__).parent / "prompt_sets"
_LIMIT, _ITEMS = 16 << 10, 100  # bytes of a file, items of each of its lists


@dataclass(frozen=True)
class Prompts:
    """A set of prompts; `words` are those of a class, by its normalised name."""

    name: str
    templates: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]

    def sentences(self, class_name: str) -> list[str]:
        """All sentences that name a class."""
        words = self.words.get(normalise(class_name), (class_name,))
        return [template.replace("{}", word) for template in self.templates for word in words]

    def sha256(self, classes: Sequence[str]) -> str:
        """The hash of all sentences for these classes: answers depend on it."""
        return hashlib.sha256(json.dumps([self.sentences(name) for name in classes]).encode()).hexdigest()

    def fact(self, classes: Sequence[str]) -> str:
        """What a pack says of them."""
        return f"{self.name}: {' | '.join(self.templates)} (SHA-256 of all sentences: {self.sha256(classes)})"


def names() -> list[str]:
    """The names of the built-in sets."""
    return sorted(path.stem for path in _SETS.glob("*.toml"))


def read(named: str, classes: Sequence[str]) -> Prompts:
    """A built-in set by its name, or a file, whose classes must all be among these."""
    if named in names():
        return _parse(named, (_SETS / f"{named}.toml").read_bytes())
    if not named.lower().endswith(".toml"):
        raise BadPromptsError(f"there is no set of prompts {named[:60]!r}; the sets are {', '.join(names())}")
    path = Path(named)
    with files.reading(path) as file:
        prompts = _parse(path.name, file.read(_LIMIT + 1))
    if unknown := sorted(prompts.words.keys() - set(map(normalise, classes))):
        raise BadPromptsError(
            f"{path.name} has words for {shortened(unknown)}, and the public images have no such class"
        )
    return prompts


def _parse(name: str, data: bytes) -> Prompts:
    if len(data) > _LIMIT:
        raise BadPromptsError(f"{name} is larger than {_LIMIT >> 10} KiB")
    try:
        read = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadPromptsError(f"{name} is not TOML: {error}") from error
    if unknown := read.keys() - {"templates", "classes"}:
        raise BadPromptsError(f"{name} has the unknown key {min(unknown)!r}")
    templates, classes = _texts(name, "templates", read.get("templates")), read.get("classes", {})
    for template in templates:
        if template.count("{}") != 1:
            raise BadPromptsError(f"{name}: the template {template!r} does not have one {{}} for the class")
    if not isinstance(classes, dict):
        raise BadPromptsError(f"{name}: 'classes' is not a table of lists")
    words = {normalise(class_name): _texts(name, class_name, texts) for class_name, texts in classes.items()}
    if len(words) < len(classes):
        raise BadPromptsError(f"{name} has a class twice")
    return Prompts(name, templates, words)


def _texts(name: str, key: str, texts: Any) -> tuple[str, ...]:
    is_list = isinstance(texts, list) and 0 < len(texts) <= _ITEMS
    if not is_list or not all(
        isinstance(text, str) and text.strip() and NAME_PATTERN.fullmatch(text) for text in texts
    ):
        raise BadPromptsError(f"{name}: {key[:60]!r} is not a list of up to {_ITEMS} texts of one line each")
    return tuple(texts)
