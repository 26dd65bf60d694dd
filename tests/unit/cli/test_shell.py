"""The command lines start at once, report every error in one way, and import nothing that they do not need."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from fedhelp_edge import cli, hints, shell
from fedhelp_edge.helper import cli as helper
from fedhelp_edge.shell import LazyCommands
from server_ref import cli as coordinator
from tests.command import COORDINATOR, HELPER, SITE, error_code, json_output, run, run_in_process

PROGRAMS: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {
    SITE: ("fedhelp_edge.cli", cli.COMMANDS),
    COORDINATOR: ("server_ref.cli", coordinator.COMMANDS),
    HELPER: ("fedhelp_edge.helper.cli", helper.COMMANDS),
}
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=["site", "coordinator", "helper"])
SLOW = ("torch", "torchvision", "onnx", "onnxruntime", "open_clip", "numpy", "cryptography", "html", "json")
SHARED = ("cli", "cli.options", "__main__", "console", "errors", "hints", "passphrase", "safe_text", "shell")


def leaves(commands: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command of a command line, as its words."""
    paths: list[tuple[str, ...]] = []
    for name in commands:
        command = commands[name]
        paths += leaves(command.commands, (*path, name)) if hasattr(command, "commands") else [(*path, name)]
    return paths


COMMANDS = leaves(LazyCommands(*PROGRAMS[SITE]))
COORDINATORS = leaves(LazyCommands(*PROGRAMS[COORDINATOR]))


@each_program
def test_help_imports_nothing_slow_besides_typer(program: tuple[str, ...], tmp_path: Path) -> None:
    package, names = PROGRAMS[program]
    entry = "fedhelp_edge.__main__" if program is SITE else package
    code = (
        f"import sys, typer; before = {{*sys.modules}}; sys.argv[1:] = ['--help']; from {entry} import main\n"
        f"try: main()\nexcept SystemExit as end: assert end.code == 0\n"
        f"print(*{{*sys.modules}} - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    imported = set(done.stdout.splitlines()[-1].split())
    assert imported.isdisjoint(SLOW)
    ours = {name for name in imported if name.startswith(("fedhelp_edge", "server_ref", "export"))}
    files = {package.rpartition(".")[0], package, *(f"{package}.{name}" for name in names)}
    assert ours <= files | {"fedhelp_edge"} | {f"fedhelp_edge.{name}" for name in SHARED}


@each_program
def test_help_lists_each_command_as_its_own_help_begins_and_builds_none(
    program: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = {name: command.get_short_help_str(200) for name, command in LazyCommands(*PROGRAMS[program]).items()}
    group = shell.command_group(*PROGRAMS[program], "program", "", "0")
    monkeypatch.setattr(typer.main, "get_command", None)
    listed: list[Any] = [group.get_command(None, name) for name in group.list_commands(None)]
    assert {command.name: command.get_short_help_str(200) for command in listed} == built
    with pytest.raises(SystemExit) as end:
        shell.run(group, ["--help"])
    assert end.value.code == 0


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_in_its_help(words: tuple[str, ...], tmp_path: Path) -> None:
    shown = run_in_process(*words, "--help", home=tmp_path).stdout
    assert f"Example: fedhelp-edge {' '.join(words)}" in shown


@pytest.mark.parametrize("name", [*cli.COMMANDS, *coordinator.COMMANDS])
def test_every_command_is_a_file_of_its_own_with_one_app(name: str) -> None:
    package = "fedhelp_edge.cli" if name in cli.COMMANDS else "server_ref.cli"
    assert isinstance(importlib.import_module(f"{package}.{name}").app, typer.Typer)


def test_no_command_file_is_left_out() -> None:
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "options", "training"}
    assert files == set(cli.COMMANDS)


def test_a_mistyped_command_is_wrong_usage_and_suggests_the_right_one(tmp_path: Path) -> None:
    done = run_in_process("kyes", home=tmp_path)
    assert (done.returncode, error_code(done)) == (2, "E_USAGE")
    assert "'keys'" in done.stderr


def test_a_missing_argument_is_wrong_usage(tmp_path: Path) -> None:
    assert run_in_process("inspect", home=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        (("keys", "show", "--json"), "E_KEYS_MISSING"),
        (("predict", "no.onnx", "a.png", "--format", "json"), "E_FILE_MISSING"),
        (("predict", "no.onnx", "--format=json"), "E_USAGE"),
    ],
)
def test_an_error_under_json_is_one_object_too(typed: tuple[str, ...], code: str, tmp_path: Path) -> None:
    done = run_in_process(*typed, home=tmp_path)
    assert done.returncode in (1, 2)
    assert json_output(done)["error"]["code"] == code


def test_an_internal_error_shows_no_traceback_without_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a secret")

    group = shell.command_group("fedhelp_edge.cli", cli.COMMANDS, "fedhelp-edge", "", "0")
    monkeypatch.setattr(group, "main", broken)
    with pytest.raises(SystemExit) as end:
        shell.run(group, [])
    shown = capsys.readouterr()
    assert end.value.code == 1
    assert "E_INTERNAL" in shown.err
    assert "secret" not in shown.err + shown.out
    with pytest.raises(KeyError):
        shell.run(group, ["--debug"])


INTERRUPTED = """
from contextlib import suppress
import typer
from fedhelp_edge import shell
app = shell.app()

@app.command()
def stopped(): exec("raise KeyboardInterrupt")

@app.command()
def watched():
    with suppress(KeyboardInterrupt): exec("raise KeyboardInterrupt")

shell.run(typer.main.get_command(app))
"""


@pytest.mark.parametrize(("command", "status"), [("stopped", 1), ("watched", 0)])
def test_ctrl_c_that_comes_while_text_is_executed_leaves_the_commands_exit_status(
    command: str, status: int, tmp_path: Path
) -> None:
    """As where a module is imported that makes dataclasses: `python -m` would then end by the signal."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    done = run(command, home=tmp_path, program=(sys.executable, "-m", "interrupted"))
    assert done.returncode == status, done.stderr
    assert ("E_INTERRUPTED" in done.stderr) == bool(status)


def test_showing_the_state_of_a_site_or_hub_needs_neither_image_readers_nor_pydantic(tmp_path: Path) -> None:
    blocked = ["PIL"]
    if tuple(map(int, typer.__version__.split(".")[:2])) < (
        0,
        29,
    ):  # later ones, which pyproject.toml excludes, need it
        blocked.append("pydantic")
    (tmp_path / "plan.toml").write_text('classes = ["a", "b"]')
    assert (
        run_in_process("init", "--plan", "plan.toml", "--no-passphrase", home=tmp_path, program=COORDINATOR).returncode
        == 0
    )
    for module, returncode in (("server_ref.cli", 0), ("fedhelp_edge.__main__", 1)):
        code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); from {module} import main; main()"
        done = run("status", home=tmp_path, program=(sys.executable, "-c", code))
        assert done.returncode == returncode, done.stderr
        assert "E_INTERNAL" not in done.stderr


def test_a_missing_package_is_named_with_its_installation(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('classes = ["a", "b"]')
    without = "import sys; sys.modules['torch'] = None; from fedhelp_edge.__main__ import main; main()"
    done = run("train", "--plan", "plan.toml", home=tmp_path, program=(sys.executable, "-c", without))
    assert error_code(done) == "E_EXTRA"
    assert "fedhelp-edge[train]" in done.stderr


@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "ascii"])
def test_a_console_without_our_characters_still_gets_output(encoding: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('classes = ["naïve", "ćelija"]\nname = "…"\nlr = 1\n', encoding="utf-8")
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    assert error_code(run("plan", "check", plan, home=tmp_path, env=env)) == "E_PLAN"


def test_output_into_a_closed_pipe_ends_silently(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m fedhelp_edge --help | true"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3]
    )
    assert done.stderr == ""


@pytest.mark.parametrize(("program", "name"), [(SITE, "fedhelp-edge"), (COORDINATOR, "fedhelp-coordinator")])
def test_both_programs_print_their_version_also_behind_a_command(
    program: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    for words in ((), ("status",), ("audit", "--json")):
        done = run_in_process(*words, "--version", home=tmp_path, program=program)
        assert (done.returncode, done.stdout.split()[0]) == (0, name)


@pytest.mark.parametrize(
    ("program", "words"),
    [(SITE, words) for words in COMMANDS] + [(COORDINATOR, words) for words in COORDINATORS],
    ids=lambda value: " ".join(value)[-20:],
)
def test_dash_h_shows_help(program: tuple[str, ...], words: tuple[str, ...], tmp_path: Path) -> None:
    short, long = (run_in_process(*words, option, home=tmp_path, program=program) for option in ("-h", "--help"))
    assert (short.returncode, short.stdout) == (0, long.stdout)


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    def completed(*words: str) -> list[str]:
        typed = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        env = {"_FEDHELP_EDGE_COMPLETE": "complete_bash", **typed}
        return run_in_process(home=tmp_path, env=env).stdout.split()

    assert completed("fedhelp-edge", "pre") == ["predict"]
    assert completed("fedhelp-edge", "keys", "re") == ["restore"]
    assert "--passphrase-file" in completed("fedhelp-edge", "join", "--pass")
    shown = run_in_process(home=tmp_path, env={"_FEDHELP_EDGE_COMPLETE": "source_zsh"}).stdout
    assert "compdef _fedhelp_edge_completion fedhelp-edge" in shown


def hint(*words: str, home: Path) -> str:
    return run_in_process(*words, home=home).stderr.splitlines()[-1]


def test_a_next_step_has_the_home_that_the_caller_typed(tmp_path: Path) -> None:
    home = 'a "new" home of $HOME'
    shown = hint("keys", "show", "--home", home, home=tmp_path)
    command = shown.split("'")[1]
    assert shlex.split(command) == ["fedhelp-edge", "keys", "new", "--home", home]
    done = run_in_process(*shlex.split(command)[1:], "--no-passphrase", home=tmp_path)
    assert (done.returncode, (tmp_path / home).is_dir()) == (0, True), done.stderr
    assert f"--home={tmp_path / 'b'}" not in hint("keys", "show", f"--home={tmp_path / 'b'}", home=tmp_path)
    assert f"keys new --home {tmp_path / 'b'}'" in hint("keys", "show", f"--home={tmp_path / 'b'}", home=tmp_path)
    assert "keys new'" in hint("keys", "show", home=tmp_path), "nothing was typed, so nothing is added"


def test_an_option_is_added_only_to_commands_of_this_program_that_accept_it(tmp_path: Path) -> None:
    shown = hint("status", "--home", "h", home=tmp_path)
    assert "'fedhelp-edge join --home h INVITE'" in shown
    done = run_in_process("keys", "show", "--home", "h", home=tmp_path)
    assert "--home h" in done.stderr
    for text, expected in (
        ("'fedhelp-coordinator open', then 'fedhelp-edge plan check p.toml'",) * 2,
        ("'fedhelp-edge keys --help'",) * 2,
        ("'fedhelp-edge train --home other'",) * 2,
        ("fedhelp-edge upload, then fedhelp-edge nonsense", "fedhelp-edge upload --home h, then fedhelp-edge nonsense"),
    ):
        assert hints.with_caller_options(text) == expected
