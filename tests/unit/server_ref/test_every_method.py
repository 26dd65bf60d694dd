"""Every method over real parcels, between a hub, a small and a large site: the model is the lab's, to the bit."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import update
from fedhelp_edge.codec import CODECS
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import HubDamagedError, NotNowError
from fedhelp_edge.lab import run
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.transport import SealedTransport
from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.merge.header import COUNTS, MEANS
from fedhelp_edge.methods import registry, schemas
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import learners
from fedhelp_edge.train.visit import Visit, visit
from fedhelp_edge.update import Array
from server_ref.hub import models
from server_ref.intake import receive, sandbox
from server_ref.rounds import reaggregate
from tests.faults.kills import UnconfinedSandbox
from tests.federation import ENCODER_SHA256, Federation, SimulatedClinic
from tests.threads import one_thread as one_thread
from tests.unit.methods import small, tiny
from tests.unit.methods.tiny import tiny_nets as tiny_nets

TIERS, ROUNDS = ("small", "large"), 2


@pytest.fixture(autouse=True)
def opened_in_this_process(monkeypatch: pytest.MonkeyPatch, tiny_nets: None) -> None:
    monkeypatch.setattr(sandbox, "Sandbox", UnconfinedSandbox)  # a process of its own costs half a second


def plan_of(method: str, **tables: Mapping[str, Any]) -> Plan:
    given = {"training": {"batch": 4, "precision": "fp32", "epochs": 1}, "round": {"quorum": 2}}
    if method in small.ON_FEATURES:
        given["nets"] = {"encoder_sha256": ENCODER_SHA256}
    return small.plan(method, classes=3, rounds=ROUNDS, **{**given, method: tiny.SETTINGS.get(method, {}), **tables})


def cases() -> Iterator[Any]:
    """Each method with norm layers that travel, and with such as stay, where that makes a difference."""
    for name in [name for name in METHODS if METHODS[name].exchanges]:
        yield pytest.param(name, {}, id=name)
        if METHODS[name].up is schemas.travelling_net and small.allows(name, wire={"norm": "local"}):
            yield pytest.param(name, {"wire": {"norm": "local", "up": "f16", "down": "f16"}}, id=f"{name}-norm-local")
    yield pytest.param("toy", {}, id="toy")


def site_images(number: int, plan: Plan) -> SiteImages:
    drawn, blank = small.images(14, 3, seed=number, width=plan.nets.encoder_width), ("",) * 14
    images = Images(drawn.pixels, drawn.labels, ("train",) * 8 + ("val",) * 3 + ("test",) * 3, blank, blank, blank)
    return SiteImages(f"site-{number:03}", f"Site {number}", TIERS[number - 1], images)


@dataclass
class Site:
    """A clinic whose updates are trained."""

    clinic: SimulatedClinic
    images: SiteImages
    learner: Learner
    pack: Pack | None

    def visit(self, merged: Mapping[str, Any], round_: int) -> Visit:
        train, merge = self.images.split("train"), LastMerge(2, True) if round_ > 1 else LastMerge()
        sets = learners.image_sets(train, self.pack)
        return visit(self.learner, sets, self.images.split("val"), merged, round_, merge)


class Trained(Federation):
    """A hub and its two sites, with the public images that the method needs."""

    def __init__(self, folder: Path, plan: Plan, pack: Pack | None) -> None:
        super().__init__(folder, plan.text, clinics=0)
        if pack:
            packs.save(folder / "pack.safetensors", pack)
            body = io.BytesIO((folder / "pack.safetensors").read_bytes())
            self.hub.publish_knowledge(self.coordinator_keys, body, pack)
        for tier in TIERS:
            self.join(tier)
        self.sites = []
        for number, (clinic, tier) in enumerate(zip(self.clinics, TIERS, strict=True), 1):
            images, encoder = site_images(number, plan), small.encoder(plan)
            train = images.split("train")
            learner = learners.create(plan, clinic.id, tier, train, pack, Compute(), encoder=encoder)
            self.sites.append(Site(clinic, images, learner, pack))

    def model_of(self, clinic: SimulatedClinic) -> dict[str, Array]:
        """The newest model, as the clinic opens it."""
        path = self.hub.database.parcel_path(models.newest_parcel(self.hub, models.group_of(clinic.id)))
        with parcel.open(path, parcel.any_signer, [clinic.keys.identity]) as opened:
            return dict(CODECS[self.plan.wire.down].decode(update.load(opened.body), {}))

    def play(self) -> dict[str, Any]:
        """Plays one round; returns what became of it."""
        task, plan = self.open(), self.plan
        for site in self.sites:
            base = self.model_of(site.clinic)
            visited = site.visit(base, task.round)
            sent = site.clinic.give(task, visited.update, facts=visited.facts, codec=plan.wire.up, base_arrays=base)
            receive.receive(self.hub, sent)
        return self.aggregate()


@pytest.mark.parametrize(("method", "tables"), list(cases()))
def test_the_model_over_parcels_is_that_of_the_lab_sealed_or_not(
    method: str, tables: Mapping[str, Any], tmp_path: Path
) -> None:
    plan = plan_of(method, **tables)
    images, encoder = [site_images(number, plan) for number in (1, 2)], small.encoder(plan)
    pack = small.pack(8) if METHODS[method].public or method == "fedhelp" else None
    federation = Trained(tmp_path / "parcels", plan, pack)
    outcomes = [federation.play() for _ in range(ROUNDS)]
    assert [outcome["accepted"] for outcome in outcomes] == [["site-001", "site-002"]] * ROUNDS
    record, sealed = (
        run.run(plan, images, tmp_path / name, compute=Compute(), pack=pack, encoder=encoder, transport=transport)
        for name, transport in (("lab", None), ("sealed", SealedTransport()))
    )
    assert outcomes[-1]["merged_sha256"] == record["merged_sha256"] == sealed["merged_sha256"]
    declared = CODECS[plan.wire.up].wire_schema(METHODS[method].up(plan, pack))
    assert record["bytes_up"] == ROUNDS * len(images) * declared.size


def test_a_hub_that_merges_tables_refuses_hostile_ones_and_weighs_no_claim(tmp_path: Path) -> None:
    """Each refusal has its code. How many images a site claims decides nothing here, so no claim is suspicious."""
    federation = Federation(tmp_path, plan_of("fedgh").text, clinics=8)
    task, stream = federation.open(), np.random.Generator(np.random.Philox(2))
    codes = ["E_NONFINITE", "E_NONFINITE", "E_RANGE", "E_SCHEMA_SHAPE", "E_SCHEMA_DTYPE"]
    for number, clinic in enumerate(federation.clinics):
        means = stream.standard_normal((3, 16)).astype(np.float32)
        update: dict[str, Any] = {MEANS: means, COUNTS: np.full(3, 9, np.int32)}
        if number < 3:
            means[1, 1] = (np.nan, -np.inf, 2e4)[number]
        elif number == 3:
            update[MEANS] = np.zeros((4, 16), np.float32)
        elif number == 4:
            update[COUNTS] = np.full(3, 9.0, np.float32)
        receive.receive(federation.hub, clinic.give(task, update, examples=10**6 if number == 7 else 9))
    decisions = sorted(federation.judge(), key=lambda decision: decision["site"])
    assert [decision["code"] for decision in decisions] == [*codes, "", "", ""]
    outcome = federation.aggregate(now=True)
    assert (outcome["accepted"], outcome["quarantined"]) == (["site-006", "site-007", "site-008"], [])
    assert [claim["part"] for claim in outcome["claims"]] == [None] * 3
    assert outcome["published"]


def test_two_sites_that_send_no_class_mean_have_not_copied_each_other(tmp_path: Path) -> None:
    federation = Federation(tmp_path, plan_of("fedgh").text, clinics=2)
    empty: dict[str, Any] = {MEANS: np.zeros((3, 16), np.float32), COUNTS: np.zeros(3, np.int32)}
    task = federation.open()
    for clinic in federation.clinics:
        receive.receive(federation.hub, clinic.give(task, empty))
    outcome = federation.aggregate()
    assert (outcome["accepted"], outcome["quarantined"]) == (["site-001", "site-002"], [])
    before, after = (models.load(federation.hub, name) for name in (task.base, outcome["merged_sha256"]))
    assert small.same(after, {name: before[name] for name in after})


def test_knowledge_nets_are_distilled_again_without_a_site_and_a_header_is_not(tmp_path: Path) -> None:
    plan, pack = plan_of("fedkemf", round={"quorum": 1}), small.pack(8)
    federation = Trained(tmp_path / "fedkemf", plan, pack)
    task, sent = federation.open(), {}
    for site in federation.sites:
        sent[site.clinic.id] = site.visit(federation.model_of(site.clinic), 1)
        visited = sent[site.clinic.id]
        receive.receive(federation.hub, site.clinic.give(task, visited.update, facts=visited.facts))
    base = federation.base(task)
    federation.aggregate()
    archive = keys.load(federation.folder / "hub" / "root", lambda: "")
    outcome = reaggregate.without_site(federation.hub, federation.coordinator_keys, "site-001", archive)
    alone = sent["site-002"]
    expected = registry.merge(plan, 1, base, {"site-002": alone.update}, {"site-002": 8}, public=pack)
    assert outcome["merged_sha256"] == run.model_hash(expected, METHODS["fedkemf"].down(plan, pack))
    other = Federation(tmp_path / "fedgh", plan_of("fedgh").text, clinics=0)
    with pytest.raises(NotNowError, match="makes each model anew"):
        reaggregate.check_contributed(other.hub, "site-001")


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_hub_whose_pack_is_gone_or_changed_says_so(damage: str, tmp_path: Path) -> None:
    federation = Trained(tmp_path, plan_of("fedkemf"), small.pack(8))
    path = federation.hub.database.parcel_path(federation.hub.newest_parcel("knowledge")["hash"])
    public = federation.hub.public
    assert public
    assert np.array_equal(public.whole().pixels, small.pack(8).pixels)
    if damage == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(HubDamagedError, match="knowledge pack"):
        public.whole()
