"""`label` from the command line to the file that `check` reads. A thread sends the forms of a person's buttons."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
import webbrowser
from pathlib import Path

import pytest

from fedhelp_edge import cli, shell
from tests import command
from tests.unit.data import samples

PLAN = 'classes = ["a", "b"]\n[image]\nsize = 16\n'


def test_images_are_sorted_on_the_page_that_the_command_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, pixels in enumerate(samples.noise(3)):
        samples.save(tmp_path / "pictures" / f"{index}.png", pixels)
    (tmp_path / "plan.toml").write_text(PLAN)

    def person(link: str) -> None:
        with urllib.request.urlopen(link) as first:
            page = first.url
        for path, form in (("1", b"class=1"), ("3", b"class=0"), ("end", b"")):
            urllib.request.urlopen(page.removesuffix("1") + path, form).close()

    monkeypatch.setattr(webbrowser, "open", lambda link: threading.Thread(target=person, args=(link,)).start())
    program = shell.command_group("fedhelp_edge.cli", cli.COMMANDS, "fedhelp-edge", "", "")
    words = ["label", str(tmp_path / "pictures"), "--plan", str(tmp_path / "plan.toml"), "--json"]
    for reader, agreement in (([], None), (["--reader", "anna"], {"images": 2, "same": 2, "kappa": 1.0})):
        program.main(args=[*words, *reader], standalone_mode=False)
        printed = capsys.readouterr()
        output = json.loads(printed.out)
        command.check_schema("fedhelp-edge label", output)
        assert (output["classes"], output["unlabelled"], output["unsure"]) == ({"a": 1, "b": 1}, 1, 0)
        assert output["agreement"] == agreement
        assert Path(output["file"]).read_text().splitlines()[1:] == ["0.png,b,,", "2.png,a,,"]
        assert "http://127.0.0.1:" in printed.err


def test_a_readers_name_cannot_lead_to_another_folder(tmp_path: Path) -> None:
    done = command.run_in_process("label", "pictures", "--reader", "../anna", home=tmp_path)
    assert command.error_code(done) == "E_USAGE"


WITHOUT = "import sys; sys.modules.update(torch=None, onnxruntime=None); from fedhelp_edge.__main__ import main; main()"


def test_a_computer_without_torch_can_sort_images_and_demo_names_the_missing_package(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "empty").mkdir()
    program = (sys.executable, "-c", WITHOUT)
    done = command.run("label", "empty", "--plan", "plan.toml", home=tmp_path, program=program)
    assert command.error_code(done) == "E_NO_IMAGES"
    done = command.run("demo", home=tmp_path, program=program)
    assert command.error_code(done) == "E_EXTRA"
    assert "fedhelp-edge[train]" in done.stderr
    assert not (tmp_path / "fedhelp-demo").exists()


def test_without_a_plan_or_a_task_the_classes_are_unknown(tmp_path: Path) -> None:
    assert command.error_code(command.run_in_process("label", "pictures", home=tmp_path)) == "E_NOT_JOINED"
