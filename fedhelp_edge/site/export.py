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
from fedhelp_edge.site import inbox, layout, local_training, trial, verified
from fedhelp_edge.train import machine
from fedhelp_edge.update import Array


def export(
    home: Path, round_: int | None, ask: Callable[[], str], *, int8: bool, wanted: float, threads: int | None = None
) -> bundle.Made:
    """Of a round of the federation, the newest that was trained here if none is named."""
    known = verified.state_of_member(home)
    site, order = verified.me(home, known), known.task
    number = "*" if round_ is None else f"{round_:06}"
    done = sorted((home / "rounds").glob(f"{known.charter.epoch:04}-{number}/report.json"))
    if site is None or order is None or not done:
        raise NotTrainedError(
            "nothing was trained here yet" if round_ is None else f"round {round_} was not trained here"
        )
    own, plan, at = keys.load(home, ask), inbox.plan_of(order), done[-1].parent
    number_of = local_training.read(at)["round"]
    merged, sites = inbox.merged(home, known, number_of, own, plan)
    sites = sites or len(known.roster.active(number_of) if known.roster else ())
    origin = bundle.Origin(known.charter.federation, number_of, site.tier, sites, local_training.read(at)["prior"])
    return _made(home, plan, site.id, at, merged, origin, own, int8, wanted, threads)


def try_out(
    home: Path, plan: Plan, tier: str, round_: int | None, ask: Callable[[], str],
    *, int8: bool, wanted: float, threads: int | None = None,
) -> bundle.Made:  # fmt: skip
    """Of a plan that was tried out without joining: what travels there is the merged model."""
    at = trial.newest(home, plan, tier, round_)
    own, report = keys.load(home, ask), local_training.read(at)
    origin = bundle.Origin("", report["round"], tier, 1, report["prior"])
    return _made(home, plan, trial.SITE, at, trial.merged(at), origin, own, int8, wanted, threads)


def _made(
    home: Path, plan: Plan, site: str, at: Path, merged: Mapping[str, Array] | None, origin: bundle.Origin, own: Keys,
    int8: bool, wanted: float, threads: int | None,
) -> bundle.Made:  # fmt: skip
    machine.settle(threads)
    images = data.load(layout.remembered(home, None), plan, kept=home / "images")
    place = local_training.Place(plan, site, origin.tier, images, None, machine.bench("fp32"))
    return bundle.make(local_training.nets(place, at, merged), images, plan, origin, own.sign, int8=int8, wanted=wanted)
