"""What `import fedhelp_edge as fh` offers: a plan, images, a federation, a site, a model and parcels, a call each.

Each function hands its work to the room that does it for the command line too. PyTorch is loaded to train, evaluate and
export, onnxruntime to export and predict, and neither for anything else. Paths may be text. A dictionary that comes
back is what the command prints with `--json` (docs/spec/json-output.json).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import encoder as encoders
from fedhelp_edge import plan as plan_format
from fedhelp_edge.data import npz
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.features import Progress
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.errors import FedhelpError as FedhelpError
from fedhelp_edge.errors import SignerMismatchError, UsageError
from fedhelp_edge.infer import bundle as bundles
from fedhelp_edge.infer import decide, drawing
from fedhelp_edge.infer.bundle import Bundle, MaskBundle
from fedhelp_edge.infer.decide import Answer
from fedhelp_edge.infer.drawing import Outline
from fedhelp_edge.lab import label_noise, partition
from fedhelp_edge.lab.partition import Say, SiteImages
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import timm
from fedhelp_edge.parcel import keys as key_files
from fedhelp_edge.parcel import parcel, sshsig, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.parcel import Inspected, Opened
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.plan import Plan
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.report.mask_evaluation import MaskEvaluation
from fedhelp_edge.update import Array

if TYPE_CHECKING:
    from export.bundle import ExportResult
    from fedhelp_edge.parcel.canon import Value

AnyPath: TypeAlias = "str | os.PathLike[str]"


def read_plan(path: AnyPath, settings: Mapping[str, Any] | None = None) -> Plan:
    """Reads the plan in a TOML file, with `settings` laid over it: `{"rounds": 2, "fedhelp.lambda_j": 0.4}`.

    A plan with mistakes is refused with all of them and their lines. A plan never changes: read it again for another.
    """
    return plan_format.load(Path(path), METHODS, {name: json.dumps(value) for name, value in (settings or {}).items()})


def load_encoder(path: AnyPath, plan: Plan) -> Encoder:
    """Loads the plan's encoder, an ONNX file, and checks that it is the one that the plan names."""
    encoder = encoders.find(plan, Path(path))
    assert encoder is not None  # noqa: S101 - a plan without an encoder is refused
    return encoder


def load_images(
    source: AnyPath, plan: Plan, state_dir: AnyPath, encoder: Encoder | None = None,
    *, masks: AnyPath | None = None, mapping: Mapping[str, str] | None = None, redraw: bool = False,
    threads: int | None = None, progress: Progress | None = None,
) -> Images:  # fmt: skip
    """Loads a folder, a table or an NPZ of images, at the plan's size, and splits them into train, val and test.

    `state_dir` keeps the pixels and the split. The first call draws the split; later calls keep each image in its part.
    With `redraw` the source and the plan decide alone, as for the laboratory, where no image comes later.
    A plan with an encoder needs it here: `state_dir` keeps the features of each image too. For segmentation `source` is
    an NPZ with masks, or a folder with folders `images` and `masks`; or `masks` is the folder of masks. `mapping` gives
    the plan's classes of other names in the source; without it those count that `check` saved in `state_dir`.
    """
    from fedhelp_edge.data import loading

    masks_dir = None if masks is None else Path(masks)
    images = loading.load(
        Path(source), plan, state_dir=Path(state_dir), masks=masks_dir, mapping=mapping, redraw=redraw
    )
    return encoders.embed_images(images, plan, encoder, Path(state_dir), workers=threads, progress=progress)


def load_pack(
    path: AnyPath, plan: Plan, encoder: Encoder | None = None, cache_dir: AnyPath = "~/.cache/fedhelp-edge",
    *, threads: int | None = None, progress: Progress | None = None,
) -> Pack:  # fmt: skip
    """Loads a knowledge pack: public images at the plan's size, and what foundation models predict for them.

    A plan with an encoder needs it here: `cache_dir` keeps the features of the images.
    """
    return encoders.embed_pack(
        packs.load(Path(path)), plan, encoder, Path(cache_dir).expanduser(), workers=threads, progress=progress
    )


def load_public_images(
    source: AnyPath, plan: Plan, cache_dir: AnyPath, encoder: Encoder | None = None,
    *, threads: int | None = None, progress: Progress | None = None,
) -> Pack:  # fmt: skip
    """Loads public images and their labels as a pack without predictions, for runs without a foundation model."""
    from fedhelp_edge.knowledge import public_images

    public = public_images.read(Path(source), Path(cache_dir))
    return encoders.embed_pack(public, plan, encoder, Path(cache_dir), workers=threads, progress=progress)


def distribute_images(
    images: Images,
    plan: Plan,
    split: str = "natural:centers",
    *,
    sites: int = 0,
    large: int = 1,
    noise: Sequence[str] = (),
    say: Say = print,
) -> list[SiteImages]:
    """Distributes images over the sites of a federation. One patient's images stay at one site.

    `split` is `natural:centers` or `natural:folder` (as the source has them), `dirichlet:ALPHA` for this many `sites`,
    or `sizes:TRAIN/TEST,…`. The `large` sites with most training images are hospitals, the others clinics. `noise` puts
    wrong labels on training images: `symmetric:0.2`, `pairflip:0.2`, `asymmetric:TRUE=WRONG:0.2` or `matrix:FILE`, for
    all sites or for one (`site-002=symmetric:0.2`). `say` gets a line for each thing that a person should know, such as
    images that moved to their patient's site.
    """
    _require(sites >= 0 and large >= 0, f"sites is {sites}, large is {large}", "give numbers from 0 up")
    assigned = partition.distribute(images, split, plan.seed, sites=sites, large=large, val=plan.data.val, say=say)
    return label_noise.add(assigned, noise, plan.classes, plan.seed)


def run_federation(
    plan: Plan,
    sites: Sequence[SiteImages],
    out: AnyPath,
    *,
    pack: Pack | None = None,
    encoder: Encoder | None = None,
    start: Mapping[str, Array] | Sequence[Mapping[str, Array]] = (),
    sealed: bool = False,
    engine: str = "local",
    address: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    participation: float = 1.0,
    about: Mapping[str, Any] = MappingProxyType({}),
    progress: Say | None = None,
) -> dict[str, Any]:
    """Trains a whole federation in one laboratory, with the learners, codecs and merging that work between machines.

    `start` gives first weights by tensor name, ours or timm's, or those of several nets: the plan's large net is for
    sites that keep one. `sealed` sends all that travels through real parcels. `out` keeps each round: an interrupted
    run continues from there, and one that is finished is read, not repeated. `participation` is the part of the sites
    that takes part in each round. `about` joins the provenance in its record.

    With the engine `local` the sites train one after the other, each with `threads` threads. With `ray` as many sites
    train at once, each with one thread; or as many as the Ray cluster at `address` has cores. The `device` is `cpu`, or
    `cuda` for the engine `local`.

    The `encoder` is the one by which `load_images` made features.
    """
    from fedhelp_edge.lab import engine as engines
    from fedhelp_edge.lab import run, transport
    from fedhelp_edge.train import machine

    with engines.connected(engine, address, threads, device) as connected:
        machine.configure(1 if engine == "ray" else threads)
        return run.run(
            plan, sites, Path(out), compute=machine.compute(plan.training.precision, device), pack=pack,
            encoder=encoder.facts(plan) if encoder else None, start=_weight_sets(start),
            transport=transport.SealedTransport() if sealed else None, engine=connected,
            participation=participation, about=about, progress=progress,
        )  # fmt: skip


def attack_federation(
    plans: Mapping[str, Plan], sites: Sequence[SiteImages], out: AnyPath, *, encoder: Encoder | None = None,
    runs: int = 8, steps: int = 500, trials: int = 1000, threads: int | None = None,
    about: Mapping[str, Any] = MappingProxyType({}), progress: Say | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Attacks a federation as a curious coordinator would; returns what the attacks find.

    `plans` has the variants "plain" and "dp" of one plan. `runs` federations are trained for each, to tell members
    apart; `steps` are of the search for images, `trials` with a canary image. Writes attacks.md and attacks.json.
    """
    from fedhelp_edge.lab.attacks import everything
    from fedhelp_edge.train import machine

    machine.configure(threads)
    return everything.run(
        plans, sites, Path(out), compute=machine.compute("fp32"), runs=runs, steps=steps, trials=trials,
        encoder=encoder.facts(plans["plain"]) if encoder else None, about=about, progress=progress,
    )  # fmt: skip


def _weight_sets(start: Mapping[str, Array] | Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    sets = ([start] if start else []) if isinstance(start, Mapping) else start
    return [timm.translate(each) for each in sets]


def compare_plans(
    plans: Mapping[str, Plan],
    sites: Sequence[SiteImages],
    out: AnyPath,
    *,
    seeds: Sequence[int] = (0,),
    pack: Pack | None = None,
    encoder: Encoder | None = None,
    sealed: bool = False,
    engine: str = "local",
    address: str | None = None,
    threads: int | None = None,
    progress: Say | None = None,
) -> list[dict[str, Any]]:
    """Runs named plans over the same sites, each with every seed, and writes `out/table.md` with intervals.

    Differences are taken against the first plan. A run that is in `out` already is not repeated.
    """
    from fedhelp_edge.lab import compare, same_sites
    from fedhelp_edge.lab import engine as engines

    same_sites.hold(Path(out), sites)

    def run_one(name: str, seed: int, folder: Path) -> dict[str, Any]:
        return run_federation(
            replace(plans[name], seed=seed), sites, folder, pack=pack, encoder=encoder, sealed=sealed, engine=engine,
            address=address, threads=threads,
            progress=(lambda text: progress(f"{name} seed {seed}: {text}")) if progress else None,
        )  # fmt: skip

    with engines.connected(engine, address, threads):  # once for all runs
        return compare.compare(list(plans), seeds, Path(out), run_one, progress=progress)


def train_site(
    plan: Plan,
    images: AnyPath,
    home: AnyPath,
    *,
    tier: str = "small",
    rounds: int = 1,
    pack: AnyPath | None = None,
    encoder: AnyPath | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> dict[str, Any]:
    """Trains one site by a plan without joining a federation, and returns the report of its last round.

    `tier` is `small` for a clinic, `large` for a hospital. `home` keeps the decoded images and each round. Of several
    processes (`torchrun`) the first has the report; the others get an empty one.
    """
    _require(tier in ("small", "large"), f"tier is {tier!r}", "name small or large")
    _require(rounds >= 1, f"rounds is {rounds}", "train at least 1 round")
    from fedhelp_edge.site import trial

    outcome = trial.train(
        Path(home), plan, tier, Path(images), lambda part: None, rounds=rounds,
        knowledge=None if pack is None else Path(pack), encoder=None if encoder is None else Path(encoder),
        device=device, threads=threads,
    )  # fmt: skip
    return {**outcome[1], "folder": str(outcome[0])} if outcome else {}


def evaluate_site(
    plan: Plan, home: AnyPath, images: AnyPath | None = None, *, tier: str = "small", threads: int | None = None
) -> Evaluation | MaskEvaluation:
    """Measures the nets that `train_site` trained last, on the site's test images, or on all of other `images`."""
    from fedhelp_edge.site import trial

    return trial.evaluate(Path(home), plan, tier, None if images is None else Path(images), threads=threads)


def make_keys(folder: AnyPath, passphrase: str | None) -> Keys:
    """Makes keys to sign and to decrypt, and keeps them in a folder. With `None` only file permissions guard them."""
    made = key_files.generate()
    key_files.save(Path(folder), made, passphrase)
    return made


def load_keys(folder: AnyPath, passphrase: str | None = None) -> Keys:
    """Loads the keys that a folder keeps."""
    return key_files.load(Path(folder), lambda: passphrase or "")


def export_bundle(
    plan: Plan,
    home: AnyPath,
    out: AnyPath,
    *,
    tier: str = "small",
    round: int | None = None,
    passphrase: str | None = None,
    int8: bool = False,
    sensitivity: float = 0.9,
    threads: int | None = None,
) -> ExportResult:
    """Writes a site's nets, weighed by its validation images, as one signed ONNX file, with a card in words beside it.

    Takes the last round that `train_site` trained, or `round`. The keys in `home` sign. Thresholds are chosen for
    `sensitivity`. `int8` asks for 8-bit numbers, which are taken if they are worth it.
    """
    from fedhelp_edge.site import export

    _require(0.5 <= sensitivity <= 0.999, f"sensitivity is {sensitivity}", "choose from 0.5 to 0.999")
    result = export.export_trial(
        Path(home), plan, tier, round, lambda: passphrase or "",
        int8=int8, target_sensitivity=sensitivity, threads=threads,
    )  # fmt: skip
    result.write(Path(out))
    return result


def load_bundle(
    path: AnyPath,
    *,
    signer: str | None = None,
    home: AnyPath = "~/fedhelp",
    threads: int | None = None,
    any_kind: bool = False,
) -> Bundle:
    """Loads a model to predict with, if its signature holds and it answers here as it did at export.

    `signer` is the fingerprint (`SHA256:…`) of the key that must have signed. Without it, `home` says whom to trust:
    its own key, and the sites of its federation. Where it has neither, `why` says that nobody vouches for the signer.
    With `any_kind` it also answers DICOM files of kinds that it was not trained on.
    """
    check = _signer_check(home, signer)
    return bundles.load_checked(Path(path), check, threads=threads, any_kind=any_kind)


def load_mask_bundle(
    path: AnyPath,
    *,
    signer: str | None = None,
    home: AnyPath = "~/fedhelp",
    threads: int | None = None,
    any_kind: bool = False,
) -> MaskBundle:
    """Loads a model for masks, as `load_bundle` does one for classes."""
    opened = bundles.load_any_checked(Path(path), _signer_check(home, signer), threads=threads, any_kind=any_kind)
    if not isinstance(opened, MaskBundle):
        raise UsageError(f"{Path(path).name} is a model for classes, not for masks", remedy="use load_bundle")
    return opened


def _signer_check(home: AnyPath, signer: str | None) -> bundles.CheckSigner:
    from fedhelp_edge.site import signer_check

    known = Path(home).expanduser()
    return lambda key: signer_check.model_warning(known, key, signer)


def predict_arrays(bundle: Bundle, images: NDArray[Any]) -> list[Answer]:
    """Answers each of N images: N x height x width, or x 1, 3 or 4 channels, uint8 or uint16, of any size."""
    _require_pictures(images)
    pixels = [npz.decode(image, bundle.facts.image).pixels for image in images]
    return decide.answer_images(bundle, np.stack(pixels)) if pixels else []


def outline_arrays(bundle: MaskBundle, images: NDArray[Any]) -> list[Outline]:
    """Outlines each of N images, each mask as large as its image. Of volumes N x slices x rows x columns.

    Volumes are uint8 or uint16, and their voxels lie as far apart as the plan's.
    """
    image = bundle.facts.image
    if not image.is_volume:
        _require_pictures(images)
        return [
            drawing.outline(bundle, npz.decode(each, image).pixels, (each.shape[0], each.shape[1])) for each in images
        ]
    _require(
        images.dtype in (np.uint8, np.uint16) and images.ndim in (4, 5) and images.shape[4:] in ((), (1,), (3,)),
        f"the array is {' x '.join(map(str, images.shape))} of {images.dtype}",
        "give N x slices x rows x columns (x 1 or 3) of uint8 or uint16; for one volume, volume[None]",
    )
    return [drawing.outline(bundle, npz.decode_volume(each, image).pixels) for each in images]


def _require_pictures(images: NDArray[Any]) -> None:
    _require(
        images.dtype in (np.uint8, np.uint16) and images.ndim in (3, 4) and images.shape[3:] in ((), (1,), (3,), (4,)),
        f"the array is {' x '.join(map(str, images.shape))} of {images.dtype}",
        "give N x height x width (x 1, 3 or 4) of uint8 or uint16; for one image, image[None]",
    )


def predict_files(bundle: Bundle | MaskBundle, *paths: AnyPath, out: AnyPath | None = None) -> list[dict[str, Any]]:
    """Answers each image in files, folders, DICOM and NPZ. A file that cannot be used is a row with an `error`.

    A model for masks writes the files of each outline into the folder `out`; without it the rows have areas alone.
    """
    from fedhelp_edge.data import picture
    from fedhelp_edge.infer import answering, inputs

    with picture.without_warnings():
        items = inputs.list_items([Path(path) for path in paths], bundle.facts.image)
        rows = list(answering.answers(bundle, items, "json", None if out is None else Path(out)))
    return [{name: value for name, value in row.items() if name != "stamp"} for row in rows]


def seal_parcel(
    path: AnyPath,
    kind: str,
    body: bytes | BinaryIO,
    keys: Keys,
    recipients: Sequence[str] = (),
    **context: Value,
) -> Statement:
    """Writes a signed parcel; an `update` or a `global` is encrypted to the `recipients` (`age1…`).

    `context` has what a parcel of this kind states (docs/spec/parcel.md). The time, the nonce, and for an update the
    sender's key and the recipients are filled in.
    """
    _require(kind in statement.KINDS, f"{kind!r} is no kind of parcel", f"name one of {', '.join(statement.KINDS)}")
    derived = {"sender_key": sshsig.fingerprint(keys.public.sign), "recipients": list(recipients)}
    fields: dict[str, Any] = {name: derived[name] for name in derived.keys() & statement.KINDS[kind].fields}
    return parcel.seal(Path(path), statement.new_context(kind, **fields | context), body, keys.sign, recipients)


def inspect_parcel(path: AnyPath) -> Inspected:
    """Reads what a parcel shows without a key: that it is whole, what it states, and which keys signed it.

    Nothing here says whose keys these are.
    """
    return parcel.inspect(Path(path), parcel.any_signer)


def open_parcel(path: AnyPath, signer: str, keys: Keys | None = None) -> Opened:
    """Opens a parcel that `signer` has signed: a public key (`ssh-ed25519 …`) or its fingerprint (`SHA256:…`).

    It is verified to its last byte before this returns. Use it in a `with`; `body` is a file of what it holds. A kind
    that is encrypted needs the `keys` of one of its recipients.
    """

    def verify(statement: Statement, signers: tuple[str, ...]) -> None:
        if signer not in signers and signer not in map(sshsig.fingerprint, signers):
            raise SignerMismatchError(f"signed by {', '.join(map(sshsig.fingerprint, signers))}")

    return parcel.open(Path(path), verify, [keys.identity] if keys else [])


def _require(valid: bool, cause: str, remedy: str) -> None:
    """Refuses what the command line would not let through."""
    if not valid:
        raise UsageError(cause, remedy=remedy)
