"""`lab run`, `lab compare`, `lab table`, `lab attack`."""

import os
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from fedhelp_edge import console, errors, shell
from fedhelp_edge.cli.options import ClassNames, Device, Masks, parse_class_names

# numpy's singular vectors, which `lowrank` sends, have other bits with other numbers of threads. A Ray worker has one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported

app = shell.app(
    no_args_is_help=True, help="Run whole federations on this machine, to try a plan out or to compare methods."
)

PlanFile = Annotated[Path, shell.path_argument("The plan.")]
Data = Annotated[Path, typer.Option("--data", help="Images: an NPZ, a folder or a table.", readable=False)]
Split = Annotated[
    str, typer.Option("--split", help="natural:centers|folder, dirichlet:ALPHA, labels:K, sizes:TRAIN/TEST,...")
]
Sites = Annotated[
    int, typer.Option("--sites", min=0, show_default="2", help="Number of sites of a split dirichlet or labels.")
]
Large = Annotated[int, typer.Option("--large", min=0, help="Number of hospitals: the sites with most images.")]
Pack = Annotated[Path | None, typer.Option("--knowledge", help="The knowledge pack.", readable=False)]
Public = Annotated[
    Path | None, typer.Option("--public", help="Public images without a model's answers.", readable=False)
]
EncoderFile = Annotated[
    Path | None, typer.Option("--encoder", help="The plan's encoder; default: beside the plan.", readable=False)
]
Noise = Annotated[
    list[str] | None,
    typer.Option(
        "--noise", help="Wrong training labels: [SITE=]symmetric:0.2|pairflip:0.2|asymmetric:A=B:0.2|matrix:CSV"
    ),
]
Sealed = Annotated[bool, typer.Option("--sealed", help="Send everything as sealed parcels.")]
Engine = Annotated[
    str, typer.Option("--engine", help="local: the sites run one after the other. ray: one on each core at once.")
]
Address = Annotated[str | None, typer.Option("--address", help="With --engine ray: a cluster, HOST:PORT or auto.")]
StartWeights = Annotated[
    list[Path] | None, typer.Option("--start", help="First weights of a net; again for another net.", readable=False)
]
Participation = Annotated[
    float, typer.Option("--participation", help="The part of the sites that takes part in each round.")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Change the plan: fedhelp.lambda_j=0.4")]
Out = Annotated[Path, typer.Option("--out", help="The folder for the results.", readable=False)]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor cores to use.")]


_WRONG = ("leak", "left-out")  # kinds of findings about images that somebody should correct


class LabSetup:
    """Images, knowledge and plan of `run` and `compare`."""

    def __init__(self, plan: Path, data: Path, masks: Path | None, mapping: list[str] | None,
                 split: str, sites: int, large: int,
                 knowledge: Path | None, public: Path | None, encoder: Path | None, start: list[Path] | None,
                 changes: list[str] | None,
                 sealed: bool, engine: str, address: str | None, out: Path, threads: int | None,
                 noise: list[str] | None, participation: float, device: str) -> None:  # fmt: skip
        from fedhelp_edge import api
        from fedhelp_edge import encoder as encoders
        from fedhelp_edge.lab import engine as engines
        from fedhelp_edge.lab import participation as lab_participation
        from fedhelp_edge.lab import partition, provenance, same_sites
        from fedhelp_edge.methods import first_weights
        from fedhelp_edge.train import machine

        engines.check(engine, address, threads, device)
        if engine == "ray" and not find_spec("ray"):
            raise errors.MissingPackageError("ray is not installed", remedy=shell.install_hint("ray"))
        if knowledge and public:
            raise errors.UsageError("a pack has its own public images: give --knowledge or --public, not both")
        machine.compute(device=device)  # refuses one that is not here before an image is read
        self.sealed, self.threads = sealed, threads
        lab_participation.check(participation)
        self.participation = participation
        noises = [provenance.without_folders(each) for each in noise or ()]
        self.about = {"command": provenance.command(sys.argv[1:]), "split": split, "noise": noises}
        self.engine, self.address, self.device = engine, address, device
        agreed = self.plan = _plan(plan, changes)
        self.encoder = encoders.find(agreed, encoder or encoders.beside(plan, agreed))
        with console.progress_bars() as watch:
            bar = watch("looking at the images") if self.encoder else None
            images = api.load_images(
                data, agreed, out / "data", self.encoder, masks=masks, mapping=parse_class_names(mapping), redraw=True,
                threads=threads, progress=bar,
            )  # fmt: skip
        self.sites = api.distribute_images(
            images, agreed, split, sites=sites, large=large, noise=noise or (), say=console.say
        )
        same_sites.check(out, self.sites)
        self.out = out
        wrong = [each.to_json() for each in partition.findings(self.sites, agreed.classes) if each.kind in _WRONG]
        console.say_findings(wrong)  # before hours of training
        self.pack = None
        if knowledge:
            self.pack = api.load_pack(knowledge, agreed, self.encoder, out / "public", threads=threads)
        elif public:
            self.pack = api.load_public_images(public, agreed, out / "public", self.encoder, threads=threads)
        self.start = [first_weights.load(path) for path in start or ()]
        first = first_weights.match(agreed, self.start)
        for taken in first.taken:
            console.say_first_weights(taken.net, taken.tensors, taken.drawn)
        if self.start and large and agreed.nets.large not in first.own:
            console.say(f"no --start is for {agreed.nets.large}: large sites draw the first weights of their own net")

    def run(self, plan: Any, out: Path, name: str) -> dict[str, Any]:
        from fedhelp_edge import api
        from fedhelp_edge.lab import same_sites

        same_sites.hold(self.out, self.sites)  # before the first run; wrong options bind no folder
        return api.run_federation(
            plan, self.sites, out, pack=self.pack, encoder=self.encoder, start=self.start, sealed=self.sealed,
            engine=self.engine, address=self.address, threads=self.threads, device=self.device,
            participation=self.participation, about=self.about,
            progress=lambda text: console.say(f"{name} seed {plan.seed}: {text}"),
        )  # fmt: skip


def _plan(file: Path, changes: list[str] | None, settings: Mapping[str, str] = MappingProxyType({})) -> Any:
    """The plan with the changes of --set and of a method's name. Mistakes that are not the file's are the options'."""
    from fedhelp_edge import plan
    from fedhelp_edge.methods.registry import METHODS

    changed = {key: value for key, _, value in (change.partition("=") for change in changes or ())} | dict(settings)
    try:
        return plan.load(file, METHODS, changed)
    except errors.BadPlanError as error:
        plan.load(file, METHODS)  # mistakes of the file itself come first
        mistakes = [re.sub(r"^line \d+: ", "", str(mistake)) for mistake in error.mistakes]
        raise errors.UsageError("; ".join(mistakes), remedy="correct --set, --methods or --seeds") from error


def _say_notes(plan: Any, whose: str = "") -> None:
    """Says which keys of a plan do nothing, and what would be better."""
    from fedhelp_edge.methods.registry import METHODS

    for note in METHODS[plan.method].notes(plan):
        console.say(f"{whose}{note}")


@app.command()
def run(
    plan: PlanFile, data: Data, out: Out, masks: Masks = None, mapping: ClassNames = None,
    split: Split = "natural:centers", sites: Sites = 0, large: Large = 1, knowledge: Pack = None,
    public: Public = None, encoder: EncoderFile = None, start: StartWeights = None, change: Settings = None,
    noise: Noise = None, participation: Participation = 1.0,
    sealed: Sealed = False, engine: Engine = "local", address: Address = None, threads: Threads = None,
    device: Device = "cpu",
    json: shell.AsJson = False,
) -> None:  # fmt: skip
    """Train one federation on this machine, with the same learners, codecs and aggregation as between machines.

    Example: fedhelp-edge lab run plan.toml --data images.npz --split natural:centers --large 2 --out try
    """
    from fedhelp_edge.report.scale import SCALES

    setup = LabSetup(
        plan, data, masks, mapping, split, sites, large, knowledge, public, encoder, start, change, sealed, engine,
        address, out, threads, noise, participation, device,
    )  # fmt: skip
    agreed = setup.plan
    _say_notes(agreed)
    result = setup.run(agreed, out, agreed.method)
    if json:
        return console.print_json(runs=[result])
    scale = SCALES[agreed.task]
    figure = scale.figures[0]
    for site in result["sites"]:
        value = "-" if site[figure] is None else f"{site[figure]:.3f}"
        console.show(f"{site['name']:<24}{site['tier']:<7}{site['n_train']:>6} images   {scale.names[figure]} {value}")
    console.say_findings(result.get("findings", ()))
    console.show(f"results: {out / 'run.json'}")
    return None


@app.command()
def compare(
    plan: PlanFile, data: Data, out: Out,
    methods: Annotated[str, typer.Option("--methods", help="all, or fedhelp,fedavg,fedhelp+sources=none,...")],
    seeds: Annotated[str, typer.Option("--seeds", help="0,1,2")] = "0",
    masks: Masks = None,
    mapping: ClassNames = None,
    split: Split = "natural:centers", sites: Sites = 0, large: Large = 1, knowledge: Pack = None,
    public: Public = None, encoder: EncoderFile = None, start: StartWeights = None, change: Settings = None,
    noise: Noise = None,
    participation: Participation = 1.0,
    sealed: Sealed = False, engine: Engine = "local", address: Address = None, threads: Threads = None,
    device: Device = "cpu",
    published: Annotated[
        str, typer.Option("--published", help="Show a paper's figures beside: fed-isic19, pneumonia.")
    ] = "",
    json: shell.AsJson = False,
) -> None:  # fmt: skip
    """Compare methods over seeds; an interrupted run continues. Writes table.md, report.html, results.json and more.

    Example: fedhelp-edge lab compare plan.toml --methods local,fedavg,fedhelp --seeds 0,1,2 --data images.npz --out try
    """
    from fedhelp_edge.lab import compare as lab_compare
    from fedhelp_edge.lab import engine as engines
    from fedhelp_edge.lab import published as published_figures
    from fedhelp_edge.methods import first_weights, registry

    try:
        seed_numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise errors.UsageError(f"seeds are whole numbers, as in 0,1,2, not {seeds!r}") from error
    published_figures.check(published)
    plans: dict[str, dict[int, Any]] = {}

    def leave_out(name: str, error: errors.FedhelpError) -> None:
        """Only a method that `all` names may be left out."""
        if name in methods.split(","):
            error.cause = f"{name}: {error.cause}"
            raise error
        console.say(f"{name} is left out: {error.cause}")
        plans.pop(name, None)

    for name in lab_compare.parse_methods(methods):
        method, settings = lab_compare.parse_method(name)
        try:  # all plans are checked before images are read and the first training
            plans[name] = {
                seed: _plan(plan, change, {**settings, "method": method, "seed": str(seed)}) for seed in seed_numbers
            }
        except errors.UsageError as error:
            leave_out(name, error)
    setup = LabSetup(
        plan, data, masks, mapping, split, sites, large, knowledge, public, encoder, start, change, sealed, engine,
        address, out, threads, noise, participation, device,
    )  # fmt: skip

    for name, by_seed in list(plans.items()):
        try:
            for each in by_seed.values():
                registry.check_public(each, setup.pack)
                for site in setup.sites:
                    registry.check_tier(each, site.tier, site.id)
                first_weights.match(each, setup.start)
        except errors.FedhelpError as error:
            leave_out(name, error)
    for name, by_seed in plans.items():
        _say_notes(by_seed[seed_numbers[0]], f"{name}: ")
    if not lab_compare.can_plot():
        console.say(f"for curves.png and cost.png: {shell.install_hint('matplotlib')}")
    with engines.connected(engine, address, threads):  # once for all runs
        runs = lab_compare.compare(
            list(plans),
            seed_numbers,
            out,
            lambda name, seed, folder: setup.run(plans[name][seed], folder, name),
            published,
            console.say,
        )
    if json:
        return console.print_json(runs=runs)
    console.show(*(out / "table.md").read_text(encoding="utf-8").split("\n"))
    console.say(f"saved in {out}; report.html is one file to send")
    return None


@app.command()
def table(
    folder: Annotated[Path, shell.path_argument("A folder that `lab compare` wrote.")], json: shell.AsJson = False
) -> None:
    """Compute the table and the report of a comparison again from its results and answers, without training.

    Example: fedhelp-edge lab table docs/results/fed-isic
    """
    from fedhelp_edge.lab import compare as lab_compare
    from fedhelp_edge.lab import tables

    known = lab_compare.rebuild(folder)
    complete = bool(known.answers_of)
    if json:
        return console.print_json(runs=len(known.runs), planned=known.planned, complete=complete)
    console.show(*tables.markdown(known).split("\n"))
    if not complete:
        console.say("the answers of these runs are not kept: an existing table.md stays as it is")
    return None


@app.command()
def attack(
    plan: PlanFile, data: Data, out: Out, mapping: ClassNames = None, split: Split = "natural:centers",
    sites: Sites = 0, encoder: EncoderFile = None, change: Settings = None,
    runs: Annotated[int, typer.Option("--runs", min=4, help="Federations to train, to tell members apart.")] = 8,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the search for images.")] = 500,
    trials: Annotated[int, typer.Option("--trials", min=40, help="Trials with a canary image.")] = 1000,
    threads: Threads = None, json: shell.AsJson = False,
) -> None:  # fmt: skip
    """Attack a federation as a curious coordinator would, without protection and with it. Writes attacks.md.

    Example: fedhelp-edge lab attack plan.toml --data images.npz --split dirichlet:100 --sites 4 --out try
    """
    from fedhelp_edge import api
    from fedhelp_edge.lab import attacks

    setup = LabSetup(
        plan, data, None, mapping, split, sites, 0, None, None, encoder, None, change, False, "local", None, out,
        threads, None, 1.0, "cpu",
    )  # fmt: skip
    plans = {name: _plan(plan, change, dict(attacks.settings(name))) for name in (attacks.PLAIN, attacks.DP)}
    record = api.attack_federation(
        plans, setup.sites, out, encoder=setup.encoder, runs=runs, steps=steps, trials=trials, threads=threads,
        about=setup.about, progress=console.say,
    )  # fmt: skip
    if json:
        return console.print_json(**record)
    console.show(*(out / "attacks.md").read_text(encoding="utf-8").split("\n"))
    return None
