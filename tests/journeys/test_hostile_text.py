"""Names, reasons and file names that would forge lines or steer a terminal, in every place that others can write to.

The hub and its site are of a time when such names were taken; they must stay usable, and show them written out.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge import safe_text
from fedhelp_edge.trust import charter, enrol
from server_ref.hub import hub as hubs
from tests.desk import Desk, first_plan, works
from tests.threads import one_thread  # noqa: F401 - a fixture

pytest.importorskip("torch")

BAD = "X\nwords: forged forged forged\nerror: E_FORGED: x\r\x1b[2J\x9b1m\x7f\t\u202e\u2066\u2028\u200bZ"
IN_A_FILE = BAD.replace("\x9b", "").replace("\u2028", "")  # two more would not fit into a file's name
STEERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202e\u2066\ud800-\udfff]")
PLAN = first_plan(["a", "b"])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("hostile"), PLAN, locked=False)
    body = charter.body
    with pytest.MonkeyPatch.context() as earlier:
        earlier.setattr(safe_text, "check_name", lambda _: None)
        earlier.setattr(charter, "body", lambda _, *rest: {**body(BAD, *rest)})
        earlier.setitem(enrol._REQUEST_SHAPE, "name", re.compile("(?s).*"))
        works(desk.hub("init", "--plan", "plan.toml"))
        works(desk.hub("invite", BAD, "--tier", "small", "--out", "a.invite"))
        works(desk.hub("invite", f"{BAD} again", "--tier", "small", "--out", "b.invite"))
        works(desk.site("join", "a.invite", "--via", desk.stick, "--name", BAD))
        works(desk.hub("exchange", desk.stick))
        works(desk.hub("open"))
    works(desk.hub("exchange", desk.stick))
    draw = np.random.default_rng(0)
    for number in range(40):
        folder = desk.folder / "images" / f"{'ab'[number % 2]}{IN_A_FILE}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (8, 8, 3), np.uint8) // 2 + 120 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}{IN_A_FILE}.png")
    (desk.folder / "images" / f"{IN_A_FILE}.png").write_bytes(b"no picture")
    (desk.folder / f"{IN_A_FILE}.toml").write_text(PLAN.replace('"test"', json.dumps(BAD)))
    yield desk


def steering(text: str) -> list[str]:
    """What would steer a terminal, each with what stands around it."""
    return [
        repr(text[max(0, characters.start() - 20) : characters.end() + 20]) for characters in STEERS.finditer(text)
    ][:3]


def harmless(done: subprocess.CompletedProcess[str], *, refused: bool = False) -> str:
    """What was printed, none of which steers a terminal or is a line that somebody else wrote."""
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed and "E_INTERNAL" not in printed, printed
    assert (done.returncode != 0) == refused, printed
    assert steering(printed) == []
    lines = printed.split("\n")
    assert not any(line.lstrip().startswith(("words: forged", "error: E_FORGED")) for line in lines), printed
    if done.stdout.startswith('{"schema_version"') and done.stdout.count("\n") == 1:
        json.loads(done.stdout)
    return printed


def test_a_whole_round_among_hostile_names_prints_nothing_that_steers(desk: Desk) -> None:
    mapped = [word for letter in "ab" for word in ("--map", f"{letter}{IN_A_FILE}={letter}")]
    for json_ in ((), ("--json",)):
        harmless(desk.site("download", *json_))
        assert "forged" in harmless(desk.site("status", *json_))
        assert "forged" in harmless(desk.site("check", "images", *mapped, *json_), refused=True)
    assert "forged" in harmless(desk.site("check", "images", "--home", "elsewhere"), refused=True)
    again = harmless(desk.site("join", "a.invite", "--via", desk.stick)).split("\n")
    assert sum(line.startswith("words: ") for line in again) == 1
    harmless(desk.site("train", "images"))
    harmless(desk.site("upload"))
    harmless(desk.hub("exchange", desk.stick))
    for json_ in ((), ("--json",)):
        harmless(desk.site("evaluate", *json_))
        harmless(desk.hub("status", *json_))
        assert "forged" in harmless(desk.hub("roster", *json_))
        for words in (("requests",), ("review",), ("audit", "verify")):
            harmless(desk.hub(*words, *json_))
    harmless(desk.hub("aggregate"))
    harmless(desk.hub("audit", "show"))
    harmless(desk.hub("audit", "export", "1", "round-1"))
    harmless(desk.hub("exchange", desk.stick))
    for parcel in sorted((desk.stick / "from-coordinator").glob("*.fhx")):
        harmless(desk.site("inspect", parcel))
    for words in (("audit", "round-1"), ("download",), ("status",), ("sync",), ("keys", "show"), ("keys", "words")):
        for json_ in ((), ("--json",)):
            harmless(desk.site(*words, *json_))


def test_a_model_and_its_answers_among_hostile_names_print_nothing_that_steers(desk: Desk) -> None:
    works(desk.site("train", "images"))
    harmless(desk.site("export", "--out", "model.onnx"))
    harmless(desk.site("inspect", "model.onnx"))
    for kind in ("table", "csv", "json", "html"):
        assert "forged" in harmless(desk.site("predict", "model.onnx", "images", "--format", kind), refused=True)
    harmless(desk.site("predict", "model.onnx", "images", "--format", "html", "--out", "answers"), refused=True)
    pages = [*(desk.folder / "answers").glob("*.html"), *(desk.folder / "site" / "rounds").rglob("*.html")]
    assert len(pages) > 1
    for page in (*pages, desk.folder / "model_CARD.md"):
        assert steering(page.read_text(encoding="utf-8")) == [], page
    harmless(desk.site("compare", "model.onnx", "model.onnx", "images"))
    harmless(desk.site("doctor", "model.onnx"))


def test_new_names_of_this_kind_are_refused_where_they_enter(desk: Desk) -> None:
    assert "E_PLAN" in harmless(desk.site("plan", "check", f"{IN_A_FILE}.toml"), refused=True)
    assert "E_PLAN" in harmless(desk.hub("init", "--plan", f"{IN_A_FILE}.toml", "--home", "new"), refused=True)
    assert "E_NAME" in harmless(desk.hub("invite", BAD, "--tier", "small"), refused=True)
    assert "E_NAME" in harmless(desk.hub("revoke", "site-001", "--reason", BAD), refused=True)
    assert "E_NAME" in harmless(desk.site("join", "b.invite", "--name", BAD, "--home", "new"), refused=True)
    assert "E_NAME" in harmless(desk.site("join", "b.invite", "--home", "new"), refused=True)  # the charter's name
    assert not (desk.folder / "new" / "charter").exists()


@pytest.mark.parametrize("program", ["site", "hub"])
def test_whatever_was_typed_comes_back_written_out(desk: Desk, program: str) -> None:
    run = desk.site if program == "site" else desk.hub
    nobody = ("approve" if program == "hub" else "keys", f"no {BAD}")
    for words in ((BAD,), ("status", BAD), ("status", f"--{BAD}"), ("status", "--home", IN_A_FILE), nobody):
        harmless(run(*words), refused=True)
    for words in (("inspect", BAD), ("audit", BAD), ("predict", BAD, BAD), ("check", BAD), ("join", BAD)):
        harmless(desk.site(*words), refused=True)


def test_an_old_hub_with_such_a_name_still_changes_its_keys(desk: Desk, tmp_path: Path) -> None:
    copy = desk.lent(tmp_path / "copy")
    harmless(copy.hub("rotate", "--coordinator", "--root-key", copy.folder / "hub" / hubs.ROOT))
    harmless(copy.hub("status"))
