"""What the documentation site needs beside MkDocs: the repository as its pages, and pages of the rooms from their code.

Pages keep their place in the repository, so a link that holds there holds on the site. No room is named here: they come
from the import contracts, as the picture of the floors does.
"""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PARTS = ("*.md", "LICENSE", "CITATION.cff", "docs/**/*", "examples/**/*")
MARK = "<!-- rooms -->"
LIST = """# Rooms and files

Where to find what: every room, from the top floor to the lowest, with its files. A room's name leads to its classes and
functions. [How it works](../docs/how-it-works.md) draws the floors. Rely only on what the
[start page](../README.md#in-python) lists; everything else may move.
"""
FETCHED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//", re.I)
HOUSES: list[tuple[str, list[list[str]]]] = list(runpy.run_path(str(DOCS / "generate.py"))["houses"]())


def on_config(config: Any) -> Any:
    """A list of all rooms, and below it a page for each."""
    config.nav.append({"Rooms and files": ["python/index.md", *({room: _page_of(room)} for room in _rooms())]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """The repository's own pages in place of those that MkDocs found, and a page for each room."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted({path for part in PARTS for path in ROOT.glob(part)}):
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    files.append(File.generated(config, "python/index.md", content="\n".join(_listed())))
    for room in _rooms():
        own, *others = _modules(room)
        parts = [f"# {room}", f"::: {_module(own)}\n    options: {{show_root_heading: false}}"]
        parts += [f"::: {_module(path)}" for path in others]
        files.append(File.generated(config, _page_of(room), content="\n\n".join(parts)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARK, "[Every room, with its files](../python/index.md).")


def on_post_build(config: Any) -> None:
    """Refuse a site that would fetch anything from elsewhere."""
    for path in Path(config.site_dir).rglob("*.html"):
        if found := FETCHED.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path.name} fetches something from elsewhere: {found[0]}")


def _rooms() -> list[str]:
    """Every room once, from the top floor to the lowest."""
    named = (room for _, floors in HOUSES for floor in floors for room in floor)
    return [room for room in dict.fromkeys(named) if not room.endswith("__main__")]


def _page_of(room: str) -> str:
    return f"python/{room}.md"


def _modules(room: str) -> list[Path]:
    """The files of a room, the one that is the room itself first. A room inside it has a page of its own."""
    folder = ROOT / room.replace(".", "/")
    if not folder.is_dir():
        return [folder.with_suffix(".py")]
    inner = [ROOT / other.replace(".", "/") for other in _rooms() if other.startswith(f"{room}.")]
    paths = (
        path for path in folder.rglob("*.py") if not any(path.with_suffix("").is_relative_to(other) for other in inner)
    )
    return sorted(paths, key=lambda path: (path.name != "__init__.py", path))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _listed() -> Iterator[str]:
    """Every room with its files, and the first sentence that each says of itself."""
    yield LIST
    for room in _rooms():
        own, *others = _modules(room)
        yield f"## [{room}]({room}.md)\n\n{_first_sentence(own)}\n"
        rows = [f"| `{path.relative_to(ROOT).as_posix()}` | {_first_sentence(path)} |" for path in others]
        if rows:
            yield "\n".join(("| file | what it does |", "| --- | --- |", *rows, ""))


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.?])\s", " ".join(text.split("\n\n")[0].split()))[0].replace("|", "\\|")
