"""From a plan and a site's images to the learner that trains on them: the lab and a site make theirs alike."""

from __future__ import annotations

import importlib

import numpy as np

from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.methods.base import Bench, Knowledge, Learner, Site
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import loop


def learner(plan: Plan, site: str, tier: str, train: Images, pack: Pack | None, bench: Bench) -> Learner:
    """The learner of the plan's method for a site with these training images."""
    method = METHODS[plan.method]
    counts = np.bincount(train.labels, minlength=len(plan.classes))
    who = Site(site, tier, tuple(int(count) for count in counts))
    known = Knowledge(pack.probabilities, pack.labels, len(pack.classes)) if pack else None
    module, _, name = method.learner.partition(":")
    made: Learner = getattr(importlib.import_module(module), name)(plan, who, method.schema(plan), known, bench)
    return made


def sets(train: Images, pack: Pack | None) -> dict[str, loop.Set]:
    """What a site draws from."""
    return {"private": train, **({"public": pack} if pack else {})}
