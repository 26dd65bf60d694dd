"""`export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhelp_edge import shell
from fedhelp_edge.cli.train import PlanFile, Threads

if TYPE_CHECKING:
    from export.bundle import Made

app = shell.app()

_NETS = {"own": "this site's own net", "merged": "the merged net", "alone": "trained alone", "average": "their average"}


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
    tier: Annotated[str, typer.Option("--tier", help="small or large: what was trained, with --plan.")] = "small",
    threads: Threads = None,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Make of a round a signed model file to diagnose with, offline: the best net on the images kept to choose by.

    Example: fedhelp-edge export --out model.onnx
    """
    place = shell.home(home)
    made = _made(place, plan, tier, round_, shell.asker(passphrase_file), int8, sensitivity, threads)
    said = made.facts
    name = f"round-{said.round:06}{'-int8' if said.precision == 'int8' else ''}.onnx"
    path = out or place / "bundles" / name
    sha256 = made.keep(path)
    gain = vars(made.int8) if made.int8 else None
    if json:
        return shell.result(
            path=str(path), sha256=sha256, round=said.round, net=said.net, members=list(said.members),
            figures=said.figures, precision=said.precision, int8=gain, parity=made.parity, test=said.test,
            temperature=said.calibration.temperature, signer=said.signer,
            findings=list(said.findings),
        )  # fmt: skip
    shell.show(f"{'net':<22}{'accuracy':>10}{'balanced':>10}{'AUC':>10}{'log loss':>10}")
    for net, figures in said.figures.items():
        numbers = "".join(f"{'-' if value is None else format(value, '.3f'):>10}" for value in figures.values())
        shell.show(f"{_NETS[net]:<22}{numbers}{'  chosen' if net == said.net else ''}")
    shell.show(
        f"on the {sum(said.calibration.images)} images kept to choose by; differs from the net by {made.parity:.0e}"
    )
    if made.int8:
        kept = f"not kept: {made.int8.why}" if made.int8.why else f"{made.int8.speed_up:.1f} times as fast here"
        shell.show(f"8 bits: {kept}; {made.int8.agreement:.1%} of the answers are the same")
    shell.say_findings(said.findings)
    shell.say(f"kept as {path}, its signature and its card beside it")
    shell.say_next(f"'fedhelp-edge predict {shell.quoted(path)} IMAGES'")
    return None


def _made(
    home: Path, plan: Path | None, tier: str, round_: int | None, ask: object, int8: bool, wanted: float,
    threads: int | None,
) -> Made:  # fmt: skip
    """By order; or by a plan alone, to try it out."""
    how = {"int8": int8, "wanted": wanted, "threads": threads}
    if plan is None:
        from fedhelp_edge.site import folder

        folder.joined(home)  # before torch is loaded
        from fedhelp_edge.site import adopt

        return adopt.export(home, round_, ask, **how)  # type: ignore[arg-type]
    from fedhelp_edge import plan as plans
    from fedhelp_edge.methods.registry import TABLES
    from fedhelp_edge.site import adopt

    return adopt.try_out(home, plans.load(plan, TABLES), tier, round_, ask, **how)  # type: ignore[arg-type]
