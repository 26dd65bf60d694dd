"""What a lab run measures: the points of its curves, and its figures on test images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.lab import provenance
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.report.scale import Scale, Tally

Figures = dict[str, float | None]


def add_to_curve(facts: dict[str, Any], round_: int, visits: Sequence[Mapping[str, Tally]], scale: Scale) -> None:
    """Adds a round's point: on validation images, of the sites' own nets and of the merged one; its cost until then.

    What a round merges is judged as the sites receive it: in the visits of the round after.
    """
    curve = facts["curve"]
    if curve and "merged" in visits[0]:
        curve[-1]["merged"] = mean_figures([tallies["merged"] for tallies in visits], scale)
    trained = {name: [tallies[name] for tallies in visits] for name in visits[0] if name != "merged"}
    cost = {"bytes_up": facts["sent"], "seconds": round(facts["seconds"], 1)}
    curve.append(
        {"round": round_, **{name: mean_figures(of_sites, scale) for name, of_sites in trained.items()}, **cost}
    )


class FinalTallies:
    """What the nets of all sites predict at the end of a run: each learner's own, and the merged one as it arrives."""

    def __init__(
        self, sites: Sequence[SiteImages], scale: Scale, tallies: Iterable[Mapping[tuple[str, str], Tally]]
    ) -> None:
        """`tallies`: of each site in turn, by split and net."""
        self._sites, self._scale = sites, scale
        self._tallies = {
            (site.id, *key): tally
            for site, site_tallies in zip(sites, tallies, strict=True)
            for key, tally in site_tallies.items()
        }

    def of(self, net: str, split: str) -> list[Tally]:
        """Each site's tally of a net; empty if nothing is merged."""
        tallies = (self._tallies.get((site.id, split, net)) for site in self._sites)
        return [tally for tally in tallies if tally is not None]

    def _further(self) -> list[str]:
        """The names of the nets that are neither a site's own nor the merged one."""
        return list(dict.fromkeys(net for _, _, net in self._tallies if net not in ("own", "merged")))

    def figures(self) -> dict[str, Any]:
        """The figures on test images: of each site's own net, their mean, and the means of further nets."""
        rows: list[dict[str, Any]] = []
        for site, tally in zip(self._sites, self.of("own", "test"), strict=True):
            sizes = {"n_train": len(site.split("train")), "n_test": len(site.split("test"))}
            noise = {"noise": provenance.without_folders(site.noise), "flipped": site.flipped} if site.noise else {}
            rows.append({"name": site.name, "tier": site.tier, **sizes, **noise, **_figures(tally, self._scale)})
        merged = self.of("merged", "test")
        return {
            "sites": rows,
            "mean": mean_figures(self.of("own", "test"), self._scale),
            "merged": mean_figures(merged, self._scale) if merged else None,
            "others": {name: mean_figures(self.of(name, "test"), self._scale) for name in self._further()},
        }

    def save(self, path: Path) -> None:
        """All predictions on validation and test images, for comparisons and averages."""
        arrays: dict[str, NDArray[np.float64]] = {}
        for (site, split, net), (predictions, truth) in self._tallies.items():
            arrays[f"{site}/{split}_labels"] = truth.astype(np.float64)
            arrays[f"{site}/{split}_{net}"] = predictions
        for site_images in self._sites:
            for split in ("val", "test"):
                arrays[f"{site_images.id}/{split}_groups"] = site_images.split(split).case_groups.astype(np.float64)
        path.unlink(missing_ok=True)
        with files.writing(path, private=False) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # typeshed takes a name for allow_pickle


def mean_figures(tallies: Sequence[Tally], scale: Scale) -> Figures:
    """The mean over sites of each figure, over those whose images can tell it."""
    rows = [scale.scores([tally]) for tally in tallies]
    known = {name: [row[name] for row in rows if row[name] is not None] for name in scale.figures}
    means = {name: float(np.mean(values)) if values else None for name, values in known.items()}  # type: ignore[arg-type]
    return {**means, **dict.fromkeys(scale.absent)}


def _figures(tally: Tally, scale: Scale) -> Figures:
    return {**scale.scores([tally]), **dict.fromkeys(scale.absent)}
