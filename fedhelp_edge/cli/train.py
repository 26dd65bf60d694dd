"""`train`."""

from __future__ import annotations

from fedhelp_edge import shell
from fedhelp_edge.cli.options import Device, Encoder, Images, Knowledge, PlanFile, Rounds, Start, Threads

app = shell.app()


@app.command()
def train(
    images: Images = None, plan: PlanFile = None, knowledge: Knowledge = None, encoder: Encoder = None,
    rounds: Rounds = 1, start: Start = None, threads: Threads = None, device: Device = "cpu",
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:  # fmt: skip
    """Train a clinic's net for the open round. After Ctrl-C or a power cut the same command continues.

    Example: fedhelp-edge train images
    """
    from fedhelp_edge.cli.training import TrainingRun

    TrainingRun("small", home, images, plan, knowledge, encoder, rounds, start, threads, device).show(json)
