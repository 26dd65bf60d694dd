"""Names, reasons and file names that could forge lines or control a terminal, in every place that others can write to.

The hub and its site date from before such names were refused; they must stay usable, and show the names escaped.
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
IN_A_FILE = BAD.replace("\x9b", "").replace("\u2028", "")  # a longer file name would not be allowed
CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202e\u2066\ud800-\udfff]")
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


def control_characters(text: str) -> list[str]:
    """The control characters in a text, each with its surroundings."""
    return [
        repr(text[max(0, characters.start() - 20) : characters.end() + 20])
        for characters in CONTROL_CHARACTERS.finditer(text)
    ][:3]


def harmless_output(done: subprocess.CompletedProcess[str], *, refused: bool = False) -> str:
    """The printed text; checks that it has no control characters and no forged line."""
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed and "E_INTERNAL" not in printed, printed
    assert (done.returncode != 0) == refused, printed
    assert control_characters(printed) == []
    lines = printed.split("\n")
    assert not any(line.lstrip().startswith(("words: forged", "error: E_FORGED")) for line in lines), printed
    if done.stdout.startswith('{"schema_version"') and done.stdout.count("\n") == 1:
        json.loads(done.stdout)
    return printed


def test_a_whole_round_with_hostile_names_prints_no_control_characters(people: SiteAndHub) -> None:
    mapped = [word for letter in "ab" for word in ("--map", f"{letter}{IN_A_FILE}={letter}")]
    for json_ in ((), ("--json",)):
        harmless_output(people.site("download", *json_))
        assert "forged" in harmless_output(people.site("status", *json_))
        assert "forged" in harmless_output(people.site("check", "images", *mapped, *json_), refused=True)
    assert "forged" in harmless_output(people.site("check", "images", "--home", "elsewhere"), refused=True)
    again = harmless_output(people.site("join", "a.invite", "--via", people.stick)).split("\n")
    assert sum(line.startswith("words: ") for line in again) == 1
    harmless_output(people.site("train", "images"))
    harmless_output(people.site("upload"))
    harmless_output(people.hub("exchange", people.stick))
    for json_ in ((), ("--json",)):
        harmless_output(people.site("evaluate", *json_))
        harmless_output(people.hub("status", *json_))
        assert "forged" in harmless_output(people.hub("roster", *json_))
        for words in (("requests",), ("review",), ("audit", "verify")):
            harmless_output(people.hub(*words, *json_))
    harmless_output(people.hub("aggregate"))
    harmless_output(people.hub("audit", "show"))
    harmless_output(people.hub("audit", "export", "1", "round-1"))
    harmless_output(people.hub("exchange", people.stick))
    for parcel in sorted((people.stick / "from-coordinator").glob("*.fhx")):
        harmless_output(people.site("inspect", parcel))
    for words in (("audit", "round-1"), ("download",), ("status",), ("sync",), ("keys", "show"), ("keys", "words")):
        for json_ in ((), ("--json",)):
            harmless_output(people.site(*words, *json_))


@pytest.mark.usefixtures("quick_doctor")
def test_a_model_and_its_answers_with_hostile_names_print_no_control_characters(people: SiteAndHub) -> None:
    succeeds(people.site("train", "images"))
    harmless_output(people.site("export", "--out", "model.onnx"))
    harmless_output(people.site("inspect", "model.onnx"))
    for kind in ("table", "csv", "json", "html"):
        assert "forged" in harmless_output(
            people.site("predict", "model.onnx", "images", "--format", kind), refused=True
        )
    harmless_output(
        people.site("predict", "model.onnx", "images", "--format", "html", "--out", "answers"), refused=True
    )
    pages = [*(people.folder / "answers").glob("*.html"), *(people.folder / "site" / "rounds").rglob("*.html")]
    assert len(pages) > 1
    for page in (*pages, people.folder / "model_CARD.md"):
        assert control_characters(page.read_text(encoding="utf-8")) == [], page
    harmless_output(people.site("compare", "model.onnx", "model.onnx", "images"))
    harmless_output(people.site("doctor", "model.onnx"))


def test_new_hostile_names_are_refused_on_entry(people: SiteAndHub) -> None:
    assert "E_PLAN" in harmless_output(people.site("plan", "check", f"{IN_A_FILE}.toml"), refused=True)
    assert "E_PLAN" in harmless_output(people.hub("init", "--plan", f"{IN_A_FILE}.toml", "--home", "new"), refused=True)
    assert "E_NAME" in harmless_output(people.hub("invite", BAD, "--tier", "small"), refused=True)
    assert "E_NAME" in harmless_output(people.hub("revoke", "site-001", "--reason", BAD), refused=True)
    assert "E_NAME" in harmless_output(people.site("join", "b.invite", "--name", BAD, "--home", "new"), refused=True)
    assert "E_NAME" in harmless_output(
        people.site("join", "b.invite", "--home", "new"), refused=True
    )  # the charter's name
    assert not (people.folder / "new" / "charter").exists()


@pytest.mark.parametrize("program", ["site", "hub"])
def test_typed_control_characters_are_printed_escaped(people: SiteAndHub, program: str) -> None:
    run = people.site if program == "site" else people.hub
    nobody = ("approve" if program == "hub" else "keys", f"no {BAD}")
    for words in ((BAD,), ("status", BAD), ("status", f"--{BAD}"), ("status", "--home", IN_A_FILE), nobody):
        harmless_output(run(*words), refused=True)
    for words in (("inspect", BAD), ("audit", BAD), ("predict", BAD, BAD), ("check", BAD), ("join", BAD)):
        harmless_output(people.site(*words), refused=True)


def test_an_old_hub_with_a_hostile_name_can_rotate_its_keys(people: SiteAndHub, tmp_path: Path) -> None:
    copy = people.copy_to(tmp_path / "copy")
    harmless_output(copy.hub("rotate", "--coordinator", "--root-key", copy.folder / "hub" / hubs.ROOT))
    harmless_output(copy.hub("status"))
