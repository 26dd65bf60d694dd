"""`plan new` and `plan check`."""

from __future__ import annotations

from pathlib import Path

from tests.command import error_code, json_output, run_in_process


def test_the_plan_that_new_writes_passes_check(tmp_path: Path) -> None:
    assert run_in_process("plan", "new", "plan.toml", home=tmp_path).returncode == 0
    assert json_output(run_in_process("plan", "check", "plan.toml", "--json", home=tmp_path))["ok"] is True


def test_new_does_not_overwrite_a_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("mine")
    assert error_code(run_in_process("plan", "new", "plan.toml", home=tmp_path)) == "E_FILE_EXISTS"
    assert (tmp_path / "plan.toml").read_text() == "mine"


def test_check_prints_every_mistake_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('classes = ["a"]\nrounds = 0\n[image]\nsise = 3\n')
    done = run_in_process("plan", "check", "plan.toml", home=tmp_path)
    assert error_code(done) == "E_PLAN"
    assert [line.strip().split(":")[0] for line in done.stderr.splitlines()[1:4]] == ["line 1", "line 2", "line 4"]


def test_check_reports_the_same_mistakes_as_json(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('classes = ["a", "b"]\nrounds = 0\n')
    done = run_in_process("plan", "check", "plan.toml", "--json", home=tmp_path)
    output = json_output(done)
    assert done.returncode == 1
    assert output["ok"] is False
    assert [(m["line"], m["where"]) for m in output["mistakes"]] == [(2, "rounds")]


def test_check_says_what_would_serve_better_in_a_plan_without_mistakes(tmp_path: Path) -> None:
    nets = f'encoder = "a.onnx"\nencoder_sha256 = "{"0" * 64}"\nencoder_width = 9\nsmall = "linear"\nlarge = "linear"\n'
    for rounds, note in ((1, "note: with rounds = 2"), (2, ""), (50, "note: rounds = 2 is enough")):
        text = f'classes = ["a", "b"]\nmethod = "ridge"\nrounds = {rounds}\n[nets]\n{nets}'
        (tmp_path / "plan.toml").write_text(text)
        done = run_in_process("plan", "check", "plan.toml", home=tmp_path)
        assert done.returncode == 0
        assert ("note:" in done.stderr) == bool(note)
        assert note in done.stderr
