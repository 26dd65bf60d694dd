"""Exports a round's nets as one signed ONNX bundle, to diagnose with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from export import bundle, mask_bundle
from fedhelp_edge import files
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.errors import NotTrainedError, UsageError
from fedhelp_edge.nets.net import Net
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import identity, inbox, layout, local_training, trial, verified
from fedhelp_edge.train import machine


def export(
    home: Path,
    round_: int | None,
    ask_passphrase: Callable[[], str],
    *,
    int8: bool,
    target_sensitivity: float,
    threads: int | None = None,
) -> bundle.ExportResult:
    """Exports a round of the federation: by default the newest one that this site trained."""
    trusted = verified.require_state(home)
    site, task = identity.own_site(home, trusted), trusted.task
    round_pattern = "*" if round_ is None else f"{round_:06}"
    finished = sorted((home / "rounds").glob(f"{trusted.charter.epoch:04}-{round_pattern}/report.json"))
    if site is None or task is None or not finished:
        raise NotTrainedError(
            "no round has been trained here" if round_ is None else f"round {round_} was not trained here"
        )
    site_keys, plan, round_dir = keys.load(home, ask_passphrase), inbox.plan_of(task), finished[-1].parent
    report = local_training.read_report(round_dir)
    merged, sites = inbox.merged_model(home, trusted, report["round"], site_keys, plan)
    sites = sites or len(trusted.roster.active(report["round"]) if trusted.roster else ())
    origin = bundle.Origin(
        trusted.charter.federation, report["round"], site.tier, sites, report["prior"], report.get("privacy"),
        _history(round_dir),
    )  # fmt: skip
    encoder = local_training.find_encoder(home, plan)
    pack = local_training.needed_pack(home, plan, layout.pack_path(home, task), encoder)
    context = _context(home, plan, site.id, site.tier, pack, encoder, threads)
    nets = local_training.nets(context, round_dir, merged)
    exported = _create(nets, context.images, plan, origin, site_keys, encoder, int8, target_sensitivity)
    kept = {"round": report["round"], "weighing": exported.facts.weighing}
    files.write_atomic(home / layout.KEPT, json.dumps(kept).encode())
    return exported


def export_trial(
    home: Path, plan: Plan, tier: str, round_: int | None, ask_passphrase: Callable[[], str],
    *, int8: bool, target_sensitivity: float, threads: int | None = None,
) -> bundle.ExportResult:  # fmt: skip
    """Exports a round of a trial, in which the site's own update is the merged model."""
    round_dir = trial.newest_round(home, plan, tier, round_)
    site_keys, report = keys.load(home, ask_passphrase), local_training.read_report(round_dir)
    origin = bundle.Origin("", report["round"], tier, 1, report["prior"], history=_history(round_dir))
    encoder = local_training.find_encoder(home, plan)
    pack = trial.needed_pack(home, plan, round_dir, encoder)
    context = _context(home, plan, trial.SITE_ID, tier, pack, encoder, threads)
    nets = local_training.nets(context, round_dir, trial.merged_model(plan, round_dir, pack))
    return _create(nets, context.images, plan, origin, site_keys, encoder, int8, target_sensitivity)


def _create(
    nets: Mapping[str, Net], images: Images, plan: Plan, origin: bundle.Origin, site_keys: keys.Keys,
    encoder: Encoder | None, int8: bool, target_sensitivity: float,
) -> bundle.ExportResult:  # fmt: skip
    if not plan.has_masks:
        return bundle.create(
            nets, images, plan, origin, site_keys.sign, encoder=encoder, int8=int8,
            target_sensitivity=target_sensitivity,
        )  # fmt: skip
    if int8:
        raise UsageError("a model for masks has no 8-bit numbers yet", remedy="leave --int8 out")
    return mask_bundle.create(nets, images, plan, origin, site_keys.sign)


def _history(round_dir: Path) -> list[dict[str, Any]]:
    """The rounds that this site trained before one; of a round of two epochs, the later one."""
    folders = sorted(
        path.parent for path in round_dir.parent.glob("*/report.json") if path.parent.name < round_dir.name
    )
    reports = {report["round"]: report for report in map(local_training.read_report, folders)}
    return [
        {
            "round": round_, "examples": report["examples"], "images": report.get("val_images", 0),
            "figure": report.get("figure", "accuracy"), "value": report["val"]["own"],
        }
        for round_, report in sorted(reports.items())
    ]  # fmt: skip


def _context(
    home: Path, plan: Plan, site: str, tier: str, pack: Pack | None, encoder: Encoder | None, threads: int | None
) -> local_training.TrainingContext:
    """Returns the context to load nets in: the site's images, and no more knowledge than is needed, in fp32."""
    machine.configure(threads)
    images = local_training.load_images(home, plan, layout.resolve_images(home, None), encoder, threads=threads)
    facts = encoder.facts(plan) if encoder else None
    return local_training.TrainingContext(plan, site, tier, images, pack, machine.compute("fp32"), encoder=facts)
