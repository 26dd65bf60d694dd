"""Training by order: the round that the coordinator opened, from the model that it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from fedhelp_edge.data.findings import Finding
from fedhelp_edge.errors import KnowledgeMissingError, NotTrainedError, NotYetError, PassphraseNeededError, TierError
from fedhelp_edge.parcel import keys
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.site import inbox, layout, local_training, measuring, outbox, verified


def train(
    home: Path,
    tier: str,
    images: Path | None,
    watch: local_training.Watch,
    *,
    device: str = "cpu",
    threads: int | None = None,
) -> tuple[Path, dict[str, Any]] | None:
    """The round's folder and its report; None to processes that only helped."""
    known = verified.state_of_member(home)
    site, order = verified.me(home, known), known.task
    if site is None:
        raise NotYetError("this site was not let in yet")
    if site.tier != tier:
        word = "train" if site.tier == "small" else "distill"
        raise TierError(f"this site's tier is {site.tier}", remedy=f"fedhelp-edge {word}")
    if order is None:
        raise NotYetError("no round has been opened yet")
    if order.round < site.from_round:
        raise NotYetError(f"this site takes part from round {site.from_round} on; this is round {order.round}")
    plan = inbox.plan_of(order)
    known.check_fresh(datetime.now(timezone.utc), timedelta(days=plan.round.grace_days))
    if inbox.lacks_pack(home, order):
        raise KnowledgeMissingError(f"round {order.round} names knowledge that is not here, or damaged")
    base, at = inbox.base(home, order, plan), layout.round_folder(home, order)
    done = sorted(path.parent for path in at.parent.glob("*/report.json") if path.parent.name < at.name)
    with local_training.at_work(
        home, plan, site.id, tier, images, layout.pack_of(home, order), device=device, threads=threads
    ) as place:
        if place.bench.rank:
            local_training.follow(place)
            return None
        outbox.put_aside(home, order)
        return at, local_training.learn(place, order.round, base, at, done[-1] if done else None, watch)


def evaluate(home: Path, images: Path | None, ask: Callable[[], str], *, threads: int | None = None) -> Evaluation:
    """How good this site's nets of the newest round are that was trained here, and the merged one if it has come."""
    known = verified.state_of_member(home)
    site, order = verified.me(home, known), known.task
    done = sorted(path.parent for path in (home / "rounds").glob("*/report.json"))
    if site is None or order is None or not done:
        raise NotTrainedError("nothing was trained here yet")
    at, plan = done[-1], inbox.plan_of(order)
    number, merged, locked = local_training.read(at)["round"], None, False
    if inbox.sealed_models(home, known, number):
        try:
            merged, _ = inbox.merged(home, known, number, keys.load(home, ask), plan)
        except PassphraseNeededError:  # nobody is there: the others are measured all the same
            locked = True
    found = measuring.measure(home, plan, site.id, site.tier, at, merged, images, threads=threads)
    if locked:
        said = "the merged net is not measured, because the keys are locked: --passphrase-file opens them"
        found = replace(found, findings=[*found.findings, Finding("net-not-measured", "", 0, 0, said).to_json()])
    return found
