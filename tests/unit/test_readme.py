"""The README shows what the programs print, and every command line in the documents exists."""

from __future__ import annotations

import html
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fedhelp_edge import cli
from fedhelp_edge.demo import phantoms
from fedhelp_edge.shell import LazyCommands
from server_ref import cli as coordinator
from tests.command import run_in_process

ROOT = Path(__file__).parents[2]
FIRST_PLAN = """classes = ["benign", "malignant"]
method = "fedavg"
[image]
size = 16
[nets]
small = "resnet8"
[training]
epochs = 3
batch = 16
precision = "fp32"
"""
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = (".", "docs", "docs/spec", "docs/decisions", "docs/methods", "examples/*")
PAGES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))
SESSIONS = re.findall(r"```console\n(.*?)```", README, re.S)
PROGRAMS = {
    "fedhelp-edge": LazyCommands("fedhelp_edge.cli", cli.COMMANDS),
    "fedhelp-coordinator": LazyCommands("server_ref.cli", coordinator.COMMANDS),
}


def as_pattern(shown: str) -> str:
    """A pattern of the shown text, in which `...` stands for anything on a line."""
    return re.escape(shown).replace(re.escape("..."), ".*")


def steps(session: str) -> list[tuple[str, str]]:
    """Each command of a session with the output shown after it."""
    parts = re.split(r"^\$ (.*)\n", session, flags=re.M)
    return list(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.usefixtures("quick_doctor")
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: str(session).splitlines()[0])
def test_a_session_in_the_readme_shows_the_programs_output(session: str, tmp_path: Path) -> None:
    for command, shown in steps(session):
        words = shlex.split(command)
        assert words[0] == "fedhelp-edge"
        done = run_in_process(*words[1:], home=tmp_path)
        printed = done.stdout if done.returncode == 0 else done.stdout + done.stderr
        assert re.fullmatch(as_pattern(shown), printed), f"{command} printed:\n{printed}"


def test_the_readme_shows_every_command() -> None:
    assert set(re.findall(r"fedhelp-edge ([a-z]+)", README)) >= set(cli.COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_in_a_document_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"(?:`|^(?:\$ )?)(fedhelp-edge|fedhelp-coordinator) ([a-z][^`\n#|]*)", text, re.M)
    for program, words in lines:
        command: Any = PROGRAMS[program]
        for word in words.split():
            inside = command if isinstance(command, LazyCommands) else vars(command).get("commands")
            if inside is not None:
                assert word in inside, f"{page.name}: {program} {words}"
                command = inside[word]
            elif word.startswith("--"):
                options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
                assert re.split(r"[=.,;:]", word)[0] in options, f"{page.name}: {program} {words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_documents_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_test_that_the_threat_model_names_exists() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "attacks").glob("test_*.py"))
    for name in re.findall(r"`(tests/[^`]+)`", text):
        assert (ROOT / name).exists(), name
    for group, first, last in re.findall(r"\b([A-E])(\d\d)(?:-[A-E](\d\d))?", text):
        for number in range(int(first), int(last or first) + 1):
            assert f"test_{group.lower()}{number:02}_" in tests, f"{group}{number:02}"


@pytest.mark.parametrize("marker", ["first-command", "test-command"])
def test_the_readme_has_the_two_commands_that_ci_runs(marker: str) -> None:
    match = re.search(rf"<!-- {marker} -->\n```sh\n(.*)\n```", README)
    assert match
    assert match[1].startswith("python3 -m venv .venv")


@pytest.mark.skipif(os.name == "nt", reason="the command is written for sh")
def test_the_first_command_is_one_line_that_a_shell_can_read() -> None:
    match = re.search(r"<!-- first-command -->\n```sh\n(.*)\n```", README)
    assert match
    assert [part[0] for part in (shlex.split(p) for p in match[1].split("&&"))][-1].endswith("fedhelp-edge")


def test_the_readmes_steps_without_joining_end_in_a_model_that_answers(tmp_path: Path) -> None:
    """Every line is typed as printed; the table of nets is equal in the terminal, on the page and in the card."""
    pytest.importorskip("torch")
    pixels, labels = phantoms.draw(140, 2, size=32, seed=3, difficulty=0.2)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / "images" / ("benign", "malignant")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    (tmp_path / "plan.toml").write_text(FIRST_PLAN)
    (tmp_path / "secret.txt").write_text("lunar-orbit-candle-frost-mango")
    (tmp_path / "secret.txt").chmod(0o600)
    (typed,) = re.findall(r"<!-- first-model -->\n```sh\n(.*?)```", README, re.S)
    env = {"FEDHELP_PASSPHRASE_FILE": str(tmp_path / "secret.txt"), "OMP_NUM_THREADS": "1"}
    done = {}
    for command in typed.splitlines():
        program, *words = shlex.split(command)
        assert program == "fedhelp-edge"
        done[words[0]] = run_in_process(*words, home=tmp_path, env=env)
        assert done[words[0]].returncode == 0, done[words[0]].stdout + done[words[0]].stderr
    assert "ready to train" in done["check"].stdout
    assert re.search(r"^benign/\d+\.png +benign ", done["predict"].stdout, re.M)
    nets = re.findall(r"^.* +\d\.\d\d \(n=14, .*\(n=28, .*$", done["export"].stdout, re.M)
    assert nets
    assert set(nets) <= set(done["evaluate"].stdout.splitlines())
    elsewhere = [
        html.unescape((tmp_path / name).read_text("utf-8")) for name in ("model_CARD.md", "measured/evaluation.html")
    ]
    for cell in (cell for net in nets for cell in re.split(" {2,}", net)):
        assert all(cell in page for page in elsewhere), cell
    assert re.search(r"^it answers \d+ of 14 validation images, \d+ of them wrongly", done["export"].stdout, re.M)
