"""What a person writes to name a source, `KIND:WHAT`: its files, and what others may see of it."""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import urllib.parse
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import FileMissingError, UsageError
from fedhelp_edge.exchange import bounded_http
from fedhelp_edge.knowledge.protocol import PROTOCOL

MODULES = {  # in `sources`, of each kind
    "clip": "clip", "torchvision": "torchvision", "nets": "nets", "files": "answers", "program": "program",
    "https": "service", "http": "service", "encoder": "encoder", "prototypes": "encoder",
    "masks": "masks",
}  # fmt: skip
LEARNING = ("encoder", "prototypes")  # kinds whose answers follow from the public labels too
OF_PIXELS = ("masks",)  # kinds that answer for each pixel, about images with masks
SERVICES = ("https", "http")
OUTSIDE = ("program", *SERVICES)  # kinds that hand images to something else than this program


@dataclass(frozen=True)
class SourceSpec:
    """A source as it was named."""

    text: str
    kind: str
    argument: str

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """Raises unless the kind is known and its file is there."""
        kind, _, argument = text.partition(":")
        if kind not in MODULES or not argument:
            raise UsageError(f"a source is one of {', '.join(f'{name}:...' for name in MODULES)}, not {text!r}")
        spec = cls(text, kind, argument)
        if spec.is_service:
            bounded_http.check_address(text)
        elif kind == "program":
            spec.words  # noqa: B018 - raises where they cannot be told apart
        elif spec._file and not Path(spec._file).exists():
            raise FileMissingError(f"{Path(spec._file).name} is not there")
        return spec

    @property
    def is_outside(self) -> bool:
        """Whether it hands the images to something else than this program."""
        return self.kind in OUTSIDE

    @property
    def is_service(self) -> bool:
        return self.kind in SERVICES

    @property
    def origin(self) -> str:
        """Of a service: scheme, host and port, to which its key belongs."""
        parts = urllib.parse.urlsplit(self.text.lower())
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def is_on_this_machine(self) -> bool:
        """Of a service: whether it listens on a loopback address."""
        host = urllib.parse.urlsplit(self.text).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def batch(self) -> int:
        """As many images as suit it at once."""
        return 16 if self.is_service else 64 if self.kind == "program" else 256

    @cached_property
    def words(self) -> list[str]:
        """The words of a program's command line, as a shell would split it."""
        try:
            words = shlex.split(self.argument, posix=os.name != "nt")
        except ValueError as error:
            raise UsageError(f"the command of a source cannot be split into words: {error}") from error
        if not words:
            raise UsageError("write program:COMMAND, as in 'program:python3 ask.py'")
        return words

    @cached_property
    def name(self) -> str:
        """What others may see: no folder of this machine, and of a command its program and its files alone."""
        if self.kind == "program":
            return f"program:{' '.join(Path(word).name for word in dict.fromkeys([self.words[0], *self._digests]))}"
        return self._head + Path(self._file).name

    @property
    def identity(self) -> str:
        """Itself, with the hash of each file in place of its name: answers are saved under it."""
        if self.kind == "program":
            return json.dumps(["program", *(self._digests.get(word, word) for word in self.words)])
        return self._head + next(iter(self._digests.values()), "")

    @property
    def facts(self) -> dict[str, str]:
        """What a pack says of it: the protocol, and the hash of its weights; of a program the hashes of its files."""
        sha256 = next(iter(self._digests.values()), "")
        if self.kind == "program":
            sha256 = ", ".join(f"{Path(word).name} {digest}" for word, digest in self._digests.items())
        return {
            **({"protocol": PROTOCOL} if self.is_outside else {}),
            **({"sha256": sha256} if sha256 else {}),
        }

    @property
    def _head(self) -> str:
        return self.text[: len(self.text) - len(self._file)]

    @property
    def _file(self) -> str:
        if self.is_outside:
            return ""
        return self.argument if self.kind in ("files", *LEARNING, *OF_PIXELS) else self.argument.partition("@")[2]

    @cached_property
    def _digests(self) -> dict[str, str]:
        """The hashes of its files. A program that is found on PATH counts by its name."""
        named = [self._file] if self._file else []
        if self.kind == "program":
            words = self.words if Path(self.words[0]).name != self.words[0] else self.words[1:]
            named = [word for word in words if Path(word).is_file()]
        return {name: _digest(Path(name)) for name in named}


def _digest(path: Path) -> str:
    with files.reading(path) as file:
        return files.digest(file)
