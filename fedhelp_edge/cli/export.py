"""`export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhelp_edge import console, hints, passphrase, shell
from fedhelp_edge.cli.options import PlanFile, Threads

if TYPE_CHECKING:
    from export.bundle import ExportResult
    from fedhelp_edge.infer.metadata import Facts

app = shell.app()

_FEW_ANSWERED = 0.1  # of the validation images: where a model answers fewer, that is said first
_NOT_READY = 0.2  # and where, by the interval, it can hardly answer so many of a site's images, it is not ready


@app.command()
def export(
    plan: PlanFile = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The model's file; default: bundles/round-N.onnx at home.", readable=False),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit numbers, if that is worth it here.")] = False,
    round_: Annotated[int | None, typer.Option("--round", min=1, help="An older round than the last.")] = None,
    sensitivity: Annotated[
        float, typer.Option("--sensitivity", min=0.5, max=0.999, help="For which thresholds are chosen.")
    ] = 0.9,
    anyway: Annotated[
        bool, typer.Option("--anyway", help='Take a model too that says "don\'t know" nearly always.')
    ] = False,
    tier: Annotated[str, typer.Option("--tier", help="small or large: what was trained, with --plan.")] = "small",
    threads: Threads = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Make a signed model file to diagnose with, offline: of the site's nets the best on validation images. Exit code 1
    if the model says "don't know" nearly always.

    Example: fedhelp-edge export --out model.onnx
    """
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
            figures=facts.figures, precision=facts.precision, int8=gain, parity=result.parity, test=facts.test,
            temperature=facts.calibration.temperature, signer=facts.signer,
            findings=list(facts.findings), validation=facts.validation, ready=ready,
        )  # fmt: skip
        raise typer.Exit(0 if ready or anyway else 1)
    if warning:
        console.show(*warning)
    console.show(*nets.lines(facts.figures, facts.net))
    console.show(*(f"it {nets.answering_text(counts, name)}" for name, counts in _image_sets(facts)))
    console.show(f"differs from the net by {result.parity:.0e}")
    if result.int8:
        outcome = (
            f"not kept: {result.int8.reason}"
            if result.int8.reason
            else f"{result.int8.speed_up:.1f} times as fast here"
        )
        console.show(f"8 bits: {outcome}; {result.int8.agreement:.1%} of the answers are the same")
    console.say_findings(facts.findings)
    console.say(f"kept as {path}, its signature and its card beside it")
    if not ready and not anyway:
        console.say("this model is written, but not ready to diagnose with; --anyway takes it all the same")
        raise typer.Exit(1)
    console.say_next(f"'fedhelp-edge predict {hints.quoted(path)} IMAGES'")
    return


def _image_sets(facts: Facts) -> list[tuple[str, Mapping[str, float | None]]]:
    return [(name, counts) for name, counts in (("validation", facts.validation), ("test", facts.test)) if counts]


def _is_ready(facts: Facts) -> bool:
    """Whether the model may answer a part of this site's images that is worth it, by as many as were looked at."""
    from fedhelp_edge.report import metrics

    answered, images = (int(facts.validation[name] or 0) for name in ("answered", "images"))
    return answered >= _FEW_ANSWERED * images or (metrics.proportion(answered, images).high or 0) >= _NOT_READY


def _too_few_answers(facts: Facts) -> list[str]:
    """What leads where the model answers next to nothing: that it does, why, and what to do."""
    from fedhelp_edge.report import nets

    counts = {name: value or 0 for name, value in facts.validation.items()}
    if counts["answered"] >= _FEW_ANSWERED * counts["images"]:
        return []
    images, answered, unlike = (int(counts[name]) for name in ("images", "answered", "unlike"))
    accuracy = nets.figure_text(counts["accuracy"], images)
    return [
        f'warning: this model says "don\'t know" nearly always: it answers {answered} of {images} validation images',
        f"why: it tells the classes apart too poorly to be sure (accuracy {accuracy}); "
        f"{images - answered - unlike} images are uncertain, {unlike} unlike the training images",
        "what to do: train more rounds, or label more images of each class; then export again",
        "",
    ]


def _export(
    home: Path, plan: Path | None, tier: str, round_: int | None, ask: object, int8: bool, sensitivity: float,
    threads: int | None,
) -> ExportResult:  # fmt: skip
    """By order; or by a plan alone, to try it out."""
    options = {"int8": int8, "target_sensitivity": sensitivity, "threads": threads}
    if plan is None:
        from fedhelp_edge.site import verified

        verified.require_state(home)  # before torch is loaded
        from fedhelp_edge.site import export as site_export

        return site_export.export(home, round_, ask, **options)  # type: ignore[arg-type]
    from fedhelp_edge import plan as plans
    from fedhelp_edge.methods.registry import TABLES
    from fedhelp_edge.site import export as site_export

    return site_export.export_trial(home, plans.load(plan, TABLES), tier, round_, ask, **options)  # type: ignore[arg-type]
