"""`encoder build`, `show`, `embed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.cli.options import Threads
from fedhelp_edge.safe_text import counted

if TYPE_CHECKING:
    from fedhelp_edge.encoder import Encoder

app = shell.app(no_args_is_help=True, help="Frozen nets that turn each image into features, once.")

File = Annotated[Path, shell.path_argument("The encoder, an ONNX file.")]


@app.command()
def build(
    source: Annotated[str, typer.Argument(help="clip:MODEL@FILE, a model of open_clip with its safetensors file.")],
    classes: Annotated[str, typer.Option("--classes", help="The plan's classes, for text features: MEL,NV,BCC")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the encoder.", readable=False)],
    prompts: Annotated[str, typer.Option("--prompts", help="A set of prompts by name, or a TOML file.")] = "photo",
    json: shell.AsJson = False,
) -> None:
    """Write the image side of a CLIP model as an encoder, with text features of the classes. Sites need no open_clip.

    Example: fedhelp-edge encoder build clip:ViT-B-32@clip.safetensors --classes MEL,NV,BCC --out encoder.onnx
    """
    from fedhelp_edge.errors import UsageError
    from fedhelp_edge.knowledge import clip_encoder
    from fedhelp_edge.knowledge import prompts as prompt_sets
    from fedhelp_edge.knowledge.sources.clip import ClipModel

    kind, _, argument = source.partition(":")
    names = [name.strip() for name in classes.split(",")]
    if kind != "clip":
        raise UsageError(f"an encoder is built of clip:MODEL@FILE, not of {source!r}")
    if not all(names) or len(set(names)) < len(names):
        raise UsageError("the classes are names between commas, each once")
    chosen = prompt_sets.read(prompts, names)
    console.say(*filter(None, [prompt_sets.abbreviation_note(chosen, names)]))
    encoder = clip_encoder.write(ClipModel.parse(argument, console.say), names, chosen, out)
    if json:
        return console.print_json(path=str(out), sha256=encoder.sha256, side=encoder.side, width=encoder.width)
    console.show(f"encoder written: {out}, {len(encoder.model) / 1e6:.1f} MB")
    _show_plan_lines(encoder, out)
    return None


@app.command()
def show(file: File, json: shell.AsJson = False) -> None:
    """Say what an encoder takes and gives, and what to write in a plan.

    Example: fedhelp-edge encoder show encoder.onnx
    """
    from fedhelp_edge.encoder import onnx_file

    encoder = onnx_file.read(file)
    width, text = encoder.measured_width(), encoder.text
    if json:
        return console.print_json(
            sha256=encoder.sha256, bytes=len(encoder.model), side=encoder.side, width=width,
            text_classes=list(text.classes) if text else None, logit_scale=text.logit_scale if text else None,
        )  # fmt: skip
    side = f"{encoder.side} pixels on a side" if encoder.side else "any size"
    console.show(f"{len(encoder.model) / 1e6:.1f} MB; images of {side}; {width} features of each")
    if text:
        console.show(f"text features of {counted(len(text.classes), 'class', 'classes')}: {', '.join(text.classes)}")
    _show_plan_lines(encoder, file)
    return None


def _show_plan_lines(encoder: Encoder, file: Path) -> None:
    from fedhelp_edge.encoder import onnx_file

    values = onnx_file.plan_values(encoder, file)
    console.show(
        "", "[image]", f"size = {values['side']}", "[nets]", 'small = "linear"', 'large = "linear"',
        f'encoder = "{file.name}"', f'encoder_sha256 = "{encoder.sha256}"', f"encoder_width = {values['width']}",
    )  # fmt: skip
    console.say("these lines make a plan one with this encoder")


@app.command()
def embed(
    file: File,
    images: Annotated[Path, shell.path_argument("A folder, a table or an NPZ of images.")],
    out: Annotated[Path, typer.Option("--out", help="The NPZ for the features.", readable=False)],
    views: Annotated[int, typer.Option("--views", min=1, max=10, help="Views of each image; 1: as it is.")] = 1,
    size: Annotated[int, typer.Option("--size", min=8, max=1024, help="Pixels, where the encoder takes any.")] = 224,
    threads: Threads = None,
    json: shell.AsJson = False,
) -> None:
    """Compute an encoder's features of labelled images, for programs of your own. After a power cut it goes on.

    The NPZ has features (N x width, or N x views x width), labels, class_names and names.

    Example: fedhelp-edge encoder embed encoder.onnx images --out features.npz
    """
    from fedhelp_edge.encoder import export, onnx_file

    encoder = onnx_file.read(file)
    with console.progress_bars() as watch:
        done = export.write(encoder, images, out, views, size, workers=threads, progress=watch("looking at the images"))
    if json:
        return console.print_json(
            path=str(out), images=done.images, views=views, width=done.width, sha256=encoder.sha256,
            left_out=done.left_out,
        )  # fmt: skip
    console.show(f"{counted(done.images, 'image')}, {done.width} features of each: {out}")
    if done.left_out:
        console.say(f"{counted(done.left_out, 'file was', 'files were')} left out")
    return None
