"""From bytes on disk to one merged model, of ResNet20 updates in fp32: ours, Flower's functions, NVFlare's.

`plain` aggregates opened files. `sealed` is all that a hub does with a sealed update until it is aggregated: signature,
hash, decryption, names and shapes, values, norm, norm limit. `hub` is a whole round of a real hub: also intake,
receipts, the log and the database, everything flushed to the disk. The peers read plain, unsigned updates. Every
measurement is a process of its own: CPU time after its imports, and the most memory of the process and a child. Each is
measured five times in turn, with more than 64 updates three times. `python -m benchmarks.aggregation 6 64` measures
those numbers of updates.
"""

from __future__ import annotations

import mmap
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers, report
from benchmarks.peers import updates
from fedhelp_edge import update
from fedhelp_edge.merge import rules
from fedhelp_edge.plan import MergeSettings
from fedhelp_edge.update import Array
from server_ref.hub import members, models
from server_ref.hub.hub import Hub
from server_ref.intake import judge, receive, sandbox, tags
from server_ref.intake.sandbox import Job
from server_ref.rounds import close, lifecycle
from server_ref.rounds import updates as rounds_updates

PLAN = """
classes = ["a", "b", "c", "d", "e", "f", "g", "h"]
method = "fedavg"
rounds = 2
[image]
size = 32
"""


# --- what is measured ------------------------------------------------------------------------------------------------
def merge_plain(folder: Path, count: int, rule: str) -> dict[str, Array]:
    paths = {f"site-{index:04}": path for index, path in enumerate(updates.paths(folder, count))}
    with updates.paths(folder, 1)[0].open("rb") as file:
        header = update.read_header(file)
    examples = {site: updates.examples(index) for index, site in enumerate(paths)}
    return rules.merge({}, PlainUpdates(paths, header), examples, MergeSettings(rule=rule, clip="none", trim=0.2))


class PlainUpdates(Mapping[str, update.FileArrays]):
    """Updates in plain files. A hub's are hashed too before it uses them."""

    def __init__(self, paths: Mapping[str, Path], header: update.TensorHeader) -> None:
        self._paths, self._header = paths, header

    def __getitem__(self, site: str) -> update.FileArrays:
        with self._paths[site].open("rb") as file:
            return update.FileArrays(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), self._header)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def merge_sealed(folder: Path, count: int) -> dict[str, Array]:
    hub = Hub(folder / "federation" / "hub")
    key = judge.round_key(hub, hub.coordinator_keys(no_passphrase), 1)
    base = lifecycle.open_round(hub)["base"]
    schema = judge.update_schema(hub)
    lines = tuple(schema.lines())
    opened: dict[str, Path] = {}
    opened_updates: dict[str, sandbox.OpenedUpdate] = {}
    for path in sorted((folder / "federation" / "outbox").iterdir())[:count]:
        site, hash_ = path.stem.split("_")
        opened[site] = path.with_suffix(".opened")
        model = str(hub.database.model_path(base))
        job = Job(hash_, str(path), key, lines, "f32", model, model, "f32", str(opened[site]), 10**9)
        opened_updates[site] = sandbox.open_update(job)
    examples = {site: opened_update.facts["examples"] for site, opened_update in opened_updates.items()}
    norms = {site: opened_update.norm for site, opened_update in opened_updates.items()}
    stored_as = {site: (path, opened_updates[site].tag) for site, path in opened.items()}
    stored = rounds_updates.RoundUpdates(
        stored_as, schema.header,
        lambda site, tag, content: tags.fits(tag, key, opened[site].stem.split("_")[1], content),
        lambda site: opened_updates[site].tag,
    )  # fmt: skip
    return rules.merge(models.load(hub, base), stored, examples, hub.plan.merge, norms)


def merge_by_hub(folder: Path, count: int) -> dict[str, Array]:
    hub = Hub(folder / "federation" / "hub")
    coordinator_keys = hub.coordinator_keys(no_passphrase)
    for path in sorted((folder / "federation" / "outbox").iterdir())[:count]:
        receive.receive(hub, path)
    judge.judge_waiting(hub, coordinator_keys)
    result = close.aggregate(hub, coordinator_keys, now=True)
    assert len(result["accepted"]) == count, result
    return models.load(hub, result["merged_sha256"])


def no_passphrase() -> str:
    raise AssertionError("no passphrase is needed here")


# --- what it is measured on ------------------------------------------------------------------------------------------
def write_updates(folder: Path, count: int) -> None:
    """Writes plain updates as an honest round gives them, and the same sealed for a hub with as many sites."""
    from fedhelp_edge.trust.roster import Site
    from tests.federation import Federation, SimulatedClinic

    federation = Federation(folder / "federation", PLAN, clinics=0)
    sites = []
    for index in range(count):
        clinic = SimulatedClinic(federation.hub.federation, folder / "federation" / "part")
        clinic.id = f"site-{index + 1:04}"
        public = clinic.keys.public
        sites.append(Site(clinic.id, clinic.id, "small", public.sign, public.recipient, from_round=1))
        federation.clinics.append(clinic)
    with federation.hub.database.transaction():
        members.write_roster(federation.hub, federation.coordinator_keys, sites)
    task = federation.open()
    outbox = folder / "federation" / "outbox"
    outbox.mkdir()
    for index, (clinic, path) in enumerate(zip(federation.clinics, updates.paths(folder, count), strict=True)):
        arrays = federation.drawn_update(task, clinic)
        with path.open("wb") as file:
            update.write(file, arrays)
        parcel = clinic.give(task, arrays, examples=updates.examples(index))
        parcel.rename(outbox / f"{clinic.id}_{parcel.name}")
    federation.hub.database.close()


CONTESTANTS: Mapping[str, Callable[[Path, int], dict[str, Array]]] = {
    "plain": lambda folder, count: merge_plain(folder, count, "mean"),
    "median": lambda folder, count: merge_plain(folder, count, "median"),
    "trimmed": lambda folder, count: merge_plain(folder, count, "trimmed"),
    "sealed": merge_sealed,
    "hub": merge_by_hub,
}


def measure_once(contestant: str, folder: Path, count: int, out: Path) -> dict[str, Any]:
    """Measures one contestant once, on a fresh copy of the hub."""
    kind, _, rule = contestant.rpartition(" ")
    if kind == "flower":
        return peers.run_peer("flwr", rule, folder, count, out)
    if kind == "nvflare":
        return peers.run_peer("nvflare", rule, folder, count, out)
    if rule in ("sealed", "hub"):
        for path in folder.glob("federation/outbox/*.opened"):
            path.unlink()
        hub, before = folder / "federation" / "hub", folder / "federation" / "before"
        if not before.exists():
            shutil.copytree(hub, before)
        shutil.rmtree(hub)
        shutil.copytree(before, hub)
    return peers.run_json(sys.executable, "-m", "benchmarks.aggregation", "--once", rule, folder, count, out)


def compare(folder: Path, count: int, contestants: list[str], repeats: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Updates a CPU second and peak memory of each, in turn; and how much each model differs from the first."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name in contestants:
            results[name].append(measure_once(name, folder, count, folder / f"{name}.npy"))
    rates = {name: count / statistics.median(result["cpu"] for result in all_) for name, all_ in results.items()}
    memory = {
        f"{name} mb": round(statistics.median(result["peak_mb"] for result in all_)) for name, all_ in results.items()
    }
    first = np.load(folder / f"{contestants[0]}.npy")
    differences = {name: float(np.abs(np.load(folder / f"{name}.npy") - first).max()) for name in contestants[1:]}
    values: dict[str, Any] = {name: round(rate, 1) for name, rate in rates.items()} | memory
    return values | {"largest difference of a number": max(differences.values(), default=0.0)}, rates


def main() -> None:
    if sys.argv[1:2] == ["--once"]:
        _, _, contestant, folder, count, out = sys.argv
        return updates.measured(lambda: CONTESTANTS[contestant](Path(folder), int(count)), Path(out))
    short = "--short" in sys.argv
    contestants_of = {"flwr": ["flower message", "flower mean"], "nvflare": ["nvflare mean"]}
    peer_contestants = [name for peer in peers.installed() for name in contestants_of[peer]]
    counts = [int(word) for word in sys.argv[1:] if word.isdigit()] or ((6,) if short else (6, 64, 256, 1000))
    for count in counts:
        with tempfile.TemporaryDirectory() as temporary:
            folder, repeats = Path(temporary), 1 if short else 3 if count > 64 else 5
            write_updates(folder, count)
            if "flwr" in peers.installed():
                peers.run_peer("flwr", "write", folder, count)
            values, rates = compare(folder, count, ["plain", *peer_contestants, "sealed", "hub"], repeats)
            ratios = {}
            if "flower message" in rates:
                ratios |= {"plain of flower": rates["plain"] / rates["flower message"], "aim of plain of flower": 5}
                ratios |= {"sealed of flower": rates["sealed"] / rates["flower message"], "aim of sealed of flower": 2}
            if "nvflare mean" in rates:
                ratios |= {"plain of nvflare": rates["plain"] / rates["nvflare mean"], "aim of plain of nvflare": 1}
            rounded = {name: round(value, 2) for name, value in ratios.items()}
            report(f"aggregation of {count} shares, updates a CPU second", ("numpy",), **values, **rounded)
            for rule in ("median", "trimmed") if count <= 64 else ():
                same = [rule, *([f"flower {rule}"] if "flwr" in peers.installed() else [])]
                values, _ = compare(folder, count, same, repeats)
                report(f"{rule} of {count} shares, updates a CPU second", ("numpy",), **values)
    return None


if __name__ == "__main__":
    main()
