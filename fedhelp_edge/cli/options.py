"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import shell

# how parcels travel
Via = Annotated[Path | None, typer.Option("--via", help="A stick, a synced folder or a network share.", readable=False)]
Url = shell.Url
CaFile = shell.CaFile

# training
PlanFile = Annotated[Path | None, typer.Option("--plan", help="A plan, to try it out without joining.", readable=False)]
Images = Annotated[Path | None, shell.path_argument("Folder, table or NPZ of images; remembered.")]
ClassNames = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="NAME=CLASS", help="Another name for a class; repeatable. `check` remembers it."),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        "--masks", help="For segmentation: the folder of masks, where it is not IMAGES/masks.", readable=False
    ),
]
Knowledge = Annotated[Path | None, typer.Option("--knowledge", help="The knowledge pack.", readable=False)]
Encoder = Annotated[
    Path | None, typer.Option("--encoder", help="The plan's encoder; default: beside the plan.", readable=False)
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Rounds; each continues from the last one's result.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor cores to use.")]
Start = Annotated[
    Path | None,
    typer.Option("--start", help="First weights of the net that this site keeps; remembered.", readable=False),
]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]

# models
Model = Annotated[Path, shell.path_argument("The model, MODEL.onnx, with its signature beside it.")]
AnyKind = Annotated[
    bool, typer.Option("--any-kind", help="Also answer DICOM of kinds that the model was not trained on.")
]
EventLogFile = Annotated[
    Path | None,
    typer.Option("--event-log", help="Append what was answered, and when, to this file; no images.", readable=False),
]
Signer = Annotated[str | None, typer.Option("--signer", help="SHA256:..., the key whose signature you trust.")]


def parse_class_names(texts: list[str] | None) -> dict[str, str]:
    """The classes by their other names, from `NAME=CLASS` texts."""
    names = {}
    for text in texts or ():
        name, equals, target = text.partition("=")
        if not (equals and name.strip() and target.strip()):
            raise typer.BadParameter(f"--map {text!r} is not of the form NAME=CLASS")
        names[name] = target
    return names
