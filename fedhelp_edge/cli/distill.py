"""`distill`."""

from __future__ import annotations

from fedhelp_edge import shell
from fedhelp_edge.cli.options import Device, Encoder, Images, Knowledge, PlanFile, Rounds, Start, Threads

app = shell.app()


@app.command()
def distill(
    images: Images = None, plan: PlanFile = None, knowledge: Knowledge = None, encoder: Encoder = None,
    rounds: Rounds = 1, start: Start = None, threads: Threads = None, device: Device = "cpu",
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:  # fmt: skip
    """Train a hospital's large net and the proxy that travels in its place. An interrupted run continues.

    Example: fedhelp-edge distill images
    """
    from fedhelp_edge.cli.training import TrainingRun

    TrainingRun("large", home, images, plan, knowledge, encoder, rounds, start, threads, device).show(json)
