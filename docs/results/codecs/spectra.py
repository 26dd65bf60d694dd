"""What each codec would take of one site's first four updates: `python spectra.py pneumoniamnist.npz FOLDER`.

One site trains alone by the plan beside this file, each round from its own net. `lost` is the fraction of the change's
squared norm, over all matrices and kernels, that one update loses. The memory brings it back later.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fedhelp_edge import api, update
from fedhelp_edge.codec import update_codec
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.train import learners, loop, machine

PLAN, SITE, ROUNDS = Path(__file__).parent / "plan.toml", 1, 4
LOWRANK = {"wire.up": "lowrank"}
FIXED = {**LOWRANK, "lowrank.rule": "fixed"}
SETTINGS = {
    "f16": {"wire.up": "f16"},
    "int8-delta": {"wire.up": "int8-delta"},
    "energy": LOWRANK,
    "energy, of=weights": {**LOWRANK, "lowrank.of": "weights"},
    "aic": {**LOWRANK, "lowrank.rule": "aic"},
    **{f"rank={rank}": {**FIXED, "lowrank.rank": rank} for rank in (2, 4, 8)},
}


def main(source: str, folder: str) -> None:
    plan = api.read_plan(PLAN)
    machine.configure(1)
    images = api.load_images(source, plan, folder)
    site = api.distribute_images(images, plan, "sizes:3000/64,1500/64,700/32,400/32", large=0)[SITE]
    train = site.split("train")
    learner, base = learners.create(plan, site.id, site.tier, train, None, Compute()), METHODS[plan.method].start(plan)
    print("| codec | round | % of the bytes of f32 | lost |\n| --- | --- | --- | --- |")
    for round_ in range(1, ROUNDS + 1):
        learner.receive(base, round_)
        loop.train(learner, learners.image_sets(train, None), round_)
        ours = learner.give()
        matrices = [name for name, array in ours.items() if array.ndim > 1]
        change = sum(float(np.sum((ours[name] - base[name]) ** 2)) for name in matrices)
        for name, settings in SETTINGS.items():
            codec = update_codec(api.read_plan(PLAN, settings), round_)
            wire, _ = codec.encode(ours, base, {})
            back = codec.decode(wire, base)
            lost = sum(float(np.sum((ours[tensor] - back[tensor]) ** 2)) for tensor in matrices) / change
            part = update.schema_of(wire).size / update.schema_of(ours).size
            print(f"| {name} | {round_} | {100 * part:.1f} | {lost:.3f} |", flush=True)
        base = ours


if __name__ == "__main__":
    main(*sys.argv[1:])
