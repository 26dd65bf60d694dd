"""`export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhelp_edge import console, hints, passphrase, shell
from fedhelp_edge.cli.options import PlanFile, Threads
from fedhelp_edge.safe_text import counted

if TYPE_CHECKING:
    from export.bundle import ExportResult
    from fedhelp_edge.infer.metadata import Facts, MaskFacts

app = shell.app()

_FEW_ANSWERED = 0.1  # of the validation images: a model that answers fewer gets a warning first
_NOT_READY = 0.2  # a model whose interval of answered images ends below this is not ready


@app.command()
def export(
    plan: PlanFile = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The model file; default: bundles/round-N.onnx at home.", readable=False),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit numbers, if they are faster here.")] = False,
    round_: Annotated[int | None, typer.Option("--round", min=1, help="An earlier round.")] = None,
    sensitivity: Annotated[
        float, typer.Option("--sensitivity", min=0.5, max=0.999, help="The sensitivity to aim for; not of masks.")
    ] = 0.9,
    anyway: Annotated[
        bool, typer.Option("--anyway", help='Accept a model that nearly always says "don\'t know".')
    ] = False,
    tier: Annotated[str, typer.Option("--tier", help="With --plan: small or large, as trained.")] = "small",
    threads: Threads = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Export this site's nets, weighed by its validation images, as one signed file to diagnose with offline. Exit
    code 1 if the model nearly always says "don't know".

    Example: fedhelp-edge export --out model.onnx
    """
    from fedhelp_edge.infer.metadata import MaskFacts
    from fedhelp_edge.report import nets

    home_dir = shell.home_folder(home)
    result = _export(home_dir, plan, tier, round_, passphrase.provider(passphrase_file), int8, sensitivity, threads)
    facts = result.facts
    name = f"round-{facts.round:06}{'-int8' if facts.precision == 'int8' else ''}.onnx"
    path = out or home_dir / "bundles" / name
    sha256 = result.write(path)
    warning, ready = _too_few_answers(facts), _is_ready(facts)
    gain = vars(result.int8) if result.int8 else None
    if json:
        console.print_json(
            path=str(path), sha256=sha256, round=facts.round, net=facts.net, members=list(facts.members),
            weighing=facts.weighing, figures=facts.figures, precision=facts.precision, int8=gain,
            parity=result.parity, test=facts.test,
            temperature=facts.calibration.temperature, signer=facts.signer,
            findings=list(facts.findings), validation=facts.validation, ready=ready,
        )  # fmt: skip
        raise typer.Exit(0 if ready or anyway else 1)
    if warning:
        console.show(*warning)
    if isinstance(facts, MaskFacts):
        figure, text = "dice", nets.outlining_text
    else:
        figure, text = "accuracy", nets.answering_text
    console.show(*nets.lines(facts.figures, facts.net, figure), *nets.weighing_lines(facts.weighing))
    console.show(*(f"it {text(counts, name)}" for name, counts in _image_sets(facts)))
    console.show(f"ONNX and PyTorch differ by at most {result.parity:.0e}")
    if result.int8:
        outcome = (
            f"not used: {result.int8.why}" if result.int8.why else f"{result.int8.speed_up:.1f} times as fast here"
        )
        console.show(f"8 bits: {outcome}; {result.int8.agreement:.1%} of the answers are the same")
    console.say_findings(facts.findings)
    console.say(f"saved as {path}, with its signature and its card beside it")
    if not ready and not anyway:
        console.say("the model is saved, but not ready to diagnose with; --anyway accepts it")
        raise typer.Exit(1)
    console.say_next(f"'fedhelp-edge predict {hints.quoted(path)} IMAGES'")
    return


def _image_sets(facts: Facts | MaskFacts) -> list[tuple[str, Mapping[str, float | None]]]:
    return [(name, counts) for name, counts in (("validation", facts.validation), ("test", facts.test)) if counts]


def _is_ready(facts: Facts | MaskFacts) -> bool:
    """Whether the model can answer enough of this site's images, as far as the validation images show."""
    from fedhelp_edge.report import metrics

    answered, images = (int(facts.validation[name] or 0) for name in ("answered", "images"))
    return answered >= _FEW_ANSWERED * images or (metrics.proportion(answered, images).high or 0) >= _NOT_READY


def _too_few_answers(facts: Facts | MaskFacts) -> list[str]:
    """The warning about a model that answers hardly anything: the reason and what to do; empty for other models."""
    from fedhelp_edge.report import nets

    counts = {name: value or 0 for name, value in facts.validation.items()}
    if counts["answered"] >= _FEW_ANSWERED * counts["images"]:
        return []
    images, answered, unlike = (int(counts[name]) for name in ("images", "answered", "unlike"))
    figure = "dice" if "dice" in counts else "accuracy"
    quality = f"{figure} {nets.figure_text(counts[figure], images)}"
    uncertain = counted(images - answered - unlike, "image is", "images are")
    asked = counted(images, "validation image")
    return [
        f'warning: this model nearly always says "don\'t know": it answers {answered} of {asked}',
        f"why: it does not tell the classes apart well enough ({quality}); "
        f"{uncertain} uncertain, {unlike} unlike the training images",
        "what to do: train more rounds, or label more images of each class; then export again",
        "",
    ]


def _export(
    home: Path, plan: Path | None, tier: str, round_: int | None, ask: object, int8: bool, sensitivity: float,
    threads: int | None,
) -> ExportResult:  # fmt: skip
    """Export for the current task, or for a plan that is tried out alone."""
    options = {"int8": int8, "target_sensitivity": sensitivity, "threads": threads}
    if plan is None:
        from fedhelp_edge.site import verified

        verified.require_state(home)  # before torch is loaded
        from fedhelp_edge.site import export as site_export

        return site_export.export(home, round_, ask, **options)  # type: ignore[arg-type]
    from fedhelp_edge import plan as plans
    from fedhelp_edge.methods.registry import METHODS
    from fedhelp_edge.site import export as site_export

    return site_export.export_trial(home, plans.load(plan, METHODS), tier, round_, ask, **options)  # type: ignore[arg-type]
