"""Logs of services for programs: each line of stderr is a JSON object, whatever others wrote, and names no image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge import cli, console, errors, shell
from tests.command import COORDINATOR, HELPER, SITE, check_schema, run_in_process

SERVICES = [
    (SITE, ("pacs", "model.onnx", "--listen", "1", "--send-to", "A@h:1")), (SITE, ("sync",)),
    (COORDINATOR, ("serve",)), (COORDINATOR, ("run",)), (HELPER, ("run", "--via", "x")),
]  # fmt: skip


def entries(stderr: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in stderr.splitlines()]
    for line in lines:
        check_schema("log", line)
    return lines


@pytest.mark.parametrize(("program", "words"), SERVICES, ids=lambda value: value[0])
def test_an_error_of_a_service_is_a_line_with_level_and_code(
    program: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    done = run_in_process(*words, "--log-json", "--home", "nowhere", home=tmp_path, program=program)
    error, hint = entries(done.stderr)
    assert (done.returncode, error["level"], error["code"][:2], hint["level"]) == (1, "error", "E_", "info")
    wrong = run_in_process(*words, "--log-json", "--no-such-option", home=tmp_path, program=program)
    assert entries(wrong.stderr)[0]["code"] == "E_USAGE"


def test_what_a_person_would_see_on_stdout_is_in_the_log_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.LogFormat, "is_json", True)
    console.show("finished: all rounds are done")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert entries(shown.err)[0]["message"] == "finished: all rounds are done"


def test_the_next_command_writes_for_people_again(tmp_path: Path) -> None:
    run_in_process("run", "--log-json", home=tmp_path, program=COORDINATOR)
    assert run_in_process("run", home=tmp_path, program=COORDINATOR).stderr.startswith("error: E_")


def test_commands_that_name_the_images_they_were_given_have_no_such_log(tmp_path: Path) -> None:
    for command in ("predict", "check", "train"):
        done = run_in_process(command, "--log-json", home=tmp_path)
        assert (done.returncode, entries(done.stderr)[0]["code"]) == (2, "E_USAGE")


def test_what_others_wrote_stays_within_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.LogFormat, "is_json", True)
    console.say('waiting: E_OFFLINE: "a\nb\x1b[2J\u2028"; the command retries by itself', "round 1 is open")
    warning, info = entries(capsys.readouterr().err)
    assert (warning["level"], warning["code"]) == ("warning", "E_OFFLINE")
    assert r'"a\nb\x1b[2J\u2028"' in warning["message"]
    assert (info["level"], info["message"], "code" in info) == ("info", "round 1 is open", False)


@pytest.mark.parametrize("kind", [kind for kind in errors.tree(errors.DataError) if kind.code], ids=str)
def test_an_error_about_images_names_none_in_a_log(
    kind: type[errors.DataError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("the same image as jane-doe.png")

    group = shell.command_group("fedhelp_edge.cli", cli.COMMANDS, "fedhelp-edge", "", "0")
    monkeypatch.setattr(group, "main", fail)
    for arguments, is_named in (([], True), (["--log-json"], False)):
        with pytest.raises(SystemExit):
            shell.run(group, arguments)
        shown = capsys.readouterr().err
        assert ("jane-doe" in shown, kind.code in shown) == (is_named, True)
