"""`train`, for small sites; `distill` is the same for large ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import shell

app = shell.app()

PlanFile = Annotated[Path, typer.Option("--plan", help="The plan, to try it out without joining.", readable=False)]
Images = Annotated[Path | None, shell.named("Folder, table or NPZ of images; remembered.")]
Knowledge = Annotated[Path | None, typer.Option("--knowledge", help="The pack.", readable=False)]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Rounds, each from what the last one gave.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor cores to use.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]


@app.command()
def train(
    plan: PlanFile, images: Images = None, knowledge: Knowledge = None, rounds: Rounds = 1, threads: Threads = None,
    device: Device = "cpu", home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False,
) -> None:  # fmt: skip
    """Train a clinic's net by the plan. Ctrl-C or a power cut: run it again, it goes on where it stopped.

    Example: fedhelp-edge train images --plan plan.toml
    """
    try_out("small", plan, images, knowledge, rounds, threads, device, home, json)


def try_out(
    tier: str, plan: Path, images: Path | None, knowledge: Path | None, rounds: int, threads: int | None,
    device: str, home: Path, json: bool,
) -> None:  # fmt: skip
    from contextlib import ExitStack

    from fedhelp_edge import plan as plans
    from fedhelp_edge.methods.registry import TABLES
    from fedhelp_edge.site import trial

    agreed = plans.load(plan, TABLES)
    with ExitStack() as bars:

        def watch(what: str) -> object:
            bars.close()
            return bars.enter_context(shell.progress(what))

        told = trial.train(
            shell.home(home), agreed, tier, images, watch,  # type: ignore[arg-type]
            rounds=rounds, knowledge=knowledge, device=device, threads=threads,
        )  # fmt: skip
    if told is None:
        return None  # one of several processes, of which the first says what came of it
    folder, report = told
    if json:
        return shell.result(**report, folder=str(folder))
    print(f"trained: {report['examples']} images, {report['seconds']} s")
    for name, figure in report["val"].items():
        shown = "too few images to say" if figure is None else f"{figure:.3f}"
        whose = "this net" if name == "own" else "trained alone"
        print(f"  {whose:<14} accuracy {shown} on the images kept to choose by")
    shell.say(f"kept in {folder}; report.html there shows it")
    shell.say(f"next: 'fedhelp-edge evaluate --plan {plan}' measures it on the test part")
    return None
