"""The demo: a whole federation on one machine, with a coordinator, a hospital and three clinics.

Keys, parcels, rounds and training are real; only the carrier is a local folder. Images are phantoms unless others are
given, and the knowledge sources are nets that the demo trains. All random draws follow from the plan's seed, so figures
repeat on one machine.
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

from fedhelp_edge import audit, files, update
from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.masks import IMAGES, MASKS
from fedhelp_edge.demo import masks, page, phantoms
from fedhelp_edge.errors import FedhelpError, TargetExistsError, UsageError
from fedhelp_edge.exchange.folder import FROM_COORDINATOR, TO_COORDINATOR, FolderCarrier
from fedhelp_edge.infer import answering, bundle, inputs
from fedhelp_edge.knowledge import build
from fedhelp_edge.knowledge.sources import nets
from fedhelp_edge.lab import partition
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.plan import Plan
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.report.mask_evaluation import CHOOSES
from fedhelp_edge.safe_text import counted
from fedhelp_edge.site import (
    connection,
    export,
    inbox,
    layout,
    membership,
    ordered_training,
    outbox,
    signer_check,
    sync,
)
from fedhelp_edge.site.local_training import Watch
from fedhelp_edge.train import learners, loop, machine
from server_ref.admin import audit_export, exchange, invites
from server_ref.hub import create
from server_ref.hub.hub import Hub
from server_ref.hub.tables import log_table, parcels_table
from server_ref.intake import judge, receive
from server_ref.intake.receive import IntakeResult
from server_ref.rounds import close, opening

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
[public]
size = 24
[round]
quorum = 4
patience = 0
"""
MASKS_PLAN = """\
name = "demo"
task = "segmentation"
classes = {classes}
method = "{method}"
rounds = {rounds}
[image]
size = 24
[nets]
large = "unet16"
[training]
epochs = 6
lr = 0.003
loss = "dice-ce"
[public]
size = 24
[round]
quorum = 4
patience = 0
"""
SITES = ("Hospital", "Clinic A", "Clinic B", "Clinic C")  # the first is large
TRAIN_COUNTS = (400, 30, 24, 18)  # training images of each site
VAL_COUNT, TEST_COUNT = 30, 100
PUBLIC_COUNT, SOURCE_COUNT = 200, 300  # public images; training images of each knowledge source
TASKS = ("classification", "segmentation")
_CLASSES = phantoms.CLASSES[:3]
_DIFFICULTY = 0.35
_MIN_IMAGES = 80  # images, for four sites with three splits each
_SENSITIVITY = 0.9
_UNFINISHED = "unfinished"
_FORBIDDEN_CHARACTERS = set('/\\:*?"<>|')

Say = Callable[[str], None]


@dataclass
class DemoSite:
    """One site of the demo: its folders and its figures."""

    name: str
    tier: str
    home: Path
    images: Path
    figures: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)


def play(
    out: Path, say: Say, watch: Watch, *, task: str = "classification", images: Path | None = None,
    method: str = "fedhelp", round_count: int = 2, threads: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run the demo from the first key to the last figure. `out` gets everything, with report.html and results.json."""
    merging = [name for name, each in METHODS.items() if each.exchanges]
    if method not in merging:
        named = ", ".join(merging)
        raise UsageError(f"the method of a federation is one of {named}, not {method!r}")
    if task not in TASKS:
        raise UsageError(f"the task is one of {', '.join(TASKS)}, not {task!r}")
    has_masks = task == "segmentation"
    if images and (has_masks or all((images / name).is_dir() for name in (IMAGES, MASKS))):
        raise UsageError(
            "images with masks are not divided among the demo's sites",
            remedy="leave --images out, or try your own with a plan for masks: 'fedhelp-edge lab compare --help'",
        )
    template, drawn_classes = (MASKS_PLAN, phantoms.PARTS) if has_masks else (PLAN, _CLASSES)
    settings = {"classes": json.dumps(drawn_classes), "method": method, "rounds": round_count}
    plans.read(template.format(**settings), METHODS)  # before anything is written
    _start_folder(out)
    classes = (
        loading.load_unsplit(images, None, cache_dir=out / ".given", mapping={}).classes if images else drawn_classes
    )
    if unusable := [name for name in classes if _FORBIDDEN_CHARACTERS & set(name) or name.startswith(".")]:
        raise UsageError(
            f"{unusable[0]!r} cannot be the name of a folder, and each class needs one; give it another name"
        )
    plan = plans.read(template.format(**{**settings, "classes": json.dumps(classes)}), METHODS)
    (out / "plan.toml").write_text(plan.text, encoding="utf-8")
    images_of_sites = _deal_images(images, plan, out / ".given", say) if images else _draw_images(plan)
    sites = [
        _write_site(out, name, site_images, plan) for name, site_images in zip(SITES, images_of_sites, strict=True)
    ]
    say(f"1. images: {sum(map(len, images_of_sites))}, in a folder for each of four sites")
    machine.configure(threads)
    if has_masks:
        say("2. knowledge: a net, trained for seconds, outlines public images once")
        sources = masks.build_pack(out, plan, watch, _DIFFICULTY, SOURCE_COUNT, PUBLIC_COUNT)
    else:
        say("2. knowledge: two nets, trained for seconds, classify public images once")
        sources = _build_pack(out, watch)
    say("3. a coordinator creates a hub; a hospital and three clinics join by invite")
    hub = create.new_hub(out / "hub", plan, None)
    federation = _Federation(hub, sites, out / "carrier", watch, threads)
    with files.reading(out / "pack.safetensors") as body:
        hub.publish_knowledge(federation.coordinator_keys, body, packs.load(out / "pack.safetensors"))
    federation.join()
    for round_ in range(1, round_count + 1):
        say(f"4. round {round_} of {round_count}: each site trains, seals its update and sends it")
        result = federation.round(out / "audit")
        say(f"   {counted(len(result['accepted']), 'update')}, aggregated into one model")
    say("5. each site weighs its nets and diagnoses with them, offline")
    federation.measure(out / "models")
    sample_answers = (masks.sample_answers if has_masks else _sample_answers)(sites[1], out / "models", plan)
    parcels = federation.travelled()
    hub.database.close()
    record = {
        "task": task, "method": method, "rounds": round_count, "merged_sha256": result["merged_sha256"],
        "given": images is not None, "sources": sources,
        "sites": [{"name": site.name, "tier": site.tier, **site.figures} for site in sites],
        "parcels": parcels,
    }  # fmt: skip
    with files.writing(out / "results.json", private=False) as file:
        file.write(json.dumps({"schema_version": 1, **record}, indent=1).encode())
    curves = {site.name: site.curve for site in sites}
    with files.writing(out / "report.html", private=False) as file:
        file.write(
            page.render(
                record, curves, _sample_pictures(images_of_sites, plan.classes), federation.parcel_life, sample_answers
            ).encode()
        )
    shutil.rmtree(out / ".given", ignore_errors=True)
    (out / _UNFINISHED).unlink()
    return record


def _start_folder(out: Path) -> None:
    """Create the folder; remove one in which a demo was interrupted."""
    if (out / _UNFINISHED).exists():
        shutil.rmtree(out)
    if out.exists() and any(out.iterdir()):
        raise TargetExistsError(f"{out.name} exists already", remedy="remove it, or name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / _UNFINISHED).touch()


# --- images -------------------------------------------------------------------------------------------------------
def _draw_images(plan: Plan) -> list[Images]:
    """Draw phantoms for each site, stained and lit in its own way."""
    images_of_sites = []
    for index, count in enumerate(TRAIN_COUNTS):
        splits = ("train",) * count + ("val",) * VAL_COUNT + ("test",) * TEST_COUNT
        if plan.has_masks:
            images_of_sites.append(masks.draw_images(splits, plan, index + 1, _DIFFICULTY))
            continue
        pixels, labels = phantoms.draw(
            len(splits), len(plan.classes), size=plan.image.size, site=index + 1, difficulty=_DIFFICULTY
        )
        images_of_sites.append(Images(pixels, labels, splits, *(("",) * len(splits),) * 3))
    return images_of_sites


def _deal_images(source: Path, plan: Plan, state_dir: Path, say: Say) -> list[Images]:
    """Divide given images among the sites, in the proportions of the phantoms."""
    images = loading.load(source, plan, state_dir=state_dir)
    if len(images) < _MIN_IMAGES:
        cause = f"{source.name} has {len(images)} usable images; four sites need {_MIN_IMAGES}"
        raise UsageError(
            cause, remedy="'fedhelp-edge check IMAGES' says why any cannot be used; without --images, they are drawn"
        )
    counts = [max(len(images) * count // sum(TRAIN_COUNTS), _MIN_IMAGES // 4) for count in TRAIN_COUNTS[1:]]
    counts.insert(0, len(images) - sum(counts))
    sizes = ",".join(f"{count - count // 3}/{count // 3}" for count in counts)
    return [site.images for site in partition.distribute(images, f"sizes:{sizes}", plan.seed, val=0.3, say=say)]


def _write_site(out: Path, name: str, images: Images, plan: Plan) -> DemoSite:
    """Write a site's images as files: a folder for each split, in it one for each class."""
    folder_name = name.lower().replace(" ", "-")
    site = DemoSite(
        name, "large" if name == SITES[0] else "small", out / "sites" / folder_name, out / "images" / folder_name
    )
    for index, (pixels, label, split) in enumerate(zip(images.pixels[:], images.labels, images.splits, strict=True)):
        folder = Path("images", split) if plan.has_masks else Path(split, plan.classes[label])
        path = site.images / folder / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
    if plan.has_masks:
        masks.write_masks(site.images, images)
    site.figures = {"images": images.splits.count("train"), "test": images.splits.count("test")}
    return site


def _sample_pictures(images_of_sites: Sequence[Images], classes: Sequence[str]) -> dict[str, list[tuple[str, Any]]]:
    """An image of each class of each site; with masks, some images."""
    samples: dict[str, list[tuple[str, Any]]] = {}
    for name, images in zip(SITES, images_of_sites, strict=True):
        if images.masks is not None:
            samples[name] = masks.sample_pictures(images)
            continue
        firsts = {int(label): index for index, label in reversed(list(enumerate(images.labels)))}
        samples[name] = [(classes[label], images.pixels[index]) for label, index in sorted(firsts.items())]
    return samples


def _sample_answers(site: DemoSite, models: Path, plan: Plan) -> list[dict[str, Any]]:
    """The answers and heat-maps of a site's model for some of its test images."""
    model = bundle.load(models / f"{site.home.name}.onnx", lambda key: signer_check.model_warning(site.home, key, None))
    by_class = [sorted((site.images / "test" / name).glob("*"))[:2] for name in plan.classes]
    chosen_paths = [path for class_paths in by_class for path in class_paths]
    rows = answering.answer_items(model, inputs.list_items(chosen_paths), pictures=True)
    return [{"true": path.parent.name, **row} for path, row in zip(chosen_paths, rows, strict=True)]


# --- knowledge ----------------------------------------------------------------------------------------------------
def _build_pack(out: Path, watch: Watch) -> dict[str, float]:
    """Build a pack of another family of phantoms, with the predictions of two nets trained on that family; return their
    accuracies."""
    tissues, specs = phantoms.TISSUES, []
    for seed in (1, 2):
        text = f'classes = {json.dumps(tissues)}\nmethod = "local"\nrounds = 1\nseed = {seed}\n'
        plan = plans.read(text + f"image.size = {nets.SIDE}\ntraining.epochs = 6\ntraining.lr = 0.002\n", METHODS)
        pixels, labels = phantoms.draw(
            SOURCE_COUNT, len(tissues), size=nets.SIDE, family="tissue", seed=seed, difficulty=0.2
        )
        training_images = Images(pixels, labels, ("train",) * SOURCE_COUNT, *(("",) * SOURCE_COUNT,) * 3)
        learner = learners.create(plan, f"source {seed}", "small", training_images, None, machine.compute())
        learner.receive(METHODS["local"].start(plan), 1)
        loop.train(learner, learners.image_sets(training_images, None), 1, progress=watch(f"source {seed}"))
        path = out / "sources" / f"source-{seed}.safetensors"
        path.parent.mkdir(exist_ok=True)
        with files.writing(path) as file:
            update.write(file, arrays_of(learner.net))
        specs.append(f"nets:{plan.nets.small}@{path}")
    pixels, labels = phantoms.draw(PUBLIC_COUNT, len(tissues), size=nets.SIDE, family="tissue", difficulty=0.2)
    pack = build.build(pixels, labels, tissues, specs, out / "sources" / "answers")
    packs.save(out / "pack.safetensors", pack)
    accuracy = (pack.probabilities.argmax(2) == labels).mean(1)
    return {f"source {number}": round(float(fraction), 3) for number, fraction in enumerate(accuracy, 1)}


# --- rounds -------------------------------------------------------------------------------------------------------
class _Federation:
    """The coordinator and the sites, which exchange parcels only through a folder."""

    def __init__(
        self, hub: Hub, sites: Sequence[DemoSite], carrier_folder: Path, watch: Watch, threads: int | None
    ) -> None:
        self.hub, self.sites, self.carrier_folder, self.watch, self.threads = hub, sites, carrier_folder, watch, threads
        self.coordinator_keys = hub.coordinator_keys(str)
        self.parcel_life: dict[str, Any] = {}
        carrier_folder.mkdir()

    def join(self) -> None:
        """Invite every site; each joins and is approved."""
        for site in self.sites:
            invite = invites.issue(self.hub, site.name, site.tier, 14)
            invite_file = membership.InviteFile(invite.code, invite.url, invite.federation, invite.charters)
            membership.join(site.home, invite_file, site.name, lambda: None)
            connection.save(site.home, self.carrier_folder)
            outbox.upload(site.home, [FolderCarrier(self.carrier_folder)])
            layout.resolve_images(site.home, site.images)
        self._collect()

    def round(self, audit_dir: Path) -> dict[str, Any]:
        """Run one round and export its audit; attack one update in the first round."""
        number = opening.open_next(self.hub, self.coordinator_keys).round
        exchange.deliver(self.hub, self.carrier_folder / FROM_COORDINATOR)
        for site in self.sites:
            sync.sync(site.home, [FolderCarrier(self.carrier_folder)], str, self.watch, threads=self.threads)
        if not self.parcel_life:
            self.parcel_life = self._attack(self.sites[1])
        self._collect()
        result = close.aggregate(self.hub, self.coordinator_keys)
        exchange.deliver(self.hub, self.carrier_folder / FROM_COORDINATOR)
        audit_export.export_round(self.hub, number, audit_dir / f"round-{number}")
        if number == 1:
            self._follow(audit_dir / "round-1")
        return result

    def measure(self, models: Path) -> None:
        """Evaluate each site's nets and export what it keeps."""
        for site in self.sites:
            inbox.download(site.home, [FolderCarrier(self.carrier_folder)], str)
            evaluation = ordered_training.evaluate(site.home, None, str, threads=self.threads)
            name, values = "accuracy", {}
            if isinstance(evaluation, Evaluation):
                values = {net: scores.accuracy.value for net, scores in evaluation.nets.items()}
            else:
                name = CHOOSES
                values = {net: scores.figures[name].value for net, scores in evaluation.nets.items()}
            site.figures |= {"alone": values["alone"], "together": values["own"]}
            exported = export.export(
                site.home, None, str, int8=False, target_sensitivity=_SENSITIVITY, threads=self.threads
            )
            exported.write(models / f"{site.home.name}.onnx")
            site.figures |= {"kept": exported.facts.test[name], "net": exported.facts.net}
            for path in sorted((site.home / "rounds").glob("*/report.json")):
                site.curve.append(json.loads(path.read_text(encoding="utf-8")))

    def travelled(self) -> list[dict[str, Any]]:
        """Every parcel of the federation, in the order of arrival."""
        parcels = []
        for hash_ in parcels_table.hashes_by_arrival(self.hub.database):
            path = self.hub.database.parcel_path(hash_)
            statement = parcel.inspect(path, parcel.any_signer).statement
            sender = statement.context.get("sender", "a site" if statement.kind == "enrol" else "coordinator")
            size, created = path.stat().st_size, statement.context["created"]
            parcels.append(
                {"kind": statement.kind, "from": sender, "hash": statement.hash, "size": size, "made": created}
            )
        return parcels

    def _collect(self) -> None:
        exchange.collect(self.hub, self.carrier_folder / TO_COORDINATOR, exchange.ExchangeResult())
        judge.judge_waiting(self.hub, self.coordinator_keys)

    # --- the life of one parcel -----------------------------------------------------------------------------------
    def _attack(self, site: DemoSite) -> dict[str, Any]:
        """Attack an update on its way; return what became of each attempt."""
        (path,) = (site.home / "rounds").glob("*/*.fhx")
        statement = parcel.inspect(path, parcel.any_signer).statement
        other_keys = keys.load(self.sites[2].home, str)
        body = io.BytesIO(path.read_bytes())
        with layout.scratch(self.hub.home) as work:
            changed, forged = work / "changed.fhx", work / "forged.fhx"
            tampered = bytearray(body.getvalue())
            tampered[-1] ^= 1
            changed.write_bytes(tampered)
            context = {
                **statement.context,
                "seq": statement.context["seq"] + 1,
                "nonce": "0" * len(statement.context["nonce"]),
            }
            parcel.seal(forged, context, b"no update", other_keys.sign, statement.context["recipients"])
            attempts = {
                "another clinic opens it": _refused_with(
                    lambda: parcel.open(path, parcel.any_signer, [other_keys.identity])
                ),
                "one bit of it changes on the way": _refused_with(lambda: receive.receive(self.hub, changed)),
                "another clinic signs in this one's name": _refused_with(lambda: receive.receive(self.hub, forged)),
            }
        first = receive.receive(self.hub, path)
        attempts["it arrives twice"] = _counted_once(first, receive.receive(self.hub, path))
        return {
            "site": site.name, "hash": statement.hash, "size": path.stat().st_size,
            "made": statement.context["created"], "recipients": len(statement.context["recipients"]), "tried": attempts,
        }  # fmt: skip

    def _follow(self, audit_dir: Path) -> None:
        """Add the parcel's lines of the coordinator's log, and the result of an audit without any key."""
        lines = [line for line, _ in log_table.lines(self.hub.database)]
        own_lines = [line for line in lines if line["subject"] == self.parcel_life["hash"] or line["type"] == "merge"]
        self.parcel_life["log"] = [(line["time"], line["type"]) for line in own_lines]
        report = audit.check(audit_dir)
        self.parcel_life["audit"] = {"shares": len(report.merged), "lines": report.log.length}


def _refused_with(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except FedhelpError as fault:
        return f"{fault.code}: {fault.cause}"
    raise AssertionError("an attack was accepted")


def _counted_once(first: IntakeResult, second: IntakeResult) -> str:
    if not first.new or second.new:
        raise AssertionError("a parcel was counted twice")
    return "recognised: the same receipt, counted once"
