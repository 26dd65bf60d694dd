"""One round of a federation of many sites on one hub: what each step costs the coordinator and its front.

Each site has real keys and seals real parcels, which it sends over loopback from an address of its own to a front that
`fedhelp-coordinator serve` runs with its ordinary limits. An update is a whole ResNet20 (1.09 MB), drawn instead of
trained; the sites' own work, in one process, is told apart. Three of the sites are whole clients in a home: they also
download orders and models. Each step of the coordinator is a process of its own, as a command is; sites come in as fast
as the front lets them wait (900 at a time). `python -m benchmarks.many_sites 5000 [FOLDER]` needs 12 GB of disk.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from fedhelp_edge import plan as plans
from fedhelp_edge.methods.registry import TABLES
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import inbox, layout, membership, outbox, status, verified
from fedhelp_edge.update import Array
from server_ref.admin import invites, session
from server_ref.hub import create
from server_ref.hub.hub import Hub
from server_ref.rounds import close, open
from tests import net
from tests.federation import Clinic, nobody

PLAN = """
name = "many sites"
classes = ["a", "b", "c", "d", "e", "f", "g", "h"]
method = "fedavg"
rounds = 2
[image]
size = 32
"""
_WAITING = 900  # requests: the front takes in 1,000, then the coordinator must judge
_LINES = 4  # that sites use at once
_DIRECTIONS = 64  # random ones, of which each site has a mixture of its own


# --- the coordinator's steps, each a process -------------------------------------------------------------------------
def make(home: Path, count: int) -> dict[str, Any]:
    """A hub, and an invite for each site."""
    made = create.create(home, plans.read(PLAN, TABLES), None)
    codes = [list(made.invite(f"Clinic {number}", "small", 14)) for number in range(1, count - 2)]
    for number in range(3):
        invites.write(home.parent / f"real-{number}.invite", invites.make(made, f"Real {number}", "small", 14))
    return {"codes": codes}


def judge(home: Path) -> dict[str, Any]:
    with session.working(home, None) as (found, _):
        return {"sites": len(found.roster.sites), "roster mb": round(_size(found, found.roster.hash), 2)}


def open_round(home: Path) -> dict[str, Any]:
    with session.working(home, None) as (found, boss):
        open.open_next(found, boss)
    return {}


def aggregate(home: Path) -> dict[str, Any]:
    with session.working(home, None) as (found, boss):
        told = close.aggregate(found, boss)
        parcels = found.model_parcels()
        sizes = {"parcels of the model": len(parcels), "mb of one": round(_size(found, parcels[0]), 2)}
        return {"merged": len(told["accepted"]), **sizes, "lines of the log": found.store.head().length}


def look(home: Path) -> dict[str, Any]:
    """What any command costs before it does anything: the hub is checked."""
    with session.working(home, None):
        return {}


STEPS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "invite": make, "judge": judge, "open": open_round, "aggregate": aggregate, "look": look
}  # fmt: skip


def _size(found: Hub, hash_: str) -> float:
    return found.store.path(hash_).stat().st_size / 1e6


def step(what: str, home: Path, *arguments: int) -> dict[str, Any]:
    """Run one step as a process: what it says, its clock and CPU seconds, and the most memory of it or a child."""
    command = [sys.executable, "-m", "benchmarks.many_sites", "--step", what, home, *arguments]
    begin = time.perf_counter()
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return {**said, "seconds": time.perf_counter() - begin}


def one_step(what: str, home: Path, *arguments: int) -> None:
    said = STEPS[what](home, *arguments)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    own = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    print(json.dumps({**said, "cpu": cpu, "mb": max(own, used[1].ru_maxrss) / 1024}))


# --- the sites -------------------------------------------------------------------------------------------------------
class Line(net.Client):
    """A site's line to the front, from an address of its own."""

    def __init__(self, port: int, federation: str, number: int) -> None:
        super().__init__(port, federation)
        self._from = f"127.1.{number // 250}.{number % 250 + 1}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> net.Answer:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300, source_address=(self._from, 0))
        try:
            line.request(method, path, body, dict(headers or {}))
            found = line.getresponse()
            return net.Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            line.close()


def send(line: Line, path: Path, *, first: int | None = None) -> None:
    """Upload a parcel and remove it."""
    answer = line.patient(lambda: line.begin(path, first)) if first else line.send(path, 1 << 20)
    assert answer.status < 300, answer
    path.unlink()


def drawn(base: Mapping[str, Array], number: int, directions: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """What a site might have trained: the base, a little moved, its own way."""
    own, other = directions[number % _DIRECTIONS], directions[number // _DIRECTIONS % _DIRECTIONS]
    part = np.float32(0.3 + 1e-5 * number)  # no two sites send the same, which the hub would take for copies
    return {name: base[name] + own[name] + part * other[name] for name in base}


def directions(base: Mapping[str, Array]) -> list[dict[str, Array]]:
    stream = np.random.Generator(np.random.Philox(key=[1, 2]))
    return [
        {name: 0.01 * np.abs(stream.standard_normal(array.shape)).astype("f4") for name, array in base.items()}
        for _ in range(_DIRECTIONS)
    ]


# --- one round -------------------------------------------------------------------------------------------------------
class Round:
    def __init__(self, work: Path, count: int) -> None:
        self.work, self.home, self.count = work, work / "hub", count
        self.clinics: list[Clinic] = []
        self.real = [work / f"real-{number}" for number in range(3)]

    def play(self) -> None:
        said = step("invite", self.home, self.count)
        codes = said.pop("codes")
        self.tell("invite", **said)
        found = Hub(self.home)
        self.federation = found.federation
        found.store.close()
        with net.serving(self.home) as self.front, ThreadPoolExecutor(_LINES) as self.pool:
            self.join(codes)
            self.tell("open", **step("open", self.home))
            self.download("download of orders and first model, mean of 3 sites")
            self.upload()
            self.tell("judge and aggregate", **step("aggregate", self.home))
            self.download("download of the merged model, mean of 3 sites")
            self.tell("any further command, before it works", **step("look", self.home))
            hub_gb = sum(path.stat().st_size for path in self.home.rglob("*") if path.is_file()) / 1e9
            self.tell("in all", **{"front peak mb": self.front.memory("VmHWM") / 1024, "hub gb": hub_gb})

    def join(self, codes: list[list[str]]) -> None:
        told = {"seconds": 0.0, "cpu": 0.0, "mb": 0.0, "batches": 0}
        for home in self.real:
            code = membership.read_invite(home.with_suffix(".invite"))
            membership.join(home, code, "real", lambda: None)
            status.carriers(home, nobody, url=f"http://127.0.0.1:{self.front.port}")
            outbox.upload(home, status.carriers(home, nobody))
        for at in range(0, len(codes), _WAITING):
            with self.watched(f"join of sites {at + 1} to {min(at + _WAITING, len(codes))}"):
                list(self.pool.map(self.ask, range(at, min(at + _WAITING, len(codes))), codes[at : at + _WAITING]))
            said = step("judge", self.home)
            for name in ("seconds", "cpu"):
                told[name] += said[name]
            told |= {**said, "seconds": told["seconds"], "cpu": told["cpu"], "mb": max(told["mb"], said["mb"])}
            told["batches"] += 1
        self.tell("approve", **told)

    def ask(self, number: int, invite: list[str]) -> None:
        clinic = Clinic(self.federation, self.work / "sites" / f"{number}")
        clinic.id = invite[1]
        self.clinics.append(clinic)
        send(Line(self.front.port, self.federation, number), clinic.ask_in(invite[0], "a clinic"), first=1 << 20)

    def download(self, what: str) -> None:
        cpu, begin = time.process_time(), time.perf_counter()
        came = 0
        for home in self.real:
            for _ in range(2):  # the second time nothing new
                taken = inbox.download(home, status.carriers(home, nobody), nobody)
                assert not taken.refused, taken
                came = max(came, len(taken.new))
        order = verified.state_of_member(self.real[0]).task
        assert order
        assert layout.is_whole(layout.base_of(self.real[0], order))
        self.tell(what, seconds=(time.perf_counter() - begin) / 6, cpu=(time.process_time() - cpu) / 6, parcels=came)

    def upload(self) -> None:
        found = Hub(self.home)
        order = found.tasks(1)[1]
        base = found.model(order.base)
        moves = directions(base)
        found.store.close()

        def give(number: int) -> None:
            clinic = self.clinics[number]
            path = clinic.give(order, drawn(base, number, moves), examples=100 + number % 50)
            send(Line(self.front.port, self.federation, number), path)

        with self.watched(f"upload of {len(self.clinics)} updates"):
            list(self.pool.map(give, range(len(self.clinics))))
        for place, home in enumerate(self.real):
            clinic = Clinic(self.federation, home / "sent")
            clinic.keys = keys.load(home, nobody)
            known = verified.state_of_member(home)
            site = verified.me(home, known)
            assert site
            clinic.id = site.id
            number = len(self.clinics) + place
            send(Line(self.front.port, self.federation, number), clinic.give(order, drawn(base, number, moves)))

    @contextmanager
    def watched(self, what: str) -> Iterator[None]:
        """What passes between sites and front: the CPU seconds of both."""
        begin, cpu, theirs = time.perf_counter(), time.process_time(), self.front_cpu()
        yield
        self.tell(
            what, seconds=time.perf_counter() - begin, **{"sites cpu": time.process_time() - cpu},
            cpu=self.front_cpu() - theirs, mb=self.front.memory("VmHWM") / 1024,
        )  # fmt: skip

    def front_cpu(self) -> float:
        fields = Path(f"/proc/{self.front.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tell(self, what: str, **values: Any) -> None:
        rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in values.items()}
        report(f"{self.count} sites: {what}", ("numpy",), **rounded, load=round(os.getloadavg()[0], 1))
        sys.stdout.flush()


def main() -> None:
    if sys.argv[1:2] == ["--step"]:
        return one_step(sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
    counts = [int(word) for word in sys.argv[1:] if word.isdigit()] or ([20] if "--short" in sys.argv else [1000])
    places = [word for word in sys.argv[1:] if not word.isdigit() and not word.startswith("--")]
    for count in counts:
        work = Path(tempfile.mkdtemp(dir=places[0] if places else None))
        try:
            Round(work, count).play()
        finally:
            shutil.rmtree(work)
    return None


if __name__ == "__main__":
    main()
