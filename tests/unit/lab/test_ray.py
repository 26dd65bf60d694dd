"""A lab run on a real Ray with two workers: the bits of a run in one process, whatever happens to a worker."""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import encoder
from fedhelp_edge.data import loading
from fedhelp_edge.data.images import Images, Pixels
from fedhelp_edge.errors import ClusterError, DivergedError, UsageError
from fedhelp_edge.lab import engine as engines
from fedhelp_edge.lab import partition, run, transport
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.ray_engine import RayEngine
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from tests import encoders
from tests.ray_cluster import MortalEngine
from tests.ray_cluster import cluster as cluster
from tests.unit.data.test_masks import npz, squares
from tests.unit.lab.test_segmentation import agreed
from tests.unit.methods.small import ON_FEATURES

PlanOf = Callable[..., Plan]
Go = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("cluster")


class Cut(Exception):
    """A simulated power cut."""


def outcome(out: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """All that a run leaves, but what it cost and the machine."""
    record = json.loads((out / "run.json").read_text())
    for costs, name in ((record, "seconds"), (record, "peak_memory"), (record["provenance"], "machine")):
        del costs[name]
    for point in record["curve"]:
        point.pop("seconds", None)
    with np.load(out / "answers.npz") as archive:
        return record, {name: archive[name].tobytes() for name in archive}


@pytest.fixture
def both(run_once: Go, go: Go, tmp_path: Path) -> Callable[..., None]:
    """Runs a plan in this process and on Ray, and compares what is left."""

    def compare(plan: Plan, engine: engines.LabEngine) -> None:
        run_once(plan, tmp_path / "local")
        go(plan, tmp_path / "ray", engine=engine)
        assert outcome(tmp_path / "ray") == outcome(tmp_path / "local")

    return compare


@pytest.mark.parametrize("method", sorted(METHODS.keys() - ON_FEATURES))
def test_every_method_gives_the_bits_of_a_local_run(both: Callable[..., None], plan_of: PlanOf, method: str) -> None:
    both(plan_of(method), RayEngine())


@pytest.mark.parametrize("method", ["fedavg", *sorted(ON_FEATURES)])
def test_an_encoders_features_reach_the_workers_by_their_file(
    images: Images, plan_of: PlanOf, tmp_path: Path, method: str
) -> None:
    file = encoders.save(tmp_path / "tiny.onnx")
    few = {"ridge.dimensions": "3", "ridge.least_images": "1"} if method == "ridge" else {}
    plan = plan_of(method, {**encoders.keys(file, views=2), **few})
    opened = encoder.find(plan, file)
    whole = encoder.embed_images(images, plan, opened, tmp_path)
    assert len(pickle.dumps(whole.pixels)) < 1000
    sites = partition.distribute(whole, "natural:centers", 0)
    for name, engine in (("local", engines.LocalEngine()), ("ray", RayEngine())):
        run.run(plan, sites, tmp_path / name, compute=Compute(), engine=engine, encoder=opened.facts(plan))
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "local")


@pytest.mark.parametrize(("method", "depth"), [("fedhelp", 1), ("fedsm", 8)])
def test_masks_and_volumes_give_the_bits_of_a_local_run(method: str, depth: int, tmp_path: Path) -> None:
    plan = agreed(method, image_depth=str(depth), fedsm_selector="resnet8")
    file = npz(tmp_path / "own.npz", *squares(24, *((depth, 16, 16) if depth > 1 else ())))
    sites = partition.distribute(loading.load(file, plan, state_dir=tmp_path), "dirichlet:5", 0, sites=2, large=1)
    for name, engine in (("local", engines.LocalEngine()), ("ray", RayEngine())):
        run.run(plan, sites, tmp_path / name, compute=Compute(), engine=engine)
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "local")


@pytest.mark.parametrize(("up", "norm"), [("int8-delta", "local"), ("lowrank", "shared")])
def test_what_codecs_remember_and_what_stays_at_sites_comes_back_to_them(
    both: Callable[..., None], plan_of: PlanOf, up: str, norm: str
) -> None:
    both(plan_of("fedavg", {"wire.up": up, "wire.norm": norm}, rounds=3), RayEngine())


def test_a_sealed_run_is_sealed_on_ray_too(parts: list[SiteImages], plan_of: PlanOf, tmp_path: Path, go: Go) -> None:
    bare = go(plan_of(rounds=1), tmp_path / "bare")
    sealed = go(plan_of(rounds=1), tmp_path / "sealed", engine=RayEngine(), transport=transport.SealedTransport())
    assert sealed["merged_sha256"] == bare["merged_sha256"]
    assert sealed["bytes_up"] > bare["bytes_up"]


@pytest.mark.parametrize(("method", "round_"), [("fedhelp", 1), ("fedhelp", 2)])
def test_a_killed_worker_costs_one_visit_and_changes_no_bit(
    both: Callable[..., None], plan_of: PlanOf, tmp_path: Path, method: str, round_: int
) -> None:
    (tmp_path / "visits").mkdir()
    both(plan_of(method), MortalEngine(tmp_path / "visits", "site-002", round_))
    begun = Counter(path.name.rpartition("-")[0] for path in (tmp_path / "visits").iterdir())
    sites, rounds = ("site-001", "site-002", "site-003"), (1, 2, 3)  # the nets are judged in the third
    assert begun == {**{f"{r}-{site}": 1 for r in rounds for site in sites}, f"{round_}-site-002": 2}


def test_an_interrupted_run_resumes_on_another_engine_with_the_same_bits(
    go: Go, run_once: Go, plan_of: PlanOf, tmp_path: Path
) -> None:
    def cut(text: str) -> None:
        raise Cut

    plan = plan_of("fedhelp")
    run_once(plan, tmp_path / "whole")
    for name, first, second in (
        ("ray", RayEngine(), engines.LocalEngine()),
        ("local", engines.LocalEngine(), RayEngine()),
    ):
        with pytest.raises(Cut):
            go(plan, tmp_path / name, engine=first, progress=cut)
        go(plan, tmp_path / name, engine=second)
        assert outcome(tmp_path / name) == outcome(tmp_path / "whole")


def test_an_error_of_a_site_ends_the_run_with_its_code(go: Go, plan_of: PlanOf, tmp_path: Path) -> None:
    class Poisoned(RayEngine):
        def visits(self, visit: Any, *rest: Any) -> Iterator[Any]:
            return super().visits(_diverge, *rest)

    with pytest.raises(DivergedError, match="the loss is NaN at site-001") as caught:
        go(plan_of(), tmp_path, engine=Poisoned())
    assert caught.value.remedy.startswith("look at the named images")


def test_what_a_visit_gives_leaves_the_object_store(parts: list[SiteImages]) -> None:
    """A main process that kept one small array of a result would keep all of it there, for a thousand sites too."""
    (result,) = RayEngine().visits(_numbers, None, None, [(parts[0], None)])  # type: ignore[arg-type]
    assert {name: (array.sum(), array.flags.writeable) for name, array in result.items()} == {
        "few": (4.0, True), "many": (1 << 20, True),
    }  # fmt: skip


def test_images_that_are_mapped_from_a_file_are_read_from_there(
    parts: list[SiteImages], plan_of: PlanOf, tmp_path: Path, go: Go
) -> None:
    file = tmp_path / "pixels"
    file.write_bytes(b"first" + np.asarray(parts[1].images.pixels).tobytes())
    rows = np.memmap(file, np.uint8, "r", 5, (len(parts[1].images), 8, 8, 3))
    mapped = replace(parts[1], images=replace(parts[1].images, pixels=Pixels(rows, np.arange(len(rows)))))
    paths = RayEngine().visits(_source, None, None, [(mapped, None), (parts[1], None)])  # type: ignore[arg-type]
    assert list(paths) == [
        (str(file), parts[1].split("train").pixels[:].tobytes()),
        ("", parts[1].split("train").pixels[:].tobytes()),
    ]
    file.unlink()
    with pytest.raises(ClusterError, match="cannot read its images"):
        list(RayEngine().visits(_source, None, None, [(mapped, None)]))  # type: ignore[arg-type]


def _diverge(run: Any, start: Any, site: SiteImages, state: Any) -> None:
    raise DivergedError(f"the loss is NaN at {site.id}")


def _numbers(*arguments: Any) -> dict[str, Any]:
    return {"few": np.ones(4), "many": np.ones(1 << 20)}


def _source(run: Any, start: Any, site: SiteImages, state: Any) -> tuple[str, bytes]:
    pixels = site.split("train").pixels
    return str(getattr(pixels._rows, "filename", "")), pixels[:].tobytes()  # type: ignore[union-attr]


def test_all_of_ray_listens_on_loopback_only_and_asks_for_a_token() -> None:
    inodes = {name for pid in family(os.getpid()) for name in sockets(pid)}
    listening = [address for address, inode in listeners() if inode in inodes]
    assert len(listening) >= 5  # the store of the cluster's state, the node, its object manager, each worker
    assert {address for address in listening if not is_loopback(address)} == set()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def family(root: int) -> set[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def sockets(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def listeners() -> Iterator[tuple[str, str]]:
    """Address (in the kernel's hexadecimal) and inode of each TCP socket that listens."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_rest = line.split()
            if state == "0A":
                yield local.partition(":")[0], line.split()[9]


def is_loopback(address: str) -> bool:
    return address in ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with (
        pytest.raises(ClusterError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"),
        engines.connected("ray", "127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "address", "workers", "part"),
    [("flower", None, None, "local or ray"), ("local", "auto", None, "--engine ray"), ("ray", "auto", 2, "--threads")],
)
def test_engines_and_settings_that_there_are_not_are_refused(
    name: str, address: str | None, workers: int | None, part: str
) -> None:
    with pytest.raises(UsageError) as caught, engines.connected(name, address, workers):
        pass
    assert part in caught.value.cause + caught.value.remedy
