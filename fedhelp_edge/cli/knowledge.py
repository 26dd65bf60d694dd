"""`knowledge build`, `show`, `start`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell

app = shell.app(no_args_is_help=True, help="Public images and what foundation models say of them, asked once.")


@app.command()
def build(
    public: Annotated[Path, typer.Option("--public", help="Public images: an NPZ, a folder, a table.", readable=False)],
    source: Annotated[list[str], typer.Option("--source", help="clip:, torchvision: or nets:MODEL@FILE, files:FILE")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the pack.", readable=False)],
    size: Annotated[int | None, typer.Option("--size", min=1, help="How many of the images to take.")] = None,
    quality: Annotated[
        int, typer.Option("--quality", min=1, max=100, help="Of the images, kept as WebP; 100 keeps every pixel.")
    ] = 100,
    licence: Annotated[str, typer.Option("--licence", help="The images' licence, for whoever gets the pack.")] = "",
    json: shell.AsJson = False,
) -> None:
    """Ask each source once about each public image, and keep every answer. Run again, it goes on where it stopped.

    Example: fedhelp-edge knowledge build --public images.npz --source clip:RN50@rn50.safetensors --out pack.safetensors
    """
    from dataclasses import replace

    from fedhelp_edge.data import pack
    from fedhelp_edge.knowledge import build
    from fedhelp_edge.knowledge.public_images import read

    kept = out.with_name(f"{out.name}.answers")
    pixels, labels, classes = read(public, kept)
    with console.progress("asking") as progress:
        found = build.build(pixels, labels, classes, source, kept, progress)
    about = {name: text for name, text in (("origin", public.name), ("licence", licence)) if text}
    found = replace(found.chosen(size or len(found)), about=about)
    pack.save(out, found, quality)
    took = out.stat().st_size
    if json:
        return console.result(pack=str(out), images=len(found), sources=list(found.sources), size=took)
    console.show(f"pack written: {out}, {took / 1e6:.1f} MB")
    console.say_next(f"'fedhelp-edge knowledge show {hints.quoted(out)}'; the answers are kept in {kept.name}")
    return None


@app.command()
def show(
    file: Annotated[Path, shell.named("The pack.")],
    json: shell.AsJson = False,
) -> None:
    """Say what a pack holds, and how often each source is right about the public labels.

    Example: fedhelp-edge knowledge show pack.safetensors
    """
    from fedhelp_edge.data import pack

    found = pack.load(file)
    right = [float((said.argmax(1) == found.labels).mean()) for said in found.probabilities]
    sources = [{"name": name, "accuracy": part} for name, part in zip(found.sources, right, strict=True)]
    side, channels, took = found.pixels.shape[1], found.pixels.shape[3], file.stat().st_size
    if json:
        return console.result(
            images=len(found), classes=list(found.classes), sources=sources, side=side, channels=channels, size=took,
            about=dict(found.about),
        )  # fmt: skip
    kind = "colour" if channels == 3 else "grey"
    console.show(f"{file.name}: {len(found)} images of {side} pixels, {kind}, {took / 1e6:.1f} MB")
    console.show(f"  classes   {', '.join(found.classes)}")
    for name, part in zip(found.sources, right, strict=True):
        console.show(f"  source    {name}, right in {part:.1%}")
    for name, text in found.about.items():
        console.show(f"  {name:<10}{text}")
    return None


@app.command()
def start(
    plan: Annotated[Path, shell.named("The plan.")],
    pack: Annotated[Path, shell.named("The pack.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the first weights.", readable=False)],
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the pack.")] = 10,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Processor cores to use.")] = None,
) -> None:
    """Train one surrogate on the pack: first weights for everybody, so that knowledge costs a clinic nothing.

    Example: fedhelp-edge knowledge start plan.toml pack.safetensors --out start.safetensors
    """
    shell.check_order([plan], ".toml", [pack], "name the plan (.toml) first, then the pack")
    from fedhelp_edge import files, update
    from fedhelp_edge import plan as plans
    from fedhelp_edge.data import pack as packs
    from fedhelp_edge.methods.registry import TABLES
    from fedhelp_edge.train import machine
    from fedhelp_edge.train import pretrain as training

    agreed = plans.load(plan, TABLES)
    known = packs.load(pack).fitted(agreed.tables["fedhelp"].public_size, agreed.image.channels)
    machine.settle(threads)
    bench = machine.bench(agreed.training.precision)
    with files.writing(out, private=False) as file, console.progress("training") as progress:
        update.write(file, training.start(agreed, known, bench, epochs=epochs, progress=progress))
    console.show(f"first weights written: {out}")
    console.say_next(
        f"'fedhelp-edge lab run {hints.quoted(plan)} --start {hints.quoted(out)} --data IMAGES --split dirichlet:1"
        f" --sites 3 --out DIR' tries them; 'fedhelp-coordinator open --start {hints.quoted(out)}' begins with them"
    )
