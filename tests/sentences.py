"""Finds the sentences of pages, help, errors, messages, docstrings and comments, and counts their words.

A code span, a path, an option and a figure with its interval are one word each. In a table `; ` ends an item.
A literal of the code is printed as it stands, so its line ends end a sentence.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 25
CODE = ("fedhelp_edge", "server_ref", "export", "benchmarks", "docs")

Block = tuple[int, str]  # its first line, its text: sentences do not go beyond it


def words(sentence: str) -> int:
    plain = re.sub(r"\[[-+−\d., ]+\]", "", re.sub(r"(`+).+?\1", "code", sentence))
    return sum(1 for word in plain.split() if re.search(r"[^\W_]", word))


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?…])(?<!e\.g\.)(?<!i\.e\.)(?<!et al\.)[)\"'”*_]*\s+", " ".join(text.split()))


def markdown(text: str) -> Iterator[Block]:
    """Paragraphs, list items, headings and items of table cells, without fenced code."""
    start, block, fence = 0, "", ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        bare = line.strip().removeprefix("> ")
        mark = re.match(r"`{3,}", bare)
        if fence or mark:
            fence = "" if bare == fence else fence or mark[0] if mark else fence
            bare = ""
        begins = re.match(r"(#+|[-*+]|\d+\.)\s", bare)
        if block and (not bare or begins or bare.startswith(("|", "<!--"))):
            yield start, block
            block = ""
        if bare.startswith("|"):
            yield from ((number, item) for cell in bare.split("|") for item in cell.split("; "))
        elif bare and not bare.startswith("<!--"):
            start = start if block else number
            block += " " + bare[begins.end() if begins else 0 :]
            if bare.startswith("#"):
                yield start, block
                block = ""


def without_links(text: str) -> str:
    return re.sub(r"\[((?:[^\[\]`]|`[^`]*`)*)\]\([^)]*\)", r"\1", text)


def docstring(text: str, line: int) -> Iterator[Block]:
    """Paragraphs and list items; a line of aligned columns is an item, and deeper lines are an example."""
    block = ""
    for row in [*inspect.cleandoc(text).splitlines(), ""]:
        begins = re.match(r"\s*([-*]|\d+\.)\s|.*\S {2,}\S", row)
        if block and (not row.strip() or begins):
            yield line, block
            block = ""
        if row.strip() and not row.startswith("    "):
            block += " " + row.strip()


def literal(text: str, line: int) -> Iterator[Block]:
    """What a string shows: the text between tags of a page, else each of its lines."""
    if re.search(r"</?[a-z]\w*[^<>]*>", text):
        text = re.sub(r"(?s)<(script|style)\b.*?</\1>", "\n\n", text)
        shown = re.split(r"</?(?!b\b|i\b|em\b|strong\b|code\b|a\b|span\b|small\b|kbd\b)\w[^<>]*>", text)
        yield from ((line, re.sub(r"<[^<>]+>", "", part)) for part in shown)
    elif text.startswith("# "):
        yield from ((line, part) for _, part in markdown(text))
    else:
        yield from ((line, part) for part in text.splitlines())


def docstrings(text: str) -> Iterator[Block]:
    """The docstrings of a file alone, which is all that people read of a test's strings."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            yield from docstring(ast.get_docstring(node, clean=False) or "", node.body[0].lineno)


def python(text: str) -> Iterator[Block]:
    """Docstrings, comments, and every string with a space, those that are added up as one."""
    tree = ast.parse(text)
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def shown(node: ast.AST) -> str | None:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        if isinstance(node, ast.Name):
            return constants.get(node.id) if isinstance(constants.get(node.id), str) else None
        if isinstance(node, ast.JoinedStr):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = shown(node.left), shown(node.right)
            return "".join(side or "x" for side in sides) if any(sides) else None
        return None

    def walk(node: ast.AST) -> Iterator[Block]:
        own_docstring = None
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and (own_docstring := ast.get_docstring(node, clean=False)):
            yield from docstring(own_docstring, node.body[0].lineno)
        for child in ast.iter_child_nodes(node):
            if own_docstring and child is node.body[0]:
                continue
            text = shown(child) if not isinstance(child, ast.Name) else None
            if text is None:
                yield from walk(child)
            elif " " in text:
                yield from literal(text, child.lineno)
                values = (part for part in ast.walk(child) if isinstance(part, ast.FormattedValue))
                yield from (block for value in values for block in walk(value))

    yield from walk(tree)
    comments = [
        token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT
    ]
    lines = {token.start[0]: token.string for token in comments if token.line.strip().startswith("#")}
    yield from ((token.start[0], token.string) for token in comments if token.start[0] not in lines)
    yield from hashes("\n".join(lines.get(number, "") for number in range(1, max(lines, default=0) + 1)))


def hashes(text: str) -> Iterator[Block]:
    """Comments that begin with a hash: lines without anything else between them are one."""
    start, block = 0, ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        comment = re.match(r"\s*#+:? *(\S.*)", line)
        if block and not comment:
            yield start, block
            block = ""
        if comment:
            start = start if block else number
            block += " " + comment[1]
        elif behind := re.search(r"\s# (.*)", line):
            yield number, behind[1]


def notebook(text: str) -> Iterator[Block]:
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "markdown":
            yield from markdown("".join(cell["source"]))


def files() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (path for folder in ("docs", "examples") for path in (ROOT / folder).rglob("*.md"))
    yield from (path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
    yield from (path for kind in ("ipynb", "toml", "sh") for path in (ROOT / "examples").rglob(f"*.{kind}"))
    yield from (ROOT / name for name in ("Makefile", "mkdocs.yml", "pyproject.toml", ".ci/run"))


def blocks(path: Path) -> Iterator[Block]:
    read = {".md": markdown, ".py": python, ".ipynb": notebook}.get(path.suffix, hashes)
    return read(path.read_text(encoding="utf-8"))


def too_long(blocks_: Iterator[Block]) -> list[str]:
    return [
        f"{line}: {words(sentence)} words: {sentence}"
        for line, text in blocks_
        for sentence in sentences(without_links(text))
        if words(sentence) > LIMIT
    ]
