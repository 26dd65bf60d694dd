"""Every command that a message names can be typed as printed: it exists and lacks no argument or option."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge import cli
from fedhelp_edge.shell import LazyCommands
from server_ref import cli as coordinator
from tests.command import COORDINATOR, SITE, error_code, run_in_process

ROOT = Path(__file__).parents[3]
PROGRAMS = {
    "fedhelp-edge": LazyCommands("fedhelp_edge.cli", cli.COMMANDS),
    "fedhelp-coordinator": LazyCommands("server_ref.cli", coordinator.COMMANDS),
}
SOURCES = [path for room in ("fedhelp_edge", "server_ref", "export") for path in sorted((ROOT / room).rglob("*.py"))]


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a program that may be printed; values inserted at run time become the word VALUE."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def named(text: str) -> list[str]:
    """The commands that a text names, in quotes."""
    return re.findall(r"'(fedhelp-(?:edge|coordinator) [a-zV][^']*)'", text)


def check(command: str) -> str:
    """The problem of a command line, found by its options and arguments alone."""
    program, *words = re.findall(r'"[^"]*"|\S+', command)
    target: Any = PROGRAMS[program]
    while words and (inside := target if isinstance(target, LazyCommands) else getattr(target, "commands", None)):
        word = words.pop(0)
        if word not in inside:
            return f"there is no command {word!r}"
        target = inside[word]
    named_options, bare = set(), 0
    options = {option: parameter for parameter in target.params for option in parameter.opts if option[:1] == "-"}
    while words:
        word = words.pop(0)
        if word == "--help":
            return ""
        if not word.startswith("-"):
            bare += 1
            continue
        name = word.partition("=")[0]
        if name not in options:
            return f"there is no option {name}"
        named_options.add(options[name].name)
        if not options[name].is_flag and "=" not in word and words:
            words.pop(0)
    places = [parameter for parameter in target.params if parameter.param_type_name == "argument"]
    if bare < sum(parameter.required for parameter in places):
        return "an argument is missing"
    if bare > len(places) and all(parameter.nargs == 1 for parameter in places):
        return "there are words too many"
    needed = {p.name for p in target.params if p.param_type_name == "option" and p.required}
    return f"it lacks {needed - named_options}" if needed - named_options else ""


def test_every_command_that_a_message_names_is_complete() -> None:
    wrong = {}
    for path in SOURCES:
        for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
            for command in named(text):
                if "VALUE" not in command.split()[1] and (fault := check(command)):
                    wrong[f"{path.relative_to(ROOT)}: {command}"] = fault
    assert wrong == {}


def test_an_incomplete_command_is_detected() -> None:
    assert check("fedhelp-edge keys restore")
    assert check("fedhelp-edge status IMAGES")
    assert check("fedhelp-edge statsu")
    assert check("fedhelp-coordinator restore FILE")
    assert check("fedhelp-edge status --plan FILE")
    assert not check("fedhelp-coordinator restore FILE --root-key DIR")
    assert named("do it with 'fedhelp-edge keys new', or not") == ["fedhelp-edge keys new"]


@pytest.mark.parametrize(
    ("program", "words"), [(SITE, ()), (SITE, ("keys",)), (COORDINATOR, ()), (COORDINATOR, ("audit",))]
)
def test_a_program_without_a_command_shows_its_help(
    program: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    done = run_in_process(*words, home=tmp_path, program=program)
    assert done.returncode == 2
    assert "\nCommands:\n" in done.stderr
    assert "error: " not in done.stderr


SWAPPED = (
    (("predict", "images", "model.onnx"), "name the model (MODEL.onnx) first, then the images"),
    (("predict", "scan.png", "other.png", "MODEL.ONNX"), "name the model (MODEL.onnx) first, then the images"),
    (("compare", "images", "old.onnx", "new.onnx"), "name the two models (.onnx) first, then the images"),
    (("compare", "old.onnx", "images", "new.onnx"), "name the two models (.onnx) first, then the images"),
    (("knowledge", "start", "pack.safetensors", "plan.toml", "--out", "start"), "name the plan (.toml) first, then"),
)


@pytest.mark.parametrize(("words", "hint"), SWAPPED, ids=lambda value: " ".join(value) if type(value) is tuple else "")
def test_two_paths_in_the_wrong_order_give_a_hint(words: tuple[str, ...], hint: str, tmp_path: Path) -> None:
    done = run_in_process(*words, home=tmp_path)
    assert error_code(done) == "E_FILE_MISSING"
    assert f"hint: {hint}" in done.stderr


def test_images_named_before_the_model_give_a_hint(tmp_path: Path) -> None:
    for name in ("scan.png", "model.onnx"):
        (tmp_path / name).touch()
    done = run_in_process("predict", "scan.png", "model.onnx", home=tmp_path)
    assert error_code(done) == "E_FILE_KIND"
    assert "hint: name the model (MODEL.onnx) first, then the images" in done.stderr


def test_a_missing_first_path_is_named_with_the_order(tmp_path: Path) -> None:
    done = run_in_process("predict", "modle", "images", home=tmp_path)
    assert error_code(done) == "E_FILE_MISSING"
    assert "hint: check the name, and name the model (MODEL.onnx) first" in done.stderr
    assert (
        "hint: check the name, and that the stick"
        in run_in_process("predict", "m.onnx", "images", home=tmp_path).stderr
    )
