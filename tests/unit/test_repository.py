"""The files for contributors at the root of the repository are complete and correct."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import fedhelp_edge
from fedhelp_edge import plan as plans
from fedhelp_edge.methods.registry import METHODS, PublicFacts
from tests.unit.methods.small import ON_FEATURES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = ["CONTRIBUTING.md", "SECURITY.md", "docs/compatibility.md", "docs/how-it-works.md"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_package_of_the_wheel_says_that_it_is_typed() -> None:
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / package / "py.typed").exists(), package


def test_no_two_classes_of_the_program_have_one_name() -> None:
    names = Counter(
        node.name
        for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_the_licence_is_apache_2_everywhere() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "license: Apache-2.0\n" in text("CITATION.cff")
    assert "Apache License\n                           Version 2.0, January 2004" in text("LICENSE")


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {fedhelp_edge.__version__}\n" in text("CITATION.cff")


def test_tools_for_development_and_documents_are_pinned() -> None:
    pinned = {re.split(r"==", line)[0].lower() for line in text("constraints.txt").splitlines() if "==" in line}
    for extra in ("dev", "docs"):
        for requirement in PROJECT["project"]["optional-dependencies"][extra]:
            name = re.match(r"[A-Za-z0-9_-]+", requirement)
            assert name
            assert name[0].lower() in pinned | {"fedhelp-edge"}, requirement


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_for_contributors_names_exists(page: str) -> None:
    named = re.findall(r"`((?:fedhelp_edge|server_ref|export|tests|docs|\.ci)/[\w/.-]*)`", text(page))
    for name in named:
        assert (ROOT / name).exists(), f"{page}: {name}"


def test_contributing_answers_twenty_questions_with_a_name_in_a_file() -> None:
    """The reader's test: one step from a question to the function or class that answers it."""
    (table,) = re.findall(r"^\| question \| answer \|\n\| --- \| --- \|\n((?:\|.*\n)+)", text("CONTRIBUTING.md"), re.M)
    rows = table.splitlines()
    assert len(rows) == 20
    for row in rows:
        answers = re.findall(r"`(\w+)` in `([\w/]+\.py)`", row)
        assert answers, row
        for name, file in answers:
            assert re.search(rf"^(?:class|def|async def) {name}\b", text(file), re.M), f"{file}: {name}"


def test_checks_before_a_commit_are_those_of_make_lint() -> None:
    lint = re.search(r"^lint: setup\n((?:\t.*\n)+)", text("Makefile"), re.M)
    assert lint
    hooks = text(".pre-commit-config.yaml")
    entries = "".join(re.findall(r"^ +entry: .*$", hooks, re.M))
    tool = r"ruff check|ruff format|mypy|lint-imports"
    assert set(re.findall(tool, lint[1])) == set(re.findall(tool, entries))
    assert "https:" not in hooks, "a hook from elsewhere needs the network"


def test_generated_pages_and_pictures_follow_from_the_code() -> None:
    made: dict[Path, str] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["files"]()
    assert {path.name for path in made} >= {"errors.md", "floors.svg"}
    for path, written in made.items():
        assert path.read_text(encoding="utf-8") == written, f"{path.name}: run 'make docs'"


def test_every_method_has_its_page() -> None:
    for name in METHODS:
        assert (ROOT / "docs" / "methods" / f"{name}.md").exists(), name


def test_the_page_of_a_method_has_its_keys_with_their_defaults() -> None:
    for name, settings in ((name, method.table) for name, method in METHODS.items()):
        listed = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]+?)`? \|", text(f"docs/methods/{name}.md"), re.M))
        assert listed == {
            field.name: re.sub("^(True|False)$", lambda word: word[0].lower(), str(field.default))
            for field in fields(settings)
        }, name


def test_the_table_of_methods_has_each_methods_bytes_and_says_which_ones_average() -> None:
    """In f32, for a ResNet20 with eight classes, or 512 features; and a pack of 5,000 images of a hundred classes."""
    rows = re.findall(
        r"^\| `(\w+)` \| (yes|no|–) \| ([\w ]+|–) \| ([\d,]+) \| ([\d,]+) \|", text("docs/methods/README.md"), re.M
    )
    classes = json.dumps([str(number) for number in range(8)])
    public = PublicFacts(5000, tuple(map(str, range(100))), ("a",), load=pytest.fail)
    expected = {}
    for name, method in METHODS.items():
        encoder = f'[nets]\nencoder = "a.onnx"\nencoder_sha256 = "{"0" * 64}"\nencoder_width = 512\n'
        nets = encoder + 'small = "linear"\nlarge = "linear"' if name in ON_FEATURES else ""
        plan = plans.read(f'classes = {classes}\nmethod = "{name}"\n{nets}', METHODS)
        sizes = [of(plan, public).size if method.exchanges else 0 for of in (method.up, method.down)]
        expected[name] = [f"{size:,}" for size in sizes]
    assert {name: [up, down] for name, *_, up, down in rows} == expected
    assert {name for name, _, noise, *_ in rows if noise not in ("no", "–")} == {
        name for name in METHODS if METHODS[name].noised
    }
    assert all(is_sum == "yes" for name, is_sum, *_ in rows if METHODS[name].averages and METHODS[name].exchanges)


def test_the_site_fetches_nothing_from_elsewhere() -> None:
    """`make docs` checks its output; this checks its settings."""
    settings = text("mkdocs.yml")
    assert "\n  font: false" in settings
    assert not re.search(r"https?://", settings)
    assert "```mermaid" not in "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/**/*.md"))


SQL = re.compile(
    r"\b(?:SELECT\b.+\bFROM|INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM"
    r"|(?:CREATE|DROP|ALTER)\s+(?:TEMP\s+)?(?:TABLE|INDEX|TRIGGER|VIEW)|PRAGMA\s+\w+|VACUUM)\b",
    re.S,
)
QUERIES = {"rows", "row", "require_row", "run", "execute", "executemany", "executescript"}  # of a hub's database


def sql_in(source: str) -> list[str]:
    """What a module says in SQL, and its calls that run some."""
    queries = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)) if SQL.search(text):
                queries.append(text)
            case ast.JoinedStr() if SQL.search(ast.unparse(node)):
                queries.append(ast.unparse(node))
            case ast.Call(func=ast.Attribute(ast.Attribute(attr="database" | "db") | ast.Name("database"), name)):
                queries += [ast.unparse(node)] if name in QUERIES else []
    return queries


@pytest.mark.parametrize(
    "source",
    [
        "query = 'SELECT * FROM rounds'",
        "query = f'SELECT {names} FROM {table}'",
        "query = 'INSERT OR IGNORE INTO unkept' ' VALUES (?)'",
        "query = 'UPDATE shares SET state = ?'",
        'query = """DELETE\nFROM decisions"""',
        "query = 'PRAGMA user_version'",
        "hub.database.rows(query)",
        "database.require_row(query, 1)",
        "hub.database.db.execute(query)",
    ],
)
def test_sql_is_recognised(source: str) -> None:
    assert sql_in(source)


@pytest.mark.parametrize("package", PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
def test_sql_is_written_and_run_nowhere_but_in_the_hub(package: str) -> None:
    hub = ROOT / "server_ref" / "hub"
    modules = [path for path in (ROOT / package).rglob("*.py") if hub not in path.parents]
    assert {str(path): queries for path in modules if (queries := sql_in(path.read_text(encoding="utf-8")))} == {}


def test_each_table_of_the_hub_is_changed_in_its_own_file_alone() -> None:
    file_of = {"facts": "database.py", "shares": "updates_table.py", "unkept": "updates_table.py"}
    changed_in: dict[str, set[str]] = {}
    for path in (ROOT / "server_ref" / "hub").rglob("*.py"):
        changed = re.findall(r"(?:INTO|UPDATE|DELETE FROM) (\w+) ?(?:VALUES|SET|WHERE|\()", path.read_text("utf-8"))
        for table in changed:
            changed_in.setdefault(table, set()).add(path.name)
    assert changed_in == {table: {file_of.get(table, f"{table}_table.py")} for table in changed_in}
    assert len(changed_in) == 10


def test_an_extra_installs_nothing_that_no_room_imports() -> None:
    sources = [path for room in ("fedhelp_edge", "server_ref", "export") for path in (ROOT / room).rglob("*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in sources)
    extras = PROJECT["project"]["optional-dependencies"]
    for extra in extras.keys() - {"all", "docs", "dev"}:
        for requirement in extras[extra]:
            name = re.match(r"[A-Za-z0-9_-]+", requirement)
            assert name
            module = name[0].replace("-", "_").removesuffix("_torch")
            assert re.search(rf"\b(?:import|from) {module}\b", code), f"{extra}: {requirement}"
