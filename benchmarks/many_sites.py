"""One round of a federation of many sites on one hub: what each step costs the coordinator and its front.

Each site has real keys and seals real parcels. It sends them over loopback, from an address of its own, to a front of
`fedhelp-coordinator serve` with its ordinary limits. An update is a whole ResNet20 (1.09 MB), drawn instead of trained;
the sites' own work, in one process, is reported apart. Three of the sites are whole clients in a home: they also
download tasks and models. Each step of the coordinator is a process of its own, as a command is. Sites come as fast as
the front lets them wait (900 at a time). `python -m benchmarks.many_sites 5000 [FOLDER]` needs 12 GB of disk.
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
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import connection, identity, inbox, layout, membership, outbox, verified
from fedhelp_edge.update import Array
from server_ref.admin import invites, session
from server_ref.hub import create, members, models
from server_ref.hub.hub import Hub
from server_ref.hub.tables import log_table
from server_ref.rounds import close, opening
from tests import http_front
from tests.federation import SimulatedClinic, nobody

PLAN = """
name = "many sites"
classes = ["a", "b", "c", "d", "e", "f", "g", "h"]
method = "fedavg"
rounds = 2
[image]
size = 32
"""
_WAITING = 900  # requests: the front takes in 1,000, then the coordinator must judge
_CONNECTIONS = 4  # that sites use at once
_DIRECTIONS = 64  # random ones, of which each site has a mixture of its own


# --- the coordinator's steps, each a process -------------------------------------------------------------------------
def create_hub(home: Path, count: int) -> dict[str, Any]:
    """A hub, and an invite for each site."""
    hub = create.new_hub(home, plans.read(PLAN, METHODS), None)
    codes = [list(members.invite(hub, f"Clinic {number}", "small", 14)) for number in range(1, count - 2)]
    for number in range(3):
        invites.write_files(home.parent / f"real-{number}.invite", invites.issue(hub, f"Real {number}", "small", 14))
    return {"codes": codes}


def judge(home: Path) -> dict[str, Any]:
    with session.unlocked_hub(home, None) as (hub, _):
        return {"sites": len(hub.roster.sites), "roster mb": round(_size(hub, hub.roster.hash), 2)}


def open_round(home: Path) -> dict[str, Any]:
    with session.unlocked_hub(home, None) as (hub, coordinator_keys):
        opening.open_next(hub, coordinator_keys)
    return {}


def aggregate(home: Path) -> dict[str, Any]:
    with session.unlocked_hub(home, None) as (hub, coordinator_keys):
        result = close.aggregate(hub, coordinator_keys)
        parcels = models.newest_parcels(hub)
        sizes = {"parcels of the model": len(parcels), "mb of one": round(_size(hub, parcels[0]), 2)}
        return {"merged": len(result["accepted"]), **sizes, "lines of the log": log_table.head(hub.database).length}


def open_hub(home: Path) -> dict[str, Any]:
    """What any command costs before it does anything: it checks the hub."""
    with session.unlocked_hub(home, None):
        return {}


STEPS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "invite": create_hub, "judge": judge, "open": open_round, "aggregate": aggregate, "look": open_hub
}  # fmt: skip


def _size(hub: Hub, hash_: str) -> float:
    return hub.database.parcel_path(hash_).stat().st_size / 1e6


def step(what: str, home: Path, *arguments: int) -> dict[str, Any]:
    """Run one step as a process: what it says, its clock and CPU seconds, and the most memory of it or a child."""
    command = [sys.executable, "-m", "benchmarks.many_sites", "--step", what, home, *arguments]
    begin = time.perf_counter()
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return {**result, "seconds": time.perf_counter() - begin}


def run_step(what: str, home: Path, *arguments: int) -> None:
    result = STEPS[what](home, *arguments)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    own_peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    print(json.dumps({**result, "cpu": cpu, "mb": max(own_peak, used[1].ru_maxrss) / 1024}))


# --- the sites -------------------------------------------------------------------------------------------------------
class SiteClient(http_front.Client):
    """A site's line to the front, from an address of its own."""

    def __init__(self, port: int, federation: str, number: int) -> None:
        super().__init__(port, federation)
        self._from = f"127.1.{number // 250}.{number % 250 + 1}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> http_front.FrontAnswer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300, source_address=(self._from, 0))
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return http_front.FrontAnswer(
                response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
            )
        finally:
            connection.close()


def send(client: SiteClient, path: Path, *, first: int | None = None) -> None:
    """Uploads a parcel and removes it."""
    answer = client.retry_while_busy(lambda: client.begin(path, first)) if first else client.send(path, 1 << 20)
    assert answer.status < 300, answer
    path.unlink()


def made_up_update(
    base: Mapping[str, Array], number: int, directions: Sequence[Mapping[str, Array]]
) -> dict[str, Array]:
    """What a site might have trained: the base, a little moved, its own way."""
    own, other = directions[number % _DIRECTIONS], directions[number // _DIRECTIONS % _DIRECTIONS]
    scale = np.float32(0.3 + 1e-5 * number)  # no two sites send the same, which the hub would take for copies
    return {name: base[name] + own[name] + scale * other[name] for name in base}


def directions(base: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Random changes of the base, of which the sites' updates are made."""
    generator = np.random.Generator(np.random.Philox(key=[1, 2]))
    return [
        {name: 0.01 * np.abs(generator.standard_normal(array.shape)).astype("f4") for name, array in base.items()}
        for _ in range(_DIRECTIONS)
    ]


# --- one round -------------------------------------------------------------------------------------------------------
class FederationRound:
    """One round of a federation, played in a folder; each step prints a line."""

    def __init__(self, work: Path, count: int) -> None:
        self.work, self.home, self.count = work, work / "hub", count
        self.clinics: list[SimulatedClinic] = []
        self.real = [work / f"real-{number}" for number in range(3)]

    def play(self) -> None:
        result = step("invite", self.home, self.count)
        codes = result.pop("codes")
        self.report("invite", **result)
        hub = Hub(self.home)
        self.federation = hub.federation
        hub.database.close()
        with http_front.serving(self.home) as self.front, ThreadPoolExecutor(_CONNECTIONS) as self.pool:
            self.join(codes)
            self.report("open", **step("open", self.home))
            self.download("download of tasks and first model, mean of 3 sites")
            self.upload()
            self.report("judge and aggregate", **step("aggregate", self.home))
            self.download("download of the merged model, mean of 3 sites")
            self.report("any further command, before it works", **step("look", self.home))
            hub_gb = sum(path.stat().st_size for path in self.home.rglob("*") if path.is_file()) / 1e9
            self.report("in all", **{"front peak mb": self.front.memory("VmHWM") / 1024, "hub gb": hub_gb})

    def join(self, codes: list[list[str]]) -> None:
        totals = {"seconds": 0.0, "cpu": 0.0, "mb": 0.0, "batches": 0}
        for home in self.real:
            code = membership.read_invite_file(home.with_suffix(".invite"))
            membership.join(home, code, "real", lambda: None)
            connection.carriers(home, nobody, url=f"http://127.0.0.1:{self.front.port}")
            outbox.upload(home, connection.carriers(home, nobody))
        for start in range(0, len(codes), _WAITING):
            with self.watched(f"join of sites {start + 1} to {min(start + _WAITING, len(codes))}"):
                batch = codes[start : start + _WAITING]
                list(self.pool.map(self.ask, range(start, start + len(batch)), batch))
            result = step("judge", self.home)
            sums = {name: totals[name] + result[name] for name in ("seconds", "cpu")}
            totals |= {**result, **sums, "mb": max(totals["mb"], result["mb"]), "batches": totals["batches"] + 1}
        self.report("approve", **totals)

    def ask(self, number: int, invite: list[str]) -> None:
        clinic = SimulatedClinic(self.federation, self.work / "sites" / f"{number}")
        clinic.id = invite[1]
        self.clinics.append(clinic)
        send(
            SiteClient(self.front.port, self.federation, number),
            clinic.enrolment_request(invite[0], "a clinic"),
            first=1 << 20,
        )

    def download(self, what: str) -> None:
        cpu, begin = time.process_time(), time.perf_counter()
        parcels = 0
        for home in self.real:
            for _ in range(2):  # the second time nothing new
                taken = inbox.download(home, connection.carriers(home, nobody), nobody)
                assert not taken.refused, taken
                parcels = max(parcels, len(taken.new))
        task = verified.require_state(self.real[0]).task
        assert task
        assert layout.is_intact(layout.base_path(self.real[0], task))
        self.report(
            what, seconds=(time.perf_counter() - begin) / 6, cpu=(time.process_time() - cpu) / 6, parcels=parcels
        )

    def upload(self) -> None:
        hub = Hub(self.home)
        task = hub.tasks(1)[1]
        base = models.load(hub, task.base)
        moves = directions(base)
        hub.database.close()

        def give(number: int) -> None:
            clinic = self.clinics[number]
            path = clinic.give(task, made_up_update(base, number, moves), examples=100 + number % 50)
            send(SiteClient(self.front.port, self.federation, number), path)

        with self.watched(f"upload of {len(self.clinics)} updates"):
            list(self.pool.map(give, range(len(self.clinics))))
        for index, home in enumerate(self.real):
            clinic = SimulatedClinic(self.federation, home / "sent")
            clinic.keys = keys.load(home, nobody)
            state = verified.require_state(home)
            site = identity.own_site(home, state)
            assert site
            clinic.id = site.id
            number = len(self.clinics) + index
            send(
                SiteClient(self.front.port, self.federation, number),
                clinic.give(task, made_up_update(base, number, moves)),
            )

    @contextmanager
    def watched(self, what: str) -> Iterator[None]:
        """Reports the CPU seconds of sites and front while the body runs."""
        begin, cpu, theirs = time.perf_counter(), time.process_time(), self.front_cpu()
        yield
        self.report(
            what, seconds=time.perf_counter() - begin, **{"sites cpu": time.process_time() - cpu},
            cpu=self.front_cpu() - theirs, mb=self.front.memory("VmHWM") / 1024,
        )  # fmt: skip

    def front_cpu(self) -> float:
        fields = Path(f"/proc/{self.front.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def report(self, what: str, **values: Any) -> None:
        rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in values.items()}
        report(f"{self.count} sites: {what}", ("numpy",), **rounded, load=round(os.getloadavg()[0], 1))
        sys.stdout.flush()


def main() -> None:
    if sys.argv[1:2] == ["--step"]:
        return run_step(sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
    counts = [int(word) for word in sys.argv[1:] if word.isdigit()] or ([20] if "--short" in sys.argv else [1000])
    folders = [word for word in sys.argv[1:] if not word.isdigit() and not word.startswith("--")]
    for count in counts:
        work = Path(tempfile.mkdtemp(dir=folders[0] if folders else None))
        try:
            FederationRound(work, count).play()
        finally:
            shutil.rmtree(work)
    return None


if __name__ == "__main__":
    main()
