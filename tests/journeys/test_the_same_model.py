"""A hospital and two clinics over a stick, the same three over the network, and the lab: one model, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedhelp_edge import files  # noqa: E402 - torch may be missing
from fedhelp_edge import plan as plans  # noqa: E402
from fedhelp_edge.api import load_pack  # noqa: E402
from fedhelp_edge.data import loading  # noqa: E402 - torch may be missing
from fedhelp_edge.data import pack as packs  # noqa: E402
from fedhelp_edge.demo import phantoms  # noqa: E402
from fedhelp_edge.exchange.folder import FolderCarrier  # noqa: E402
from fedhelp_edge.helper import answering  # noqa: E402
from fedhelp_edge.helper import home as homes  # noqa: E402
from fedhelp_edge.lab import partition, run  # noqa: E402
from fedhelp_edge.methods.registry import METHODS  # noqa: E402
from fedhelp_edge.parcel.keys import Keys  # noqa: E402
from fedhelp_edge.plan import Plan  # noqa: E402
from fedhelp_edge.privacy import accountant, noise  # noqa: E402
from fedhelp_edge.site import (  # noqa: E402
    connection,
    export,
    identity,
    local_training,
    membership,
    ordered_training,
    privacy_budget,
    status,
    verified,
)
from fedhelp_edge.site.sync import SyncResult, sync  # noqa: E402
from fedhelp_edge.train import machine  # noqa: E402
from fedhelp_edge.trust.task import Task  # noqa: E402
from server_ref.admin import exchange, invites  # noqa: E402
from server_ref.hub.hub import Hub  # noqa: E402
from server_ref.rounds import close  # noqa: E402
from tests import http_front  # noqa: E402
from tests.federation import Federation, nobody  # noqa: E402
from tests.golden import api, training  # noqa: E402

RECORDED_PLAN = f"""
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
[public]
size = 8
[fedhelp]
public_every = 2
[round]
quorum = 3
[wire]
up = "f16"
""".replace("'", '"')
PLAN = RECORDED_PLAN.replace('large = "resnet32"', 'small = "resnet8"\nlarge = "resnet20"')
SITES = 3


@pytest.fixture(scope="module")
def images_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("images"))


def drawn(folder: Path) -> Path:
    """Writes the images of all sites, by centre, and a pack with two sources' answers for public images."""
    pixels, labels = phantoms.draw(96, 2, size=8)
    stream = np.random.default_rng(0)
    parts = {"train": slice(0, 60), "val": slice(60, 72), "test": slice(72, 96)}
    arrays = {f"{name}_images": pixels[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": labels[part] for name, part in parts.items()}
    arrays |= {f"{name}_centers": np.arange(part.stop - part.start) % 5 // 2 for name, part in parts.items()}
    write_by_centre(folder, arrays)
    probabilities = stream.dirichlet([1, 1, 1], (2, 16)).astype(np.float16)
    public = packs.Pack(
        stream.integers(0, 256, (16, 8, 8, 3), np.uint8),
        stream.integers(0, 3, 16),
        ("x", "y", "z"),
        ("a", "b"),
        probabilities,
    )
    packs.save(folder / "pack.safetensors", public)
    return folder


def write_by_centre(folder: Path, arrays: dict[str, Any]) -> None:
    """Writes an NPZ of all images, and one for each site."""
    np.savez(folder / "all.npz", **arrays)
    for centre in range(SITES):
        of_site = {
            name: array[arrays[f"{name.split('_')[0]}_centers"] == centre]
            for name, array in arrays.items()
            if not name.endswith("_centers")
        }
        np.savez(folder / f"site-{centre + 1:03}.npz", **of_site)


@pytest.fixture(scope="module")
def in_the_lab(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return by_the_lab(images_folder, tmp_path_factory.mktemp("lab"))


def needs_pack(plan: Plan) -> bool:
    """Whether a pack is published. None has volumes."""
    return plan.image.depth == 1 and (plan.method == "fedhelp" or METHODS[plan.method].public)


def by_the_lab(images_folder: Path, out: Path, text: str = PLAN) -> str:
    """The hash of the model that the lab merges."""
    plan = plans.read(text, METHODS)
    machine.configure(1)
    images = loading.load(images_folder / "all.npz", plan, state_dir=images_folder / "cache")
    parts = partition.distribute(images, "natural:centers", plan.seed, large=1)
    assert [part.tier for part in parts] == ["large", "small", "small"]
    cache_dir = images_folder / "cache"
    pack = load_pack(images_folder / "pack.safetensors", plan, None, cache_dir) if needs_pack(plan) else None
    compute = machine.compute(plan.training.precision)
    progress = run.run(plan, parts, out, compute=compute, pack=pack)
    return str(progress["merged_sha256"])


class SyncedSite:
    def __init__(self, folder: Path, federation: Federation, tier: str, images: Path, stick: Path, url: str) -> None:
        invite = folder / "site.invite"
        folder.mkdir()
        invites.write_files(invite, invites.issue(federation.hub, folder.name, tier, 14))
        self.home, self.via = folder / "home", None if url else stick
        typed = replace(membership.read_invite_file(invite), url=url)
        membership.join(self.home, typed, folder.name, lambda: None)
        (self.home / "images.txt").write_text(str(images))

    def sync(self) -> SyncResult:
        carriers = connection.carriers(self.home, nobody, self.via)
        return sync(self.home, carriers, nobody, lambda _: None, threads=1)


@contextmanager
def reached(federation: Federation, network: bool, stick: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The hub's address over the network, and what the coordinator does between the sites' syncs."""

    def hub_step() -> None:
        if not network:
            exchange.collect(federation.hub, stick / exchange.TO_COORDINATOR, exchange.ExchangeResult())
        federation.judge()
        if not network:
            exchange.deliver(federation.hub, stick / exchange.FROM_COORDINATOR)

    if network:
        with http_front.running(federation.folder / "hub") as port:
            yield f"http://127.0.0.1:{port}", hub_step
    else:
        stick.mkdir()
        yield "", hub_step


@pytest.mark.parametrize("network", [False, True], ids=["stick", "network"])
def test_two_rounds_give_the_model_that_the_lab_gives(
    network: bool, images_folder: Path, in_the_lab: str, tmp_path: Path
) -> None:
    assert by_parcels(images_folder, tmp_path, network) == in_the_lab


@pytest.mark.usefixtures("open_in_process")
@pytest.mark.parametrize(
    ("method", "up", "down"),
    [
        ("fedmic", "lowrank", "int8"),
        ("fedadam", "int8-delta", "int8"),
        ("scaffold", "f16", "int8"),
        ("pfedbayes", "f16", "f32"),
        ("mdhfl", "f16", "f16"),
    ],
)
def test_other_methods_and_codecs_give_the_model_that_the_lab_gives_too(
    method: str, up: str, down: str, images_folder: Path, tmp_path: Path
) -> None:
    """A site's report has the figures of all nets that the method judges."""
    text = PLAN.replace('"fedhelp"', f'"{method}"').replace('"f16"', f'"{up}"\ndown = "{down}"')
    text += "[mdhfl]\nccr = true\n"
    assert by_parcels(images_folder, tmp_path, False, text) == by_the_lab(images_folder, tmp_path / "lab", text)
    reports = [local_training.read_report(path.parent) for path in tmp_path.glob("s*/home/rounds/*/report.json")]
    judged = {"own", "teacher"} if method == "fedmic" else {"own"}
    assert [set(report["val"]) for report in reports] == [judged] * 2 * SITES


@pytest.mark.usefixtures("open_in_process")
@pytest.mark.parametrize("method", ["fedkemf", "mdhfl"])
def test_a_site_measures_and_exports_each_round_of_methods_that_merge_in_their_own_way(
    method: str, images_folder: Path, tmp_path: Path
) -> None:
    """At the large site, whose net never travels: the net after training, and with what came down, are there."""
    text = PLAN.replace('"fedhelp"', f'"{method}"')
    assert by_parcels(images_folder, tmp_path, False, text) == by_the_lab(images_folder, tmp_path / "lab", text)
    home = tmp_path / "s0" / "home"
    evaluation = ordered_training.evaluate(home, None, nobody, threads=1)
    assert evaluation.round == 2
    assert evaluation.nets.keys() >= {"own", "merged"}
    exported = export.export(home, 1, nobody, int8=False, target_sensitivity=0.9, threads=1)
    assert exported.model


@pytest.mark.parametrize("method", ["fedhelp", "scaffold"])
def test_a_secure_sum_gives_the_model_that_the_lab_gives_too(method: str, images_folder: Path, tmp_path: Path) -> None:
    helper = tmp_path / "helper"
    public = homes.create(helper, lambda: None)
    keys = f'helper_key = "{public.recipient}"\nhelper_sign = "{public.sign}"'
    text = PLAN.replace('"fedhelp"', f'"{method}"').replace('"f16"', '"f32"\ndown = "int8"')
    text += f'[merge]\nclip = "none"\ncap = 1.0\n[privacy]\nmode = "secure-sum"\n{keys}\nclip = 3.0\n'
    merged = by_parcels(images_folder, tmp_path, False, text, helper)
    assert merged == by_the_lab(images_folder, tmp_path / "lab", text)


@pytest.mark.usefixtures("open_in_process")
def test_noise_of_a_sites_key_gives_the_model_that_the_lab_gives_with_it(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites have the laboratory's keys here. Neither numbers of images nor figures on validation images travel."""
    text = PLAN.replace('"fedhelp"', '"fedavg"').replace("[nets]", '[nets]\nnorm = "group"')
    text = text.replace("quorum = 3", "quorum = 3\npatience = 0")
    text += '[merge]\nweight = "uniform"\n[privacy]\nmode = "dp"\nsampling_rate = 0.25\n'
    plan, pay, aggregate = plans.read(text, METHODS), privacy_budget.pay, close.aggregate
    outcomes: list[dict[str, Any]] = []

    def pay_and_use_the_labs_key(home: Path, task: Task, *payment: Any) -> bytes:
        assert len(pay(home, task, *payment)) == 32
        site = identity.own_site(home, verified.require_state(home))
        assert site
        return noise.lab_key(plan.seed, site.id, task.round)

    def aggregate_and_watch(hub: Hub, coordinator_keys: Keys) -> dict[str, Any]:
        outcomes.append(aggregate(hub, coordinator_keys))
        return outcomes[-1]

    monkeypatch.setattr(privacy_budget, "pay", pay_and_use_the_labs_key)
    monkeypatch.setattr(close, "aggregate", aggregate_and_watch)
    assert by_parcels(images_folder, tmp_path, False, text) == by_the_lab(images_folder, tmp_path / "lab", text)
    epsilon = round(accountant.epsilon([accountant.round_of(plan, 2)], 1e-5), 4)
    for home in tmp_path.glob("s*/home"):
        assert status.status(home)["privacy"] == {"epsilon": epsilon, "delta": 1e-5, "budget": 8.0}
        reports = sorted(home.glob("rounds/*/report.json"))
        assert local_training.read_report(reports[-1].parent)["privacy"]["epsilon"] == epsilon
        assert "epsilon" in (reports[-1].parent / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "lab" / "run.json").read_text())["privacy"]["epsilon"] == epsilon
    claims = [claim for outcome in outcomes for claim in outcome["claims"]]
    assert len(claims) == 2 * SITES
    assert {(claim["examples"], claim["val"], claim["correct"]) for claim in claims} == {(1, 0, 0)}


@pytest.mark.parametrize("hides", ["images", "sites"])
def test_noise_in_a_secure_sum_gives_the_model_that_the_lab_gives_with_it(
    hides: str, images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites have the laboratory's keys here. They train and send one after the other, the last one first."""
    public = homes.create(tmp_path / "helper", lambda: None)
    text = PLAN.replace('"fedhelp"', '"fedavg"').replace("[nets]", '[nets]\nnorm = "group"')
    text = text.replace("quorum = 3", "quorum = 3\npatience = 0").replace('"f16"', '"f32"')
    text += f'[merge]\nweight = "uniform"\nclip = "none"\ncap = 1.0\n[privacy]\nhelper_key = "{public.recipient}"\n'
    text += f'helper_sign = "{public.sign}"\n'
    text += (
        'mode = "dp"\nsampling_rate = 0.25\n'
        if hides == "images"
        else 'mode = "secure-sum"\nclip = 1.0\nsite_noise = 5.0\n'
    )
    plan, pay = plans.read(text, METHODS), privacy_budget.pay
    lab_keys = [noise.lab_key(plan.seed, f"site-{n:03}", round_) for round_ in (1, 2) for n in (3, 2, 1)]
    in_turn = iter(lab_keys)

    def pay_and_use_the_labs_key(*payment: Any) -> bytes:
        pay(*payment)
        return next(in_turn)

    monkeypatch.setattr(privacy_budget, "pay", pay_and_use_the_labs_key)
    monkeypatch.setattr(noise, "new_key", lambda: next(in_turn))
    merged = by_parcels(images_folder, tmp_path, False, text, tmp_path / "helper")
    assert merged == by_the_lab(images_folder, tmp_path / "lab", text)
    epsilon = round(accountant.epsilon([accountant.round_of(plan, 2)], 1e-5), 4)
    spent = {"epsilon": epsilon, "delta": 1e-5, "budget": 8.0} | ({"unit": "site"} if hides == "sites" else {})
    assert [status.status(home)["privacy"] for home in tmp_path.glob("s*/home")] == [spent] * SITES
    assert json.loads((tmp_path / "lab" / "run.json").read_text())["privacy"] == spent


def helper_step(helper: Path, federation: Federation, stick: Path) -> None:
    """The helper's trip: the coordinator leaves the set, and takes in the answer."""
    if not (helper / "pinned.json").exists():
        homes.pin(helper, federation.plan, federation.hub.federation)
    exchange.exchange(federation.hub, stick)
    assert answering.answer(helper, FolderCarrier(stick), nobody_asks).state == "answered"
    exchange.exchange(federation.hub, stick)


def nobody_asks() -> str:
    return ""


def by_parcels(images_folder: Path, tmp_path: Path, network: bool, text: str = PLAN, helper: Path | None = None) -> str:
    """The hash of the model that three sites and a hub merge."""
    federation = Federation(tmp_path / "coordinator", text, clinics=0)
    pack = images_folder / "pack.safetensors"
    if needs_pack(federation.plan):
        with files.reading(pack) as body:
            federation.hub.publish_knowledge(federation.coordinator_keys, body, packs.load(pack))
    with reached(federation, network, tmp_path / "stick") as (url, hub_step):
        tiers = ["large", "small", "small"]
        sites = [
            SyncedSite(
                tmp_path / f"s{n}", federation, tier, images_folder / f"site-{n + 1:03}.npz", tmp_path / "stick", url
            )
            for n, tier in enumerate(tiers)
        ]
        for site in sites:
            site.sync()  # sends the request to join
        hub_step()
        for round_ in range(1, federation.plan.rounds + 1):
            federation.open()
            hub_step()
            for site in sites[::-1]:
                done = site.sync()
                assert (done.trained, done.refused) == (round_, [])
                assert status.status(site.home)["state"] == (status.RECEIVED if network else status.SENT)
            hub_step()
            outcome = close.aggregate(federation.hub, federation.coordinator_keys)
            assert outcome["accepted"] == ["site-001", "site-002", "site-003"]
            if helper:
                assert outcome["waiting"] == "helper"
                helper_step(helper, federation, tmp_path / "stick")
                outcome = close.aggregate(federation.hub, federation.coordinator_keys)
            hub_step()
        for site in sites:
            assert f"model after round {round_}" in site.sync().new
            assert status.status(site.home)["state"] == status.JUDGED
    return str(outcome["merged_sha256"])


def test_the_model_equals_the_recorded_one_of_an_earlier_version(images_folder: Path, tmp_path: Path) -> None:
    recorded = training.here(api.read("training"))
    if recorded is None:
        pytest.skip("no record of a machine like this; 'python -m tests.golden --write training' makes one")
    assert by_the_lab(images_folder, tmp_path, RECORDED_PLAN) == recorded["journey"]
