"""The log of answers: a line for each, before anybody gets it, without images and without patients' names."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.event_log import EventLog
from tests import bundles, studies
from tests.bundles import run_command
from tests.command import check_schema


def entries(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        check_schema("event", line)
    return lines


@pytest.mark.parametrize("to_folder", [False, True], ids=["to stdout", "to a folder"])
def test_predict_logs_each_answer_and_each_file_that_it_refuses(
    to_folder: bool, model: Path, opened: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, log = bundles.write_test_images(tmp_path / "in", 3), tmp_path / "events.jsonl"
    (folder / "bad.png").write_bytes(b"no image")
    where = ("--out", tmp_path / "out") if to_folder else ()
    code, _, _ = run_command(capsys, "predict", model, folder, "--event-log", log, *where, "--home", tmp_path)
    assert code == 1
    logged = {entry["file"]: entry for entry in entries(log)}
    assert sorted(logged) == ["000.png", "001.png", "002.png", "bad.png"]
    assert (logged["bad.png"]["error"], logged["bad.png"]["verdict"]) == ("E_IMAGE", None)
    assert {entry["model"] for entry in logged.values()} == {opened.sha256}
    assert logged["000.png"]["verdict"] in ("answered", "uncertain", "unlike")
    assert log.stat().st_size < 4 * 1000  # no picture
    if os.name != "nt":
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_dicom_file_is_logged_by_its_uid_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pydicom")
    (path,) = studies.write(tmp_path / "doe-jane", 1)
    log = tmp_path / "events.jsonl"
    run_command(capsys, "predict", model, path, "--event-log", log, "--home", tmp_path)
    (entry,) = entries(log)
    assert (entry["file"], bool(entry["sop_instance_uid"])) == (None, True)
    assert "doe" not in log.read_text().lower()


def test_without_the_option_nothing_is_logged(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundles.write_test_images(tmp_path / "in", 1)
    run_command(capsys, "predict", model, folder, "--home", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def row(file: str) -> dict[str, Any]:
    return {
        "file": file, "sop_instance_uid": None, "verdict": "answered", "answer": "a\nb", "reason": "", "error": None,
    }  # fmt: skip


def test_a_line_that_a_power_cut_halved_spoils_no_other(opened: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    EventLog(log, opened).add(row("1"))
    with log.open("ab") as file:
        file.write(b'{"schema_ver')
    EventLog(log, opened).add(row("2"))
    first, _, last = log.read_bytes().splitlines()
    assert [json.loads(line)["file"] for line in (first, last)] == ["1", "2"]


def test_two_programs_share_a_file_and_it_may_be_moved_away(opened: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    one, other = EventLog(log, opened), EventLog(log, opened)
    one.add(row("1"))
    other.add(row("2"))
    log.rename(tmp_path / "old")
    one.add(row("3"))
    assert [[entry["file"] for entry in entries(path)] for path in (tmp_path / "old", log)] == [["1", "2"], ["3"]]


@pytest.mark.parametrize("name", ["folder", "nowhere/events", "link"])
def test_a_log_that_cannot_be_written_is_told_before_anything_is_answered(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    folder = bundles.write_test_images(tmp_path / "in", 1)
    code, out, err = run_command(
        capsys, "predict", model, folder, "--event-log", tmp_path / name, "--home", tmp_path / "home"
    )
    assert (code, out) == (1, "")
    assert "error: E_" in err
    assert "E_INTERNAL" not in err
    assert (tmp_path / "target").read_text() == ""
