"""The demo with small nets and few images: a real federation whose page shows what happened and suggests next steps."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedhelp_edge import cli, shell  # noqa: E402
from fedhelp_edge import plan as plans  # noqa: E402
from fedhelp_edge.data import loading  # noqa: E402
from fedhelp_edge.data import pack as packs  # noqa: E402
from fedhelp_edge.demo import phantoms, play  # noqa: E402
from fedhelp_edge.errors import FedhelpError, TargetExistsError, UsageError  # noqa: E402
from fedhelp_edge.lab import run  # noqa: E402
from fedhelp_edge.lab.partition import SiteImages  # noqa: E402
from fedhelp_edge.methods.registry import METHODS  # noqa: E402
from fedhelp_edge.parcel import parcel  # noqa: E402
from fedhelp_edge.report import nets  # noqa: E402
from fedhelp_edge.train import machine  # noqa: E402
from server_ref import cli as coordinator  # noqa: E402
from tests import command  # noqa: E402
from tests.unit.report import reading  # noqa: E402

SMALL = (
    play.PLAN.replace("size = 24", "size = 8")
    .replace("epochs = 6", "epochs = 1")
    .replace('large = "resnet32"', 'small = "resnet8"\nlarge = "resnet20"')
)  # of images, and of the public ones


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("PLAN", SMALL), ("TRAIN_COUNTS", (16, 8, 8, 8)), ("VAL_COUNT", 6), ("TEST_COUNT", 12)):
            patch.setattr(play, name, value)
        for name in ("PUBLIC_COUNT", "SOURCE_COUNT"):
            patch.setattr(play, name, 12)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    out, lines = tmp_path_factory.mktemp("demo") / "played", []
    return out, play.play(out, lines.append, lambda _: None, threads=1), lines


def type_(words: list[str]) -> None:
    """Runs a command line in this process."""
    package, module = {
        "fedhelp-edge": ("fedhelp_edge.cli", cli),
        "fedhelp-coordinator": ("server_ref.cli", coordinator),
    }[words[0]]
    shell.command_group(package, module.COMMANDS, words[0], "", "").main(args=words[1:], standalone_mode=False)


def test_the_demos_model_equals_that_of_the_lab(played: tuple[Path, dict[str, Any], list[str]], tmp_path: Path) -> None:
    out, record, _ = played
    plan = plans.load(out / "plan.toml", METHODS)
    parts = [
        SiteImages(
            f"site-{number:03}",
            site["name"],
            site["tier"],
            loading.load(out / "images" / folder, plan, state_dir=tmp_path / folder),
        )
        for number, (site, folder) in enumerate(zip(record["sites"], sorted_by_site(out), strict=True), 1)
    ]
    pack = packs.load(out / "pack.safetensors").for_plan(plan)
    machine.configure(1)
    assert (
        run.run(plan, parts, tmp_path / "lab", compute=machine.compute(), pack=pack)["merged_sha256"]
        == record["merged_sha256"]
    )


def sorted_by_site(out: Path) -> list[str]:
    names = [path.name for path in (out / "images").iterdir()]
    return sorted(names, key=lambda name: (name != "hospital", name))


def test_the_demo_lists_every_real_parcel(
    played: tuple[Path, dict[str, Any], list[str]],
) -> None:
    out, record, _ = played
    listed = {row["hash"] for row in record["parcels"]}
    carried = {path.stem for path in (out / "carrier").rglob("*.fhx")}
    assert carried < listed  # parcels that nobody needs any more were removed
    counts = {kind: sum(row["kind"] == kind for row in record["parcels"]) for kind in ("enrol", "update", "task")}
    assert counts == {"enrol": 4, "update": 8, "task": 2}
    for row in record["parcels"]:
        path = out / "hub" / "parcels" / row["hash"][:2] / f"{row['hash']}.fhx"
        assert parcel.inspect(path, parcel.any_signer).statement.kind == row["kind"]


def test_the_page_shows_figures_a_parcel_and_attacks_on_it(
    played: tuple[Path, dict[str, Any], list[str]],
) -> None:
    out, record, _ = played
    page = (out / "report.html").read_text(encoding="utf-8")
    saved = json.loads((out / "results.json").read_text())
    assert saved["sites"] == record["sites"]
    command.check_schema("fedhelp-edge demo", {**saved, "folder": str(out), "report": str(out / "report.html")})
    worth, curve, kinds, _, life, tried = reading.tables(page)
    assert page.count('class="answer"') == 6
    assert [row[0] for row in worth[1:]] == list(play.SITES)
    assert [row[2:5] for row in worth[1:]] == [
        [
            nets.accuracy_text(site[net], site["test"]).replace(" (", "\n(").replace(", ", ",\n")
            for net in ("alone", "together", "kept")
        ]
        for site in record["sites"]
    ]
    assert [row[0] for row in curve] == ["round", "0", "1", "2"]
    assert ["updates from the sites", "8"] in [row[:2] for row in kinds]
    assert len(life) == 5
    assert [row[1].split(":")[0] for row in tried[1:]] == [
        "E_NO_MATCH", "E_PAYLOAD_HASH", "E_SIGNER_MISMATCH", "recognised",
    ]  # fmt: skip
    assert not re.search(r"<script|<link|http:|https:|url\(", page)
    assert 'src="data:image/png' in page
    for name in ("hospital", "clinic-a", "clinic-b", "clinic-c"):
        assert (out / "models" / f"{name}.onnx.sig").exists()


def test_the_next_steps_on_the_page_work(
    played: tuple[Path, dict[str, Any], list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _, _ = played
    monkeypatch.chdir(out)
    monkeypatch.setenv("FEDHELP_HOME", str(out / "nowhere"))
    commands = re.findall(r"<code>(.*?)</code>", (out / "report.html").read_text(encoding="utf-8"))
    assert len(commands) == 6
    for line in commands:
        type_(shlex.split(unescape(line)))
        assert capsys.readouterr().out, line


def test_own_images_are_distributed_among_the_sites(tmp_path: Path) -> None:
    pixels, labels = phantoms.draw(90, 2, size=8)
    np.savez(tmp_path / "own.npz", images=pixels, labels=labels, class_names=np.array(["yes", "no"]))
    record = play.play(
        tmp_path / "out",
        lambda _: None,
        lambda _: None,
        images=tmp_path / "own.npz",
        method="fedavg",
        round_count=1,
        threads=1,
    )
    assert sum(site["images"] + site["test"] for site in record["sites"]) < 90
    assert min(site["images"] for site in record["sites"]) >= 10
    assert {path.name for path in (tmp_path / "out" / "images" / "hospital" / "train").iterdir()} == {"yes", "no"}
    assert "The images are yours" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_person_sees_which_site_got_other_numbers_because_patients_stay_together(tmp_path: Path) -> None:
    pixels, labels = phantoms.draw(90, 2, size=8)
    patients = np.array([f"patient {index // 9}" for index in range(90)])
    np.savez(tmp_path / "own.npz", images=pixels, labels=labels, groups=patients)
    plan = plans.read(play.PLAN.format(classes='["0", "1"]', method="fedavg", rounds=1), METHODS)
    lines: list[str] = []
    dealt = play._deal_images(tmp_path / "own.npz", plan, tmp_path / "state", lines.append)
    assert len(dealt) == 4
    assert any("whole groups do not fit the sizes: site" in line for line in lines)


def test_a_foreign_folder_stays_and_an_interrupted_demo_starts_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    with pytest.raises(TargetExistsError, match="mine exists already"):
        play.play(tmp_path / "mine", print, lambda _: None)
    (tmp_path / "cut").mkdir()
    for name in ("unfinished", "hub"):
        (tmp_path / "cut" / name).touch()
    play._start_folder(tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["unfinished"]


def test_a_class_that_cannot_name_a_folder_is_refused(tmp_path: Path) -> None:
    pixels, labels = phantoms.draw(8, 2, size=8)
    np.savez(tmp_path / "own.npz", images=pixels, labels=labels, class_names=np.array(["yes", "../no"]))
    with pytest.raises(UsageError, match="cannot be the name of a folder"):
        play.play(tmp_path / "out", print, lambda _: None, images=tmp_path / "own.npz")


@pytest.mark.parametrize("method", ["local", "nonsense"])
def test_a_method_without_a_federation_is_refused_before_anything_is_written(method: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of fedhelp, fedavg, fedprox"):
        play.play(tmp_path / "out", print, lambda _: None, method=method)
    assert not (tmp_path / "out").exists()


def test_too_few_images_are_refused_with_the_number_needed(tmp_path: Path) -> None:
    pixels, labels = phantoms.draw(20, 2, size=8)
    np.savez(tmp_path / "few.npz", images=pixels, labels=labels)
    with pytest.raises(UsageError, match="20 usable images; four sites need 80"):
        play.play(tmp_path / "out", lambda _: None, lambda _: None, images=tmp_path / "few.npz")


# --- masks ------------------------------------------------------------------------------------------------------------
def test_the_demo_for_masks_outlines_cells_and_its_next_steps_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = play.MASKS_PLAN.replace("size = 24", "size = 8").replace("epochs = 6", "epochs = 1")
    monkeypatch.setattr(play, "MASKS_PLAN", tiny.replace('"unet16"', '"unet8"'))
    out = tmp_path / "played"
    type_(["fedhelp-edge", "demo", "--task", "segmentation", "--rounds", "1", "--out", str(out)])
    assert "Dice on its test images" in capsys.readouterr().out
    record = json.loads((out / "results.json").read_text())
    command.check_schema("fedhelp-edge demo", {**record, "folder": str(out), "report": str(out / "report.html")})
    assert record["task"] == "segmentation"
    assert packs.load(out / "pack.safetensors").probabilities.shape == (1, 12, 3, 8, 8)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('class="answer"') == 6
    assert "The mean Dice on a site" in page
    monkeypatch.chdir(out)
    monkeypatch.setenv("FEDHELP_HOME", str(out / "nowhere"))
    commands = [unescape(line) for line in re.findall(r"<code>(.*?)</code>", page)]
    for line in (line for line in commands if "predict" in line or "check" in line):  # the others are as for classes
        type_(shlex.split(line))
        assert capsys.readouterr().out, line


def test_own_images_and_unknown_tasks_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
    for task, images, cause in (
        ("detection", None, "the task is one of"),
        ("segmentation", tmp_path, "images with masks are not divided"),
        ("classification", tmp_path / "pairs", "images with masks are not divided"),
    ):
        with pytest.raises(UsageError, match=cause):
            play.play(tmp_path / "out", print, lambda _: None, task=task, images=images)
    with pytest.raises(FedhelpError, match="fedmd"):
        play.play(tmp_path / "out", print, lambda _: None, task="segmentation", method="fedmd")
    assert not (tmp_path / "out").exists()


def test_masks_of_phantoms_lie_where_cells_and_nuclei_are() -> None:
    images, masks = phantoms.draw_outlined(12, size=48, difficulty=0.0)
    drawn, _ = phantoms.draw(12, len(phantoms.CLASSES), size=48, difficulty=0.0)
    assert np.array_equal(images, drawn)
    darkness = 255 - images.mean(3)
    nucleus, cell, around = (darkness[masks == label].mean() for label in (2, 1, 0))
    assert nucleus > cell + 20
    assert nucleus > around + 20
    assert all(set(np.unique(mask)) == {0, 1, 2} for mask in masks)
