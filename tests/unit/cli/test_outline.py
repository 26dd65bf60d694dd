"""`outline` from the command line to the masks that `check` reads. A thread does what the page's script does."""

from __future__ import annotations

import json
import threading
import urllib.request
import webbrowser
import zlib
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import cli, shell
from tests import bundles, command, mask_bundles
from tests.unit.data import samples
from tests.unit.data.test_masks import squares
from tests.unit.data.test_nifti import save

PLAN = 'task = "segmentation"\nclasses = ["a", "b"]\n[image]\nsize = 16\n'


def test_pictures_are_outlined_on_the_page_that_the_command_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, image in enumerate(squares(3)[0]):
        samples.save(tmp_path / "pictures" / f"{index}.png", image)
    (tmp_path / "plan.toml").write_text(PLAN)

    def person(link: str) -> None:
        with urllib.request.urlopen(link) as first:
            page = first.url.removesuffix("1")
        urllib.request.urlopen(f"{page}picture/1").close()
        urllib.request.urlopen(f"{page}picture/2").close()
        for path, label in (("done/1", b"\1"), ("draft/2", b"\2")):
            urllib.request.urlopen(page + path, zlib.compress(label * 256)).close()
        urllib.request.urlopen(f"{page}end", b"").close()

    monkeypatch.setattr(webbrowser, "open", lambda link: threading.Thread(target=person, args=(link,)).start())
    program = shell.command_group("fedhelp_edge.cli", cli.COMMANDS, "fedhelp-edge", "", "")
    words = ["outline", str(tmp_path / "pictures"), "--plan", str(tmp_path / "plan.toml"), "--json"]
    program.main(args=words, standalone_mode=False)
    printed = capsys.readouterr()
    output = json.loads(printed.out)
    command.check_schema("fedhelp-edge outline", output)
    masks_dir = tmp_path / "pictures-masks"
    assert output == {
        "schema_version": 1, "pictures": 3, "done": 1, "drafts": 1, "problems": 0, "folder": str(masks_dir),
    }  # fmt: skip
    assert "http://127.0.0.1:" in printed.err
    assert [path.name for path in sorted(masks_dir.iterdir())] == [".drafts", "0.png"]


def test_volumes_are_outlined_and_found_by_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nibabel")
    draw = np.random.default_rng(0)
    for index in range(8):
        save(tmp_path / "volumes" / f"{index}.nii.gz", draw.integers(0, 255, (16, 16, 8), np.uint8))
    (tmp_path / "plan.toml").write_text(PLAN + "depth = 8\n")

    def person(link: str) -> None:
        with urllib.request.urlopen(link) as first:
            page = first.url.removesuffix("1")
        for number in range(1, 9):
            urllib.request.urlopen(f"{page}picture/{number}").close()
            labels = bytes(100) + bytes([1 + number % 2]) * 56 + bytes(100)
            for path in (f"draft/{number}/2", f"done/{number}/3"):
                urllib.request.urlopen(page + path, zlib.compress(labels)).close()
        urllib.request.urlopen(f"{page}end", b"").close()

    monkeypatch.setattr(webbrowser, "open", lambda link: threading.Thread(target=person, args=(link,)).start())
    done = command.run_in_process("outline", "volumes", "--plan", "plan.toml", home=tmp_path)
    assert "8 of 8 volumes are done" in done.stdout
    assert "'fedhelp-edge check --plan plan.toml volumes --masks volumes-masks'" in done.stderr
    checked = command.run_in_process(
        "check", "volumes", "--masks", "volumes-masks", "--plan", "plan.toml", "--json", home=tmp_path
    )
    report = json.loads(checked.stdout)
    assert (report["images"], report["patients"]) == (8, 8)
    assert {name: sum(parts.values()) for name, parts in report["parts"].items()} == {"a": 4, "b": 4}


@pytest.mark.parametrize(
    ("plan", "words", "code", "cause"),
    [
        ('classes = ["a", "b"]', [], "E_USAGE", "need no outlines"),
        (PLAN + "depth = 8", [], "E_NO_IMAGES", "no volumes that can be outlined"),
        (PLAN + "depth = 8", ["--model", "model.onnx"], "E_USAGE", "a model for pictures, and the plan is for volumes"),
        (PLAN, ["--model", "classes/model.onnx"], "E_USAGE", "not for masks"),
        (PLAN.replace('"b"', '"c"'), ["--model", "model.onnx"], "E_CLASSES", "model.onnx outlines a, b"),
        (PLAN, [], "E_NO_IMAGES", "no pictures that can be outlined"),
    ],
)
def test_what_cannot_be_outlined_is_refused_before_a_page_opens(
    plan: str, words: list[str], code: str, cause: str, tmp_path: Path
) -> None:
    (tmp_path / "plan.toml").write_text(plan)
    (tmp_path / "empty").mkdir()
    if "classes/model.onnx" in words:
        bundles.saved_model(tmp_path / "classes")
    elif words:
        mask_bundles.saved_model(tmp_path)
    done = command.run_in_process("outline", "empty", "--plan", "plan.toml", *words, home=tmp_path)
    assert command.error_code(done) == code
    assert cause in done.stderr
