"""Trains and evaluates the round of the coordinator's newest task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from fedhelp_edge.data.findings import Finding
from fedhelp_edge.errors import (
    EncoderError,
    KnowledgeMissingError,
    NotTrainedError,
    NotYetError,
    PassphraseNeededError,
    TierError,
)
from fedhelp_edge.methods.registry import check_tier, is_noised
from fedhelp_edge.parcel import keys
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.report.mask_evaluation import MaskEvaluation
from fedhelp_edge.site import (
    identity,
    inbox,
    layout,
    local_training,
    measuring,
    outbox,
    privacy_budget,
    privacy_pin,
    verified,
)
from fedhelp_edge.site import start as own_start
from fedhelp_edge.train import machine


def train(
    home: Path,
    tier: str,
    images: Path | None,
    watch: local_training.Watch,
    *,
    start: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> tuple[Path, dict[str, Any]] | None:
    """Trains the open round. Returns its folder and report; None in every process but the first.

    `start` gives the first weights of the net that the site keeps for itself; they are remembered.
    """
    trusted = verified.require_state(home)
    site, task = identity.own_site(home, trusted), trusted.task
    if site is None:
        raise NotYetError("the coordinator has not approved this site yet")
    if site.tier != tier:
        command = "train" if site.tier == "small" else "distill"
        raise TierError(f"this site's tier is {site.tier}", remedy=f"fedhelp-edge {command}")
    if task is None:
        raise NotYetError("no round has been opened yet")
    if task.round < site.from_round:
        raise NotYetError(f"this site takes part from round {site.from_round} on; this is round {task.round}")
    plan = inbox.plan_of(task)
    check_tier(plan, tier)  # before images are read
    trusted.check_fresh(datetime.now(timezone.utc), timedelta(days=plan.round.grace_days))
    if inbox.lacks_pack(home, task):
        raise KnowledgeMissingError(f"round {task.round} needs a knowledge pack that is missing or damaged")
    if inbox.lacks_encoder(home, task):
        raise EncoderError(
            f"round {task.round} needs the encoder {plan.nets.encoder}, which is missing or damaged",
            remedy="'fedhelp-edge download' brings it",
        )
    base, round_dir = inbox.base_model(home, task, plan), layout.round_dir(home, task)
    finished = sorted(path.parent for path in round_dir.parent.glob("*/report.json"))
    earlier = [other for other in finished if other.name < round_dir.name and privacy_pin.may_go_on_from(other, plan)]
    with local_training.open_context(
        home, plan, site.id, tier, images, layout.pack_path(home, task), device=device, threads=threads, watch=watch
    ) as context:
        if context.compute.rank:
            local_training.follow(context)
            return None
        outbox.put_refused_aside(home, task)
        context = own_start.use(home, context, start)
        previous = earlier[-1] if earlier else None
        round_ = local_training.SiteRound(task.round, base, round_dir, previous, inbox.last_merge(home, task, previous))
        if plan.privacy.hides_sites and not (round_dir / "report.json").exists():
            privacy_pin.check(home, plan.privacy)
            privacy_budget.pay_update(home, task, plan)
        if is_noised(plan) and not (round_dir / "report.json").exists():
            privacy_pin.check(home, plan.privacy)
            inputs, arithmetic = context.inputs(previous), machine.arithmetic(context.compute)
            key = privacy_budget.pay(home, task, plan, (site.id, *inputs), arithmetic)
            privacy = privacy_budget.spent(home, task.federation, plan, task.round)
            round_ = replace(round_, noise_key=key, privacy=privacy)
        return round_dir, local_training.train_round(context, round_, watch)


def evaluate(
    home: Path, images: Path | None, ask_passphrase: Callable[[], str], *, errors: int = 0, threads: int | None = None
) -> Evaluation | MaskEvaluation:
    """Measures the nets of the newest round that was trained here, and the merged net if it has arrived."""
    trusted = verified.require_state(home)
    site, task = identity.own_site(home, trusted), trusted.task
    finished = sorted(path.parent for path in (home / "rounds").glob("*/report.json"))
    if site is None or task is None or not finished:
        raise NotTrainedError("no round has been trained here")
    round_dir, plan = finished[-1], inbox.plan_of(task)
    round_, merged, locked = local_training.read_report(round_dir)["round"], None, False
    if inbox.sealed_models(home, trusted, round_):
        try:
            merged, _ = inbox.merged_model(home, trusted, round_, keys.load(home, ask_passphrase), plan)
        except PassphraseNeededError:  # nobody can type it: measure the other nets
            locked = True
    encoder = local_training.find_encoder(home, plan)
    pack = local_training.needed_pack(home, plan, layout.pack_path(home, task), encoder)
    evaluation = measuring.measure(
        home, plan, site.id, site.tier, round_dir, merged, images, pack=pack, encoder=encoder, errors=errors,
        threads=threads,
    )  # fmt: skip
    if locked:
        text = "the merged net is not measured, because the keys are locked: --passphrase-file opens them"
        finding = Finding("net-not-measured", "", 0, 0, text).to_json()
        evaluation = replace(evaluation, findings=[*evaluation.findings, finding])
    return evaluation
