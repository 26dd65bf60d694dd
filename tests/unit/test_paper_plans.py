"""The plans of the paper's two tasks: its numbers, and a federation of its shape that trains by them."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedhelp_edge import cli  # noqa: E402 - torch may be missing
from fedhelp_edge import plan as plans  # noqa: E402
from fedhelp_edge.data.images import Images  # noqa: E402
from fedhelp_edge.data.pack import Pack  # noqa: E402
from fedhelp_edge.demo import phantoms  # noqa: E402
from fedhelp_edge.lab import partition, run  # noqa: E402
from fedhelp_edge.methods.base import Compute  # noqa: E402
from fedhelp_edge.methods.registry import METHODS  # noqa: E402
from fedhelp_edge.shell import LazyCommands  # noqa: E402
from fedhelp_edge.train import machine  # noqa: E402

PAPER = Path(__file__).parents[2] / "examples" / "paper"
SMALL = {
    "rounds": "1", "image.size": "8", "public.size": "8", "nets.large": "resnet32", "training.epochs": "1",
    "training.precision": "fp32",
}  # fmt: skip
LINES = [
    shlex.split(line)
    for line in re.findall(r"^fedhelp-edge .*", (PAPER / "README.md").read_text(encoding="utf-8"), re.M)
]
COMMANDS = {Path(words[3]).stem: words for words in LINES if words[1] == "lab"}


def option(name: str, words: list[str]) -> str:
    return words[words.index(f"--{name}") + 1]


@pytest.mark.parametrize("words", LINES, ids=lambda words: " ".join(words[1:4]))
def test_the_commands_beside_the_plans_have_these_options(words: list[str]) -> None:
    command = LazyCommands("fedhelp_edge.cli", cli.COMMANDS)[words[1]].commands[words[2]]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize(("name", "classes", "top"), [("fed-isic19", 8, 3), ("pneumonia", 2, 1)])
def test_a_plan_of_the_paper_has_its_numbers(name: str, classes: int, top: int) -> None:
    plan = plans.load(PAPER / f"{name}.toml", METHODS)
    settings = plan.method_settings
    assert (settings.lambda_r, settings.lambda_j, settings.lambda_f, settings.lambda_b) == (0.1, 0.2, 1.0, 0.2)
    assert (settings.top, settings.public_every, settings.proxy_ce) == (top, 1, False)
    assert (plan.nets.small, plan.nets.large, plan.rounds, plan.round.quorum) == ("resnet20", "resnet110", 100, 6)
    assert len(plan.classes) == classes
    training = plan.training  # the sibling program's
    assert (training.optimiser, training.lr, training.schedule, training.batch, training.epochs) == (
        "adam", 1e-3, "constant", 16, 5,
    )  # fmt: skip


def test_the_sizes_of_fed_isic_are_those_that_make_up_its_images() -> None:
    table = next(
        line for line in (PAPER / "README.md").read_text(encoding="utf-8").splitlines() if "`fed-isic19" in line
    )
    sizes = [tuple(int(text.replace(",", "")) for text in pair) for pair in re.findall(r"([\d,]+)/([\d,]+\d)", table)]
    assert len(sizes) == 6
    assert sum(train + test for train, test in sizes) == 23_247


def test_the_plan_of_mdh_fl_has_its_numbers() -> None:
    plan = plans.load(PAPER / "mdh-fl.toml", METHODS)
    training, settings = plan.training, plan.method_settings
    assert (plan.rounds, training.batch, training.optimiser, training.lr) == (40, 16, "adam", 1e-3)
    assert sorted(plan.nets.own.values()) == ["mobilenetv2", "resnet10", "resnet12", "shufflenetv2"]
    assert (settings.loss, settings.public_batch, settings.ccr, settings.fresh_adam) == ("symmetric", 16, False, False)


@pytest.mark.parametrize("name", ["fed-isic19", "pneumonia"])
def test_a_federation_of_the_papers_shape_trains_by_its_plan(name: str, tmp_path: Path) -> None:
    plan = plans.load(PAPER / f"{name}.toml", METHODS, SMALL)
    kinds, words = len(plan.classes), COMMANDS[name]
    large, split = int(option("large", words)), option("split", words)
    if split.startswith("sizes:"):  # a hundred and twentieth of the paper's sizes
        split = re.sub(r"\d+", lambda size: str(max(int(size[0]) // 120, 4)), split)
    pixels, labels = phantoms.draw(120, min(kinds, 6), size=8, channels=plan.image.channels)
    splits = tuple(("train", "train", "train", "val", "test")[index // 6 % 5] for index in range(120))
    centres = tuple(str(min(index % 11, 5)) for index in range(120))
    images = Images(pixels, labels, splits, *(tuple(map(str, range(120))),) * 2, centres)
    parts = partition.distribute(images, split, plan.seed, large=large)
    assert [part.tier for part in parts].count("large") == large
    assert len(parts) == 6
    probabilities = np.full((2, 16, 4), 0.25, np.float16)
    drawn, marks = phantoms.draw(16, 4, size=8, family="tissue", channels=plan.image.channels)
    pack = Pack(drawn, marks, phantoms.TISSUES[:4], ("clip:a", "clip:b"), probabilities)
    before = torch.get_num_threads()
    machine.configure(1)
    progress = run.run(replace(plan, seed=1), parts, tmp_path / "run", compute=Compute(), pack=pack)
    torch.set_num_threads(before)
    assert progress["rounds"] == 1
    assert len(progress["sites"]) == 6
