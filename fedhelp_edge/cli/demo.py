"""`demo`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell

app = shell.app()


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="A new folder for the demo.", readable=False)] = Path(
        "fedhelp-demo"
    ),
    images: Annotated[
        Path | None, typer.Option("--images", help="Your own images: a folder, a table or an NPZ.", readable=False)
    ] = None,
    task: Annotated[
        str, typer.Option("--task", help="classification, or segmentation: outlines in place of classes.")
    ] = "classification",
    method: Annotated[str, typer.Option("--method", help="The method, as in a plan.")] = "fedhelp",
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100, help="Number of rounds.")] = 2,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor cores; more than one helps little.")] = 1,
    json: shell.AsJson = False,
) -> None:
    """Run a whole federation here: a hospital and three clinics train one model, and no image leaves its folder.

    Example: fedhelp-edge demo
    """
    import time
    from contextlib import ExitStack

    from fedhelp_edge.demo import play

    started = time.monotonic()
    with ExitStack() as bars:

        def watch(description: str) -> Callable[..., None] | None:
            bars.close()
            return bars.enter_context(console.progress(description))

        def say(text: str) -> None:
            bars.close()
            console.say(text)

        record = play.play(
            out, say, watch, task=task, images=images, method=method, round_count=rounds, threads=threads
        )
    if json:
        return console.print_json(**record, folder=str(out), report=str(out / "report.html"))
    what, form = ("Dice on its test images", ".2f") if task == "segmentation" else ("of its test images right", ".0%")
    console.show(f"{'':<12}{'images':>8}{'alone':>10}{'together':>10}{'kept':>10}   {what}")
    for site in record["sites"]:
        figures = "".join(f"{format(site[name], form):>10}" for name in ("alone", "together", "kept"))
        console.show(f"{site['name']:<12}{site['images']:>8}{figures}   n={site['test']}")
    size = max(sent["size"] for sent in record["parcels"] if sent["kind"] == "update") / 1e6
    console.show(f"an update has {size:.1f} MB, signed and encrypted; no image left its folder")
    console.say(f"{time.monotonic() - started:.0f} s; {out / 'report.html'} shows everything: open it in a browser")
    console.say_next(f"'fedhelp-edge status --home {hints.quoted(out / 'sites' / 'clinic-a')}' shows more,")
    console.say("or 'fedhelp-edge demo --out mine --images DIR' runs it with your own images")
    return None
