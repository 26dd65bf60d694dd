"""`evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import shell
from fedhelp_edge.cli.train import PlanFile, Threads

app = shell.app()


@app.command()
def evaluate(
    plan: PlanFile,
    images: Annotated[
        Path | None, typer.Option("--images", help="Other images than those trained on.", readable=False)
    ] = None,
    tier: Annotated[str, typer.Option("--tier", help="small or large: what was trained.")] = "small",
    threads: Threads = None,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Measure what was trained on the images kept for that: every figure with its interval.

    Example: fedhelp-edge evaluate --plan plan.toml
    """
    from fedhelp_edge import plan as plans
    from fedhelp_edge.methods.registry import TABLES
    from fedhelp_edge.site import trial

    agreed = plans.load(plan, TABLES)
    found, others = trial.evaluate(shell.home(home), agreed, tier, images, threads=threads)
    if json:
        return shell.result(own=found.to_json(), **others)
    for name in ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "f1", "ece"):
        figure = getattr(found, name)
        label = name.replace("_", " ")
        if figure.value is None:
            print(f"{label:<20}{figure.reason}")
        else:
            interval = f"  ({figure.low:.3f} to {figure.high:.3f})" if figure.low is not None else ""
            print(f"{label:<20}{figure.value:.3f}{interval}")
    bare = others.get("without_prior")
    if bare and found.accuracy.value is not None:
        figures = [f"{name.replace('_', ' ')} {bare[name]['value']:.3f}" for name in ("accuracy", "balanced_accuracy")]
        print(f"without the prior   {', '.join(figures)}")
        shell.say("the prior is how frequent each class was in training; the figures above are with it")
    return None
