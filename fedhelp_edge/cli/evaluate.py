"""`evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhelp_edge import console, passphrase, shell
from fedhelp_edge.cli.options import PlanFile, Threads

if TYPE_CHECKING:
    from fedhelp_edge.report.evaluation import Evaluation

app = shell.app()


@app.command()
def evaluate(
    plan: PlanFile = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Other images than the site's own.", readable=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A folder for evaluation.json and evaluation.html; earlier files stay.",
            readable=False,
        ),
    ] = None,
    errors: Annotated[
        int,
        typer.Option("--errors", min=0, max=200, help="Show at most so many wrongly answered images on the page."),
    ] = 0,
    tier: Annotated[str, typer.Option("--tier", help="small or large, as trained.")] = "small",
    threads: Threads = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Evaluate every net of this site on its test images, and say what `export` would keep.

    Example: fedhelp-edge evaluate --out results
    """
    from fedhelp_edge.errors import UsageError
    from fedhelp_edge.report.mask_evaluation import MaskEvaluation

    if errors and out is None:
        raise UsageError("wrongly answered images are for a page", remedy="name a folder for it with --out")
    home_dir = shell.home_folder(home)
    evaluation = _evaluate(plan, home_dir, tier, images, passphrase.provider(passphrase_file), errors, threads)
    page = evaluation.write(out) if out else None
    if json:
        return console.print_json(**evaluation.to_json(), **({"page": str(page)} if page else {}))
    if isinstance(evaluation, MaskEvaluation):
        console.show(*evaluation.lines())
    else:
        _show(evaluation)
    console.say_findings(evaluation.findings)
    if not evaluation.chosen:
        console.say("no net is chosen: there are no validation images")
    console.say_next(_next_step(home_dir))
    if page and evaluation.wrong:
        console.say("warning: the page contains images of patients; keep it at this site")
    if page:
        console.say(f"figures for each class: {page}")
    return None


def _show(evaluation: Evaluation) -> None:
    """Show the nets for classes, and the figures of the chosen one."""
    from fedhelp_edge.report import nets

    console.show(*nets.lines(evaluation.figures, evaluation.chosen), *nets.weighing_lines(evaluation.weighing))
    name = evaluation.chosen or "own"
    console.show("", f"{nets.NAMES[name]}, on {evaluation.nets[name].images} test images:")
    for key in ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "f1", "ece", "overconfidence"):
        figure = getattr(evaluation.nets[name], key)
        label = key.replace("_", " ")
        if figure.value is None:
            console.show(f"{label:<20}{figure.reason}")
        else:
            interval = f"{figure.low:.3f} to {figure.high:.3f}" if figure.low is not None else figure.reason
            console.show(f"{label:<20}{figure.value:.3f}  ({interval})")
    without_prior = evaluation.nets.get("without_prior")
    if without_prior and without_prior.accuracy.value is not None:
        figures = [
            f"accuracy {without_prior.accuracy.value:.3f}",
            f"balanced accuracy {without_prior.balanced_accuracy.value:.3f}",
        ]
        console.show(f"without the prior   {', '.join(figures)}")
        console.say("the prior is the frequency of each class in training; the figures above include it")


def _next_step(home: Path) -> str:
    from fedhelp_edge.parcel import keys

    keys_first = "" if keys.exist(home) else "'fedhelp-edge keys new' makes the keys that sign a model, then "
    return f"{keys_first}'fedhelp-edge export' makes a model to diagnose with"


def _evaluate(
    plan: Path | None,
    home: Path,
    tier: str,
    images: Path | None,
    ask: Callable[[], str],
    errors: int,
    threads: int | None,
) -> Any:
    """Evaluate the round of the current task, or of a plan that is tried out alone."""
    if plan is None:
        from fedhelp_edge.site import ordered_training, verified

        verified.require_state(home)  # before torch is loaded
        return ordered_training.evaluate(home, images, ask, errors=errors, threads=threads)
    from fedhelp_edge import plan as plans
    from fedhelp_edge.methods.registry import METHODS
    from fedhelp_edge.site import trial

    return trial.evaluate(home, plans.load(plan, METHODS), tier, images, errors=errors, threads=threads)
