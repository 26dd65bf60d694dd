"""What travels with each method, and the first model, for the methods that average. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedhelp_edge.nets import spec
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Role, Schema, TensorSpec

RHO = "rho."  # before the names of pFedBayes's second tensors
CONTROL = "control."  # and of SCAFFOLD's
PERSON, SELECTOR = "person.", "selector."  # and of FedSM's other nets
MOMENTS = ("first.", "second.")  # and of its Adam's moments
PROTOTYPES = "prototypes."  # and of what FedMedCLIP compares images with, where sites share it


def travelling_net(plan: Plan, public: Any = None) -> Schema:
    """The plan's small net; norm layers stay at the sites where the plan says so."""
    whole = spec.schema(plan.nets.small, spec.Form.of(plan))
    return Schema(tuple(t for t in whole.tensors if plan.wire.norm == "shared" or t.role not in ("norm", "stat")))


def gaussian_net(plan: Plan, public: Any = None) -> Schema:
    """The plan's small net, whose weights are means, and the rho of each of them. Norm layers have none."""
    return _beside(travelling_net(plan), RHO, {"weight": "weight"})


def controlled_net(plan: Plan, public: Any = None) -> Schema:
    """The plan's small net, and the control variate of each parameter.

    Merging limits these apart from weights and running statistics.
    """
    return _beside(travelling_net(plan), CONTROL, {"weight": "control", "norm": "control"})


def personal_nets(plan: Plan, public: Any = None) -> Schema:
    """FedSM's common net; and, averaged alike, a personal net, the selector, and the moments of the selector's Adam."""
    net, selector = travelling_net(plan), _selector(plan)
    parameters = Schema(tuple(tensor for tensor in selector.tensors if tensor.role != "stat"))
    beside = [(PERSON, net), (SELECTOR, selector), *((prefix, parameters) for prefix in MOMENTS)]
    even = [replace(t, name=prefix + t.name, role="even") for prefix, schema in beside for t in schema.tensors]
    return Schema((*net.tensors, *even))


def selector_form(plan: Plan) -> spec.Form:
    """What FedSM's selector is made for: pictures, or the slices of a volume, and a number for each site."""
    return spec.Form(plan.tables["fedsm"].sites, plan.image.channels, plan.nets.norm, plan.image.size)


def _selector(plan: Plan) -> Schema:
    return spec.schema(plan.tables["fedsm"].selector, selector_form(plan))


def _beside(net: Schema, prefix: str, roles: Mapping[Role, Role]) -> Schema:
    """A net, and beside each tensor of these roles a second one of the same shape in the role given for it."""
    second = (replace(t, name=prefix + t.name, role=roles[t.role]) for t in net.tensors if t.role in roles)
    return Schema((*net.tensors, *second))


def adapter(plan: Plan, public: Any = None) -> Schema:
    """FedMedCLIP's adapter: two masked linear layers; and with it prototypes, where the plan has sites share them."""
    width = plan.nets.encoder_width
    shapes = {"weight": (width, width), "bias": (width,), "threshold": (width,)}
    tensors = [TensorSpec(f"{layer}.{part}", "F32", shapes[part]) for layer in ("first", "second") for part in shapes]
    if plan.tables["fedmedclip"].class_vectors == "shared":
        tensors.append(TensorSpec(f"{PROTOTYPES}rows", "F32", (len(plan.classes), width)))
    return Schema(tuple(tensors))


def nothing(plan: Plan, public: Any = None) -> Schema:
    """No tensor: each site stays alone."""
    return Schema(())


def drawn_net(plan: Plan) -> dict[str, Array]:
    """The plan's small net, with norm layers, drawn from the plan's seed: the same for every site."""
    return spec.initial_weights(spec.schema(plan.nets.small, spec.Form.of(plan)), plan.seed)


def drawn_gaussian(plan: Plan) -> dict[str, Array]:
    """The first net as means, and the plan's rho for each weight."""
    rho = np.float32(plan.tables["pfedbayes"].rho)
    second = {t.name: np.full(t.shape, rho) for t in gaussian_net(plan).tensors if t.name.startswith(RHO)}
    return {**drawn_net(plan), **second}


def drawn_controlled(plan: Plan) -> dict[str, Array]:
    """The first net; its control variates are zero."""
    controls = [t for t in controlled_net(plan).tensors if t.name.startswith(CONTROL)]
    return {**drawn_net(plan), **{t.name: np.zeros(t.shape, np.float32) for t in controls}}


def drawn_personal(plan: Plan) -> dict[str, Array]:
    """The first net, which is everybody's first personal net too, and the first selector; its moments are zero."""
    net, selector = drawn_net(plan), spec.initial_weights(_selector(plan), plan.seed)
    drawn = {**net, **_under(PERSON, net), **_under(SELECTOR, selector)}
    rest = (tensor for tensor in personal_nets(plan).tensors if tensor.name not in drawn)
    return {**drawn, **{tensor.name: np.zeros(tensor.shape, np.float32) for tensor in rest}}


def _under(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {prefix + name: array for name, array in arrays.items()}


def drawn_adapter(plan: Plan) -> dict[str, Array]:
    """The first adapter, with the spread of PyTorch's own linear layers: it changes features little. No prototypes."""
    factors = {True: 0.0, False: 6**-0.5}  # He's spread is sqrt(2 / n), PyTorch's sqrt(1 / 3n)
    drawn = spec.initial_weights(adapter(plan), plan.seed)
    return {name: array * np.float32(factors[name.startswith(PROTOTYPES)]) for name, array in drawn.items()}
