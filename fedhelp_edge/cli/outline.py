"""`outline`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell
from fedhelp_edge.cli.options import Signer, Threads

app = shell.app()


@app.command()
def outline(
    images: Annotated[Path, shell.path_argument("A folder of pictures or volumes, or one with a folder 'images'.")],
    plan: Annotated[Path | None, typer.Option("--plan", help="The plan with the classes.", readable=False)] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks", help="Folder for masks; default: IMAGES/masks beside 'images', or IMAGES-masks.", readable=False
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="A model for masks, MODEL.onnx, to propose outlines.", readable=False)
    ] = None,
    signer: Signer = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the link.")] = False,
    threads: Threads = None,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Draw and correct the outlines of what images show, on a page of this computer that nobody else sees.

    Each picture gets a mask, a PNG, and each volume a NIfTI file. Every change is saved at once; the same command
    continues where you stopped.

    Example: fedhelp-edge outline pictures --plan plan.toml
    """
    import contextlib
    import webbrowser

    from fedhelp_edge.data.outlining import Outlining, PictureOutlining
    from fedhelp_edge.errors import UsageError
    from fedhelp_edge.infer import answer_formats
    from fedhelp_edge.page import local_server
    from fedhelp_edge.page.outline import OutlineApp, open_model
    from fedhelp_edge.site import inbox, signer_check

    home = shell.home_folder(home)
    agreed = inbox.agreed_plan(home, plan)
    if not agreed.has_masks:
        raise UsageError(
            "the plan names classes of whole pictures, which need no outlines",
            remedy="'fedhelp-edge label IMAGES' sorts pictures; for outlines a plan says task = 'segmentation'",
        )
    bundle = None
    if model:
        bundle = open_model(model, agreed, lambda key: signer_check.model_warning(home, key, signer), threads=threads)
        if doubts := answer_formats.trust_warning(bundle):
            console.say(f"warning: {doubts}")
    kind: type[Outlining] = PictureOutlining
    if agreed.image.is_volume:
        from fedhelp_edge.data.volume_outlining import VolumeOutlining  # and scipy

        kind = VolumeOutlining
    outlining = kind(images, agreed.classes, masks)
    with (
        local_server.running(OutlineApp(outlining, bundle), port) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        console.say("the page is at", server.link, "only you can open it; Ctrl-C ends it, and nothing is lost")
        if not no_browser:
            webbrowser.open(server.one_time_link)
        server.done.wait()
    states = outlining.states()
    done, drafts = states.count("done"), states.count("draft")
    if json:
        return console.print_json(
            pictures=len(states), done=done, drafts=drafts, problems=len(outlining.problems),
            folder=str(outlining.masks_dir),
        )  # fmt: skip
    console.show(f"{done} of {len(states)} {outlining.kinds} are done" + (f", {drafts} have drafts" if drafts else ""))
    console.show(f"masks are in {outlining.masks_dir}")
    source = hints.quoted(images)
    if outlining.masks_dir != images / "masks":
        source += f" --masks {hints.quoted(outlining.masks_dir)}"
    is_done = done == len(states)
    console.say_next(f"'fedhelp-edge check {source}'" if is_done else f"'fedhelp-edge outline {source}' continues")
    return None
