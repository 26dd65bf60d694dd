"""`lab run` and `lab compare` on a few small phantoms."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from fedhelp_edge.data import pack as packs
from fedhelp_edge.demo import phantoms
from fedhelp_edge.lab import compare
from fedhelp_edge.methods import registry
from tests import command
from tests.command import error_code, json_output, run_in_process
from tests.threads import one_thread  # noqa: F401 - a fixture
from tests.unit.methods import toy

PLAN = """classes = ["round", "lobed", "granular"]
method = "fedavg"
rounds = 1
[image]
size = 8
[nets]
small = "resnet8"
large = "resnet8"
[training]
epochs = 1
batch = 8
precision = "fp32"
[public]
size = 8
"""
ROOT = Path(__file__).parents[3]
RUN = ("lab", "run", "plan.toml", "--data", "images.npz", "--out", "out", "--threads", "1")
COMPARE = ("lab", "compare", "plan.toml", "--data", "images.npz", "--out", "out", "--threads", "1")


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than runs of this size."""
    monkeypatch.setattr(compare, "can_plot", lambda: False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A plan, images of two centres, and a pack."""
    arrays = {}
    for part, count in (("train", 16), ("val", 4), ("test", 12)):
        drawn = [phantoms.draw(count, 3, size=8, site=site, seed=count) for site in (1, 2)]
        arrays[f"{part}_images"] = np.concatenate([pixels for pixels, _ in drawn])
        arrays[f"{part}_labels"] = np.concatenate([labels for _, labels in drawn]).astype(np.uint8)
        arrays[f"{part}_centers"] = np.repeat([1, 2], count)
    np.savez(tmp_path / "images.npz", class_names=np.array(phantoms.CLASSES[:3]), **arrays)
    pixels, labels = phantoms.draw(8, 4, size=8, family="tissue")
    probabilities = np.full((1, 8, 4), 0.25, np.float16)
    packs.save(tmp_path / "pack", packs.Pack(pixels, labels, phantoms.TISSUES[:4], ("files:a",), probabilities))
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def test_run_trains_a_federation_of_the_centres_and_reports_each_sites_figures(home: Path) -> None:
    (record,) = json_output(run_in_process(*RUN, "--json", home=home))["runs"]
    assert record["method"] == "fedavg"
    assert [(site["name"], site["n_train"], site["n_test"]) for site in record["sites"]] == [
        ("1", 16, 12),
        ("2", 16, 12),
    ]
    assert json.loads((home / "out" / "run.json").read_text()) == record


def test_run_tells_people_where_the_results_are(home: Path) -> None:
    done = run_in_process(
        *RUN, "--set", "method=fedhelp", "--knowledge", "pack", "--split", "sizes:20/10,10/5", home=home
    )
    assert done.returncode == 0, done.stderr
    assert "round 1 of 1" in done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["site", "1"], ["site", "2"]]
    assert ("large" in lines[0], "small" in lines[1]) == (True, True)
    assert lines[-1] == f"results: {Path('out') / 'run.json'}"


def test_run_puts_wrong_labels_on_training_images_and_records_it(home: Path) -> None:
    noise = ("--noise", "site-002=pairflip:0.5")
    (clean,) = json_output(run_in_process(*RUN, "--json", home=home))["runs"]
    (noisy,) = json_output(run_in_process(*RUN, "--out", "noisy", *noise, "--json", home=home))["runs"]
    first, second = noisy["sites"]
    assert "noise" not in first
    assert (second["noise"], 0 < second["flipped"] < 16) == ("pairflip:0.5", True)
    assert noisy["merged_sha256"] != clean["merged_sha256"]
    assert error_code(run_in_process(*RUN, *noise, home=home)) == "E_FILE_EXISTS"  # another run's folder


def test_a_sealed_run_ends_with_the_same_model_and_sends_more_bytes(home: Path) -> None:
    (bare,) = json_output(run_in_process(*RUN, "--json", home=home))["runs"]
    (sealed,) = json_output(run_in_process(*RUN, "--out", "sealed", "--sealed", "--json", home=home))["runs"]
    assert sealed["merged_sha256"] == bare["merged_sha256"]
    assert sealed["bytes_up"] > bare["bytes_up"]


def test_public_images_from_an_npz_or_a_folder_are_used_for_training(home: Path) -> None:
    pixels, labels = phantoms.draw(12, 3, size=12, family="tissue")
    np.savez(home / "public.npz", images=pixels, labels=labels)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = home / "public" / phantoms.TISSUES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    models = set()
    for out, more in (("none", ()), ("npz", ("--public", "public.npz")), ("folder", ("--public", "public"))):
        done = run_in_process(*RUN, "--set", "method=fedhelp", "--out", out, *more, "--json", home=home)
        models.add(json_output(done)["runs"][0]["merged_sha256"])
    assert len(models) == 3


def test_a_site_without_test_images_has_no_accuracy(home: Path) -> None:
    with np.load(home / "images.npz") as held:
        arrays = dict(held)
    arrays["test_centers"] = np.ones_like(arrays["test_centers"])
    np.savez(home / "images.npz", **arrays)
    done = run_in_process(*RUN, home=home)
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:2]] == ["-"]


def test_without_matplotlib_compare_names_the_package_for_plots(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run_in_process(*COMPARE, "--methods", "local", home=home)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "for curves.png and cost.png: pip install 'fedhelp-edge[lab]'"
    assert (home / "out" / "table.md").exists()
    assert not (home / "out" / "curves.png").exists()


@pytest.mark.usefixtures("without_pictures")
def test_compare_writes_the_table_that_it_prints_and_continues_where_it_stopped(home: Path) -> None:
    words = (*COMPARE, "--methods", "fedavg,local", "--seeds", "0,1")
    done = run_in_process(*words, home=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (home / "out" / "table.md").read_text(encoding="utf-8").strip()
    held = json.loads((home / "out" / "results.json").read_text())
    again = run_in_process(*words, "--json", home=home)
    assert json_output(again)["runs"] == held["runs"]
    assert "round" not in again.stderr  # nothing was trained again
    expected = [("fedavg", 0), ("fedavg", 1), ("local", 0), ("local", 1)]
    assert [(run_["method"], run_["seed"]) for run_ in held["runs"]] == expected


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (("--data", "gone.npz"), "E_FILE_MISSING"),
        (("--split", "random"), "E_USAGE"),
        (("--split", "sizes:1000/10"), "E_USAGE"),
        (("--split", "dirichlet:x"), "E_USAGE"),
        (("--split", "dirichlet:1", "--sites", "-1"), "E_USAGE"),
        (("--set", "method=fedbest"), "E_USAGE"),
        (("--set", "fedhelp.lambda_x=1"), "E_USAGE"),
        (("--knowledge", "gone"), "E_FILE_MISSING"),
        (("--public", "gone.npz"), "E_FILE_MISSING"),
        (("--public", "plan.toml"), "E_NO_IMAGES"),
        (("--public", "images.npz", "--knowledge", "pack"), "E_USAGE"),
        (("--engine", "flower"), "E_USAGE"),
        (("--knowledge", "plan.toml"), "E_PACK"),
        (("--start", "gone"), "E_FILE_MISSING"),
        (("--start", "pack"), "E_SCHEMA_SHAPE"),
        (("--start", "other"), "E_SCHEMA_SHAPE"),
    ],
)
def test_bad_input_to_run_is_refused_with_a_code(home: Path, changed: tuple[str, ...], code: str) -> None:
    save_file({"linear.weight": np.zeros((10, 64), np.float32)}, home / "other")
    assert error_code(run_in_process(*RUN, *changed, home=home)) == code
    assert not (home / "out" / "run.json").exists()


def test_a_folder_of_results_refuses_other_sites_whatever_input_changed(home: Path) -> None:
    assert run_in_process(*RUN, home=home).returncode == 0
    with np.load(home / "images.npz") as held:
        known = dict(held)

    def refused(*words: str, **arrays: np.ndarray) -> str:
        """What differs, by the same words of two commands; the second would begin a new run in the folder."""
        np.savez(home / "images.npz", **{**known, **arrays})
        done = run_in_process(*RUN, *words, home=home)
        assert done.stderr == run_in_process(*COMPARE, "--methods", "fedprox", *words, home=home).stderr
        assert error_code(done) == "E_FILE_EXISTS"
        assert "round 1 of 1" not in done.stderr
        return done.stderr.split("distribution of images: the ")[1].split(" differ\n")[0]

    sites, moved = "sites or their tiers", {}
    for name in ("images", "labels", "centers"):
        moved[f"train_{name}"] = known[f"train_{name}"][:-1]
        moved[f"test_{name}"] = np.concatenate([known[f"train_{name}"][-1:], known[f"test_{name}"]])
    assert refused(**moved) == "splits"
    assert refused(train_groups=np.arange(32) // 2, val_groups=np.arange(8) + 50, test_groups=np.arange(24) + 90) == (
        "patients"
    )
    assert refused(train_centers=known["train_centers"][::-1]) == sites
    assert refused(train_labels=(known["train_labels"] + 1) % 3) == "labels"
    assert refused("--noise", "symmetric:0.5") == "labels"
    assert refused(**{name: array[1:] for name, array in known.items() if name.startswith("val_")}) == "images"
    for words in (("--split", "dirichlet:1"), ("--split", "labels:2", "--sites", "3"), ("--large", "0")):
        assert refused(*words) == sites


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (("--methods", "fedavg,fedbest"), "E_USAGE"),
        (("--methods", "fedavg+mu=1"), "E_USAGE"),
        (("--methods", "fedavg", "--seeds=-1"), "E_USAGE"),
        (("--methods", "fedavg", "--seeds", "0,one"), "E_USAGE"),
        (("--methods", "fedavg", "--seeds", ""), "E_USAGE"),
        ((), "E_USAGE"),
    ],
)
def test_bad_input_to_compare_is_refused_with_a_code(home: Path, changed: tuple[str, ...], code: str) -> None:
    assert error_code(run_in_process(*COMPARE, *changed, home=home)) == code
    assert not (home / "out" / "runs").exists()  # nothing is trained before all input is checked


def test_a_mistake_in_an_option_is_not_the_plans_and_comes_before_images_are_read(home: Path) -> None:
    options = ("--methods", "local,fedavg+wire.nrm=local", "--data", "gone.npz")
    done = run_in_process(*COMPARE, *options, home=home)
    assert "E_USAGE: fedavg+wire.nrm=local: [wire] nrm: no such key; do you mean" in done.stderr
    assert "line" not in done.stderr
    (home / "plan.toml").write_text(PLAN + "colour = 3\n")
    assert error_code(run_in_process(*COMPARE, *options, home=home)) == "E_PLAN"  # the file's own come first


def test_images_with_other_names_of_classes_are_mapped(home: Path) -> None:
    names = ["Rund", "lobed", "granular"]
    np.savez(home / "images.npz", **{**np.load(home / "images.npz"), "class_names": np.array(names)})
    assert "Rund" not in run_in_process(*RUN, "--map", "Rund=round", home=home).stderr
    sites = json.loads((home / "out" / "run.json").read_text())["sites"]
    assert [site["n_train"] for site in sites] == [16, 16]


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ('{__name__}:Toy"', '{__name__}:Gone"', "toy_method has no 'Gone'"),
        ("-> dict[str, Array]:\n", "-> dict[str, Array]:\n    raise RuntimeError('of shapes')\n",
         "method 'toy' fails: RuntimeError: of shapes"),
    ],
)  # fmt: skip
def test_a_fault_of_another_packages_method_is_said_to_be_its_own(
    home: Path, before: str, after: str, cause: str
) -> None:
    with toy.installed(home) as file:
        file.write_text(file.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
        done = run_in_process(*RUN, "--set", "method=toy", "--knowledge", "pack", home=home)
    assert f"error: E_PLUGIN: {cause}" in done.stderr


def test_a_missing_plan_is_an_error(home: Path) -> None:
    (home / "plan.toml").unlink()
    assert error_code(run_in_process(*RUN, home=home)) == "E_FILE_MISSING"


@pytest.mark.usefixtures("without_pictures")
def test_table_computes_the_same_table_and_report_again_from_results_and_answers_alone(home: Path) -> None:
    methods = "local,fedavg+lowrank.rank=2"
    done = run_in_process(*COMPARE, "--methods", methods, "--seeds", "0,1,01", home=home)  # a seed counts once
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('fedavg+lowrank.rank=2: [lowrank] does nothing with up = "f32" in [wire]') == 1
    out = home / "out"
    before = {name: (out / name).read_bytes() for name in ("table.md", "report.html")}
    for path in out.iterdir():
        if path.name not in ("results.json", "answers.npz"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert json_output(run_in_process("lab", "table", "out", "--json", home=home)) == {
        "schema_version": 1,
        "runs": 4,
        "planned": 4,
        "complete": True,
    }
    assert {name: (out / name).read_bytes() for name in before} == before


@pytest.mark.usefixtures("without_pictures")
def test_each_run_says_where_it_comes_from(home: Path) -> None:
    command = (*COMPARE, "--methods", "fedavg", "--set", "round.patience=7", "--noise", "symmetric:0.5")
    (record,) = json_output(run_in_process(*command, "--json", home=home))["runs"]
    provenance = record["provenance"]
    assert provenance["plan"] == PLAN
    assert provenance["settings"]["round"]["patience"] == 7
    assert provenance["command"] == shlex.join(["fedhelp-edge", *command, "--json"])
    assert (provenance["split"], provenance["noise"]) == ("natural:centers", ["symmetric:0.5"])
    assert provenance["versions"]["torch"] == torch.__version__
    assert [provenance["machine"][name] for name in ("threads", "device", "precision")] == [1, "cpu", "fp32"]
    elsewhere = ("--data", str(home / "images.npz"), "--out", str(home.parent / "secret" / "other"), "--json")
    other = json_output(run_in_process(*command[:-2], *elsewhere, home=home))["runs"][0]["provenance"]
    assert other["command"].endswith("round.patience=7 --data images.npz --out other --json")
    written = [path.read_text() for path in (home.parent / "secret" / "other").glob("*.[hjm]*")]
    assert len(written) == 4  # results, page, table and sites
    assert not [text for text in written if str(home.parent) in text]
    assert other["data_sha256"] != provenance["data_sha256"]  # the labels differ
    assert record["peak_memory"] > 1e7
    assert [point["seconds"] for point in record["curve"]][-1] <= record["seconds"]
    assert record["curve"][-1]["bytes_up"] == record["bytes_up"]


@pytest.mark.usefixtures("without_pictures")
def test_all_methods_are_compared_and_one_that_cannot_run_here_is_left_out_with_its_reason(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pack, a method that works on public images cannot run."""
    three = {name: registry.METHODS[name] for name in ("fedavg", "local", "fedprox")}
    three["fedprox"] = replace(three["fedprox"], public=True)
    for module in (compare, registry):
        monkeypatch.setattr(module, "METHODS", three)
    done = run_in_process(*COMPARE, "--methods", "all", "--json", home=home)
    assert [run["method"] for run in json_output(done)["runs"]] == ["local", "fedavg"]
    assert "fedprox is left out: fedprox works on the public images of a knowledge pack" in done.stderr
    assert error_code(run_in_process(*COMPARE, "--methods", "local,fedprox", home=home)) == "E_KNOWLEDGE"


@pytest.mark.usefixtures("without_pictures")
def test_published_figures_stand_beside_ours(home: Path) -> None:
    done = run_in_process(*COMPARE, "--methods", "fedavg", "--published", "fed-isic19", home=home)
    row = next(line for line in done.stdout.splitlines() if line.startswith("| fedavg | 0.4966"))
    accuracy = json.loads((home / "out" / "results.json").read_text())["runs"][0]["mean"]["accuracy"]
    assert row.endswith(f"| 0.2345 | 0.4094 | {accuracy:.3f} |")
    assert "arXiv 2412.19654), Table 1" in (home / "out" / "report.html").read_text()
    refused = run_in_process(*COMPARE, "--methods", "fedavg", "--published", "mnist", home=home)
    assert error_code(refused) == "E_USAGE"
    assert "fed-isic19, pneumonia" in refused.stderr


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "E_USAGE"),
        ("[]", "E_USAGE"),
        ('{"runs": []}', "E_USAGE"),
        ('{"runs": [{"method": "fedavg", "seed": 0}]}', "E_USAGE"),
        (None, "E_FILE_MISSING"),
    ],
)
def test_table_refuses_a_folder_that_is_no_comparison(home: Path, content: str | None, code: str) -> None:
    (home / "out").mkdir()
    if content is not None:
        (home / "out" / "results.json").write_text(content)
    assert error_code(run_in_process("lab", "table", "out", home=home)) == code


@pytest.mark.parametrize(
    ("folder", "code", "words"),
    [
        ("nowhere", "E_FILE_MISSING", ["nowhere is not there", "'lab compare'"]),
        ("empty", "E_FILE_MISSING", ["empty has no results.json", "'lab compare'"]),
        ("plan.toml", "E_FILE_KIND", ["plan.toml is a file, not a folder", "name a folder"]),
        (".", "E_FILE_MISSING", ["{home} has no results.json"]),
    ],
)
def test_table_names_the_folder_that_is_no_comparison_and_what_to_name(
    home: Path, folder: str, code: str, words: list[str]
) -> None:
    (home / "empty").mkdir()
    refused = run_in_process("lab", "table", folder, home=home)
    assert error_code(refused) == code
    for each in words:
        assert each.format(home=home.name) in refused.stderr


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        (("--out", "images.npz"), "E_FILE_KIND", "images.npz is a file, not a folder"),
        (("--public", "empty"), "E_NO_IMAGES", "empty contains no images"),
        (("--masks", "empty"), "E_USAGE", "masks are for segmentation"),
    ],
)
def test_a_path_that_does_not_fit_is_named_before_the_training(
    home: Path, option: tuple[str, str], code: str, words: str
) -> None:
    (home / "empty").mkdir()
    refused = run_in_process(*RUN, *option, home=home)
    assert error_code(refused) == code
    assert words in refused.stderr
    assert "round 1" not in refused.stderr


def test_table_refuses_damaged_answers_and_leaves_the_table_as_it_is(home: Path) -> None:
    folder = home / "out"
    shutil.copytree(ROOT / "docs" / "results" / "fed-isic", folder)
    (folder / "answers.npz").write_bytes(b"PK damaged")
    before = (folder / "table.md").read_bytes()
    assert error_code(run_in_process("lab", "table", "out", home=home)) == "E_USAGE"
    assert (folder / "table.md").read_bytes() == before


def test_without_ray_its_engine_names_the_package_before_it_reads_an_image(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run_in_process(*RUN, "--engine", "ray", home=home)
    assert error_code(done) == "E_EXTRA"
    assert "hint: pip install 'fedhelp-edge[ray]'" in done.stderr
    assert not (home / "out").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--engine", "flower"), "an engine is local or ray"),
        (("--address", "auto"), "hint: add --engine ray"),
        (("--engine", "ray", "--address", "auto"), "hint: leave --threads away"),
        (("--engine", "ray", "--device", "cuda"), "hint: leave --device or --engine away"),
        (("--device", "cuda"), "there is no CUDA device here; use --device cpu"),
        (("--device", "tpu"), "a device is cpu or cuda, not 'tpu'"),
    ],
)
def test_engines_and_devices_that_there_are_not_are_refused_and_what_does_not_fit_together(
    home: Path, words: tuple[str, ...], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # also on a machine that has one
    done = run_in_process(*RUN, *words, home=home)
    assert error_code(done) == "E_USAGE"
    assert part in done.stderr
    assert not (home / "out").exists()


def test_matrix_decompositions_have_one_thread_as_in_a_worker_of_ray(tmp_path: Path) -> None:
    """Two threads give other bits, and so another model under `lowrank`."""
    decompose = (
        "import hashlib, fedhelp_edge.cli.lab, numpy as np\n"
        "matrix = np.random.Generator(np.random.Philox(1)).normal(size=(300, 300))\n"
        "print(hashlib.sha256(np.linalg.svd(matrix, full_matrices=False)[0].tobytes()).hexdigest())"
    )
    by_itself, with_one = (
        command.run(home=tmp_path, program=(sys.executable, "-c", decompose), env=env).stdout
        for env in ({}, {"OPENBLAS_NUM_THREADS": "1"})
    )
    assert len(by_itself) == 65
    assert by_itself == with_one
