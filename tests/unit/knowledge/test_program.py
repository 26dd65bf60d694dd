"""A program as a source: started once, asked in batches, and never trusted with the form of its answers."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge.data.pack import without_predictions
from fedhelp_edge.errors import FedhelpError, FileMissingError, SourceAnswerError, SourceStoppedError, UsageError
from fedhelp_edge.knowledge.asking import Asking
from fedhelp_edge.knowledge.build import Building, build
from fedhelp_edge.knowledge.source_spec import SourceSpec
from tests import command

PYTHON = Path(sys.executable).name
CLASSES = ("round", "lobed", "granular")

PROGRAM = """
import base64, io, json, os, signal, sys, time
from PIL import Image

sys.argv[1] = sys.argv[1].removeprefix("--log=")
log = open(sys.argv[1], "a")
print("start", file=log, flush=True)
number = 0
for line in sys.stdin:
    question = json.loads(line)
    rows = []
    for png in question["images"]:
        image = Image.open(io.BytesIO(base64.b64decode(png, validate=True)))
        image.load()
        assert not image.info
        level = image.getpixel((0, 0))
        level = level if isinstance(level, int) else level[0]
        print(level, image.mode, *image.size, file=log, flush=True)
        rows.append([(level + 1) / 258, *[(257 - level) / 516] * 2])
    answer = {"id": question["id"], "classes": question["classes"], "probabilities": rows, "model": "levels 1"}
    number += 1
    {ODD}
    print(json.dumps(answer), flush=True)
"""


def images(count: int = 10, channels: int = 3) -> NDArray[np.uint8]:
    """Images of one level each, all different."""
    return np.tile(np.arange(count, dtype=np.uint8)[:, None, None, None] * 7, (1, 8, 8, channels))


def levels(count: int = 10) -> NDArray[np.float32]:
    """What the program answers for them."""
    first = (np.arange(count) * 7 + 1) / 258
    return np.stack([first, *[(1 - first) / 2] * 2], 1).astype(np.float32)


def labels(count: int = 10) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) % 3


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., str]:
    """Writes a program that does something odd before it answers; returns its source."""

    def write(odd: str = "pass", name: str = "ask it.py") -> str:
        (tmp_path / name).write_text(PROGRAM.replace("{ODD}", odd))
        return f"program:'{sys.executable}' -B '{tmp_path / name}' '--log={tmp_path / 'log'}'"

    return write


def asked(tmp_path: Path) -> list[int]:
    """The levels of the images that the program saw, in order."""
    lines = (tmp_path / "log").read_text().splitlines()
    return [int(line.split()[0]) // 7 for line in lines if line != "start"]


def run(spec: str, tmp_path: Path, **asking: Any) -> Any:
    public = without_predictions(images(), labels(), CLASSES)
    return Building(public, [SourceSpec.parse(spec)], tmp_path / "kept", Asking(**{"batch": 4, **asking})).run()


def test_a_program_gives_the_pack_that_a_file_with_the_same_answers_gives(
    program: Callable[..., str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "answers.npz", probabilities=levels())
    by_file = build(images(), labels(), CLASSES, [f"files:{tmp_path / 'answers.npz'}"], tmp_path / "other")
    by_program = run(program(), tmp_path)
    assert by_program.probabilities.tobytes() == by_file.probabilities.tobytes()
    assert by_program.pixels.tobytes() == by_file.pixels.tobytes()


def test_a_program_starts_once_and_sees_each_image_once_in_order(program: Callable[..., str], tmp_path: Path) -> None:
    run(program(), tmp_path)
    assert (tmp_path / "log").read_text().count("start") == 1
    assert asked(tmp_path) == list(range(10))


def test_a_program_sees_grey_images_as_grey_pngs_of_their_size(program: Callable[..., str], tmp_path: Path) -> None:
    build(images(2, channels=1), labels(2), CLASSES, [program()], tmp_path / "kept")
    assert "7 L 8 8" in (tmp_path / "log").read_text()


def test_what_is_known_of_a_program_has_no_folder_and_no_option(program: Callable[..., str], tmp_path: Path) -> None:
    pack = run(program(), tmp_path)
    assert pack.sources == (f"program:{PYTHON} ask it.py",)
    (facts,) = pack.asked
    assert (facts["model"], facts["protocol"]) == ("levels 1", "fedhelp-source/1")
    assert len(facts["asked"]) == len("2026-11-26")
    assert re.fullmatch(rf"{PYTHON} [0-9a-f]{{64}}, ask it\.py [0-9a-f]{{64}}", facts["sha256"])
    assert str(tmp_path) not in json.dumps([pack.sources, pack.asked])
    assert SourceSpec.parse("program:asker --token secret").name == "program:asker"


def test_a_changed_program_is_asked_again_and_a_moved_one_is_not(program: Callable[..., str], tmp_path: Path) -> None:
    run(program(), tmp_path)
    (tmp_path / "moved").mkdir()
    run(program(name="moved/ask it.py"), tmp_path)
    assert asked(tmp_path) == list(range(10))
    run(program("question = None"), tmp_path)
    assert asked(tmp_path) == list(range(10)) * 2


def test_answers_of_batches_of_another_size_are_used(program: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(SourceStoppedError):
        run(program('os.path.exists(sys.argv[1] + ".go") or (number == 2 and sys.exit(3))'), tmp_path)
    (tmp_path / "log.go").touch()
    spec = program('os.path.exists(sys.argv[1] + ".go") or (number == 2 and sys.exit(3))')
    pack = run(spec, tmp_path, batch=3)
    assert asked(tmp_path) == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 8, 9]
    assert pack.probabilities.tobytes() == levels().astype(np.float16).tobytes()


def test_a_damaged_answer_is_asked_for_again(program: Callable[..., str], tmp_path: Path) -> None:
    first = run(program(), tmp_path)
    (damaged,) = (tmp_path / "kept").glob("*-0000004.npy")
    whole = damaged.read_bytes()
    (facts,) = (tmp_path / "kept").glob("*.json")
    facts.write_text("[5]")
    damaged.write_bytes(whole[:-5])
    assert run(program(), tmp_path).probabilities.tobytes() == first.probabilities.tobytes()
    for array in (np.zeros((0, 3)), np.float64(1), np.full((40, 3), 1 / 3), np.ones((4, 3)), np.full((4, 2), 0.5)):
        np.save(damaged, array)
        assert run(program(), tmp_path).probabilities.tobytes() == first.probabilities.tobytes()
    assert asked(tmp_path) == [*range(10), *[4, 5, 6, 7] * 6]


@pytest.mark.skipif(os.name == "nt", reason="a parent is killed by its child")
def test_after_kill_9_the_same_command_asks_only_for_what_is_missing(
    program: Callable[..., str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "public.npz", images=images(), labels=labels(), class_names=np.array(CLASSES))
    spec = program("""if number == 2 and not os.path.exists(sys.argv[1] + ".killed"):
        open(sys.argv[1] + ".killed", "w").close()
        os.kill(os.getppid(), signal.SIGKILL)""")
    words = ("knowledge", "build", "--public", "public.npz", "--source", spec, "--out", "pack", "--batch", "4")
    assert command.run(*words, home=tmp_path).returncode == -9
    done = command.run_in_process(*words, "--json", home=tmp_path)
    assert command.json_output(done)["sources"] == [f"program:{PYTHON} ask it.py"]
    assert asked(tmp_path) == [*range(8), *range(4, 10)]


ODD = {
    "no JSON": 'print("loading the model")',
    "an answer twice": "print(json.dumps(answer))",
    "the classes in another order": 'answer["classes"] = answer["classes"][::-1]',
    "NaN": 'rows[2][0] = float("nan")',
    "a line without end": 'print("x" * 10_000_000)',
}


@pytest.mark.parametrize(("name", "odd"), ODD.items(), ids=ODD)
def test_a_wrong_answer_stops_the_build_and_is_not_saved(
    program: Callable[..., str], tmp_path: Path, name: str, odd: str
) -> None:
    with pytest.raises(SourceAnswerError) as refused:
        run(program(f"if number == 2: {odd}"), tmp_path)
    assert "ask it.py" in refused.value.cause
    if name == "NaN":
        assert "public image 6 have NaN" in refused.value.cause
    assert len(list((tmp_path / "kept").glob("*.npy"))) == (2 if name == "an answer twice" else 1)


ENDS = {
    "ends": ("sys.exit(3)", "ended with exit code 3"),
    "complains": ('sys.exit("no GPU \\x1b[2J here\\n\\n")', "ended with exit code 1: no GPU"),
    "complains without end": ('sys.stderr.write("x" * 10_000_000 + "\\nthe last line"); sys.exit(1)', "the last line"),
    "closes its output": ("os.close(1); time.sleep(60)", "closed its output"),
    "never answers": ("time.sleep(60)", "gave no answer within"),
    "answers half": ('print("{", end="", flush=True); time.sleep(60)', "gave no answer within"),
    "leaves a child with its pipes": (
        'import subprocess; subprocess.Popen(["sleep", "60"]); time.sleep(60)',
        "gave no answer within",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("odd", "cause"), ENDS.values(), ids=ENDS)
def test_a_program_that_ends_or_is_silent_stops_the_build(
    program: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, cause: str
) -> None:
    monkeypatch.setattr("fedhelp_edge.knowledge.sources.program._TIME_TO_END", 0.3)
    saved: list[Path] = []
    for timeout in (2.5, 10.0, 40.0) if "no answer" in cause else (30.0,):
        with pytest.raises(SourceStoppedError) as stopped:
            run(program(f"if number == 2: {odd}"), tmp_path, timeout=timeout)
        assert cause in stopped.value.cause
        assert stopped.value.cause.isprintable()
        assert len(stopped.value.cause) < 300
        if saved := list((tmp_path / "kept").glob("*.npy")):
            break  # else the program was not there in time, on a busy machine
    assert len(saved) == 1  # the first batch


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    """The processes that a program recorded and that still run."""

    def alive() -> list[int]:
        numbers = [int(text) for text in (tmp_path / "log.pids").read_text().split()]
        return [number for number in numbers if _runs(number)]

    return alive


def _runs(number: int) -> bool:
    try:
        return "Z" not in (Path("/proc") / str(number) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("end", ["pass", "sys.exit(1)", "time.sleep(60)"])
def test_nothing_that_a_program_started_stays_behind(
    program: Callable[..., str], tmp_path: Path, children: Callable[[], list[int]], end: str
) -> None:
    odd = (
        'import subprocess; child = subprocess.Popen(["sleep", "60"]);'
        f' print(os.getpid(), child.pid, file=open(sys.argv[1] + ".pids", "a"), flush=True); {end}'
    )
    with suppress(SourceStoppedError):
        run(program(odd), tmp_path, timeout=0.5 if "sleep(60)" in end else 30.0, batch=10)
    until = time.monotonic() + 10
    while children() and time.monotonic() < until:
        time.sleep(0.02)
    assert children() == []


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("program:", UsageError),
        ("program: ", UsageError),
        ("program:'ask", UsageError),
        ("program:/gone/ask.py", FileMissingError),
        ("program:no-such-program-anywhere", FileMissingError),
    ],
)
def test_a_command_that_cannot_be_started_is_refused(spec: str, kind: type[FedhelpError], tmp_path: Path) -> None:
    with pytest.raises(kind):
        run(spec, tmp_path)


def test_no_shell_reads_a_command(tmp_path: Path) -> None:
    with pytest.raises(SourceStoppedError):
        run(f"program:true ; touch {tmp_path / 'made'}", tmp_path)
    assert not (tmp_path / "made").exists()
