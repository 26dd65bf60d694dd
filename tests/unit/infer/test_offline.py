"""Diagnosis writes only its answers, opens no socket, and needs neither torch nor onnx."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import bundles, studies

# reports every socket and every file that Python opens for writing; files of libraries appear in HOME
WATCHED = """
import os, sys
opened = []
def watch(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError("a socket: " + event)
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        flags = arguments[2] or 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            opened.append(os.fsdecode(arguments[0]))
sys.addaudithook(watch)
from fedhelp_edge.__main__ import main
sys.argv = ["fedhelp-edge", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    import json
    print(json.dumps({"code": end.code, "opened": opened, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


@pytest.mark.parametrize("kind", ["json", "html", "dicom"])
def test_predict_opens_no_socket_and_writes_nothing_outside_its_folder(
    kind: str, model: Path, home: Path, tmp_path: Path
) -> None:
    bundles.write_test_images(tmp_path / "in", 3)
    if kind == "dicom":
        pytest.importorskip("highdicom")
        studies.write(tmp_path / "in", 2)
    for name in ("home", "here", "tmp"):
        (tmp_path / name).mkdir()
    quiet = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_RUNNING_UNIT_TESTS")}
    quiet |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    quiet |= {"PYTHONPATH": str(Path(__file__).parents[3])}
    for name in [name for name in quiet if name.startswith(("XDG_", "ORT_", "FEDHELP_"))]:
        del quiet[name]
    words = ["predict", model, tmp_path / "in", "--home", home, "--out", tmp_path / "out", "--format", kind]
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, words)],
        env=quiet, cwd=tmp_path / "here", capture_output=True, text=True, check=False,
    )  # fmt: skip
    report = json.loads(done.stderr.splitlines()[-1])
    assert report["code"] == 0, done.stderr
    for name in ("home", "here", "tmp"):
        assert list((tmp_path / name).iterdir()) == [], name
    outside = [path for path in report["opened"] if not path.startswith((str(tmp_path / "out"), os.devnull))]
    assert outside == []
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert not {"torch", "onnx", "torchvision"} & set(report["modules"])
    assert "onnxruntime" in report["modules"]
    assert (tmp_path / "out" / f"answers.{'json' if kind == 'dicom' else kind}").exists()
