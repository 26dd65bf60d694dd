"""Each next step that a command prints works as printed. A test checks that every step in the source is typed here."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import signal
import subprocess
import threading
import urllib.request
import webbrowser
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import command
from tests.federation import PLAN, SimulatedClinic
from tests.journeys.test_a_coordinator import Coordinator
from tests.site_and_hub import Completed, succeeds
from tests.threads import one_thread  # noqa: F401 - a fixture

pytest.importorskip("torch")

from fedhelp_edge.demo import play
from fedhelp_edge.site import status
from tests.faults import kills
from tests.unit.secure_sum.federation import SecureFederation
from tests.unit.secure_sum.test_held_sums import held  # noqa: F401 - a fixture
from tests.unit.test_demo import SMALL

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"fedhelp-(?:edge|coordinator) [^',;]*[^',; ]")
COMMAND_WORDS = re.compile(r"fedhelp-(?:edge|coordinator) (?:(?:keys|knowledge|plan|lab|audit|encoder) )?[a-z]+")
SITE, HUB = "fedhelp-edge", "fedhelp-coordinator"
TYPED: set[str] = set()  # "who named it: what was named", of all tests here


def named(text: str) -> set[str]:
    """The commands in a text, without their arguments."""
    return {command_words[0] for line in NAMED.findall(text) if (command_words := COMMAND_WORDS.match(line))}


def in_source(file: Path) -> set[str]:
    """The commands in a file's strings, docstrings excepted."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    texts = [part.value for part in ast.walk(tree) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return {step for text in texts if "Example: " not in text for step in named(text)}


def sources() -> dict[str, set[str]]:
    """The next steps by who names them: each command, and `status`, the state of a site that several commands print."""
    steps = {"status": in_source(ROOT / "fedhelp_edge" / "site" / "status.py")}
    for program, room in ((SITE, "fedhelp_edge"), (HUB, "server_ref")):
        for file in (ROOT / room / "cli").glob("*.py"):
            name = "train" if file.stem == "training" else file.stem  # what train and distill share
            steps.setdefault(f"{program} {name}", set()).update(in_source(file))
    return steps


SOURCES = sources()


class Person(Coordinator):
    """A person who types what is printed, with a site and a hub outside the default folders."""

    def __init__(self, folder: Path, plan: str = PLAN) -> None:
        super().__init__(folder, plan.replace("quorum = 2", "quorum = 1"), locked=False)
        (self.stick / "to-coordinator").mkdir()
        self.stands_for = {"IMAGES": "images.npz", "FILE": "backup.txt", "DIR": "other", "SITE": "site-001"}
        self.typed: set[str] = set()
        self.clinics: list[SimulatedClinic] = []

    def draw(self, count: int, file: str = "images.npz") -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
        np.savez(self.folder / file, images=pixels, labels=np.arange(count) % 3)

    def words(self, line: str) -> list[str]:
        return [self.stands_for.get(word, word) for word in shlex.split(line)]

    def types(self, line: str) -> Completed:
        program, *words = self.words(line)
        if words[0] in ("init", "join"):
            words.append("--no-passphrase")
        env = {"FEDHELP_PASSPHRASE_FILE": str(self.folder / "pass")} if words[0] == "keys" else {}
        if program == HUB:
            env["FEDHELP_HOME"] = str(self.folder / "hub")
            return succeeds(command.run_in_process(*words, home=self.folder, program=command.COORDINATOR, env=env))
        return succeeds(command.run_in_process(*words, home=self.folder, env=env))

    def steps(self, done: Completed, start: str = "") -> list[str]:
        """The printed commands, verbatim. Those of the same program name its home."""
        program = HUB if "server_ref" in done.args[2] else SITE
        steps = NAMED.findall(done.stdout + done.stderr)
        at_home = "--home" in done.args
        assert all("--home" in step for step in steps if at_home and step.startswith(f"{program} ")), done.stderr
        return [step for step in steps if step.startswith(start)]

    def follow(self, done: Completed, start: str = "", types: Callable[[str], Completed] | None = None) -> Completed:
        """Types the first printed step that starts so."""
        step = self.steps(done, start)[0]
        after = (types or self.types)(step)
        program = HUB if "server_ref" in done.args[2] else SITE
        words = done.args[len(command.COORDINATOR if program == HUB else command.SITE) :]
        for source in (f"{program} {words[0]}", "status"):
            if named(step) <= SOURCES[source]:
                self.typed |= {f"{source}: {command_words}" for command_words in named(step)}
        return after


def follows(*steps: str) -> Callable[[Any], Any]:
    """Declares the steps that a test follows; the test fails if it skips one."""
    TYPED.update(steps)

    def wrap(test: Callable[..., Person]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            assert set(steps) - test(**fixtures).typed == set()

        return run

    return wrap


def test_every_next_step_in_the_source_is_typed_by_a_test() -> None:
    assert {f"{source}: {step}" for source, steps in SOURCES.items() for step in steps} == TYPED


@follows(
    "fedhelp-edge keys: fedhelp-edge keys backup", "fedhelp-edge keys: fedhelp-edge keys restore",
    "fedhelp-edge keys: fedhelp-edge upload", "fedhelp-edge keys: fedhelp-edge download",
    "fedhelp-edge join: fedhelp-edge upload", "fedhelp-edge join: fedhelp-edge download",
    "status: fedhelp-edge upload", "status: fedhelp-edge download", "status: fedhelp-edge train",
    "fedhelp-edge train: fedhelp-edge upload", "fedhelp-edge upload: fedhelp-edge download",
    "fedhelp-edge status: fedhelp-edge download",
    "fedhelp-edge export: fedhelp-edge predict", "fedhelp-edge leave: fedhelp-coordinator revoke",
)  # fmt: skip
def test_every_next_step_from_keys_to_leaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    person = Person(tmp_path)
    home = "--home 'my site'"
    person.draw(90)
    succeeds(person.hub("init", "--plan", "plan.toml"))
    for number in (1, 2):
        succeeds(person.hub("invite", f"{number}", "--tier", "small", "--out", f"{number}.invite"))

    def carry_stick() -> None:
        succeeds(person.hub("exchange", person.stick))

    person.follow(person.follow(person.types(f"fedhelp-edge keys new --no-passphrase {home}")))
    unsent = person.types("fedhelp-edge join 2.invite --home 'not sent'")
    person.stands_for["DIR"] = "stick"
    person.follow(unsent)
    joining = person.types(f"fedhelp-edge join 1.invite --via stick {home}")
    waits = person.types(f"fedhelp-edge status {home}")
    assert len(person.steps(waits)) == 2
    sent = person.follow(waits)
    carry_stick()
    succeeds(person.hub("open"))
    carry_stick()
    person.follow(sent)
    taken = person.follow(joining)
    for step in ("train", "upload"):
        assert step in person.steps(taken)[0]
        taken = person.follow(taken)
    with monkeypatch.context() as patch:
        late = type("Late", (datetime,), {"now": classmethod(lambda _, zone: datetime.now(zone) + timedelta(99))})
        patch.setattr(status, "datetime", late)
        old = person.types(f"fedhelp-edge status {home}")
    assert "the roster is old" in old.stdout
    carry_stick()
    succeeds(person.hub("aggregate", "--now"))
    carry_stick()
    person.follow(person.follow(taken))
    person.follow(person.types(f"fedhelp-edge export --out 'my model.onnx' --anyway {home}"))
    person.follow(old)
    rotated = person.types(f"fedhelp-edge keys rotate {home}")
    person.follow(rotated)
    carry_stick()
    carry_stick()
    person.follow(rotated, "fedhelp-edge download")
    person.follow(person.types(f"fedhelp-edge leave {home}"))
    return person


@follows("status: fedhelp-edge distill", "status: fedhelp-edge leave", "status: fedhelp-edge join")
def test_every_next_step_of_a_hospital_and_of_a_site_that_was_not_admitted(tmp_path: Path) -> Person:
    person = Person(tmp_path)
    person.draw(30)
    succeeds(person.hub("init", "--plan", "plan.toml"))
    for number, tier in ((1, "large"), (2, "small"), (3, "small")):
        succeeds(person.hub("invite", f"{number}", "--tier", tier, "--out", f"{number}.invite"))
    for invite, home in (("1", "hospital"), ("2", "first"), ("2", "second")):
        person.types(f"fedhelp-edge join {invite}.invite --via stick --home {home}")
        succeeds(person.hub("exchange", person.stick))
    succeeds(person.hub("open"))
    succeeds(person.hub("exchange", person.stick))
    refused = person.types("fedhelp-edge download --home second")
    person.stands_for["INVITE"] = "3.invite"
    person.follow(refused, "fedhelp-edge leave")
    person.follow(refused, "fedhelp-edge join")
    person.follow(person.types("fedhelp-edge download --home hospital"))
    return person


@follows(
    "fedhelp-edge plan: fedhelp-edge plan check", "fedhelp-edge train: fedhelp-edge evaluate",
    "fedhelp-edge train: fedhelp-edge check", "fedhelp-edge evaluate: fedhelp-edge keys new",
    "fedhelp-edge evaluate: fedhelp-edge export",
)  # fmt: skip
def test_every_next_step_of_a_person_who_trains_alone(tmp_path: Path) -> Person:
    person = Person(tmp_path)
    person.draw(60)
    person.follow(person.types("fedhelp-edge plan new 'new plan.toml'"))
    loose = tmp_path / "loose pictures"
    for number, pixels in enumerate(np.load(tmp_path / "images.npz")["images"]):
        (loose / "abc"[number % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(loose / "abc"[number % 3] / f"{number}.png")
    (loose / "a" / "broken.png").write_bytes(b"x")
    trained = person.types("fedhelp-edge train 'loose pictures' --plan plan.toml --home 'my site'")
    person.follow(trained, "fedhelp-edge check")
    measured = person.follow(trained, "fedhelp-edge evaluate")
    assert all("--plan plan.toml" in step for step in person.steps(trained))
    person.follow(measured, "fedhelp-edge keys new", lambda line: person.types(f"{line} --no-passphrase"))
    person.follow(measured, "fedhelp-edge export", lambda line: person.types(f"{line} --anyway"))
    return person


def heap_of_two(folder: Path) -> None:
    """Two pictures of 32 x 32 pixels in a folder."""
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")


@follows("fedhelp-edge label: fedhelp-edge label", "fedhelp-edge label: fedhelp-edge check")
def test_every_next_step_after_sorting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    person = Person(tmp_path)
    heap_of_two(tmp_path / "a heap")
    sorted_next = iter(("1", "2"))

    def sort_one(link: str) -> None:
        with urllib.request.urlopen(link) as first:
            page = first.url.rsplit("/", 1)[0]
        for path, form in ((next(sorted_next), b"class=1"), ("end", b"")):
            urllib.request.urlopen(f"{page}/{path}", form).close()

    monkeypatch.setattr(webbrowser, "open", lambda link: threading.Thread(target=sort_one, args=(link,)).start())
    person.follow(person.follow(person.types("fedhelp-edge label 'a heap' --plan plan.toml")), "fedhelp-edge check",
                  lambda line: command.run_in_process(*person.words(line)[1:], home=tmp_path))  # fmt: skip
    return person


@follows(
    "fedhelp-edge outline: fedhelp-edge label", "fedhelp-edge outline: fedhelp-edge outline",
    "fedhelp-edge outline: fedhelp-edge check",
)  # fmt: skip
def test_every_next_step_after_outlining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    person = Person(tmp_path)
    (tmp_path / "masks.toml").write_text('task = "segmentation"\nclasses = ["cell"]\n[image]\nsize = 32\n')
    heap_of_two(tmp_path / "a heap")

    def outline_one(link: str) -> None:
        with urllib.request.urlopen(link) as first:
            page, _, number = first.url.rpartition("/")
        urllib.request.urlopen(f"{page}/picture/{number}").close()
        for path, form in ((f"done/{number}", zlib.compress(b"\1" * 32 * 32)), ("end", b"")):
            urllib.request.urlopen(f"{page}/{path}", form).close()

    monkeypatch.setattr(webbrowser, "open", lambda link: threading.Thread(target=outline_one, args=(link,)).start())
    one_done = person.types("fedhelp-edge outline 'a heap' --plan masks.toml")
    both_done = person.follow(one_done, types=lambda line: person.types(f"{line} --plan masks.toml"))
    person.follow(
        both_done, "fedhelp-edge check", lambda line: command.run_in_process(*person.words(line)[1:], home=tmp_path)
    )
    refused = command.run_in_process("outline", "a heap", "--plan", "plan.toml", home=tmp_path)
    line = "fedhelp-edge label 'a heap' --plan plan.toml"

    def stop(link: str) -> None:
        with urllib.request.urlopen(link) as first:
            urllib.request.urlopen(f"{first.url.rsplit('/', 1)[0]}/end", b"").close()

    monkeypatch.setattr(webbrowser, "open", lambda link: threading.Thread(target=stop, args=(link,)).start())
    person.follow(refused, "fedhelp-edge label", lambda _: person.types(line))
    return person


@follows(
    "fedhelp-edge knowledge: fedhelp-edge knowledge show", "fedhelp-edge knowledge: fedhelp-edge lab run",
    "fedhelp-edge knowledge: fedhelp-coordinator open",
)  # fmt: skip
def test_every_next_step_of_a_person_who_asks_foundation_models(tmp_path: Path) -> Person:
    person = Person(tmp_path, PLAN + "[training]\nepochs = 1\nyardstick = false\n[public]\nsize = 8\n")
    person.draw(90)
    succeeds(person.hub("init", "--plan", "plan.toml"))
    np.savez(tmp_path / "answers.npz", probabilities=np.full((90, 3), 1 / 3, np.float32))
    person.follow(
        person.types("fedhelp-edge knowledge build --public images.npz --source files:answers.npz --out 'a pack'")
    )
    built = person.types("fedhelp-edge knowledge start plan.toml 'a pack' --out 'first weights' --epochs 1")
    person.follow(built, "fedhelp-edge lab run", lambda line: person.types(f"{line} --set rounds=1"))
    person.follow(built, "fedhelp-coordinator open")
    return person


@follows("fedhelp-edge demo: fedhelp-edge status", "fedhelp-edge demo: fedhelp-edge demo")
def test_every_next_step_after_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    person = Person(tmp_path)
    for name, value in (
        ("PLAN", SMALL),
        ("TRAIN_COUNTS", (16, 8, 8, 8)),
        ("VAL_COUNT", 6),
        ("TEST_COUNT", 12),
        ("PUBLIC_COUNT", 12),
        ("SOURCE_COUNT", 12),
    ):
        monkeypatch.setattr(play, name, value)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "own.npz", images=pixels, labels=np.arange(90) % 2, class_names=np.array(["yes", "no"]))
    person.stands_for["DIR"] = "own.npz"
    quick = "--method fedavg --rounds 1"
    shown = person.types(f"fedhelp-edge demo --out 'a demo' {quick}")
    person.follow(shown, "fedhelp-edge status")
    person.follow(shown, "fedhelp-edge demo", lambda line: person.types(f"{line} {quick}"))
    return person


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A hub whose commands are all typed as printed, from init to an open round whose updates have arrived."""
    folder = tmp_path_factory.mktemp("federation")
    person = Person(folder, PLAN.replace("days = 7", 'days = 7\nenrolment = "manual"'))
    begun = person.types("fedhelp-coordinator init --plan plan.toml --home hub")
    person.follow(person.types("fedhelp-coordinator invites --home hub"))
    person.stands_for["DIR"] = "stick"
    invited = person.follow(begun)
    person.follow(invited, "fedhelp-coordinator invites")
    person.follow(invited, "fedhelp-coordinator exchange")
    person.follow(invited, "fedhelp-edge join")
    person.clinics = clinics = [person.invited(number) for number in (3, 4)]
    person.types("fedhelp-coordinator exchange stick --home hub")

    def status() -> Completed:
        return person.types("fedhelp-coordinator status --home hub")

    after = status()
    for _ in range(3):
        after = person.follow(person.follow(person.follow(after), "fedhelp-coordinator approve"))
    opened = person.follow(after)
    person.follow(opened, "fedhelp-coordinator exchange")
    person.follow(opened, "fedhelp-coordinator serve", lambda line: serves(person, line))
    person.round(clinics)
    person.types("fedhelp-coordinator exchange stick --home hub")
    merged = person.follow(status(), types=lambda line: person.types(f"{line} --now"))
    person.follow(merged, "fedhelp-coordinator exchange")
    person.follow(merged, "fedhelp-coordinator serve", lambda line: serves(person, line))
    person.follow(merged, "fedhelp-coordinator open")
    person.round(clinics[:1])
    person.round(clinics[1:], factor=0)
    person.types("fedhelp-coordinator exchange stick --home hub")
    return person


def serves(person: Person, line: str) -> Completed:
    """Starts a front as printed, on a free port, and stops it."""
    words = [*command.COORDINATOR, *person.words(line)[1:], "--port", "0"]
    env = {"PATH": "", "HOME": str(person.folder), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=person.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as front:  # fmt: skip
        assert front.stdout and front.stderr
        stdout = front.stdout.readline()
        stderr = front.stderr.readline()
        with urllib.request.urlopen(f"{stdout.split()[1]}/healthz") as answer:
            assert answer.status == 200
        front.send_signal(signal.SIGTERM)
        try:
            assert front.wait(60) in (0, -signal.SIGTERM), stderr
        finally:
            front.kill()
    return subprocess.CompletedProcess(words, 0, stdout, stderr)


@follows(
    "fedhelp-coordinator init: fedhelp-coordinator invite", "fedhelp-coordinator invites: fedhelp-coordinator invite",
    "fedhelp-coordinator invite: fedhelp-coordinator invites", "fedhelp-coordinator invite: fedhelp-edge join",
    "fedhelp-coordinator invite: fedhelp-coordinator exchange",
    "fedhelp-coordinator status: fedhelp-coordinator requests",
    "fedhelp-coordinator requests: fedhelp-coordinator approve",
    "fedhelp-coordinator approve: fedhelp-coordinator status", "fedhelp-coordinator status: fedhelp-coordinator open",
    "fedhelp-coordinator open: fedhelp-coordinator exchange", "fedhelp-coordinator open: fedhelp-coordinator serve",
    "fedhelp-coordinator status: fedhelp-coordinator aggregate",
    "fedhelp-coordinator aggregate: fedhelp-coordinator exchange",
    "fedhelp-coordinator aggregate: fedhelp-coordinator serve",
    "fedhelp-coordinator aggregate: fedhelp-coordinator open",
)  # fmt: skip
def test_every_next_step_of_a_coordinator_from_init_to_a_second_round(federation: Person) -> Person:
    return federation


@follows(
    "fedhelp-coordinator revoke: fedhelp-coordinator reaggregate",
    "fedhelp-coordinator reaggregate: fedhelp-coordinator open",
    "fedhelp-coordinator rotate: fedhelp-coordinator open",
)  # fmt: skip
def test_every_next_step_after_a_revocation_and_a_key_rotation(federation: Person, tmp_path: Path) -> Person:
    person = federation.copy_to(tmp_path / "copy")
    shut_out = person.types("fedhelp-coordinator revoke site-004 --since-round 1 --home hub")
    person.follow(person.follow(shut_out))
    person.follow(person.types("fedhelp-coordinator rotate --coordinator --root-key hub/root --home hub"))
    return person


@follows(
    "fedhelp-coordinator aggregate: fedhelp-coordinator status", "fedhelp-coordinator status: fedhelp-coordinator init",
    "fedhelp-coordinator reaggregate: fedhelp-coordinator status",
    "fedhelp-coordinator rotate: fedhelp-coordinator status",
    "fedhelp-coordinator backup: fedhelp-coordinator restore",
    "fedhelp-coordinator restore: fedhelp-coordinator status",
    "fedhelp-coordinator clock: fedhelp-coordinator status", "fedhelp-coordinator serve: fedhelp-coordinator run",
    "fedhelp-coordinator status: fedhelp-coordinator open", "fedhelp-coordinator status: fedhelp-coordinator review",
    "fedhelp-coordinator review: fedhelp-coordinator review",
)  # fmt: skip
def test_every_next_step_after_the_last_round(federation: Person, tmp_path: Path) -> Person:
    person = federation.copy_to(tmp_path / "copy")
    merged = person.types("fedhelp-coordinator aggregate --now --home hub")
    waits = person.types("fedhelp-coordinator status --home hub")
    shown = person.follow(waits)
    person.follow(shown, person.steps(shown)[-1])  # --refuse
    person.follow(merged, "fedhelp-coordinator open")
    person.round(person.clinics)
    person.types("fedhelp-coordinator exchange stick --home hub")
    person.types("fedhelp-coordinator finish --home hub")
    over = person.follow(person.types("fedhelp-coordinator aggregate --now --home hub"))
    person.stands_for |= {"FILE": "plan.toml", "DIR": "new hub"}
    person.follow(over, "fedhelp-coordinator init")
    person.follow(over, "fedhelp-coordinator open")
    person.follow(person.follow(person.types("fedhelp-coordinator revoke site-004 --since-round 1 --home hub")))
    for which in ("--coordinator", "--root --new-root-key 'new root'"):
        root = "hub/root"
        person.follow(person.types(f"fedhelp-coordinator rotate {which} --root-key {root} --home hub"))
    person.follow(person.types("fedhelp-coordinator clock --accept --home hub"))
    person.follow(serves(person, "fedhelp-coordinator serve --home hub"), "fedhelp-coordinator run")
    saved = person.types("fedhelp-coordinator backup 'the hub.tar' --home hub")
    person.stands_for["DIR"] = "new root"
    person.follow(person.follow(saved, types=lambda line: person.types(f"{line.removesuffix('DIR')}drill")))
    return person


@follows("fedhelp-coordinator unlock: fedhelp-coordinator lock")
def test_unlock_prints_how_to_lock(tmp_path: Path) -> Person:
    person = Person(tmp_path)
    person.locked = True
    succeeds(person.hub("init", "--plan", "plan.toml"))
    unlocked = succeeds(person.hub("unlock", "--home", "hub"))
    person.follow(unlocked)
    return person


@follows(
    "fedhelp-coordinator aggregate: fedhelp-coordinator review",
    "fedhelp-coordinator review: fedhelp-coordinator review",
    "fedhelp-coordinator review: fedhelp-coordinator aggregate", "fedhelp-coordinator review: fedhelp-coordinator open",
)  # fmt: skip
def test_every_next_step_about_an_unusual_sum(
    held: SecureFederation,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Person:
    kills.open_in_this_process(monkeypatch)
    (tmp_path / "person").mkdir()
    person = Person(tmp_path / "person")
    with held.temporary_copy(tmp_path / "release") as federation:
        person.folder = federation.folder
        person.follow(person.follow(person.types("fedhelp-coordinator aggregate")))
    with held.temporary_copy(tmp_path / "refuse") as federation:
        person.folder = federation.folder
        person.types("fedhelp-coordinator aggregate")
        shown = person.types("fedhelp-coordinator review")
        person.follow(person.follow(shown, "fedhelp-coordinator review sum --refuse"))
    return person
