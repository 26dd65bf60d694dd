"""What a site outlines with: its nets together, weighed by some pixels of each validation case (`export.keep`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from export import choose, keep
from export.keep import Kept
from fedhelp_edge.data.images import Images
from fedhelp_edge.nets.net import Net, input_tensor
from fedhelp_edge.plan import Plan

_PIXELS = 200  # of each case. Those of one case are alike: thousands would outweigh the prior of scales and temperature
_MAX_PIXELS = 5000  # of all cases together


@dataclass(frozen=True)
class Sample:
    """What nets say of some pixels of each case."""

    logits: Mapping[str, NDArray[np.float32]]  # of each net: pixels x outputs
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    cases: int

    def weigh(self) -> Kept:
        """How much each net counts."""
        return replace(keep.keep(self.logits, self.labels, self.patients), images=self.cases, of="pixels")


@torch.no_grad()
def sample(nets: Mapping[str, Net], images: Images, plan: Plan) -> Sample:
    """What nets say of some pixels of each case. The draw is always the same."""
    draw = np.random.Generator(np.random.Philox(key=0))
    of_case = min(_PIXELS, -(-_MAX_PIXELS // len(images.cases)))
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in nets}
    labels, patients = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for patient, case in zip(images.case_groups, images.cases, strict=True):
        count = -(-of_case // len(case))
        for index in case:
            taken = images.take(np.array([index]))
            inside = np.zeros(plan.image.block, np.bool_)
            inside[images.blocks[index].covered(plan.image.block) if images.blocks else ...] = True
            pixels = draw.choice(np.flatnonzero(inside), count)
            labels.append(taken["labels"].ravel()[pixels])
            patients.append(np.full(count, patient))
            x = input_tensor(taken["images"], plan.image)
            for name, net in nets.items():
                logits[name].append(net.eval()(x)[0].flatten(1)[:, pixels].T.numpy())
    joined = {name: np.concatenate(parts) for name, parts in logits.items()}
    return Sample(joined, np.concatenate(labels), np.concatenate(patients), len(images.cases))


def candidates(nets: Mapping[str, Net], scales: Mapping[str, float]) -> tuple[str, dict[str, list[Net]]]:
    """The name of what is kept, "" without scales; and each net, their average and the scaled nets by name."""
    by_name = {name: [net] for name, net in nets.items()}
    if len(nets) > 1:
        by_name[choose.AVERAGE] = [*nets.values()]
    if len(scales) > 1:
        return choose.KEPT, by_name | {choose.KEPT: choose.scaled(nets, scales)}
    return next(iter(scales), ""), by_name
