"""A hospital's two rounds as typed, over a stick and over the network, and what it does with its models afterwards."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pydicom")

from pydicom.uid import generate_uid

from fedhelp_edge.demo import phantoms
from tests import command, http_front
from tests.site_and_hub import SiteAndHub, fails_with, succeeds
from tests.threads import one_thread  # noqa: F401 - a fixture
from tests.unit.data import samples
from tests.unit.page.test_serve import form

PLAN = """name = "moles"
classes = ["MEL", "NV"]
method = "fedhelp"
rounds = 2
[image]
size = 8
[data]
val = 0.3
test = 0.3
[nets]
large = "resnet20"
[training]
epochs = 3
precision = "fp32"
[start]
from = "pack"
[fedhelp]
public_every = 2
public_size = 8
[round]
quorum = 1
"""
CALLED = ("MEL", "naevus")  # what this hospital calls the plan's classes
IMAGES, WARD = 80, 20
ONE = ("--threads", "1")
NOWHERE = "no-home"  # a computer that has joined nothing


class Hospital(SiteAndHub):
    """A hospital and its coordinator; `way` is how the one reaches the other, `course` how far each step led."""

    def __init__(self, folder: Path, way: tuple[str, ...], *, locked: bool = True) -> None:
        super().__init__(folder, PLAN, locked=locked)
        self.way = way
        self.course: list[tuple[str, str, str]] = []
        self.told: dict[str, dict[str, Any]] = {}

    def ask(self, *words: str | Path) -> dict[str, Any]:
        return command.json_output(succeeds(self.site(*words, "--json")))

    def coordinator_keys(self, *words: str | Path) -> dict[str, Any]:
        return command.json_output(succeeds(self.hub(*words, "--json")))

    def predict(self, *words: str | Path) -> dict[str, Any]:
        return command.json_output(succeeds(self.site("predict", *words, "--format", "json")))

    def step(self, *words: str | Path, named: str = "") -> None:
        self.told[named or str(words[0])] = self.ask(*words)
        now = self.ask("status")
        self.course.append((named or str(words[0]), now["state"], now["next"]))

    def carry_stick(self) -> None:
        """The stick goes to the coordinator and back; over the network the coordinator judges what came in."""
        stick = "--via" in self.way
        self.coordinator_keys(*(("exchange", self.stick) if stick else ("requests",)))

    def play(self, given: Path) -> None:
        """Two rounds, the second by sync; and between them new keys."""
        self.coordinator_keys("knowledge", "publish", given / "pack.safetensors")
        self.coordinator_keys("invite", "University hospital", "--tier", "large", "--out", "a.invite")
        self.step("join", "a.invite", *self.way)
        self.told["words"] = self.ask("keys", "words")
        self.carry_stick()
        self.coordinator_keys("open", "--start", given / "start.safetensors")
        self.carry_stick()
        self.step("download")
        table = given / "pacs" / "labels.csv"
        self.told["unmapped"] = command.json_output(self.site("check", table, "--json"))
        self.step("check", table, "--map", "naevus=NV")
        self.step("distill", table, *ONE)
        self.step("upload")
        self.carry_stick()
        self.told["first"] = self.coordinator_keys("aggregate")
        self.carry_stick()
        self.step("download", named="fetched")
        self.told["old"] = self.ask("export", "--anyway", "--out", "old.onnx", *ONE)

        self.told["keys"] = self.ask("keys", "show")
        self.step("keys", "rotate", named="rotate")
        self.step("upload", named="asked for new keys")
        self.carry_stick()
        self.step("download", named="has new keys")

        self.coordinator_keys("open")
        self.carry_stick()
        self.step("sync", *ONE)
        self.carry_stick()
        self.told["second"] = self.coordinator_keys("aggregate")
        self.carry_stick()
        self.step("sync", *ONE, named="synced")
        self.told["new"] = self.ask("export", "--anyway", "--out", "new.onnx", *ONE)

    @contextmanager
    def started(self, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on until it is stopped, as a process of its own."""
        process = subprocess.Popen(
            [*command.SITE, *map(str, words)],
            cwd=self.folder,
            env={**os.environ, "FEDHELP_HOME": str(self.folder / "site"), "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> SiteAndHub:
    """A PACS with a table of its studies, a ward's pictures in folders, and the pack that somebody made as typed."""
    people = SiteAndHub(tmp_path_factory.mktemp("given"), PLAN)
    pixels, labels = phantoms.draw(40, 4, size=8, family="tissue")
    np.savez(people.folder / "public.npz", images=pixels, labels=labels, class_names=np.array(phantoms.TISSUES[:4]))
    np.savez(people.folder / "said.npz", probabilities=np.eye(4, dtype=np.float32)[labels] * 0.6 + 0.1)
    asked = ("--public", "public.npz", "--source", "files:said.npz", "--out", "pack.safetensors")
    succeeds(people.site("knowledge", "build", *asked))
    succeeds(people.site("knowledge", "start", "plan.toml", "pack.safetensors", "--out", "start.safetensors", *ONE))

    lines = ["SOPInstanceUID,label"]
    for place, (image, label) in enumerate(zip(*phantoms.draw(IMAGES, 2, size=8, difficulty=0.0), strict=True)):
        said = {"SOPInstanceUID": generate_uid(), "PatientID": f"patient {place // 2}"}
        samples.dicom(people.folder / "pacs" / f"IM{place:04}", image.mean(2).astype(np.uint16), **said)
        lines.append(f"{said['SOPInstanceUID']},{CALLED[label]}")
    (people.folder / "pacs" / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    for place, (image, label) in enumerate(zip(*phantoms.draw(WARD, 2, size=24, seed=7, difficulty=0.0), strict=True)):
        samples.save(people.folder / "ward" / CALLED[label] / f"{place:02}.png", image)
    return people


@pytest.fixture(scope="module")
def by_stick(given: SiteAndHub, tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    folder = tmp_path_factory.mktemp("stick")
    hospital = Hospital(folder, ("--via", str(folder / "stick")), locked=False)
    hospital.coordinator_keys("init", "--plan", "plan.toml")
    hospital.coordinator_keys("exchange", hospital.stick)
    hospital.play(given.folder)
    return hospital


@pytest.fixture(scope="module")
def by_network(given: SiteAndHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("network")
    hospital = Hospital(folder, ())
    hospital.coordinator_keys("init", "--plan", "plan.toml")
    with http_front.running(folder / "hub") as port:
        hospital.way = ("--url", f"http://127.0.0.1:{port}")
        hospital.play(given.folder)
        yield hospital


@pytest.fixture(params=["by_stick", "by_network"])
def hospital(request: pytest.FixtureRequest) -> Hospital:
    found: Hospital = request.getfixturevalue(request.param)
    return found


# ------------------------------------------------------------------------------------------------- two rounds, two ways


def test_the_pack_says_what_is_in_it(given: SiteAndHub) -> None:
    shown = command.json_output(succeeds(given.site("knowledge", "show", "pack.safetensors", "--json")))
    assert (shown["images"], shown["classes"]) == (40, list(phantoms.TISSUES[:4]))
    assert shown["sources"] == [{"name": "files:said.npz", "accuracy": 1.0}]


def test_each_step_leads_to_the_next(hospital: Hospital) -> None:
    gone = ("sent", "fedhelp-edge upload") if "--via" in hospital.way else ("received", "fedhelp-edge download")
    judged = ("judged", "fedhelp-edge download")
    assert hospital.course[0][1] == "joining"
    assert hospital.course[0][2].startswith("fedhelp-edge upload, then wait for the coordinator")
    assert hospital.course[1:] == [
        ("download", "ready", "fedhelp-edge distill"),
        ("check", "ready", "fedhelp-edge distill"),
        ("distill", "trained", "fedhelp-edge upload"),
        ("upload", *gone),
        ("fetched", *judged),
        ("rotate", *judged),
        ("asked for new keys", *judged),
        ("has new keys", *judged),
        ("sync", *gone),
        ("synced", *judged),
    ]


def test_both_ways_give_the_same_model_to_the_bit(by_stick: Hospital, by_network: Hospital) -> None:
    for round_ in ("first", "second"):
        assert by_stick.told[round_]["merged_sha256"] == by_network.told[round_]["merged_sha256"]
    assert by_stick.told["first"]["merged_sha256"] != by_stick.told["second"]["merged_sha256"]
    by_both = [hospital.ask("evaluate", *ONE) for hospital in (by_stick, by_network)]
    assert by_both[0] == by_both[1]
    assert by_both[0]["round"] == 2


def test_the_words_to_compare_by_phone_can_be_shown_again_and_stand_for_these_keys(hospital: Hospital) -> None:
    shown = hospital.told["join"]
    assert (shown["sent"], len(shown["words"])) == (True, 8)
    assert hospital.told["words"]["words"] == shown["words"]
    assert hospital.ask("keys", "words")["words"] != shown["words"]  # of the new keys


def test_the_coordinator_knows_the_hospital_by_name_and_tier(hospital: Hospital) -> None:
    (site,) = hospital.coordinator_keys("roster")["sites"]
    assert (site["id"], site["tier"], site["status"]) == ("site-001", "large", "active")
    federation = str(hospital.told["join"]["federation"])
    assert len(hospital.told["join"]["words"]) == 8
    assert (
        hospital.ask("keys", "words", "--federation", federation)["words"] != hospital.told["join"]["words"]
    )  # rotated


def test_images_in_other_words_are_not_ready_until_the_words_are_mapped_and_then_all_are_learned_from(
    hospital: Hospital,
) -> None:
    bad, good, done = (hospital.told[name] for name in ("unmapped", "check", "distill"))
    assert (bad["ready"], {one["code"] for one in bad["problems"]}) == (
        False,
        {"E_LABEL", "E_ONE_CLASS", "E_CLASS_MISSING"},
    )
    assert (good["ready"], good["images"], good["problems"]) == (True, IMAGES, [])
    assert (done["tier"], done["method"], done["left_out"]) == ("large", "fedhelp", 0)
    assert done["images"] == 3 * done["examples"]  # in three epochs
    assert done["examples"] == sum(part["train"] for part in good["parts"].values())
    assert set(done["val"]) == {"own", "alone"}


def test_every_update_is_accepted_and_nothing_waits(hospital: Hospital) -> None:
    for round_ in ("first", "second"):
        outcome = hospital.told[round_]
        assert (outcome["accepted"], outcome["quarantined"], outcome["refused"]) == (["site-001"], [], [])
    status = hospital.ask("status")
    assert [(receipt["round"], receipt["state"]) for receipt in status["receipts"]] == [
        ("2", "accepted"),
        ("1", "accepted"),
    ]
    assert (status["round"], status["outbox"], status["orders_are_old"]) == (2, [], False)
    assert (hospital.told["sync"]["trained"], hospital.told["synced"]["trained"]) == (2, None)
    assert "model after round 2" in hospital.told["synced"]["new"]
    assert hospital.coordinator_keys("status")["state"] == "finished"


def test_a_round_that_was_handed_out_holds_without_any_key(hospital: Hospital, tmp_path: Path) -> None:
    hospital.coordinator_keys("audit", "export", "2", tmp_path / "round-2")
    report = command.json_output(succeeds(command.run_in_process("audit", "round-2", "--json", home=tmp_path)))
    (update,) = hospital.told["sync"]["sent"]
    assert report["merged"] == [{"site": "site-001", "update": update, "share": update, "state": "accepted"}]
    assert report["merged_sha256"] == hospital.told["second"]["merged_sha256"]
    assert (report["round"], report["others"]) == (2, [])
    largest = max((tmp_path / "round-2").rglob("*.fhx"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    assert command.error_code(command.run_in_process("audit", "round-2", home=tmp_path)).startswith("E_")


@pytest.mark.parametrize("kind", ["charter", "roster", "task", "global", "receipt"])
def test_what_came_is_known_here_and_elsewhere_only_whole(kind: str, hospital: Hospital) -> None:
    newest = max((hospital.folder / "site" / kind).glob("*.fhx"))
    inspected = hospital.ask("inspect", newest)
    assert (inspected["kind"], inspected["whole"], inspected["trusted"], inspected["why"]) == (kind, True, True, "")
    inspected = hospital.ask("inspect", newest, "--home", NOWHERE)
    assert (inspected["kind"], inspected["whole"], inspected["trusted"]) == (kind, True, False)
    assert "joined no federation" in inspected["why"]


def test_new_keys_are_used_from_the_roster_on_that_names_them(hospital: Hospital) -> None:
    assert hospital.told["has new keys"]["new"][0] == "roster 3"
    now = hospital.ask("keys", "show")
    assert hospital.told["keys"]["locked"] is now["locked"] is hospital.locked
    assert now["fingerprint"] != hospital.told["keys"]["fingerprint"]
    assert hospital.told["old"]["signer"] == hospital.told["keys"]["fingerprint"]
    assert hospital.told["new"]["signer"] == now["fingerprint"]


# ---------------------------------------------------------------------------------------------- afterwards, at the site


def test_a_model_that_the_old_keys_signed_is_exported_again_or_vouched_for_by_name(
    by_stick: Hospital, given: SiteAndHub, tmp_path: Path
) -> None:
    ask = ("old.onnx", given.folder / "ward")
    fails_with(by_stick.site("predict", *ask), "E_SIGNER_UNKNOWN", "export it again here")
    assert by_stick.predict(*ask, "--signer", by_stick.told["keys"]["fingerprint"])["model"]["trusted"] is True
    again = by_stick.ask("export", "--anyway", "--round", "1", "--out", tmp_path / "again.onnx", *ONE)
    assert again["round"] == by_stick.told["old"]["round"] == 1
    assert again["figures"] == by_stick.told["old"]["figures"]
    found = by_stick.predict(tmp_path / "again.onnx", given.folder / "ward")
    assert found["model"]["trusted"] is True


def test_the_test_part_and_other_images_are_measured_and_left_as_figures_and_a_page(
    by_stick: Hospital, given: SiteAndHub, tmp_path: Path
) -> None:
    test = sum(part["test"] for part in by_stick.told["check"]["parts"].values())
    assert by_stick.ask("evaluate", *ONE)["own"]["images"] == test
    figures = by_stick.ask("evaluate", "--images", given.folder / "ward", "--out", tmp_path / "measured", *ONE)
    page = Path(figures.pop("page"))
    assert figures["own"]["images"] == WARD  # of which half is called naevus
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8")) == figures
    shown = succeeds(by_stick.site("evaluate", "--images", given.folder / "ward", *ONE)).stdout
    chosen = figures[figures["chosen"]]["accuracy"]["value"]
    assert f"accuracy            {chosen:.3f}" in shown
    assert f"{chosen:.3f}" in page.read_text(encoding="utf-8")


def test_the_best_of_four_on_the_images_to_choose_by_is_exported(by_stick: Hospital) -> None:
    exported = by_stick.told["new"]
    assert set(exported["figures"]) == {"own", "alone", "merged", "average"}
    assert exported["figures"][exported["net"]]["loss"] == min(one["loss"] for one in exported["figures"].values())
    assert exported["parity"] < 1e-4
    assert exported["test"]["images"] == sum(part["test"] for part in by_stick.told["check"]["parts"].values())
    evaluated = by_stick.ask("inspect", "new.onnx")
    assert (evaluated["kind"], evaluated["whole"], evaluated["trusted"]) == ("bundle", True, True)
    assert (evaluated["sha256"], evaluated["round"], evaluated["net"]) == (exported["sha256"], 2, exported["net"])


def test_8_bits_are_kept_only_where_they_are_worth_it(by_stick: Hospital, tmp_path: Path) -> None:
    exported = by_stick.ask("export", "--anyway", "--int8", "--out", tmp_path / "small.onnx", *ONE)
    assert (exported["precision"] == "int8") == (not exported["int8"]["why"])
    assert by_stick.ask("inspect", tmp_path / "small.onnx")["precision"] == exported["precision"]


def test_two_models_are_compared_on_images_that_neither_learned_from(by_stick: Hospital, given: SiteAndHub) -> None:
    by_stick.ask("export", "--anyway", "--round", "1", "--out", "first.onnx", *ONE)
    pacs = by_stick.ask("compare", "first.onnx", "new.onnx", given.folder / "pacs")
    test = sum(part["test"] for part in by_stick.told["check"]["parts"].values())
    assert (pacs["images"], pacs["left_out"]) == (test, IMAGES - test)
    ward = by_stick.ask("compare", "first.onnx", "new.onnx", given.folder / "ward")
    assert (ward["images"], ward["left_out"]) == (WARD, 0)
    assert (ward["old"]["round"], ward["new"]["round"]) == (1, 2)
    assert sum(one["new"] - one["old"] for one in ward["classes"]) == ward["better"] - ward["worse"]
    shown = succeeds(by_stick.site("compare", "first.onnx", "new.onnx", given.folder / "ward")).stdout
    assert shown.splitlines()[-1] == ward["verdict"]


@pytest.fixture(scope="module")
def answers(by_stick: Hospital, given: SiteAndHub) -> dict[str, Any]:
    """What the model says of the PACS and the ward, as JSON."""
    return by_stick.predict("new.onnx", given.folder / "pacs", given.folder / "ward")


def test_a_table_a_spreadsheet_and_pages_give_the_answers_that_json_gives(
    by_stick: Hospital, given: SiteAndHub, answers: dict[str, Any], tmp_path: Path
) -> None:
    rows = answers["results"]
    assert len(rows) == IMAGES + WARD
    assert {row["error"] for row in rows} == {None}
    assert len({row["answer"] for row in rows}) > 1
    asked = ("predict", "new.onnx", given.folder / "pacs", given.folder / "ward", "--format")

    _, *lines = succeeds(by_stick.site(*asked, "table")).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[row["file"], row["answer"] or row["verdict"]] for row in rows]

    sheet = list(csv.DictReader(io.StringIO(succeeds(by_stick.site(*asked, "csv")).stdout)))
    assert [(row["file"], row["answer"] or None, row["reason"]) for row in sheet] == [
        (row["file"], row["answer"], row["reason"]) for row in rows
    ]
    for name in ("MEL", "NV"):
        assert [row[f"p({name})"] for row in sheet] == [
            "" if row["verdict"] == "unlike" else str(row["probabilities"][name]) for row in rows
        ]
    assert {(row["model"], row["trusted"]) for row in sheet} == {(answers["model"]["sha256"], "yes")}

    said = succeeds(by_stick.site(*asked, "html", "--out", tmp_path / "out")).stderr
    assert said.startswith(f"{sum(row['answer'] is not None for row in rows)} of {len(rows)} images answered")
    page = html.unescape((tmp_path / "out" / "answers.html").read_text(encoding="utf-8"))
    wanted = [f"Answer: {row['answer']}." if row["answer"] else f"Don't know: {row['reason']}." for row in rows]
    assert re.findall(r"<p>((?:Answer|Don't know): .*)</p>", page) == wanted


def test_elsewhere_the_answers_are_the_same_and_nobody_vouches_for_them(
    by_stick: Hospital, given: SiteAndHub, answers: dict[str, Any]
) -> None:
    """The words that are shown are those that the hospital's own computer shows for the key."""
    ask = ("new.onnx", given.folder / "pacs", given.folder / "ward", "--home", NOWHERE)
    found = by_stick.predict(*ask)
    assert (answers["model"]["trusted"], found["model"]["trusted"]) == (True, False)
    assert found["results"] == answers["results"]
    (signer,) = by_stick.ask("inspect", "new.onnx")["signers"]
    assert signer["fingerprint"] == by_stick.ask("keys", "show")["fingerprint"] == found["model"]["signer"]
    assert found["model"]["words"] == signer["words"]
    assert len(signer["words"].split()) == 8
    assert f"in words: {signer['words']}" in succeeds(by_stick.site("predict", *ask)).stderr
    assert by_stick.predict(*ask, "--signer", signer["fingerprint"])["model"]["trusted"] is True
    old = by_stick.told["keys"]["fingerprint"]
    fails_with(by_stick.site("predict", *ask, "--signer", old), "E_SIGNER_MISMATCH", "")


def test_with_its_keys_restored_another_computer_vouches_for_the_model(
    by_network: Hospital, given: SiteAndHub, tmp_path: Path
) -> None:
    succeeds(by_network.site("keys", "backup", tmp_path / "backup.txt"))
    succeeds(by_network.site("keys", "restore", tmp_path / "backup.txt", "--home", tmp_path / "new-pc"))
    assert by_network.ask("keys", "show", "--home", tmp_path / "new-pc") == by_network.ask("keys", "show")
    ask = ("new.onnx", given.folder / "ward", "--home", tmp_path / "new-pc")
    assert by_network.predict(*ask)["model"]["trusted"] is True


def test_the_page_answers_a_picture_that_is_dropped_as_predict_does(
    by_stick: Hospital, given: SiteAndHub, answers: dict[str, Any]
) -> None:
    picture = given.folder / "pacs" / "IM0000"
    (row,) = (row for row in answers["results"] if row["file"].endswith(picture.name))
    with by_stick.started("serve", "new.onnx", "--no-browser", "--language", "en", *ONE) as running:
        assert running.stderr
        assert running.stderr.readline() == "the page is at\n"  # it is trusted: no warning before
        link = running.stderr.readline().strip()
        with urllib.request.urlopen(link) as answered:
            assert 'type="file"' in answered.read().decode()
        with urllib.request.urlopen(link, form((picture.name, picture.read_bytes()))) as answered:
            page = html.unescape(answered.read().decode())
        urllib.request.urlopen(link + "end", b"").close()
        assert running.wait(60) == 0
    head = f"Answer: {row['answer']}" if row["answer"] else f"Don't know: {row['reason']}"
    assert re.findall("<h2[^>]*>([^<]*)<", page)[0] == head


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_drop_folder_of_the_pacs_is_answered_as_files_come_until_ctrl_c(
    by_stick: Hospital, given: SiteAndHub, answers: dict[str, Any], tmp_path: Path
) -> None:
    drop, page = tmp_path / "drop", tmp_path / "out" / "answers.json"
    drop.mkdir()
    watch = ("predict", "new.onnx", "--watch", drop, "--out", page.parent, "--format", "json", *ONE)
    with by_stick.started(*watch) as running:
        assert running.stderr
        assert running.stderr.readline().startswith("waiting for images")
        shutil.copy(given.folder / "pacs" / "IM0000", tmp_path / "IM0000")
        os.utime(tmp_path / "IM0000", (0, 0))  # nobody writes to it any more
        (tmp_path / "IM0000").rename(drop / "IM0000")
        assert running.stderr.readline() == "1 new, 0 of them bad\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
    (row,) = json.loads(page.read_text(encoding="utf-8"))["results"]
    (wanted,) = (row for row in answers["results"] if row["file"].endswith("IM0000"))
    assert row["probabilities"] == wanted["probabilities"]
