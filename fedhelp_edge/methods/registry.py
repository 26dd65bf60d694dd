"""The methods that a plan may name. Needs no torch.

Other packages add methods by an entry point of the group `fedhelp_edge.methods`: its name is the method's, its object a
`Method`. It is loaded when a plan names it.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from fedhelp_edge.errors import KnowledgeMissingError, MissingPackageError, PluginError, UsageError
from fedhelp_edge.merge import header, ridge, tables
from fedhelp_edge.merge.closing import Closing, Merger, SiteUpdates
from fedhelp_edge.merge.norm_limit import UpdateNorm
from fedhelp_edge.methods import schemas, settings
from fedhelp_edge.nets import spec
from fedhelp_edge.parcel import age
from fedhelp_edge.plan import LowRankSettings, MergeSettings, Plan
from fedhelp_edge.privacy import accountant, noise
from fedhelp_edge.safe_text import counted
from fedhelp_edge.update import LIMITED_ROLES, MAX_MAGNITUDE, Array, Schema

if TYPE_CHECKING:
    from fedhelp_edge.data.pack import Pack

AVERAGE = "fedhelp_edge.merge.rules:average"
ADAM = "fedhelp_edge.merge.adaptive:adam"
MIN_SECURE_SITES = 3  # in a secure sum


class Public(Protocol):
    """What a schema may depend on of the knowledge pack. A pack itself is one."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def sources(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def whole(self) -> Pack:
        """The pack itself, for a merger that works on its images."""


@dataclass(frozen=True)
class PublicFacts:
    """The same of a pack that is not in memory."""

    images: int
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    load: Callable[[], Pack]

    def __len__(self) -> int:
        return self.images

    def whole(self) -> Pack:
        return self.load()

    @classmethod
    def from_json(cls, text: str, load: Callable[[], Pack]) -> PublicFacts:
        facts = json.loads(text)
        return cls(facts["images"], tuple(facts["classes"]), tuple(facts["sources"]), load)


def public_json(public: Public) -> str:
    """The facts of a pack as JSON, for `PublicFacts.from_json`."""
    return json.dumps({"images": len(public), "classes": list(public.classes), "sources": list(public.sources)})


class SchemaOf(Protocol):
    """Returns the tensors that travel, in order."""

    def __call__(self, plan: Plan, public: Public | None = None) -> Schema: ...


class StartOf(Protocol):
    """Makes the first model. No pack is known yet: what depends on one is not taken in round 1."""

    def __call__(self, plan: Plan) -> dict[str, Array]: ...


class PlanCheck(Protocol):
    """Yields what a plan asks that its method cannot do: table, key, and what to change."""

    def __call__(self, plan: Plan) -> Iterable[tuple[str, str, str]]: ...


def widths_to_compare(plan: Plan) -> Iterable[tuple[str, str, str]]:
    """FedMIC's matrices at the decision leave the features as they are, and these are compared one by one."""
    form, nets = spec.Form.of(plan), (plan.nets.small, plan.nets.large)
    settings_, widths = plan.tables["fedmic"], {spec.width(net, form) for net in nets}
    if settings_.aux_at == "decision" and settings_.lambda_h and len(widths) > 1:
        what = f"{plan.nets.small} and {plan.nets.large} have features of unequal number"
        yield "fedmic", "aux_at", f'{what}: say "representation" here, or lambda_h = 0'


def fits_masks(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """FedHelp's weights of sources by how well these know a label are for classes of images."""
    if plan.has_masks and plan.tables["fedhelp"].alpha == "label_fit":
        yield "fedhelp", "alpha", 'label_fit is for classes of images: "learned" or "uniform"'


def keeps_prior(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """MDH-FL's own loss knows no prior; the local baseline beside it would have one."""
    if plan.training.loss == "logit-adjusted" and plan.tables["mdhfl"].loss == "symmetric":
        yield "training", "loss", 'mdhfl has a loss of its own: leave this out, or say loss = "plan" in [mdhfl]'


def _no_check(plan: Plan) -> Iterable[tuple[str, str, str]]:
    return ()


def needs_encoder(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """A method that works on features."""
    if not plan.nets.encoder:
        yield "nets", "encoder", f"{plan.method} works on the features of an encoder: name its file"


def _no_advice(plan: Plan) -> Iterable[str]:
    return ()


def travelling_norm(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """The coordinator runs the nets that it gets: they need their norm layers."""
    if plan.wire.norm == "local":
        yield "wire", "norm", f"{plan.method} has the coordinator run whole nets: shared"


def selects_by_pixels(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """FedSM's selector sees pixels, and tells so many sites apart. Rounding would destroy its small moments."""
    if plan.tables["fedsm"].sites < plan.round.quorum:
        yield "fedsm", "sites", f"the selector tells fewer sites apart than a round needs: {plan.round.quorum} or more"
    if plan.nets.encoder:
        yield "nets", "encoder", f"{plan.method} has a selector that sees pixels: leave this out"
    if plan.wire.norm == "local":
        yield "wire", "norm", f"{plan.method} has a personal net of each site already: shared"
    for name in ("up", "down"):
        if getattr(plan.wire, name) != "f32":
            yield "wire", name, f"{plan.method} sends Adam's moments, which rounding destroys: f32"


@dataclass(frozen=True)
class Method:
    """What a plan's method name stands for. Learner and merger are named, not imported: they may need torch."""

    table: type  # its settings
    learner: str  # module:name
    up: SchemaOf = schemas.travelling_net  # exactly the tensors of an update, in order
    down: SchemaOf = schemas.travelling_net  # and of a merged model
    start: StartOf = schemas.drawn_net  # round 0's model
    merger: str = AVERAGE  # module:name
    verify: str = ""  # module:name; refuses an update whose values no site can have, from its arrays and claims
    home: str = "net"  # what a site diagnoses with: "net", the one that travels, or "tier", a net of its own kind
    weight: str = "examples"  # what merge.weight = "method" means: "examples" | "uniform"
    public: bool = False  # whether it works on the public images of a knowledge pack, and on one pack throughout
    masks: bool = False  # whether it also trains nets for masks
    against_masks: str = ""  # why not
    sites: int = 1  # fewest that can do without seeing each other's update in the merged model
    adds: bool = False  # whether its merger adds updates; averaging does too
    noised: bool = False  # whether all that its update tells of images passes through the noise of mode "dp"
    unnoised_tiers: tuple[str, ...] = ()  # except at sites of these tiers, which cannot take part in mode "dp"
    check: PlanCheck = _no_check  # what else it cannot do
    advise: Callable[[Plan], Iterable[str]] = _no_advice  # sentences on a plan that it can do, and that could be better

    @property
    def exchanges(self) -> bool:
        """Whether anything travels."""
        return self.up is not schemas.nothing

    @property
    def averages(self) -> bool:
        """Whether updates are averaged: only then do late ones count, and the plan's rules, codecs and limits apply."""
        return self.merger in (AVERAGE, ADAM)

    @property
    def is_sum(self) -> bool:
        """Whether the sum of the updates is all that its merger needs: then they can stay masked (secure-sum)."""
        return self.exchanges and (self.averages or self.adds)

    def stale_rounds(self, plan: Plan) -> int:
        """How many rounds late an update may arrive. A masked one counts in its own round alone."""
        return plan.round.stale if self.averages and not plan.privacy.is_secure_sum else 0

    def mistakes(self, plan: Plan) -> Iterator[tuple[str, str, str]]:
        """What the plan asks that the method cannot do: table, key, and what to change."""
        if plan.has_masks and not self.masks:
            able = ", ".join(name for name, method in _BUILT_IN.items() if method.masks)
            why = f", {self.against_masks}" if self.against_masks else ""
            yield "", "method", f"{plan.method} does not do segmentation{why}: name one of {able}"
            return
        if self.home == "net" and plan.nets.own:
            yield "nets", "own", f"{plan.method} has every site diagnose with the net that travels: leave this out"
        if plan.round.quorum < self.sites:
            yield (
                "round",
                "quorum",
                f"{plan.method} needs {self.sites} or more: fewer see each other's update",
            )
        if not self.averages:
            if plan.wire.up in ("int8-delta", "lowrank"):
                yield "wire", "up", f"{plan.method} does not average updates: f32 or f16"
            if plan.merge.rule != "mean":
                yield "merge", "rule", f"{plan.method} merges in its own way: leave this out"
        if plan.privacy.is_secure_sum:
            yield from self._secure_sum_mistakes(plan)
        if plan.privacy.is_dp:
            yield from self._dp_mistakes(plan)
        yield from self.check(plan)

    def notes(self, plan: Plan) -> Iterator[str]:
        """Sentences on a plan without mistakes: what it rules out, what does nothing, what would be better."""
        for tier in self.unnoised_tiers if plan.privacy.is_dp else ():
            yield f"no {tier} site can take part: {_unnoised(plan, tier)}"
        yield from plan.privacy.idle_keys()
        if plan.wire.up != "lowrank" and plan.lowrank != LowRankSettings():
            yield f'[lowrank] does nothing with up = "{plan.wire.up}" in [wire]'
        if plan.merge.rule != "trimmed" and plan.merge.trim != MergeSettings().trim:
            yield f'[merge] trim does nothing with rule = "{plan.merge.rule}"'
        if self.averages and plan.merge.rule == "trimmed" and plan.merge.trim * plan.round.quorum < 1:
            least = math.ceil(1 / plan.merge.trim) if plan.merge.trim else 0
            remedy = f"it does with {least} or more" if least else "trim is 0"
            yield f"of {plan.round.quorum} sites the trimmed mean leaves out none: {remedy}"
        yield from self.advise(plan)

    def _secure_sum_mistakes(self, plan: Plan) -> Iterator[tuple[str, str, str]]:
        """What nobody can do who knows only the sum of the updates."""
        if not self.is_sum:
            fitting = ", ".join(name for name in METHODS if METHODS[name].is_sum)
            what = "merges no sum of updates" if self.exchanges else "sends no updates"
            yield "privacy", "mode", f"{plan.method} {what}: plain, or one of the methods {fitting}"
        if plan.merge.rule != "mean":
            yield "merge", "rule", f"{plan.merge.rule} compares single updates, which nobody sees: mean"
        if plan.merge.clip != "none":
            yield "merge", "clip", 'auto compares single updates, which nobody sees: "none"; [privacy] clip limits each'
        if plan.merge.cap < 1 and self.averages and merge_settings(plan).weight == "examples":
            yield "merge", "cap", "nobody sees the number of images of one site: 1.0; max_examples limits it"
        if plan.wire.up != "f32":
            yield "wire", "up", f"updates in {plan.wire.up} cannot be added while they are masked: f32"
        if plan.wire.post_quantum and not age.is_post_quantum(plan.privacy.helper_key):
            remedy = "one that 'fedhelp-helper init --post-quantum' prints"
            yield "privacy", "helper_key", f"a later quantum computer opens the seeds: {remedy}"
        if plan.round.quorum < MIN_SECURE_SITES:
            yield "round", "quorum", f"{MIN_SECURE_SITES} or more: of two sites each learns the other's update"
        if plan.privacy.hides_sites:
            yield from self._site_noise_mistakes(plan)

    def _site_noise_mistakes(self, plan: Plan) -> Iterator[tuple[str, str, str]]:
        """What would tell more of a site than the noise of a sum lets through, or what no sum can hold."""
        of_net, of_update = (
            {tensor.role for tensor in schema(plan).tensors} - LIMITED_ROLES
            for schema in (schemas.travelling_net, self.up if self.averages else schemas.travelling_net)
        )
        if of_net:
            yield "nets", "norm", "clip does not limit the statistics of batch norm, so noise does not hide them: group"
        if of_update - of_net or not self.averages:
            yield "privacy", "site_noise", f"clip does not limit all that {plan.method} sends: 0, or method fedavg"
        largest = plan.privacy.clip + noise.LARGEST * accountant.noise_of_a_site(plan)
        if largest > 2 * MAX_MAGNITUDE:
            yield (
                "privacy",
                "clip",
                f"noise takes a number to {largest:.3g}, and a sum holds {2 * MAX_MAGNITUDE:g}",
            )
        yield from self._budget_mistakes(plan, "site_noise")

    def _dp_mistakes(self, plan: Plan) -> Iterator[tuple[str, str, str]]:
        """What would tell more of images than the noise lets through."""
        if not self.noised:
            fitting = ", ".join(name for name in METHODS if METHODS[name].noised)
            what = f"the noise does not cover all that {plan.method} sends" if self.exchanges else "nothing is sent"
            yield "privacy", "mode", f"{what}: plain, or one of the methods {fitting}"
        if self.unnoised_tiers and plan.nets.own:
            yield "nets", "own", f"{_unnoised(plan, self.unnoised_tiers[0])}: leave this out"
        if plan.image.is_volume:
            yield "image", "depth", "a volume is several blocks, and noise hides each alone: leave this out"
        if plan.weighs_pixels:
            yield "masks", "weights", "pixels weigh by how frequent classes are at a site, without noise: none"
        if plan.nets.norm != "group":
            yield "nets", "norm", "batch norm mixes the images of a step, so none can be hidden alone: group"
        if plan.training.loss == "logit-adjusted":
            yield "training", "loss", "logit-adjusted counts the images of each class, without noise: ce or symmetric"
        yield from self._budget_mistakes(plan, "noise_multiplier")

    def _budget_mistakes(self, plan: Plan, noise_key: str) -> Iterator[tuple[str, str, str]]:
        """What noise cannot hide, be it an image or a site; and noise that is too little for all rounds."""
        if merge_settings(plan).weight != "uniform":
            yield "merge", "weight", "sites do not send their number of images: uniform"
        if plan.round.patience:
            yield "round", "patience", "sites send no figures on validation images: 0"
        spent = accountant.epsilon([accountant.round_of(plan, plan.rounds)], plan.privacy.delta)
        if spent > plan.privacy.epsilon:
            least = accountant.least_noise(plan)
            what = f"{plan.rounds} rounds spend an epsilon of {spent:.3g}, and the budget is {plan.privacy.epsilon:g}"
            remedy = f"{least:g} or more here" if least else "more noise is of no use"
            yield "privacy", noise_key, f"{what}: {remedy}, or fewer rounds or epochs"


def _unnoised(plan: Plan, tier: str) -> str:
    return f"noise does not cover what a {tier} site of {plan.method} sends"


def check_tier(plan: Plan, tier: str, who: str = "this site") -> None:
    """Refuses a site of a tier that cannot take part under the plan: before it is invited, and before it trains."""
    if plan.privacy.is_dp and tier in METHODS[plan.method].unnoised_tiers:
        remedy = "register it as a small site, or name the method fedavg in the plan"
        raise UsageError(f"{who} is {tier}, and {_unnoised(plan, tier)}", remedy=remedy)


def is_noised(plan: Plan) -> bool:
    """Whether training adds noise: a net that stays at its site, as the local baseline does, needs none."""
    return plan.privacy.is_dp and METHODS[plan.method].exchanges


def merge(
    plan: Plan,
    round_: int,
    base: Mapping[str, Array],
    updates: SiteUpdates,
    examples: Mapping[str, int],
    norms: Mapping[str, UpdateNorm] | None = None,
    public: Public | None = None,
) -> dict[str, Array]:
    """The merged model of a round's updates, by the merger of the plan's method."""
    check_public(plan, public)
    schema, pack = METHODS[plan.method].up(plan, public), public.whole if public else None
    return merger_of(plan)(Closing(plan, merge_settings(plan), schema, round_, base, updates, examples, norms, pack))


def merger_of(plan: Plan) -> Merger:
    """The merger of the plan's method. Refuses where it needs a package that is not installed."""
    try:
        merger: Merger = named_object(METHODS[plan.method].merger)
    except ModuleNotFoundError as error:
        cause = f"{plan.method} needs {error.name} where updates are merged"
        raise MissingPackageError(cause, remedy="pip install 'fedhelp-edge[train]' at the coordinator") from error
    return merger


def merge_settings(plan: Plan) -> MergeSettings:
    """The plan's, with the method's own weights where the plan leaves them to it, or its merger weighs all alike."""
    method = METHODS[plan.method]
    by_method = plan.merge.weight == "method" or (not method.averages and method.weight == "uniform")
    weight = method.weight if by_method else plan.merge.weight
    return replace(plan.merge, weight=weight)


def check_public(plan: Plan, public: Public | None, remedy: str = "give one with --knowledge PACK") -> None:
    """Refuses to go on without a knowledge pack, or with one of a single image, where the plan's method needs one."""
    if METHODS[plan.method].public and public is None:
        raise KnowledgeMissingError(f"{plan.method} works on the public images of a knowledge pack", remedy=remedy)
    if METHODS[plan.method].public and public is not None and len(public) < 2:
        cause = f"{plan.method} compares public images, and the knowledge pack has {counted(len(public), 'image')}"
        raise UsageError(cause, remedy="give a pack of more public images")


def named_object(name: str) -> Any:
    """Imports what `module:name` names."""
    module, _, attribute = name.partition(":")
    imported = importlib.import_module(module)
    try:
        return getattr(imported, attribute)
    except AttributeError as error:
        raise PluginError(f"{module} has no {attribute!r}") from error


class _Methods(Mapping[str, Method]):
    """The methods of this package, and those that other packages add. A name of this package's cannot be replaced."""

    def __getitem__(self, name: str) -> Method:
        return _BUILT_IN[name] if name in _BUILT_IN else _load(_added()[name])

    def __iter__(self) -> Iterator[str]:
        return iter({**_BUILT_IN, **_added()})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in _BUILT_IN or name in _added()


@cache
def _added() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="fedhelp_edge.methods")}


def _load(point: EntryPoint) -> Method:
    try:
        method = point.load()
    except Exception as error:
        raise PluginError(f"method {point.name!r} cannot be loaded from {point.value}: {error}") from error
    if not isinstance(method, Method):
        raise PluginError(f"method {point.name!r}: {point.value} is no Method")
    return method


_PACKAGE = "fedhelp_edge.methods"
_exchanges_tables = partial(
    Method,
    merger="fedhelp_edge.merge.tables:mean",
    home="tier",
    weight="uniform",
    public=True,
    against_masks="as answers for each pixel of the public images would travel",
)
_ON_FEATURES = "as an encoder gives features of images, not of pixels"
_BUILT_IN: Mapping[str, Method] = {
    "fedhelp": Method(
        settings.FedHelpSettings,
        f"{_PACKAGE}.fedhelp:learner",
        home="tier",
        masks=True,
        noised=True,
        unnoised_tiers=("large",),
        check=fits_masks,
    ),
    "fedavg": Method(settings.FedAvgSettings, f"{_PACKAGE}.fedavg:FedAvg", masks=True, noised=True),
    "fedprox": Method(settings.FedProxSettings, f"{_PACKAGE}.fedprox:FedProx", masks=True, noised=True),
    "fedmic": Method(settings.FedMICSettings, f"{_PACKAGE}.fedmic:FedMIC", masks=True, check=widths_to_compare),
    "local": Method(
        settings.LocalSettings,
        f"{_PACKAGE}.local:Local",
        up=schemas.nothing,
        down=schemas.nothing,
        home="tier",
        masks=True,
    ),
    "fccl": _exchanges_tables(
        settings.FcclSettings, f"{_PACKAGE}.fccl:Fccl", up=tables.logits_schema, down=tables.merged_logits_schema
    ),
    "fedgh": Method(
        settings.FedGHSettings,
        f"{_PACKAGE}.fedgh:FedGH",
        up=header.means_schema,
        down=header.header_schema,
        start=header.start,
        merger="fedhelp_edge.merge.header:train",
        home="tier",
        weight="uniform",
        against_masks="as a mean over pixels may be of one patient alone",
        check=header.check,
    ),
    "fedkemf": Method(
        settings.FedKEMFSettings,
        f"{_PACKAGE}.fedkemf:FedKEMF",
        merger=f"{_PACKAGE}.fedkemf:ensemble",
        home="tier",
        public=True,
        against_masks="as its coordinator merges what nets say of whole images",
        check=travelling_norm,
    ),
    "fedmd": _exchanges_tables(
        settings.FedMDSettings, f"{_PACKAGE}.fedmd:FedMD", up=tables.logits_schema, down=tables.merged_logits_schema
    ),
    "fedmedclip": Method(
        settings.FedMedClipSettings,
        f"{_PACKAGE}.fedmedclip:FedMedCLIP",
        up=schemas.adapter,
        down=schemas.adapter,
        start=schemas.drawn_adapter,
        weight="uniform",
        against_masks=_ON_FEATURES,
        check=needs_encoder,
    ),
    "mdhfl": _exchanges_tables(
        settings.MdhFlSettings,
        f"{_PACKAGE}.mdhfl:MdhFl",
        up=tables.probabilities_schema,
        down=tables.merged_probabilities_schema,
        check=keeps_prior,
    ),
    "ridge": Method(
        settings.RidgeSettings,
        f"{_PACKAGE}.ridge:Ridge",
        up=ridge.schema,
        down=ridge.schema,
        start=ridge.start,
        merger="fedhelp_edge.merge.ridge:add",
        adds=True,
        verify="fedhelp_edge.merge.ridge:verify",
        against_masks=_ON_FEATURES,
        check=ridge.check,
        advise=ridge.advise,
    ),
    "perfedavg": Method(settings.PerFedAvgSettings, f"{_PACKAGE}.perfedavg:PerFedAvg", masks=True),
    "pfedbayes": Method(
        settings.PFedBayesSettings,
        f"{_PACKAGE}.pfedbayes:PFedBayes",
        up=schemas.gaussian_net,
        down=schemas.gaussian_net,
        start=schemas.drawn_gaussian,
        masks=True,
    ),
    "fedadam": Method(settings.FedAdamSettings, f"{_PACKAGE}.fedavg:FedAvg", merger=ADAM, masks=True, noised=True),
    "scaffold": Method(
        settings.ScaffoldSettings,
        f"{_PACKAGE}.scaffold:Scaffold",
        up=schemas.controlled_net,
        down=schemas.controlled_net,
        start=schemas.drawn_controlled,
        masks=True,
        noised=True,
    ),
    "fedsm": Method(
        settings.FedSMSettings,
        f"{_PACKAGE}.fedsm:FedSM",
        up=schemas.personal_nets,
        down=schemas.personal_nets,
        start=schemas.drawn_personal,
        masks=True,
        check=selects_by_pixels,
    ),
    "pfedme": Method(settings.PFedMeSettings, f"{_PACKAGE}.pfedme:PFedMe", masks=True),
}
METHODS: Mapping[str, Method] = _Methods()
