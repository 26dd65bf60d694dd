"""A hospital and two clinics over a stick, the same three over the network, and the lab: one model, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedhelp_edge import data, files  # noqa: E402 - torch may be missing
from fedhelp_edge import plan as plans  # noqa: E402
from fedhelp_edge.data import pack as packs  # noqa: E402
from fedhelp_edge.demo import phantoms  # noqa: E402
from fedhelp_edge.lab import partition, run  # noqa: E402
from fedhelp_edge.methods.registry import TABLES  # noqa: E402
from fedhelp_edge.site import (  # noqa: E402
    connection,
    membership,
    status,
)
from fedhelp_edge.site.sync import SyncResult, sync  # noqa: E402
from fedhelp_edge.train import machine  # noqa: E402
from server_ref.admin import exchange, invites  # noqa: E402
from server_ref.rounds import close  # noqa: E402
from tests import http_front  # noqa: E402
from tests.federation import Federation, nobody  # noqa: E402
from tests.golden import api, training  # noqa: E402

PLAN = f"""
name = "smears"
classes = {list(phantoms.CLASSES[:2])}
method = "fedhelp"
rounds = 2
[image]
size = 8
[nets]
large = "resnet32"
[training]
epochs = 1
yardstick = false
[fedhelp]
public_every = 2
public_size = 8
[round]
quorum = 3
[wire]
up = "f16"
""".replace("'", '"')
SITES = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("images"))


def drawn(folder: Path) -> Path:
    """The images of all sites, by centre, and what two sources said of public ones."""
    pixels, labels = phantoms.draw(96, 2, size=8)
    stream = np.random.default_rng(0)
    parts = {"train": slice(0, 60), "val": slice(60, 72), "test": slice(72, 96)}
    arrays = {f"{name}_images": pixels[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": labels[part] for name, part in parts.items()}
    arrays |= {f"{name}_centers": np.arange(part.stop - part.start) % 5 // 2 for name, part in parts.items()}
    np.savez(folder / "all.npz", **arrays)
    probabilities = stream.dirichlet([1, 1, 1], (2, 16)).astype(np.float16)
    public = packs.Pack(
        stream.integers(0, 256, (16, 8, 8, 3), np.uint8),
        stream.integers(0, 3, 16),
        ("x", "y", "z"),
        ("a", "b"),
        probabilities,
    )
    packs.save(folder / "pack.safetensors", public)
    for centre in range(SITES):
        own = {
            f"{name}_{kind}": arrays[f"{name}_{kind}"][arrays[f"{name}_centers"] == centre]
            for name in parts
            for kind in ("images", "labels")
        }
        np.savez(folder / f"site-{centre + 1:03}.npz", **own)
    return folder


@pytest.fixture(scope="module")
def in_the_lab(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return by_the_lab(whole, tmp_path_factory.mktemp("lab"))


def by_the_lab(whole: Path, out: Path) -> str:
    """The model that the lab makes of them."""
    plan = plans.read(PLAN, TABLES)
    machine.configure(1)
    images = data.load(whole / "all.npz", plan, state_dir=whole / "kept")
    parts = partition.distribute(images, "natural:centers", plan.seed, large=1)
    assert [part.tier for part in parts] == ["large", "small", "small"]
    pack = packs.load(whole / "pack.safetensors")
    bench = machine.compute(plan.training.precision)
    progress = run.run(plan, parts, out, compute=bench, pack=pack)
    return str(progress["merged_sha256"])


class Site:
    def __init__(self, folder: Path, federation: Federation, tier: str, images: Path, stick: Path, url: str) -> None:
        invite = folder / "site.invite"
        folder.mkdir()
        invites.write_files(invite, invites.issue(federation.hub, folder.name, tier, 14))
        self.home, self.via = folder / "home", None if url else stick
        typed = replace(membership.read_invite_file(invite), url=url)
        membership.join(self.home, typed, folder.name, lambda: None)
        (self.home / "images.txt").write_text(str(images))

    def sync(self) -> SyncResult:
        ways = connection.carriers(self.home, nobody, self.via)
        return sync(self.home, ways, nobody, lambda _: None, threads=1)


@contextmanager
def reached(federation: Federation, network: bool, stick: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """An address, if there is one, and what the coordinator does between the sites' syncs."""

    def at_the_hub() -> None:
        if not network:
            exchange.collect(federation.hub, stick / exchange.TO_COORDINATOR, exchange.ExchangeResult())
        federation.judge()
        if not network:
            exchange.deliver(federation.hub, stick / exchange.FROM_COORDINATOR)

    if network:
        with http_front.running(federation.folder / "hub") as port:
            yield f"http://127.0.0.1:{port}", at_the_hub
    else:
        stick.mkdir()
        yield "", at_the_hub


@pytest.mark.parametrize("network", [False, True], ids=["stick", "network"])
def test_two_rounds_give_the_model_that_the_lab_gives(
    network: bool, whole: Path, in_the_lab: str, tmp_path: Path
) -> None:
    federation = Federation(tmp_path / "coordinator", PLAN, clinics=0)
    with files.reading(whole / "pack.safetensors") as body:
        federation.hub.publish_knowledge(federation.coordinator_keys, body)
    with reached(federation, network, tmp_path / "stick") as (url, at_the_hub):
        tiers = ["large", "small", "small"]
        sites = [
            Site(tmp_path / f"s{n}", federation, tier, whole / f"site-{n + 1:03}.npz", tmp_path / "stick", url)
            for n, tier in enumerate(tiers)
        ]
        for site in sites:
            site.sync()  # asks to be let in
        at_the_hub()
        for round_ in (1, 2):
            federation.open()
            at_the_hub()
            for site in sites[::-1]:
                done = site.sync()
                assert (done.trained, done.refused) == (round_, [])
                assert status.status(site.home)["state"] == (status.RECEIVED if network else status.SENT)
            at_the_hub()
            outcome = close.aggregate(federation.hub, federation.coordinator_keys)
            assert outcome["accepted"] == ["site-001", "site-002", "site-003"]
            at_the_hub()
        for site in sites:
            assert "model after round 2" in site.sync().new
            assert status.status(site.home)["state"] == status.JUDGED
    assert outcome["merged_sha256"] == in_the_lab


def test_it_is_the_model_that_an_earlier_version_gave_on_such_a_machine(in_the_lab: str) -> None:
    recorded = training.here(api.read("training"))
    if recorded is None:
        pytest.skip("no record of a machine like this; 'python -m tests.golden --write training' makes one")
    assert in_the_lab == recorded["journey"]
