"""`serve` as a process: a page is opened, answers and ends; nothing is written, and no file name is printed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("torch")

from fedhelp_edge.parcel import keys
from tests import bundles
from tests.unit.page.test_serve import form

WATCHED = """
import json, os, sys
opened, reached = [], []
def watch(event, arguments):
    if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        opened.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else "")
    if event in ("socket.bind", "socket.connect", "socket.getaddrinfo"):
        reached.append(arguments[1 if event != "socket.getaddrinfo" else 0])
sys.addaudithook(watch)
from fedhelp_edge.__main__ import main
try:
    main()
except SystemExit as end:
    print(json.dumps({"code": end.code, "opened": opened, "reached": reached, "modules": sorted(sys.modules)}))
"""


def test_a_page_is_opened_and_answers_and_writes_nothing(tmp_path: Path) -> None:
    model = bundles.saved_model(tmp_path)
    keys.save(tmp_path / "home", bundles.site().keys, None)
    picture = (bundles.write_test_images(tmp_path / "in", 1) / "000.png").read_bytes()
    before = sorted(tmp_path.rglob("*"))
    words = ["serve", model, "--home", tmp_path / "home", "--no-browser", "--language", "sw"]
    with subprocess.Popen(
        [sys.executable, "-c", WATCHED, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
    ) as running:  # fmt: skip
        assert running.stdout and running.stderr
        assert running.stderr.readline() == "the page is at\n"
        link = running.stderr.readline().strip()
        for name, data, expected in (("Jane Doe.png", picture, "<figure>"), ("John Doe.png", b"", "E_IMAGE")):
            with urllib.request.urlopen(link, form((name, data))) as answered:
                assert expected in answered.read().decode()
        urllib.request.urlopen(link + "end", b"").close()
        out, err = running.communicate(timeout=60)
    output = json.loads(out)
    assert output["code"] == 0
    assert "Doe" not in err
    assert err.isascii()
    assert output["opened"] == []
    assert output["reached"] == [["127.0.0.1", 0]]
    assert not {"torch", "onnx", "torchvision"} & set(output["modules"])
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_language_and_a_strangers_model_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = bundles.saved_model(tmp_path)
    code, _, err = bundles.run_command(capsys, "serve", model, "--language", "de", "--home", tmp_path)
    assert code == 2
    assert "none of en, fr, es, pt, sw" in err
    keys.save(tmp_path / "home", keys.generate(), None)
    code, _, err = bundles.run_command(capsys, "serve", model, "--home", tmp_path / "home")
    assert code == 1
    assert "E_SIGNER_UNKNOWN" in err
