"""Makes the learner of a plan and a site's images: in the lab as at a real site."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from fedhelp_edge.data.features import EncoderFacts
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Compute, Learner, LearnerContext, SiteFacts
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import loop
from fedhelp_edge.update import Array


def create(
    plan: Plan, site: str, tier: str, train: Images, pack: Pack | None, compute: Compute,
    first_weights: Mapping[str, Mapping[str, Array]] = MappingProxyType({}), encoder: EncoderFacts | None = None,
) -> Learner:  # fmt: skip
    """The learner of the plan's method for a site with these training images."""
    counts = [len(train)] if plan.has_masks else np.bincount(train.labels, minlength=len(plan.classes))
    facts = SiteFacts(site, tier, tuple(int(count) for count in counts), train.groups)
    registry.check_public(plan, pack)
    context = LearnerContext(plan, facts, pack, compute, first_weights, encoder)
    learner: Learner = registry.named_object(METHODS[plan.method].learner)(context)
    return learner


def image_sets(train: Images, pack: Pack | None) -> dict[str, loop.Set]:
    """The sets that a site draws from, by name."""
    return {"private": train, **({"public": pack} if pack else {})}
