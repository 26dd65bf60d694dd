"""The whole story on one machine: a coordinator, a hospital and three clinics, two rounds over real sealed parcels.

Nothing is played: keys, parcels, rounds and training are what they are between machines; only the carrier is a folder
beside them. Images are phantoms unless others are given, and the sources of knowledge are nets that are trained here.
Every draw follows from the plan's seed: the same figures come out each time on one machine.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from fedhelp_edge import audit as audits
from fedhelp_edge import data, files, update
from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.images import Images
from fedhelp_edge.demo import page, phantoms
from fedhelp_edge.errors import FedhelpError, TargetExistsError, UsageError
from fedhelp_edge.exchange.folder import FROM, TO, Folder
from fedhelp_edge.infer import bundle
from fedhelp_edge.infer import images as pictures
from fedhelp_edge.infer import run as answers
from fedhelp_edge.knowledge import build
from fedhelp_edge.knowledge.sources import nets
from fedhelp_edge.lab import partition
from fedhelp_edge.methods.registry import METHODS, TABLES
from fedhelp_edge.nets import resnet
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import export, inbox, layout, membership, ordered_training, outbox, sync, vouch
from fedhelp_edge.site.local_training import Watch
from fedhelp_edge.train import learners, loop, machine
from server_ref.admin import audit_export, exchange, invites
from server_ref.hub import create
from server_ref.hub.hub import Hub
from server_ref.intake import judge, receive
from server_ref.intake.receive import Answer
from server_ref.rounds import close, open

PLAN = """\
name = "demo"
classes = {classes}
method = "{method}"
rounds = {rounds}
[image]
size = 24
[nets]
large = "resnet32"
[training]
epochs = 6
batch = 16
lr = 0.002
[fedhelp]
public_size = 24
[round]
quorum = 4
"""
SITES = ("Hospital", "Clinic A", "Clinic B", "Clinic C")  # the first is large
LEARN = (400, 30, 24, 18)  # images that each learns from
VAL, TEST = 30, 100
PUBLIC, TAUGHT = 200, 300  # public images; those that each source of knowledge is trained on
_KINDS = phantoms.CLASSES[:3]
_DIFFICULTY = 0.35
_LEAST = 80  # images, for four sites with three parts each
_SENSITIVITY = 0.9
_UNFINISHED = "unfinished"
_ODD = set('/\\:*?"<>|')

Say = Callable[[str], None]


@dataclass
class Site:
    name: str
    tier: str
    home: Path
    images: Path
    figures: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)


def play(
    out: Path, say: Say, watch: Watch, *, images: Path | None = None, method: str = "fedhelp", number: int = 2,
    threads: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The story from the first key to the last figure. `out` keeps all of it, with report.html and results.json."""
    if method not in METHODS or not METHODS[method].exchanges:
        named = ", ".join(name for name, one in METHODS.items() if one.exchanges)
        raise UsageError(f"the method of a federation is one of {named}, not {method!r}")
    _begin(out)
    classes = loading.gather(images, None, kept=out / ".given", mapping={}).classes if images else _KINDS
    if odd := [name for name in classes if _ODD & set(name) or name.startswith(".")]:
        raise UsageError(f"{odd[0]!r} cannot be the name of a folder, and each class needs one; give it another name")
    agreed = plans.read(PLAN.format(classes=json.dumps(classes), method=method, rounds=number), TABLES)
    (out / "plan.toml").write_text(agreed.text, encoding="utf-8")
    dealt = _shared_out(images, agreed, out / ".given") if images else _drawn(agreed)
    sites = [_site(out, name, part, agreed) for name, part in zip(SITES, dealt, strict=True)]
    say(f"1. images: {sum(map(len, dealt))}, in a folder for each of four sites")
    say("2. knowledge: two nets, trained for seconds, are asked once about public images")
    sources = _knowledge(out, watch, threads)
    say("3. a coordinator makes a hub; a hospital and three clinics join by invite")
    hub = create.create(out / "hub", agreed, None)
    story_of = _Rounds(hub, sites, out / "carrier", watch, threads)
    with files.reading(out / "pack.safetensors") as body:
        hub.publish_pack(story_of.boss, body)
    story_of.join()
    for round_ in range(1, number + 1):
        say(f"4. round {round_} of {number}: each site trains, seals its share and sends it")
        told = story_of.round(out / "audit")
        say(f"   {len(told['accepted'])} shares, merged into one model")
    say("5. each site keeps the best model that it has, and diagnoses with it, offline")
    story_of.measure(out / "models")
    shown = _asked(sites[1], out / "models", agreed)
    parcels = story_of.travelled()
    hub.store.close()
    record = {
        "method": method, "rounds": number, "merged_sha256": told["merged_sha256"], "given": images is not None,
        "sources": sources, "sites": [{"name": site.name, "tier": site.tier, **site.figures} for site in sites],
        "parcels": parcels,
    }  # fmt: skip
    with files.writing(out / "results.json", private=False) as file:
        file.write(json.dumps({"schema_version": 1, **record}, indent=1).encode())
    curves = {site.name: site.curve for site in sites}
    with files.writing(out / "report.html", private=False) as file:
        file.write(page.page(record, curves, _samples(dealt, agreed.classes), story_of.life, shown).encode())
    shutil.rmtree(out / ".given", ignore_errors=True)
    (out / _UNFINISHED).unlink()
    return record


def _begin(out: Path) -> None:
    """A new folder, or one of ours in which a demo was cut off: that begins anew."""
    if (out / _UNFINISHED).exists():
        shutil.rmtree(out)
    if out.exists() and any(out.iterdir()):
        raise TargetExistsError(f"{out.name} is there already", remedy="remove it, or name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / _UNFINISHED).touch()


# --- images -------------------------------------------------------------------------------------------------------
def _drawn(plan: Plan) -> list[Images]:
    """Phantoms as each site sees them: stained and lit in its own way."""
    dealt = []
    for place, count in enumerate(LEARN):
        splits = ("train",) * count + ("val",) * VAL + ("test",) * TEST
        pixels, labels = phantoms.draw(
            len(splits), len(plan.classes), size=plan.image.size, site=place + 1, difficulty=_DIFFICULTY
        )
        dealt.append(Images(pixels, labels, splits, *(("",) * len(splits),) * 3))
    return dealt


def _shared_out(source: Path, plan: Plan, kept: Path) -> list[Images]:
    """Images that were given, shared out in the proportions of the phantoms."""
    found = data.load(source, plan, kept=kept)
    if len(found) < _LEAST:
        few = f"{source.name} holds {len(found)} images that can be used; four sites need {_LEAST}"
        raise UsageError(
            few, remedy="'fedhelp-edge check IMAGES' says why any cannot be used; without --images, they are drawn"
        )
    parts = [max(len(found) * count // sum(LEARN), _LEAST // 4) for count in LEARN[1:]]
    parts.insert(0, len(found) - sum(parts))
    sizes = ",".join(f"{part - part // 3}/{part // 3}" for part in parts)
    return [part.images for part in partition.deal(found, f"sizes:{sizes}", plan.seed, val=0.3)]


def _site(out: Path, name: str, images: Images, plan: Plan) -> Site:
    """A site, its images as files: a folder for each part, in it one for each class."""
    called = name.lower().replace(" ", "-")
    site = Site(name, "large" if name == SITES[0] else "small", out / "sites" / called, out / "images" / called)
    for place, (pixels, label, split) in enumerate(zip(images.pixels[:], images.labels, images.splits, strict=True)):
        path = site.images / split / plan.classes[label] / f"{place:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
    site.figures = {"images": images.splits.count("train"), "test": images.splits.count("test")}
    return site


def _samples(dealt: Sequence[Images], classes: Sequence[str]) -> dict[str, list[tuple[str, Any]]]:
    """Of each site a picture of each class that it has."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for name, images in zip(SITES, dealt, strict=True):
        firsts = {int(label): place for place, label in reversed(list(enumerate(images.labels)))}
        found[name] = [(classes[label], images.pixels[place]) for label, place in sorted(firsts.items())]
    return found


def _asked(site: Site, models: Path, plan: Plan) -> list[dict[str, Any]]:
    """What a site's model says of some of its test images, and where it looks."""
    made = bundle.load(models / f"{site.home.name}.onnx", lambda key: vouch.vouch(site.home, key, None))
    found = [sorted((site.images / "test" / name).glob("*"))[:2] for name in plan.classes]
    chosen = [path for paths in found for path in paths]
    rows = answers.rows(made, pictures.items(chosen), pictures=True)
    return [{"true": path.parent.name, **row} for path, row in zip(chosen, rows, strict=True)]


# --- knowledge ----------------------------------------------------------------------------------------------------
def _knowledge(out: Path, watch: Watch, threads: int | None) -> dict[str, float]:
    """A pack of another family of phantoms, and what two nets say of them that saw others of that family before."""
    machine.settle(threads)
    kinds, specs = phantoms.TISSUES, []
    for seed in (1, 2):
        text = f'classes = {json.dumps(kinds)}\nmethod = "local"\nrounds = 1\nseed = {seed}\n'
        plan = plans.read(text + f"image.size = {nets.SIDE}\ntraining.epochs = 6\ntraining.lr = 0.002\n", TABLES)
        pixels, labels = phantoms.draw(TAUGHT, len(kinds), size=nets.SIDE, family="tissue", seed=seed, difficulty=0.2)
        taught = Images(pixels, labels, ("train",) * TAUGHT, *(("",) * TAUGHT,) * 3)
        learner = learners.learner(plan, f"source {seed}", "small", taught, None, machine.bench())
        learner.receive(METHODS["local"].start(plan), 1)
        loop.train(learner, learners.sets(taught, None), 1, progress=watch(f"source {seed}"))
        path = out / "sources" / f"source-{seed}.safetensors"
        path.parent.mkdir(exist_ok=True)
        with files.writing(path) as file:
            update.write(file, resnet.arrays(learner.net))
        specs.append(f"nets:{plan.nets.small}@{path}")
    pixels, labels = phantoms.draw(PUBLIC, len(kinds), size=nets.SIDE, family="tissue", difficulty=0.2)
    pack = build.build(pixels, labels, kinds, specs, out / "sources" / "answers")
    packs.save(out / "pack.safetensors", pack)
    right = (pack.probabilities.argmax(2) == labels).mean(1)
    return {f"source {place}": round(float(part), 3) for place, part in enumerate(right, 1)}


# --- rounds -------------------------------------------------------------------------------------------------------
class _Rounds:
    """The coordinator and the sites, which meet at a folder alone."""

    def __init__(self, hub: Hub, sites: Sequence[Site], stick: Path, watch: Watch, threads: int | None) -> None:
        self.hub, self.sites, self.stick, self.watch, self.threads = hub, sites, stick, watch, threads
        self.boss = hub.boss(str)
        self.life: dict[str, Any] = {}
        stick.mkdir()

    def join(self) -> None:
        for site in self.sites:
            made = invites.make(self.hub, site.name, site.tier, 14)
            said = membership.Invite(made.code, made.url, made.federation, made.charters)
            membership.join(site.home, said, site.name, lambda: None)
            membership.remember(site.home, self.stick)
            outbox.upload(site.home, [Folder(self.stick)])
            layout.remembered(site.home, site.images)
        self._collect()

    def round(self, checked: Path) -> dict[str, Any]:
        number = open.open_next(self.hub, self.boss).round
        exchange.leave(self.hub, self.stick / FROM)
        for site in self.sites:
            sync.sync(site.home, [Folder(self.stick)], str, self.watch, threads=self.threads)
        if not self.life:
            self.life = self._attacked(self.sites[1])
        self._collect()
        told = close.aggregate(self.hub, self.boss)
        exchange.leave(self.hub, self.stick / FROM)
        audit_export.export(self.hub, number, checked / f"round-{number}")
        if number == 1:
            self._follow(checked / "round-1")
        return told

    def measure(self, models: Path) -> None:
        for site in self.sites:
            inbox.download(site.home, [Folder(self.stick)], str)
            found = ordered_training.evaluate(site.home, None, str, threads=self.threads).nets
            site.figures |= {"alone": found["alone"].accuracy.value, "together": found["own"].accuracy.value}
            made = export.export(site.home, None, str, int8=False, wanted=_SENSITIVITY, threads=self.threads)
            made.keep(models / f"{site.home.name}.onnx")
            site.figures |= {"kept": made.facts.test["accuracy"], "net": made.facts.net}
            for path in sorted((site.home / "rounds").glob("*/report.json")):
                site.curve.append(json.loads(path.read_text(encoding="utf-8")))

    def travelled(self) -> list[dict[str, Any]]:
        """Every parcel that went either way, as it was made."""
        told = []
        for row in self.hub.store.rows("SELECT hash FROM parcels ORDER BY rowid"):
            path = self.hub.store.path(row["hash"])
            said = parcel.look(path, parcel.anyone).statement
            sender = said.context.get("sender", "a site" if said.kind == "enrol" else "coordinator")
            size, made = path.stat().st_size, said.context["created"]
            told.append({"kind": said.kind, "from": sender, "hash": said.hash, "size": size, "made": made})
        return told

    def _collect(self) -> None:
        exchange.take_in(self.hub, self.stick / TO, exchange.Exchanged())
        judge.judge(self.hub, self.boss)

    # --- the life of one parcel -----------------------------------------------------------------------------------
    def _attacked(self, site: Site) -> dict[str, Any]:
        """A share on its way, and what becomes of those who try something with it."""
        (path,) = (site.home / "rounds").glob("*/*.fhx")
        said = parcel.look(path, parcel.anyone).statement
        other = keys.load(self.sites[2].home, str)
        body = io.BytesIO(path.read_bytes())
        with layout.scratch(self.hub.home) as work:
            changed, forged = work / "changed.fhx", work / "forged.fhx"
            data_ = bytearray(body.getvalue())
            data_[-1] ^= 1
            changed.write_bytes(data_)
            context = {**said.context, "seq": said.context["seq"] + 1, "nonce": "0" * len(said.context["nonce"])}
            parcel.seal(forged, context, b"no share", other.sign, said.context["recipients"])
            tried = {
                "another clinic opens it": _refusal(lambda: parcel.open(path, parcel.anyone, [other.identity])),
                "one bit of it changes on the way": _refusal(lambda: receive.receive(self.hub, changed)),
                "another clinic signs in this one's name": _refusal(lambda: receive.receive(self.hub, forged)),
            }
        first = receive.receive(self.hub, path)
        tried["it arrives twice"] = _again(first, receive.receive(self.hub, path))
        return {
            "site": site.name, "hash": said.hash, "size": path.stat().st_size, "made": said.context["created"],
            "recipients": len(said.context["recipients"]), "tried": tried,
        }  # fmt: skip

    def _follow(self, checked: Path) -> None:
        """What the coordinator's log says of it, and what anybody finds who checks the round without a key."""
        lines = [line for line, _ in self.hub.store.lines()]
        own = [line for line in lines if line["subject"] == self.life["hash"] or line["type"] == "merge"]
        self.life["log"] = [(line["time"], line["type"]) for line in own]
        found = audits.check(checked)
        self.life["audit"] = {"shares": len(found.merged), "lines": found.log.length}


def _refusal(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except FedhelpError as fault:
        return f"{fault.code}: {fault.cause}"
    raise AssertionError("what must be refused was taken")


def _again(first: Answer, second: Answer) -> str:
    if not first.new or second.new:
        raise AssertionError("a parcel counted twice")
    return "known already: the same answer, counted once"
