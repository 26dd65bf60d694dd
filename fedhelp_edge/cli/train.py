"""`train`, for small sites, and what `distill` does for large ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fedhelp_edge import console, hints, shell
from fedhelp_edge.cli.options import Device, Images, Knowledge, PlanFile, Rounds, Threads

app = shell.app()


@app.command()
def train(
    images: Images = None, plan: PlanFile = None, knowledge: Knowledge = None, rounds: Rounds = 1,
    threads: Threads = None, device: Device = "cpu", home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False,
) -> None:  # fmt: skip
    """Train a clinic's net for the open round. After Ctrl-C or a power cut the same command continues.

    Example: fedhelp-edge train images
    """
    run_training("small", plan, images, knowledge, rounds, threads, device, home, json)


def run_training(
    tier: str, plan: Path | None, images: Path | None, knowledge: Path | None, rounds: int, threads: int | None,
    device: str, home: Path, json: bool,
) -> None:  # fmt: skip
    """Train and print the result."""
    from fedhelp_edge.report import nets

    with console.progress_bars() as watch:
        outcome = _train(shell.home_folder(home), tier, images, watch, plan, rounds, knowledge, device, threads)
    if outcome is None:  # one of several processes, of which the first prints the result
        os._exit(0)  # at a normal exit torch's threads may still run, and abort
    folder, report = outcome
    if json:
        return console.print_json(**report, folder=str(folder))
    console.show(f"trained: {report['examples']} images, {report['seconds']} s")
    for name, figure in report["val"].items():
        accuracy = nets.accuracy_text(figure, report.get("val_images", 0))
        console.show(f"  {nets.NAMES[name]:<20} accuracy {accuracy} on validation images")
    console.say_findings(report.get("findings", ()))
    if left_out := report.get("left_out"):
        files_were = console.counted(left_out, "file was", "files were")
        folder_name = hints.quoted(images) if images else "IMAGES"
        console.say(hints.with_caller_options(f"{files_were} left out; 'fedhelp-edge check {folder_name}' says why"))
    console.say(f"saved in {folder}; report.html there shows it")
    if plan:
        console.say_next("'fedhelp-edge evaluate' measures it on the test images")
    else:
        console.say_next("'fedhelp-edge upload' seals the update and sends it")
    return None


def _train(
    home: Path, tier: str, images: Path | None, progress: Any, plan: Path | None, rounds: int, knowledge: Path | None,
    device: str, threads: int | None,
) -> tuple[Path, dict[str, Any]] | None:  # fmt: skip
    """Train for the current task, or for a plan that is tried out alone."""
    if plan is None:
        from fedhelp_edge.site import ordered_training, verified

        verified.require_state(home)  # before torch is loaded
        return ordered_training.train(home, tier, images, progress, device=device, threads=threads)
    from fedhelp_edge import plan as plans
    from fedhelp_edge.methods.registry import TABLES
    from fedhelp_edge.site import trial

    agreed_plan, machine = plans.load(plan, TABLES), {"device": device, "threads": threads}
    return trial.train(home, agreed_plan, tier, images, progress, rounds=rounds, knowledge=knowledge, **machine)  # type: ignore[arg-type]
