"""`check` counts the images, lists the problems, and ends with a verdict."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest

from tests.command import error_code, json_output, run, run_in_process
from tests.faults.conftest import without_root  # noqa: F401 - a fixture
from tests.unit.data import samples

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
SHAPE = {
    "type": "object",
    "required": ["schema_version", "classes", "images", "problems", "ready"],
    "properties": {
        "classes": {"type": "object", "additionalProperties": {"type": "integer"}},
        "images": {"type": "integer"},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["file", "code", "cause"],
                "additionalProperties": False,
                "properties": {name: {"type": "string"} for name in ("file", "code", "cause")},
            },
        },
        "ready": {"type": "boolean"},
    },
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with valid images, and a plan for them."""
    samples.folder(tmp_path / "images", 20, ("benign", "malignant"))
    run_in_process("plan", "new", "plan.toml", home=tmp_path)
    return tmp_path


def test_valid_images_are_ready_to_train(home: Path) -> None:
    process = run_in_process("check", "images", "--plan", "plan.toml", home=home)
    assert process.returncode == 0
    assert process.stdout.splitlines()[-1] == "ready to train"
    assert re.search(r"^benign +14 +2 +4 +20$", process.stdout, re.M)


def test_problems_are_summarised_with_a_remedy_and_end_with_the_verdict(home: Path) -> None:
    for i in range(20):
        (home / "images" / "benign" / f"x{i}.png").write_bytes(b"x")
    samples.folder(home / "images", 2, ("malign",), seed=3)
    process = run_in_process("check", "images", "--plan", "plan.toml", home=home)
    assert process.returncode == 1
    assert "E_IMAGE (20): copy the file again" in process.stdout
    assert "  benign/x0.png: it cannot be read as an image\n" in process.stdout
    assert "  and 15 more; --json names all\n" in process.stdout
    assert "do you mean 'malignant'?" in process.stdout
    assert process.stdout.splitlines()[-1] == "not ready: first put right E_LABEL (2)"


def test_json_has_every_problem(home: Path) -> None:
    for i in range(20):
        (home / "images" / "benign" / f"x{i}.png").write_bytes(b"x")
    process = run_in_process("check", "images", "--plan", "plan.toml", "--json", home=home)
    report = json_output(process)
    jsonschema.validate(report, SHAPE)
    assert (process.returncode, report["ready"], report["images"]) == (0, True, 40)
    assert report["classes"] == {"benign": 20, "malignant": 20}
    assert len(report["problems"]) == 20


def test_an_empty_folder_is_not_ready_and_has_the_same_output(home: Path) -> None:
    (home / "empty").mkdir()
    process = run_in_process("check", "empty", "--json", home=home)
    report = json_output(process)
    jsonschema.validate(report, SHAPE)
    assert (process.returncode, report["ready"], report["images"]) == (1, False, 0)
    assert (
        run_in_process("check", "empty", home=home).stdout.splitlines()[-1]
        == "not ready: first put right E_NO_IMAGES (1)"
    )


def test_other_class_names_are_mapped(home: Path) -> None:
    samples.folder(home / "images", 2, ("naevus",), seed=3)
    process = run_in_process("check", "images", "--plan", "plan.toml", "--map", "Naevus = benign", "--json", home=home)
    assert json_output(process)["classes"] == {"benign": 22, "malignant": 20}


@pytest.mark.parametrize("text", ["naevus", "=benign", "naevus="])
def test_a_mapping_without_both_names_is_wrong_usage(text: str, home: Path) -> None:
    process = run_in_process("check", "images", "--map", text, home=home)
    assert (process.returncode, error_code(process)) == (2, "E_USAGE")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("nowhere",), "E_FILE_MISSING"),
        (("images", "--plan", "images"), "E_FILE_KIND"),
        (("plan.toml",), "E_NO_IMAGES"),
    ],
)
def test_an_invalid_source_or_plan_is_refused(words: tuple[str, ...], code: str, home: Path) -> None:
    assert error_code(run_in_process("check", *words, home=home)) == code


@pytest.mark.parametrize("locked", ["images", "images/benign"])
def test_an_unreadable_folder_is_refused(locked: str, home: Path, without_root: tuple[str, ...]) -> None:  # noqa: F811
    (home / locked).chmod(0)
    try:
        assert error_code(run("check", "images", home=home, before=without_root)) == "E_PERMISSION"
    finally:
        (home / locked).chmod(0o700)


def test_an_unreadable_file_is_one_problem(home: Path, without_root: tuple[str, ...]) -> None:  # noqa: F811
    (home / "images" / "benign" / "000.png").chmod(0)
    (problem,) = json_output(run("check", "images", "--json", home=home, before=without_root))["problems"]
    assert (problem["file"], problem["code"]) == ("benign/000.png", "E_PERMISSION")


def test_the_session_in_the_readme_equals_the_output(home: Path) -> None:
    (home / "images" / "benign" / "scan7.png").write_bytes(b"\x89PNG")
    report = re.search(r"```text\n\$ fedhelp-edge (check .*)\n((?:.*\n)*?)```", README)
    assert report
    assert run_in_process(*report[1].split(), home=home).stdout == report[2]


def test_the_columns_of_a_table_are_named_once(home: Path) -> None:
    names = sorted(path.relative_to(home).as_posix() for path in home.glob("images/*/*.png"))
    lines = [f"{name};{name.split('/')[1]};{number // 3}" for number, name in enumerate(names)]
    (home / "list.csv").write_text("\n".join(["Aufnahme;Ergebnis;Akte", *lines]), encoding="cp1252")
    words = ("check", "list.csv", "--plan", "plan.toml", "--json")
    assert error_code(run_in_process(*words, home=home)) == "E_TABLE"
    assert error_code(run_in_process(*words, "--columns", "picture=Aufnahme", home=home)) == "E_USAGE"
    named = json_output(
        run_in_process(*words, "--columns", "image=Aufnahme,label=Ergebnis", "--columns", "patient=Akte", home=home)
    )
    assert (named["images"], len(named["groups"])) == (40, 13)
    assert json_output(run_in_process(*words, home=home)) == named


@pytest.mark.parametrize("name", ["pydicom", "torch", "onnxruntime", "pillow_heif"])
def test_checking_pictures_imports_nothing_that_it_does_not_need(name: str, home: Path) -> None:
    import sys

    code = f"import sys; from fedhelp_edge.__main__ import main\ntry: main()\nfinally: print({name!r} in sys.modules)"
    process = run("check", "images", home=home, program=(sys.executable, "-c", code))
    assert process.stdout.splitlines()[-1] == "False"


def test_masks_are_refused_where_the_plan_or_nobody_says_what_they_show(home: Path) -> None:
    for plan, cause in ((("--plan", "plan.toml"), "this plan is for classification"), ((), "no plan says")):
        refused = run_in_process("check", "images", "--masks", "images", *plan, home=home)
        assert error_code(refused) == "E_USAGE"
        assert cause in refused.stderr
