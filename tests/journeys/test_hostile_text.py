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
from tests.site_and_hub import SiteAndHub, first_plan, succeeds
from tests.threads import one_thread  # noqa: F401 - a fixture

pytest.importorskip("torch")

BAD = "X\nwords: forged forged forged\nerror: E_FORGED: x\r\x1b[2J\x9b1m\x7f\t\u202e\u2066\u2028\u200bZ"
IN_A_FILE = BAD.replace("\x9b", "").replace("\u2028", "")  # two more would not fit into a file's name
STEERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202e\u2066\ud800-\udfff]")
PLAN = first_plan(["a", "b"])


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteAndHub]:
    people = SiteAndHub(tmp_path_factory.mktemp("hostile"), PLAN, locked=False)
    body = charter.body
    with pytest.MonkeyPatch.context() as earlier:
        earlier.setattr(safe_text, "check_name", lambda _: None)
        earlier.setattr(charter, "body", lambda _, *rest: {**body(BAD, *rest)})
        earlier.setitem(enrol._REQUEST_SHAPE, "name", re.compile("(?s).*"))
        succeeds(people.hub("init", "--plan", "plan.toml"))
        succeeds(people.hub("invite", BAD, "--tier", "small", "--out", "a.invite"))
        succeeds(people.hub("invite", f"{BAD} again", "--tier", "small", "--out", "b.invite"))
        succeeds(people.site("join", "a.invite", "--via", people.stick, "--name", BAD))
        succeeds(people.hub("exchange", people.stick))
        succeeds(people.hub("open"))
    succeeds(people.hub("exchange", people.stick))
    draw = np.random.default_rng(0)
    for number in range(40):
        folder = people.folder / "images" / f"{'ab'[number % 2]}{IN_A_FILE}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (8, 8, 3), np.uint8) // 2 + 120 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}{IN_A_FILE}.png")
    (people.folder / "images" / f"{IN_A_FILE}.png").write_bytes(b"no picture")
    (people.folder / f"{IN_A_FILE}.toml").write_text(PLAN.replace('"test"', json.dumps(BAD)))
    yield people


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


def test_a_whole_round_among_hostile_names_prints_nothing_that_steers(people: SiteAndHub) -> None:
    mapped = [word for letter in "ab" for word in ("--map", f"{letter}{IN_A_FILE}={letter}")]
    for json_ in ((), ("--json",)):
        harmless(people.site("download", *json_))
        assert "forged" in harmless(people.site("status", *json_))
        assert "forged" in harmless(people.site("check", "images", *mapped, *json_), refused=True)
    assert "forged" in harmless(people.site("check", "images", "--home", "elsewhere"), refused=True)
    again = harmless(people.site("join", "a.invite", "--via", people.stick)).split("\n")
    assert sum(line.startswith("words: ") for line in again) == 1
    harmless(people.site("train", "images"))
    harmless(people.site("upload"))
    harmless(people.hub("exchange", people.stick))
    for json_ in ((), ("--json",)):
        harmless(people.site("evaluate", *json_))
        harmless(people.hub("status", *json_))
        assert "forged" in harmless(people.hub("roster", *json_))
        for words in (("requests",), ("review",), ("audit", "verify")):
            harmless(people.hub(*words, *json_))
    harmless(people.hub("aggregate"))
    harmless(people.hub("audit", "show"))
    harmless(people.hub("audit", "export", "1", "round-1"))
    harmless(people.hub("exchange", people.stick))
    for parcel in sorted((people.stick / "from-coordinator").glob("*.fhx")):
        harmless(people.site("inspect", parcel))
    for words in (("audit", "round-1"), ("download",), ("status",), ("sync",), ("keys", "show"), ("keys", "words")):
        for json_ in ((), ("--json",)):
            harmless(people.site(*words, *json_))


def test_a_model_and_its_answers_among_hostile_names_print_nothing_that_steers(people: SiteAndHub) -> None:
    succeeds(people.site("train", "images"))
    harmless(people.site("export", "--out", "model.onnx"))
    harmless(people.site("inspect", "model.onnx"))
    for kind in ("table", "csv", "json", "html"):
        assert "forged" in harmless(people.site("predict", "model.onnx", "images", "--format", kind), refused=True)
    harmless(people.site("predict", "model.onnx", "images", "--format", "html", "--out", "answers"), refused=True)
    pages = [*(people.folder / "answers").glob("*.html"), *(people.folder / "site" / "rounds").rglob("*.html")]
    assert len(pages) > 1
    for page in (*pages, people.folder / "model_CARD.md"):
        assert steering(page.read_text(encoding="utf-8")) == [], page
    harmless(people.site("compare", "model.onnx", "model.onnx", "images"))
    harmless(people.site("doctor", "model.onnx"))


def test_new_names_of_this_kind_are_refused_where_they_enter(people: SiteAndHub) -> None:
    assert "E_PLAN" in harmless(people.site("plan", "check", f"{IN_A_FILE}.toml"), refused=True)
    assert "E_PLAN" in harmless(people.hub("init", "--plan", f"{IN_A_FILE}.toml", "--home", "new"), refused=True)
    assert "E_NAME" in harmless(people.hub("invite", BAD, "--tier", "small"), refused=True)
    assert "E_NAME" in harmless(people.hub("revoke", "site-001", "--reason", BAD), refused=True)
    assert "E_NAME" in harmless(people.site("join", "b.invite", "--name", BAD, "--home", "new"), refused=True)
    assert "E_NAME" in harmless(people.site("join", "b.invite", "--home", "new"), refused=True)  # the charter's name
    assert not (people.folder / "new" / "charter").exists()


@pytest.mark.parametrize("program", ["site", "hub"])
def test_whatever_was_typed_comes_back_written_out(people: SiteAndHub, program: str) -> None:
    run = people.site if program == "site" else people.hub
    nobody = ("approve" if program == "hub" else "keys", f"no {BAD}")
    for words in ((BAD,), ("status", BAD), ("status", f"--{BAD}"), ("status", "--home", IN_A_FILE), nobody):
        harmless(run(*words), refused=True)
    for words in (("inspect", BAD), ("audit", BAD), ("predict", BAD, BAD), ("check", BAD), ("join", BAD)):
        harmless(people.site(*words), refused=True)


def test_an_old_hub_with_such_a_name_still_changes_its_keys(people: SiteAndHub, tmp_path: Path) -> None:
    copy = people.copy_to(tmp_path / "copy")
    harmless(copy.hub("rotate", "--coordinator", "--root-key", copy.folder / "hub" / hubs.ROOT))
    harmless(copy.hub("status"))
