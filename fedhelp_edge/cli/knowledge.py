"""`knowledge build`, `show`, `start`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhelp_edge import console, errors, hints, shell
from fedhelp_edge.cli.options import CaFile
from fedhelp_edge.safe_text import counted

if TYPE_CHECKING:
    from fedhelp_edge.knowledge.build import Building

_DAY = 86400.0  # seconds

app = shell.app(no_args_is_help=True, help="Public images and the answers of foundation models, asked once.")


@app.command()
def build(
    public: Annotated[
        Path, typer.Option("--public", help="Public images: an NPZ, a folder or a table.", readable=False)
    ],
    source: Annotated[
        list[str],
        typer.Option(
            "--source",
            help="clip:, torchvision: or nets:MODEL@FILE, encoder:, masks: or files:FILE, 'program:COMMAND', https://HOST/PATH",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where to write the pack.", readable=False)],
    size: Annotated[int | None, typer.Option("--size", min=1, help="Number of images to take.")] = None,
    quality: Annotated[
        int, typer.Option("--quality", min=1, max=100, help="WebP quality of the images; 100 is lossless.")
    ] = 100,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Images asked about at once.", show_default="by the source")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", help="Sentences for clip: skin, xray, cells, ..., or FILE.toml.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds for a program or a service to answer.")
    ] = 120.0,
    rate: Annotated[float, typer.Option("--rate", min=0.01, help="Requests a minute to a service.")] = 60.0,
    key_file: Annotated[
        list[str] | None, typer.Option("--key-file", help="A file with the service's key; or https://HOST=FILE.")
    ] = None,
    ca_file: CaFile = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Also ask over http:// beyond this machine, unencrypted.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Send the public images to services without a question.")] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    licence: Annotated[str, typer.Option("--licence", help="The licence of the images.")] = "",
    json: shell.AsJson = False,
) -> None:
    """Ask each source once about each public image and save the answers. An interrupted run continues.

    Programs and services see public images only: what this site trains on, DICOM files and images with patients are
    refused.

    Example: fedhelp-edge knowledge build --public images --source clip:ViT-B-16@b16.safetensors --out pack.safetensors
    """
    from dataclasses import replace

    from fedhelp_edge.data import pack
    from fedhelp_edge.knowledge import private, service_keys
    from fedhelp_edge.knowledge import prompts as prompt_sets
    from fedhelp_edge.knowledge.asking import Asking
    from fedhelp_edge.knowledge.build import Building
    from fedhelp_edge.knowledge.public_images import read
    from fedhelp_edge.knowledge.source_spec import SourceSpec
    from fedhelp_edge.site import layout

    if not (math.isfinite(rate) and timeout <= _DAY):
        raise errors.UsageError("--rate and --timeout are ordinary numbers, and a time is at most a day")
    home = shell.home_folder(home)
    specs = [SourceSpec.parse(text) for text in source]
    for spec in specs:
        if spec.kind == "http" and not (plain_http or spec.is_on_this_machine):
            raise errors.UsageError(
                f"images and key would travel to {spec.name} unencrypted",
                remedy="write https://, or add --plain-http if nobody else can listen",
            )
    if prompts and not any(spec.kind == "clip" for spec in specs):
        raise errors.UsageError("prompts are for sources of the kind clip:, and there is none")
    keys = service_keys.read(key_file or (), specs)
    is_outside = any(spec.is_outside for spec in specs)
    if is_outside and public.exists():
        private.check_place(public, home, layout.remembered_images(home))
        private.check_kind(public)
    answers_dir = out.with_name(f"{out.name}.answers")
    images = read(public, answers_dir)
    chosen = prompt_sets.read(prompts, images.classes) if prompts else None
    if any(spec.kind == "clip" for spec in specs):
        asked_by = chosen or prompt_sets.read(prompt_sets.DEFAULT, images.classes)
        console.say(*filter(None, [prompt_sets.abbreviation_note(asked_by, images.classes)]))
    rows = pack.subset_rows(images.labels, size) if size and size < len(images) else None
    if rows is not None:
        images = images.only(rows)
    if is_outside:
        private.check_looks(images.pixels, home)
    asking = Asking(rows, batch, chosen, timeout, rate, keys, ca_file, console.say)
    building = Building(images, specs, answers_dir, asking)
    if costs := _costs(building, rate):
        console.say(*costs)
        _ask_consent(yes)
    with console.progress("asking") as progress:
        built = building.run(progress)
    about = {name: text for name, text in (("origin", public.name), ("licence", licence)) if text}
    built = replace(built, provenance=about)
    pack.save(out, built, quality)
    file_size = out.stat().st_size
    if json:
        return console.print_json(pack=str(out), images=len(built), sources=list(built.sources), size=file_size)
    console.show(f"pack written: {out}, {file_size / 1e6:.1f} MB")
    console.say_next(f"'fedhelp-edge knowledge show {hints.quoted(out)}'; the answers are saved in {answers_dir.name}")
    return None


def _costs(building: Building, rate: float) -> list[str]:
    """What will be sent to each service."""
    lines = []
    for saved in building.answers:
        if saved.spec.is_service and (missing := building.missing(saved)):
            requests, images = counted(len(missing), "request"), counted(sum(map(len, missing)), "public image")
            least = counted(math.ceil(len(missing) / rate), "minute")
            lines.append(
                f"{saved.spec.name} gets {images} in {requests}; at {rate:g} a minute this takes {least} or more"
            )
    return lines


def _ask_consent(yes: bool) -> None:
    """Raises unless somebody agrees that the images are sent."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise errors.UsageError("nobody is here to agree that images are sent", remedy="add --yes to send them")
    console.say("no image of a patient, and none that is not public, may be among them")
    typer.confirm("send them?", abort=True, err=True)


@app.command()
def show(
    file: Annotated[Path, shell.path_argument("The pack.")],
    json: shell.AsJson = False,
) -> None:
    """Show the content of a pack, and how often each source agrees with the public labels.

    Example: fedhelp-edge knowledge show pack.safetensors
    """
    from fedhelp_edge.data import pack

    loaded = pack.load(file)
    truth, unit = (loaded.labels, "") if loaded.masks is None else (loaded.masks, " of the pixels")
    accuracies = [float((probabilities.argmax(1) == truth).mean()) for probabilities in loaded.probabilities]
    facts = loaded.asked or ({},) * len(accuracies)
    sources = [
        {**asked, "name": name, "accuracy": accuracy}
        for name, accuracy, asked in zip(loaded.sources, accuracies, facts, strict=True)
    ]
    side, channels, file_size = loaded.pixels.shape[1], loaded.pixels.shape[3], file.stat().st_size
    if json:
        return console.print_json(
            images=len(loaded), classes=list(loaded.classes), sources=sources, side=side,
            channels=channels, size=file_size, about=dict(loaded.provenance),
        )  # fmt: skip
    kind = "colour" if channels == 3 else "grey"
    console.show(f"{file.name}: {counted(len(loaded), 'image')} of {side} pixels, {kind}, {file_size / 1e6:.1f} MB")
    console.show(f"  classes   {', '.join(loaded.classes)}")
    for name, accuracy, asked in zip(loaded.sources, accuracies, facts, strict=True):
        console.show(f"  source    {name}, right in {accuracy:.1%}{unit}")
        for fact, text in asked.items():
            console.show(f"    {fact:<10}{text}")
    for name, text in loaded.provenance.items():
        console.show(f"  {name:<10}{text}")
    return None


@app.command()
def start(
    plan: Annotated[Path, shell.path_argument("The plan.")],
    pack: Annotated[Path, shell.path_argument("The pack.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the initial weights.", readable=False)],
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the pack.")] = 10,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Processor cores to use.")] = None,
) -> None:
    """Train one surrogate on the pack: initial weights for all sites, at no cost for a clinic.

    Example: fedhelp-edge knowledge start plan.toml pack.safetensors --out start.safetensors
    """
    shell.check_order([plan], ".toml", [pack], "name the plan (.toml) first, then the pack")
    from fedhelp_edge import files, update
    from fedhelp_edge import plan as plans
    from fedhelp_edge.data import pack as packs
    from fedhelp_edge.methods.registry import METHODS
    from fedhelp_edge.train import machine
    from fedhelp_edge.train import pretrain as training

    agreed_plan = plans.load(plan, METHODS)
    knowledge = packs.load(pack).for_plan(agreed_plan)
    machine.configure(threads)
    compute = machine.compute(agreed_plan.training.precision)
    with files.writing(out, private=False) as file, console.progress("training") as progress:
        update.write(file, training.initial_weights(agreed_plan, knowledge, compute, epochs=epochs, progress=progress))
    console.show(f"initial weights written: {out}")
    console.say_next(
        f"'fedhelp-edge lab run {hints.quoted(plan)} --start {hints.quoted(out)} --data IMAGES --split dirichlet:1"
        f" --sites 3 --out DIR' tries them; 'fedhelp-coordinator open --start {hints.quoted(out)}' begins with them"
    )
