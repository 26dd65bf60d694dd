"""The sentences that name a class for CLIP: templates, filled with each of the class's words.

A file of prompts is TOML: `templates`, each with one `{}`, and a table `[classes]` with a list of words for a class. A
class without words is called by its own name, as a person would write it. The built-in sets are such files too.
"""

from __future__ import annotations

import hashlib
import json
import re
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
# where two words meet in BreastMRI and CTHead, but not within McCune
_WORDS_MEET = re.compile(r"(?<=[^\W\d_A-Z]{2})(?=[A-Z])|(?<=[A-Z])(?=[A-Z][^\W\d_A-Z]{2})")
_SHORT = re.compile(r"[A-Z]{2,5}")  # an abbreviation


@dataclass(frozen=True)
class Prompts:
    """A set of prompts; `words` are those of a class, by its normalised name."""

    name: str
    templates: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]

    def sentences(self, class_name: str) -> list[str]:
        """All sentences that name a class."""
        words = self._words_of(class_name) or (spoken(class_name),)
        return [template.replace("{}", word) for template in self.templates for word in words]

    def knows(self, class_name: str) -> bool:
        """Whether the set has words for this class."""
        return bool(self._words_of(class_name))

    def _words_of(self, class_name: str) -> tuple[str, ...]:
        return self.words.get(normalise(class_name)) or self.words.get(normalise(spoken(class_name)), ())

    def sha256(self, classes: Sequence[str]) -> str:
        """The hash of all sentences for these classes: answers depend on it."""
        return hashlib.sha256(json.dumps([self.sentences(name) for name in classes]).encode()).hexdigest()

    def fact(self, classes: Sequence[str]) -> str:
        """What a pack says of them."""
        return f"{self.name}: {' | '.join(self.templates)} (SHA-256 of all sentences: {self.sha256(classes)})"


def spoken(class_name: str) -> str:
    """A class's name as a person would write it: `aquarium_fish` is an aquarium fish, `BreastMRI` a breast MRI."""
    return " ".join(_WORDS_MEET.sub(" ", class_name.replace("_", " ")).split()) or class_name


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
    if unknown := sorted(prompts.words.keys() - {normalise(text) for name in classes for text in (name, spoken(name))}):
        raise BadPromptsError(
            f"{path.name} has words for {shortened(unknown)}, and the public images have no such class"
        )
    return prompts


def abbreviation_note(chosen: Prompts, classes: Sequence[str]) -> str:
    """What to tell a person if CLIP is asked about abbreviations; "" if it is not."""
    if not (short := [name for name in classes if _SHORT.fullmatch(name) and not chosen.knows(name)]):
        return ""
    sets = [name for name in names() if all(map(read(name, classes).knows, short))]
    remedy = f"--prompts {sets[0]} has words for them" if sets else "--prompts FILE.toml can give words for them"
    return f"CLIP is asked about abbreviations, {shortened(short)}; {remedy}"


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
