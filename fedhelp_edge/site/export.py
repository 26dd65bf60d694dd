"""A round becomes what this site diagnoses with: its nets, the merged one, and the site's key make a signed bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from export import bundle
from fedhelp_edge import data
from fedhelp_edge.errors import NotTrainedError
from fedhelp_edge.parcel import keys
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import identity, inbox, layout, local_training, trial, verified
from fedhelp_edge.train import machine
from fedhelp_edge.update import Array


def export(
    home: Path,
    round_: int | None,
    ask_passphrase: Callable[[], str],
    *,
    int8: bool,
    target_sensitivity: float,
    threads: int | None = None,
) -> bundle.ExportResult:
    """Of a round of the federation, the newest that was trained here if none is named."""
    trusted = verified.require_state(home)
    site, task = identity.own_site(home, trusted), trusted.task
    round_pattern = "*" if round_ is None else f"{round_:06}"
    finished = sorted((home / "rounds").glob(f"{trusted.charter.epoch:04}-{round_pattern}/report.json"))
    if site is None or task is None or not finished:
        raise NotTrainedError(
            "nothing was trained here yet" if round_ is None else f"round {round_} was not trained here"
        )
    site_keys, plan, round_dir = keys.load(home, ask_passphrase), inbox.plan_of(task), finished[-1].parent
    trained_round = local_training.read_report(round_dir)["round"]
    merged, sites = inbox.merged_model(home, trusted, trained_round, site_keys, plan)
    sites = sites or len(trusted.roster.active(trained_round) if trusted.roster else ())
    origin = bundle.Origin(
        trusted.charter.federation, trained_round, site.tier, sites, local_training.read_report(round_dir)["prior"]
    )
    return _bundle(home, plan, site.id, round_dir, merged, origin, site_keys, int8, target_sensitivity, threads)


def export_trial(
    home: Path, plan: Plan, tier: str, round_: int | None, ask_passphrase: Callable[[], str],
    *, int8: bool, target_sensitivity: float, threads: int | None = None,
) -> bundle.ExportResult:  # fmt: skip
    """Of a plan that was tried out without joining: what travels there is the merged model."""
    round_dir = trial.newest_round(home, plan, tier, round_)
    site_keys, report = keys.load(home, ask_passphrase), local_training.read_report(round_dir)
    origin = bundle.Origin("", report["round"], tier, 1, report["prior"])
    return _bundle(
        home,
        plan,
        trial.SITE_ID,
        round_dir,
        trial.merged_model(round_dir),
        origin,
        site_keys,
        int8,
        target_sensitivity,
        threads,
    )


def _bundle(
    home: Path, plan: Plan, site: str, round_dir: Path, merged: Mapping[str, Array] | None, origin: bundle.Origin, site_keys: Keys,
    int8: bool, target_sensitivity: float, threads: int | None,
) -> bundle.ExportResult:  # fmt: skip
    machine.configure(threads)
    images = data.load(layout.resolve_images(home, None), plan, state_dir=home / "images")
    context = local_training.TrainingContext(plan, site, origin.tier, images, None, machine.compute("fp32"))
    return bundle.create(
        local_training.nets(context, round_dir, merged),
        images,
        plan,
        origin,
        site_keys.sign,
        int8=int8,
        target_sensitivity=target_sensitivity,
    )
