"""A hospital's two rounds as typed, over a stick and over the network, and the use of its models afterwards."""

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
small = "resnet8"
large = "resnet8"
[training]
epochs = 3
precision = "fp32"
[start]
from = "pack"
[public]
size = 8
[fedhelp]
public_every = 2
[round]
quorum = 1
"""
LOCAL_NAMES = ("MEL", "naevus")  # this hospital's names of the plan's classes
IMAGES, WARD = 80, 20
ONE_THREAD = ("--threads", "1")
OTHER_HOME = "no-home"  # a computer that has joined no federation


class Hospital(SiteAndHub):
    """A hospital and its coordinator. `route` connects them; `course` lists each step with the state after it."""

    def __init__(self, folder: Path, route: tuple[str, ...], *, locked: bool = True) -> None:
        super().__init__(folder, PLAN, locked=locked)
        self.route = route
        self.course: list[tuple[str, str, str]] = []
        self.outputs: dict[str, dict[str, Any]] = {}

    def ask(self, *words: str | Path) -> dict[str, Any]:
        return command.json_output(succeeds(self.site(*words, "--json")))

    def ask_hub(self, *words: str | Path) -> dict[str, Any]:
        return command.json_output(succeeds(self.hub(*words, "--json")))

    def predict(self, *words: str | Path) -> dict[str, Any]:
        return command.json_output(succeeds(self.site("predict", *words, "--format", "json")))

    def step(self, *words: str | Path, named: str = "") -> None:
        self.outputs[named or str(words[0])] = self.ask(*words)
        now = self.ask("status")
        self.course.append((named or str(words[0]), now["state"], now["next"]))

    def carry_stick(self) -> None:
        """Carries the stick to the coordinator and back; over the network the coordinator judges waiting parcels."""
        stick = "--via" in self.route
        self.ask_hub(*(("exchange", self.stick) if stick else ("requests",)))

    def play(self, inputs: Path) -> None:
        """Plays two rounds, the second by sync, with a rotation of keys between them."""
        self.ask_hub("knowledge", "publish", inputs / "pack.safetensors")
        self.ask_hub("invite", "University hospital", "--tier", "large", "--out", "a.invite")
        self.step("join", "a.invite", *self.route)
        self.outputs["words"] = self.ask("keys", "words")
        self.carry_stick()
        self.ask_hub("open", "--start", inputs / "start.safetensors")
        self.carry_stick()
        self.step("download")
        table = inputs / "pacs" / "labels.csv"
        self.outputs["unmapped"] = command.json_output(self.site("check", table, "--json"))
        self.step("check", table, "--map", "naevus=NV")
        self.step("distill", table, *ONE_THREAD)
        self.step("upload")
        self.carry_stick()
        self.outputs["first"] = self.ask_hub("aggregate")
        self.carry_stick()
        self.step("download", named="fetched")
        self.outputs["old"] = self.ask("export", "--anyway", "--out", "old.onnx", *ONE_THREAD)

        self.outputs["keys"] = self.ask("keys", "show")
        self.step("keys", "rotate", named="rotate")
        self.step("upload", named="asked for new keys")
        self.carry_stick()
        self.step("download", named="has new keys")

        self.ask_hub("open")
        self.carry_stick()
        self.step("sync", *ONE_THREAD)
        self.carry_stick()
        self.outputs["second"] = self.ask_hub("aggregate")
        self.carry_stick()
        self.step("sync", *ONE_THREAD, named="synced")
        self.outputs["new"] = self.ask("export", "--anyway", "--out", "new.onnx", *ONE_THREAD)

    @contextmanager
    def started(self, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Runs a command that does not end by itself in a process of its own."""
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
def prepared(tmp_path_factory: pytest.TempPathFactory) -> SiteAndHub:
    """A PACS with a table of its studies, a ward's images in folders, and a knowledge pack built as typed."""
    people = SiteAndHub(tmp_path_factory.mktemp("given"), PLAN)
    pixels, labels = phantoms.draw(40, 4, size=8, family="tissue")
    np.savez(people.folder / "public.npz", images=pixels, labels=labels, class_names=np.array(phantoms.TISSUES[:4]))
    np.savez(people.folder / "answers.npz", probabilities=np.eye(4, dtype=np.float32)[labels] * 0.6 + 0.1)
    asked = ("--public", "public.npz", "--source", "files:answers.npz", "--out", "pack.safetensors")
    succeeds(people.site("knowledge", "build", *asked))
    succeeds(
        people.site("knowledge", "start", "plan.toml", "pack.safetensors", "--out", "start.safetensors", *ONE_THREAD)
    )

    lines = ["SOPInstanceUID,label"]
    for index, (image, label) in enumerate(zip(*phantoms.draw(IMAGES, 2, size=8, difficulty=0.0), strict=True)):
        identifiers = {"SOPInstanceUID": generate_uid(), "PatientID": f"patient {index // 2}"}
        samples.dicom(people.folder / "pacs" / f"IM{index:04}", image.mean(2).astype(np.uint16), **identifiers)
        lines.append(f"{identifiers['SOPInstanceUID']},{LOCAL_NAMES[label]}")
    (people.folder / "pacs" / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    for index, (image, label) in enumerate(zip(*phantoms.draw(WARD, 2, size=24, seed=7, difficulty=0.0), strict=True)):
        samples.save(people.folder / "ward" / LOCAL_NAMES[label] / f"{index:02}.png", image)
    return people


@pytest.fixture(scope="module")
def by_stick(prepared: SiteAndHub, tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    folder = tmp_path_factory.mktemp("stick")
    hospital = Hospital(folder, ("--via", str(folder / "stick")), locked=False)
    hospital.ask_hub("init", "--plan", "plan.toml")
    hospital.ask_hub("exchange", hospital.stick)
    hospital.play(prepared.folder)
    return hospital


@pytest.fixture(scope="module")
def by_network(prepared: SiteAndHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("network")
    hospital = Hospital(folder, ())
    hospital.ask_hub("init", "--plan", "plan.toml")
    with http_front.running(folder / "hub") as port:
        hospital.route = ("--url", f"http://127.0.0.1:{port}")
        hospital.play(prepared.folder)
        yield hospital


@pytest.fixture(params=["by_stick", "by_network"])
def hospital(request: pytest.FixtureRequest) -> Hospital:
    chosen: Hospital = request.getfixturevalue(request.param)
    return chosen


# ----------------------------------------------------------------------------------------------- two rounds, two routes


def test_knowledge_show_lists_images_classes_and_sources_of_a_pack(prepared: SiteAndHub) -> None:
    shown = command.json_output(succeeds(prepared.site("knowledge", "show", "pack.safetensors", "--json")))
    assert (shown["images"], shown["classes"]) == (40, list(phantoms.TISSUES[:4]))
    (source,) = shown["sources"]
    assert (source["name"], source["accuracy"]) == ("files:answers.npz", 1.0)


def test_each_step_leads_to_the_next(hospital: Hospital) -> None:
    gone = ("sent", "fedhelp-edge upload") if "--via" in hospital.route else ("received", "fedhelp-edge download")
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


def test_stick_and_network_give_the_same_model_to_the_bit(by_stick: Hospital, by_network: Hospital) -> None:
    for round_ in ("first", "second"):
        assert by_stick.outputs[round_]["merged_sha256"] == by_network.outputs[round_]["merged_sha256"]
    assert by_stick.outputs["first"]["merged_sha256"] != by_stick.outputs["second"]["merged_sha256"]
    by_both = [hospital.ask("evaluate", *ONE_THREAD) for hospital in (by_stick, by_network)]
    assert by_both[0] == by_both[1]
    assert by_both[0]["round"] == 2


def test_the_phone_words_can_be_shown_again_and_belong_to_these_keys(hospital: Hospital) -> None:
    shown = hospital.outputs["join"]
    assert (shown["sent"], len(shown["words"])) == (True, 8)
    assert hospital.outputs["words"]["words"] == shown["words"]
    assert hospital.ask("keys", "words")["words"] != shown["words"]  # the words of the new keys


def test_the_coordinator_knows_the_hospital_by_name_and_tier(hospital: Hospital) -> None:
    (site,) = hospital.ask_hub("roster")["sites"]
    assert (site["id"], site["tier"], site["status"]) == ("site-001", "large", "active")
    federation = str(hospital.outputs["join"]["federation"])
    assert len(hospital.outputs["join"]["words"]) == 8
    assert (
        hospital.ask("keys", "words", "--federation", federation)["words"] != hospital.outputs["join"]["words"]
    )  # rotated


def test_images_with_other_class_names_are_ready_once_mapped(
    hospital: Hospital,
) -> None:
    unmapped, mapped, trained = (hospital.outputs[name] for name in ("unmapped", "check", "distill"))
    assert (unmapped["ready"], {problem["code"] for problem in unmapped["problems"]}) == (
        False,
        {"E_LABEL", "E_ONE_CLASS", "E_CLASS_MISSING"},
    )
    assert (mapped["ready"], mapped["images"], mapped["problems"]) == (True, IMAGES, [])
    assert (trained["tier"], trained["method"], trained["left_out"]) == ("large", "fedhelp", 0)
    assert trained["images"] == 3 * trained["examples"]  # in three epochs
    assert trained["examples"] == sum(part["train"] for part in mapped["parts"].values())
    assert set(trained["val"]) == {"own", "alone"}


def test_every_update_is_accepted_and_nothing_waits(hospital: Hospital) -> None:
    for round_ in ("first", "second"):
        outcome = hospital.outputs[round_]
        assert (outcome["accepted"], outcome["quarantined"], outcome["refused"]) == (["site-001"], [], [])
    status = hospital.ask("status")
    assert [(receipt["round"], receipt["state"]) for receipt in status["receipts"]] == [
        ("2", "accepted"),
        ("1", "accepted"),
    ]
    assert (status["round"], status["outbox"], status["orders_are_old"]) == (2, [], False)
    assert (hospital.outputs["sync"]["trained"], hospital.outputs["synced"]["trained"]) == (2, None)
    assert "model after round 2" in hospital.outputs["synced"]["new"]
    assert hospital.ask_hub("status")["state"] == "finished"


def test_an_exported_round_can_be_audited_without_any_key(hospital: Hospital, tmp_path: Path) -> None:
    hospital.ask_hub("audit", "export", "2", tmp_path / "round-2")
    report = command.json_output(succeeds(command.run_in_process("audit", "round-2", "--json", home=tmp_path)))
    (update,) = hospital.outputs["sync"]["sent"]
    assert report["merged"] == [{"site": "site-001", "update": update, "share": update, "state": "accepted"}]
    assert report["merged_sha256"] == hospital.outputs["second"]["merged_sha256"]
    assert (report["round"], report["others"]) == (2, [])
    largest = max((tmp_path / "round-2").rglob("*.fhx"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    assert command.error_code(command.run_in_process("audit", "round-2", home=tmp_path)).startswith("E_")


@pytest.mark.parametrize("kind", ["charter", "roster", "task", "global", "receipt"])
def test_a_received_parcel_is_trusted_here_and_elsewhere_only_intact(kind: str, hospital: Hospital) -> None:
    newest = max((hospital.folder / "site" / kind).glob("*.fhx"))
    inspected = hospital.ask("inspect", newest)
    assert (inspected["kind"], inspected["whole"], inspected["trusted"], inspected["why"]) == (kind, True, True, "")
    inspected = hospital.ask("inspect", newest, "--home", OTHER_HOME)
    assert (inspected["kind"], inspected["whole"], inspected["trusted"]) == (kind, True, False)
    assert "joined no federation" in inspected["why"]


def test_new_keys_are_used_once_a_roster_names_them(hospital: Hospital) -> None:
    assert hospital.outputs["has new keys"]["new"][0] == "roster 3"
    now = hospital.ask("keys", "show")
    assert hospital.outputs["keys"]["locked"] is now["locked"] is hospital.locked
    assert now["fingerprint"] != hospital.outputs["keys"]["fingerprint"]
    assert hospital.outputs["old"]["signer"] == hospital.outputs["keys"]["fingerprint"]
    assert hospital.outputs["new"]["signer"] == now["fingerprint"]


# ---------------------------------------------------------------------------------------------- afterwards, at the site


def test_a_model_signed_with_old_keys_is_exported_again_or_trusted_by_its_named_signer(
    by_stick: Hospital, prepared: SiteAndHub, tmp_path: Path
) -> None:
    ask = ("old.onnx", prepared.folder / "ward")
    fails_with(by_stick.site("predict", *ask), "E_SIGNER_UNKNOWN", "export it again here")
    assert by_stick.predict(*ask, "--signer", by_stick.outputs["keys"]["fingerprint"])["model"]["trusted"] is True
    again = by_stick.ask("export", "--anyway", "--round", "1", "--out", tmp_path / "again.onnx", *ONE_THREAD)
    assert again["round"] == by_stick.outputs["old"]["round"] == 1
    assert again["figures"] == by_stick.outputs["old"]["figures"]
    predicted = by_stick.predict(tmp_path / "again.onnx", prepared.folder / "ward")
    assert predicted["model"]["trusted"] is True


def test_evaluate_measures_the_test_set_or_other_images_and_writes_figures_and_a_page(
    by_stick: Hospital, prepared: SiteAndHub, tmp_path: Path
) -> None:
    test = sum(part["test"] for part in by_stick.outputs["check"]["parts"].values())
    assert by_stick.ask("evaluate", *ONE_THREAD)["own"]["images"] == test
    figures = by_stick.ask(
        "evaluate", "--images", prepared.folder / "ward", "--out", tmp_path / "measured", *ONE_THREAD
    )
    page = Path(figures.pop("page"))
    assert figures["own"]["images"] == WARD  # of which half is called naevus
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8")) == figures
    shown = succeeds(by_stick.site("evaluate", "--images", prepared.folder / "ward", *ONE_THREAD)).stdout
    chosen = figures[figures["chosen"]]["accuracy"]["value"]
    assert f"accuracy            {chosen:.3f}" in shown
    assert f"{chosen:.3f}" in page.read_text(encoding="utf-8")


def test_the_nets_are_exported_together_as_the_validation_images_weigh_them(by_stick: Hospital) -> None:
    exported = by_stick.outputs["new"]
    assert set(exported["figures"]) - {"kept"} == {"own", "alone", "merged", "average"}
    weighing = exported["weighing"]
    assert set(weighing["weights"]) <= {"own", "alone", "merged"}
    assert exported["net"] == ("kept" if len(weighing["weights"]) > 1 else next(iter(weighing["weights"])))
    assert sum(weighing["weights"].values()) == pytest.approx(1, abs=1e-3)
    gain = weighing["gain"]["accuracy"]
    assert (gain["value"] is None) == bool(gain["reason"])
    assert exported["parity"] < 1e-4
    assert exported["test"]["images"] == sum(part["test"] for part in by_stick.outputs["check"]["parts"].values())
    evaluated = by_stick.ask("inspect", "new.onnx")
    assert (evaluated["kind"], evaluated["whole"], evaluated["trusted"]) == ("bundle", True, True)
    assert (evaluated["sha256"], evaluated["round"], evaluated["net"]) == (exported["sha256"], 2, exported["net"])


def test_an_int8_model_is_exported_only_where_it_is_worth_it(by_stick: Hospital, tmp_path: Path) -> None:
    exported = by_stick.ask("export", "--anyway", "--int8", "--out", tmp_path / "small.onnx", *ONE_THREAD)
    assert (exported["precision"] == "int8") == (not exported["int8"]["why"])
    assert by_stick.ask("inspect", tmp_path / "small.onnx")["precision"] == exported["precision"]


def test_two_models_are_compared_on_images_that_neither_was_trained_on(
    by_stick: Hospital, prepared: SiteAndHub
) -> None:
    by_stick.ask("export", "--anyway", "--round", "1", "--out", "first.onnx", *ONE_THREAD)
    pacs = by_stick.ask("compare", "first.onnx", "new.onnx", prepared.folder / "pacs")
    test = sum(part["test"] for part in by_stick.outputs["check"]["parts"].values())
    assert (pacs["images"], pacs["left_out"]) == (test, IMAGES - test)
    ward = by_stick.ask("compare", "first.onnx", "new.onnx", prepared.folder / "ward")
    assert (ward["images"], ward["left_out"]) == (WARD, 0)
    assert (ward["old"]["round"], ward["new"]["round"]) == (1, 2)
    assert sum(row["new"] - row["old"] for row in ward["classes"]) == ward["better"] - ward["worse"]
    shown = succeeds(by_stick.site("compare", "first.onnx", "new.onnx", prepared.folder / "ward")).stdout
    assert shown.splitlines()[-1] == ward["verdict"]


@pytest.fixture(scope="module")
def answers(by_stick: Hospital, prepared: SiteAndHub) -> dict[str, Any]:
    """What the model says of the PACS and the ward, as JSON."""
    return by_stick.predict("new.onnx", prepared.folder / "pacs", prepared.folder / "ward")


def test_table_csv_and_html_give_the_answers_of_json(
    by_stick: Hospital, prepared: SiteAndHub, answers: dict[str, Any], tmp_path: Path
) -> None:
    rows = answers["results"]
    assert len(rows) == IMAGES + WARD
    assert {row["error"] for row in rows} == {None}
    assert len({row["answer"] for row in rows}) > 1
    asked = ("predict", "new.onnx", prepared.folder / "pacs", prepared.folder / "ward", "--format")

    _, *lines = succeeds(by_stick.site(*asked, "table")).stdout.splitlines()
    of_files = [line.split()[:2] for line in lines if line[0] != " "]
    assert of_files == [[row["file"], row["answer"] or row["verdict"]] for row in rows]

    sheet = list(csv.DictReader(io.StringIO(succeeds(by_stick.site(*asked, "csv")).stdout)))
    assert [(row["file"], row["answer"] or None, row["reason"]) for row in sheet] == [
        (row["file"], row["answer"], row["reason"]) for row in rows
    ]
    for name in ("MEL", "NV"):
        assert [row[f"p({name})"] for row in sheet] == [
            "" if row["verdict"] == "unlike" else str(row["probabilities"][name]) for row in rows
        ]
    assert {(row["model"], row["trusted"]) for row in sheet} == {(answers["model"]["sha256"], "yes")}

    progress = succeeds(by_stick.site(*asked, "html", "--out", tmp_path / "out")).stderr
    assert progress.startswith(f"{sum(row['answer'] is not None for row in rows)} of {len(rows)} images answered")
    page = html.unescape((tmp_path / "out" / "answers.html").read_text(encoding="utf-8"))
    expected = [f"Answer: {row['answer']}." if row["answer"] else f"Don't know: {row['reason']}." for row in rows]
    assert re.findall(r"<p>((?:Answer|Don't know): .*)</p>", page) == expected


def test_another_computer_gives_the_same_answers_but_does_not_trust_the_model(
    by_stick: Hospital, prepared: SiteAndHub, answers: dict[str, Any]
) -> None:
    """The words shown are those that the hospital's own computer shows for the key."""
    ask = ("new.onnx", prepared.folder / "pacs", prepared.folder / "ward", "--home", OTHER_HOME)
    predicted = by_stick.predict(*ask)
    assert (answers["model"]["trusted"], predicted["model"]["trusted"]) == (True, False)
    assert predicted["results"] == answers["results"]
    (signer,) = by_stick.ask("inspect", "new.onnx")["signers"]
    assert signer["fingerprint"] == by_stick.ask("keys", "show")["fingerprint"] == predicted["model"]["signer"]
    assert predicted["model"]["words"] == signer["words"]
    assert len(signer["words"].split()) == 8
    assert f"in words: {signer['words']}" in succeeds(by_stick.site("predict", *ask)).stderr
    assert by_stick.predict(*ask, "--signer", signer["fingerprint"])["model"]["trusted"] is True
    old = by_stick.outputs["keys"]["fingerprint"]
    fails_with(by_stick.site("predict", *ask, "--signer", old), "E_SIGNER_MISMATCH", "")


def test_another_computer_with_the_restored_keys_trusts_the_model(
    by_network: Hospital, prepared: SiteAndHub, tmp_path: Path
) -> None:
    succeeds(by_network.site("keys", "backup", tmp_path / "backup.txt"))
    succeeds(by_network.site("keys", "restore", tmp_path / "backup.txt", "--home", tmp_path / "new-pc"))
    assert by_network.ask("keys", "show", "--home", tmp_path / "new-pc") == by_network.ask("keys", "show")
    ask = ("new.onnx", prepared.folder / "ward", "--home", tmp_path / "new-pc")
    assert by_network.predict(*ask)["model"]["trusted"] is True


def test_the_page_answers_a_dropped_image_as_predict_does(
    by_stick: Hospital, prepared: SiteAndHub, answers: dict[str, Any]
) -> None:
    picture = prepared.folder / "pacs" / "IM0000"
    (row,) = (row for row in answers["results"] if row["file"].endswith(picture.name))
    with by_stick.started("serve", "new.onnx", "--no-browser", "--language", "en", *ONE_THREAD) as process:
        assert process.stderr
        assert process.stderr.readline() == "the page is at\n"  # it is trusted: no warning before
        link = process.stderr.readline().strip()
        with urllib.request.urlopen(link) as response:
            assert 'type="file"' in response.read().decode()
        with urllib.request.urlopen(link, form((picture.name, picture.read_bytes()))) as response:
            page = html.unescape(response.read().decode())
        urllib.request.urlopen(link + "end", b"").close()
        assert process.wait(60) == 0
    head = f"Answer: {row['answer']}" if row["answer"] else f"Don't know: {row['reason']}"
    shown = re.findall("<h2[^>]*>(.*?)</h2>", page)[0]
    assert re.sub("<svg.*?</svg>", "", shown) == head


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_watched_folder_is_answered_as_files_arrive_until_ctrl_c(
    by_stick: Hospital, prepared: SiteAndHub, answers: dict[str, Any], tmp_path: Path
) -> None:
    drop, page = tmp_path / "drop", tmp_path / "out" / "answers.json"
    drop.mkdir()
    watch = ("predict", "new.onnx", "--watch", drop, "--out", page.parent, "--format", "json", *ONE_THREAD)
    with by_stick.started(*watch) as process:
        assert process.stderr
        assert process.stderr.readline().startswith("waiting for images")
        shutil.copy(prepared.folder / "pacs" / "IM0000", tmp_path / "IM0000")
        os.utime(tmp_path / "IM0000", (0, 0))  # the file is complete
        (tmp_path / "IM0000").rename(drop / "IM0000")
        assert process.stderr.readline() == "1 new, 0 of them bad\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    (row,) = json.loads(page.read_text(encoding="utf-8"))["results"]
    (expected,) = (row for row in answers["results"] if row["file"].endswith("IM0000"))
    assert row["probabilities"] == expected["probabilities"]
