"""What `train` and `distill` share: a small and a large site train in the same way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_edge import console, hints, shell
from fedhelp_edge.safe_text import counted


@dataclass(frozen=True)
class TrainingRun:
    """A command line: train for the current task, or for a plan that is tried out alone."""

    tier: str
    home: Path
    images: Path | None
    plan: Path | None
    knowledge: Path | None
    encoder: Path | None
    rounds: int
    start: Path | None
    threads: int | None
    device: str

    def show(self, json: bool) -> None:
        """Train and print the result."""
        from fedhelp_edge.report import nets
        from fedhelp_edge.report.scale import FIGURE_NAMES

        with console.progress_bars() as watch:
            outcome = self._train(shell.home_folder(self.home), watch)
        if outcome is None:  # one of several processes, of which the first prints the result
            os._exit(0)  # at a normal exit torch's threads may still run, and abort
        folder, report = outcome
        if json:
            return console.print_json(**report, folder=str(folder))
        console.show(f"trained: {report['examples']} images, {report['seconds']} s")
        for name, figure in report["val"].items():
            text = nets.accuracy_text(figure, report.get("val_images", 0), report.get("figure", "accuracy"))
            measure = FIGURE_NAMES[report.get("figure", "accuracy")]
            console.show(f"  {nets.NAMES[name]:<20} {measure} {text} on validation images")
        if self.start:
            console.say_first_weights(*(report["start"][name] for name in ("net", "tensors", "drawn")))
        console.say_findings(report.get("findings", ()))
        if left_out := report.get("left_out"):
            files_were = counted(left_out, "file was", "files were")
            folder_name = hints.quoted(self.images) if self.images else "IMAGES"
            text = f"{files_were} left out; 'fedhelp-edge check {folder_name}' says why"
            console.say(hints.with_caller_options(text))
        console.say(f"saved in {folder}; report.html there shows it")
        if self.plan:
            console.say_next("'fedhelp-edge evaluate' measures it on the test images")
        else:
            console.say_next("'fedhelp-edge upload' seals the update and sends it")
        return None

    def _train(self, home: Path, watch: Any) -> tuple[Path, dict[str, Any]] | None:
        options: dict[str, Any] = {"start": self.start, "device": self.device, "threads": self.threads}
        if self.plan is None:
            from fedhelp_edge.site import ordered_training, verified

            verified.require_state(home)  # before torch is loaded
            return ordered_training.train(home, self.tier, self.images, watch, **options)
        from fedhelp_edge import encoder as encoders
        from fedhelp_edge import plan as plans
        from fedhelp_edge.methods.registry import METHODS
        from fedhelp_edge.site import trial

        plan = plans.load(self.plan, METHODS)
        encoder = self.encoder or encoders.beside(self.plan, plan)
        return trial.train(
            home, plan, self.tier, self.images, watch, rounds=self.rounds, knowledge=self.knowledge, encoder=encoder,
            **options,
        )  # fmt: skip
